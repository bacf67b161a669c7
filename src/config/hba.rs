//! The rules of `auth_hba_file`: who may come from where, and how they prove who they are.
//!
//! Pure. The subset of `pg_hba.conf` that PgBouncer reads, in the order of the file; which rule is the first that fits
//! is decided by `auth::rules`. What is not understood is a mistake and never skipped: a line that is left out could let a
//! laxer one below it decide. Source: the chapter "The pg_hba.conf File", and PgBouncer's on the HBA file format.

use super::mistake::{Mistakes, quoted};
use super::tokens::{self, Field, Token};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// The rules, in the order of the file.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Hba {
    /// The first that fits decides.
    pub rules: Vec<Rule>,
}

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Where it stands, from 1.
    pub line: usize,
    /// Over which connections.
    pub over: Over,
    /// For which databases.
    pub databases: Names,
    /// For which users.
    pub users: Names,
    /// From where; `None` is from anywhere.
    pub net: Option<Net>,
    /// How they prove who they are.
    pub method: Method,
    /// The map of names, for `cert` and `peer`.
    pub map: Option<String>,
}

/// Over which connections a rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Unix sockets.
    Local,
    /// TCP, encrypted or not.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// Names of databases or users, and the words that stand for some.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// `all`; replication is not among them.
    pub all: bool,
    /// `sameuser`: the database that is named like the user.
    pub same_user: bool,
    /// `replication`.
    pub replication: bool,
    /// The names themselves.
    pub names: BTreeSet<String>,
}

/// A range of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Net {
    addr: u128,
    mask: u128,
    v6: bool,
}

/// How a rule wants a client to prove who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It is refused.
    Reject,
    /// By md5, or by SCRAM where the stored secret is a SCRAM one.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
    /// By its password as it is.
    Password,
    /// By its certificate.
    Cert,
    /// By the user that the kernel says it is.
    Peer,
}

impl Net {
    /// The range of `bits` leading bits of `addr`.
    #[must_use]
    pub fn new(addr: IpAddr, bits: u8) -> Option<Self> {
        let width: u8 = if addr.is_ipv6() { 128 } else { 32 };
        let free = width.checked_sub(bits)?;
        let whole = if addr.is_ipv6() { u128::MAX } else { u128::from(u32::MAX) };
        let mask = u128::MAX.checked_shl(u32::from(free)).unwrap_or(0) & whole;
        Some(Self { addr: number(addr) & mask, mask, v6: addr.is_ipv6() })
    }

    fn with_mask(addr: IpAddr, mask: IpAddr) -> Option<Self> {
        let bits = number(mask).count_ones();
        let net = Self::new(addr, u8::try_from(bits).ok()?)?;
        // A mask with holes is a slip of the pen.
        (addr.is_ipv6() == mask.is_ipv6() && net.mask == number(mask)).then_some(net)
    }

    /// Is the address in it?
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv6() == self.v6 && number(addr) & self.mask == self.addr
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Gives the text of a file that a list names with `@`, by the name as it is written; or says why not.
pub(crate) type Include<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// Reads the text of `file` into rules, with everything that is wrong.
pub(crate) fn parse(file: &Path, text: &str, include: Include<'_>) -> (Hba, Mistakes) {
    let mut mistakes = Mistakes::new(file);
    let mut hba = Hba::default();
    for (line, fields) in tokens::lines(text, &mut mistakes) {
        match rule(line, &fields, include) {
            Ok(rule) => hba.rules.push(rule),
            Err((expected, got)) => mistakes.add(line, "hba", expected, got),
        }
    }
    (hba, mistakes)
}

/// What was expected, and what stands there.
type Wrong = (String, String);

fn wrong(expected: &str, got: impl Into<String>) -> Wrong {
    (expected.to_owned(), got.into())
}

fn rule(line: usize, fields: &[Field], include: Include<'_>) -> Result<Rule, Wrong> {
    let mut fields = fields.iter();
    let over = match single(fields.next(), "a connection type")?.text.as_str() {
        "local" => Over::Local,
        "host" => Over::Host,
        "hostssl" => Over::HostSsl,
        "hostnossl" => Over::HostNoSsl,
        other => return Err(wrong("local, host, hostssl or hostnossl", quoted(other))),
    };
    let databases = names(fields.next(), Kind::Databases, include)?;
    let users = names(fields.next(), Kind::Users, include)?;
    let mut next = fields.next();
    let mut net = None;
    if over != Over::Local {
        let addr = single(next, "an address")?;
        next = fields.next();
        if !addr.is("all") {
            let mask = next.filter(|_| !addr.text.contains('/'));
            net = Some(range(addr, mask)?);
            next = if mask.is_some() { fields.next() } else { next };
        }
    }
    let method = method(single(next, "a method")?, over)?;
    let map = options(fields.as_slice(), method)?;
    Ok(Rule { line, over, databases, users, net, method, map })
}

fn single<'a>(field: Option<&'a Field>, what: &str) -> Result<&'a Token, Wrong> {
    match field.map(Vec::as_slice) {
        None => Err(wrong(what, "the end of the line")),
        Some([token]) => Ok(token),
        Some(_) => Err(wrong(what, "a list")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Databases,
    Users,
}

fn names(field: Option<&Field>, kind: Kind, include: Include<'_>) -> Result<Names, Wrong> {
    const EXPECTED: [&str; 2] = [
        "names of databases, all, sameuser, replication or @file (samerole and samegroup are not supported)",
        "names of users, all or @file (+group and regular expressions are not supported)",
    ];
    let expected = EXPECTED[usize::from(kind == Kind::Users)];
    let mut names = Names::default();
    for token in field.ok_or_else(|| wrong(expected, "the end of the line"))? {
        let databases = kind == Kind::Databases;
        match (token.text.as_str(), token.quoted) {
            ("all", false) => names.all = true,
            ("sameuser", false) if databases => names.same_user = true,
            ("replication", false) if databases => names.replication = true,
            ("samerole" | "samegroup", false) if databases => return Err(wrong(expected, quoted(&token.text))),
            (text, false) if text.starts_with('/') => return Err(wrong(expected, quoted(text))),
            (text, false) if text.starts_with('+') && !databases => return Err(wrong(expected, quoted(text))),
            (text, false) if text.starts_with('@') => {
                let file = text.trim_start_matches('@');
                let listed = include(file).map_err(|why| wrong("a list of names that can be read", why))?;
                names.names.extend(tokens::listed(&listed));
            }
            (text, _) => drop(names.names.insert(text.to_owned())),
        }
    }
    Ok(names)
}

fn range(addr: &Token, mask: Option<&Field>) -> Result<Net, Wrong> {
    const EXPECTED: &str =
        "all, an address with /bits, or an address and a mask (samehost, samenet and host names are not supported)";
    let no = || wrong(EXPECTED, quoted(&addr.text));
    let (ip, bits) = match addr.text.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits)),
        None => (addr.text.as_str(), None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| no())?;
    match (bits, mask) {
        (Some(bits), _) => bits.parse().ok().and_then(|bits| Net::new(ip, bits)).ok_or_else(no),
        (None, Some(mask)) => {
            let mask = single(Some(mask), "a mask")?;
            let bad = || wrong("a mask like 255.255.255.0 behind the address", quoted(&mask.text));
            Net::with_mask(ip, mask.text.parse().map_err(|_| bad())?).ok_or_else(bad)
        }
        (None, None) => Err(no()),
    }
}

fn method(token: &Token, over: Over) -> Result<Method, Wrong> {
    let method = match token.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::Scram,
        "password" | "plain" => Method::Password,
        "cert" => Method::Cert,
        "peer" => Method::Peer,
        other => {
            let expected = "trust, reject, md5, scram-sha-256, password, cert or peer (others are not supported)";
            return Err(wrong(expected, quoted(other)));
        }
    };
    match (method, over) {
        (Method::Peer, over) if over != Over::Local => Err(wrong("a line of type local for the method peer", "peer")),
        (Method::Cert, over) if over != Over::HostSsl => {
            Err(wrong("a line of type hostssl for the method cert", "cert"))
        }
        _ => Ok(method),
    }
}

/// Reads what stands behind the method: only `map=` is known.
fn options(fields: &[Field], method: Method) -> Result<Option<String>, Wrong> {
    const EXPECTED: &str = "map=NAME behind the method cert or peer, and no other option";
    let mut map = None;
    for field in fields {
        let token = single(Some(field), EXPECTED)?;
        let name = token.text.strip_prefix("map=").filter(|name| !name.is_empty());
        match name {
            Some(name) if matches!(method, Method::Cert | Method::Peer) && map.is_none() => map = Some(name.to_owned()),
            _ => return Err(wrong(EXPECTED, quoted(&token.text))),
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Hba, Vec<String>) {
        let include = |name: &str| match name {
            "admins" => Ok("root, \"the boss\"\n# a comment\nlast".to_owned()),
            other => Err(format!("{other} (not found)")),
        };
        let (hba, mistakes) = parse(Path::new("h"), text, &include);
        (hba, mistakes.into_vec().iter().map(ToString::to_string).collect())
    }

    fn listed(names: &Names) -> Vec<&str> {
        names.names.iter().map(String::as_str).collect()
    }

    #[test]
    fn lines_are_read_as_postgres_reads_them() {
        let text = "# comment\n\nlocal all all peer map=os\n\
            host a,\"b c\",  d \"all\",x 10.0.0.0/8 md5 # behind\n\
            hostssl sameuser @admins ::1/128 cert map=\"m n\"\n\
            hostnossl replication all 192.168.1.9 255.255.255.0 reject\n\
            host all \\\n all all scram-sha-256\n";
        let (hba, mistakes) = read(text);
        assert_eq!(mistakes, [""; 0]);
        let lines: Vec<_> = hba.rules.iter().map(|rule| (rule.line, rule.over, rule.method)).collect();
        assert_eq!(
            lines,
            [
                (3, Over::Local, Method::Peer),
                (4, Over::Host, Method::Md5),
                (5, Over::HostSsl, Method::Cert),
                (6, Over::HostNoSsl, Method::Reject),
                (7, Over::Host, Method::Scram),
            ]
        );
        assert_eq!(hba.rules[0].map.as_deref(), Some("os"));
        assert_eq!(listed(&hba.rules[1].databases), ["a", "b c", "d"]);
        // In quotes a word is a name.
        assert_eq!((listed(&hba.rules[1].users), hba.rules[1].users.all), (vec!["all", "x"], false));
        assert_eq!(listed(&hba.rules[2].users), ["last", "root", "the boss"]);
        assert_eq!(hba.rules[2].map.as_deref(), Some("m n"));
        assert!(hba.rules[2].databases.same_user && hba.rules[3].databases.replication);
        assert!(hba.rules[3].net.is_some_and(|net| net.contains("192.168.1.77".parse().unwrap())));
        assert!(hba.rules[4].net.is_none());
    }

    #[test]
    fn ranges() {
        let within = |net: &str, bits, addr: &str| {
            Net::new(net.parse().unwrap(), bits).map(|net| net.contains(addr.parse().unwrap()))
        };
        for (net, bits, addr, expect) in [
            ("10.1.2.3", 8, "10.255.0.1", Some(true)),
            ("10.1.2.3", 32, "10.1.2.4", Some(false)),
            ("0.0.0.0", 0, "255.255.255.255", Some(true)),
            ("0.0.0.0", 0, "::1", Some(false)),
            ("::", 0, "::1", Some(true)),
            ("::", 0, "127.0.0.1", Some(false)),
            ("2001:db8::", 33, "2001:db8:7fff::1", Some(true)),
            ("2001:db8::", 33, "2001:db8:8000::1", Some(false)),
            ("::1", 128, "::1", Some(true)),
            // An IPv4 address in the clothes of IPv6 is an IPv4 address.
            ("127.0.0.0", 8, "::ffff:127.0.0.1", Some(true)),
            ("10.0.0.0", 33, "10.0.0.0", None),
            ("::", 129, "::", None),
        ] {
            assert_eq!(within(net, bits, addr), expect, "{net}/{bits} {addr}");
        }
    }

    #[test]
    fn every_mistake_has_its_line_and_reason() {
        for (text, expect) in [
            ("guest all all trust", "local, host, hostssl or hostnossl, got `guest`"),
            ("hostgssenc all all all trust", "local, host, hostssl or hostnossl, got `hostgssenc`"),
            (
                "local",
                "names of databases, all, sameuser, replication or @file (samerole and samegroup are not supported), got the end of the line",
            ),
            (
                "local all",
                "names of users, all or @file (+group and regular expressions are not supported), got the end of the line",
            ),
            ("local all all", "a method, got the end of the line"),
            (
                "local samerole all trust",
                "names of databases, all, sameuser, replication or @file (samerole and samegroup are not supported), got `samerole`",
            ),
            (
                "local all +admins trust",
                "names of users, all or @file (+group and regular expressions are not supported), got `+admins`",
            ),
            (
                "local all /^a trust",
                "names of users, all or @file (+group and regular expressions are not supported), got `/^a`",
            ),
            ("local all @gone trust", "a list of names that can be read, got gone (not found)"),
            (
                "host all all samehost trust",
                "all, an address with /bits, or an address and a mask (samehost, samenet and host names are not supported), got `samehost`",
            ),
            (
                "host all all db.example.org trust",
                "all, an address with /bits, or an address and a mask (samehost, samenet and host names are not supported), got `db.example.org`",
            ),
            (
                "host all all 10.0.0.0/33 trust",
                "all, an address with /bits, or an address and a mask (samehost, samenet and host names are not supported), got `10.0.0.0/33`",
            ),
            ("host all all 10.0.0.1 trust", "a mask like 255.255.255.0 behind the address, got `trust`"),
            (
                "host all all 10.0.0.1 255.0.255.0 trust",
                "a mask like 255.255.255.0 behind the address, got `255.0.255.0`",
            ),
            ("host all all 10.0.0.1 ffff:: trust", "a mask like 255.255.255.0 behind the address, got `ffff::`"),
            (
                "host all all all ldap",
                "trust, reject, md5, scram-sha-256, password, cert or peer (others are not supported), got `ldap`",
            ),
            ("host all all all peer", "a line of type local for the method peer, got peer"),
            ("host all all all cert", "a line of type hostssl for the method cert, got cert"),
            ("host all all all md5 map=x", "map=NAME behind the method cert or peer, and no other option, got `map=x`"),
            (
                "hostssl all all all scram-sha-256 clientcert=verify-full",
                "map=NAME behind the method cert or peer, and no other option, got `clientcert=verify-full`",
            ),
            ("local all \"all peer", "a closing quote, got the end of the line"),
        ] {
            let (hba, mistakes) = read(&format!("\n{text}\n"));
            assert_eq!(mistakes, [format!("h:2: hba: expected {expect}")], "{text}");
            assert!(hba.rules.is_empty(), "{text}");
        }
    }
}
