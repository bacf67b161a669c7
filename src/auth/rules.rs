//! Which way a client has to take to prove who it is: by `auth_type`, or by the first rule of `auth_hba_file` that fits.
//!
//! Plain functions over values; what a client comes over is told by the caller.

use std::net::IpAddr;

use crate::config::{AuthType, CONSOLE, Hba, IdentMaps, Method, Names, Over, Rule};

/// What a connection is known to come over. Nothing in it is said by the client itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transport {
    /// Is it encrypted?
    pub tls: bool,
    /// The common name in the certificate of the client, if it gave one that was verified.
    pub peer_cn: Option<String>,
    /// The user id of the client's process, on a Unix socket.
    pub peer_uid: Option<u32>,
    /// Where it comes from; `None` is a Unix socket.
    pub addr: Option<IpAddr>,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    /// The user that it says it is.
    pub user: &'a str,
    /// The database that it wants.
    pub database: &'a str,
    /// Is it a replication connection?
    pub replication: bool,
}

/// The way to prove who one is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// None, for a user that is known.
    Trust,
    /// None, and the name does not matter.
    Any,
    /// There is none.
    Reject,
    /// md5, or SCRAM where the stored secret is a SCRAM one.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// The password itself.
    Plain,
    /// The certificate's common name is the user's, or may be by this map.
    Cert(Option<String>),
    /// The name of the system's user is the user's, or may be by this map.
    Peer(Option<String>),
}

/// The settings that decide it.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `auth_type`.
    pub auth_type: AuthType,
    /// `auth_hba_file`.
    pub hba: Hba,
    /// `auth_ident_file`.
    pub ident_maps: IdentMaps,
}

impl Rules {
    /// The way for a client; `None` if no rule fits.
    #[must_use]
    pub fn way(&self, asked: Asked<'_>, transport: &Transport) -> Option<Way> {
        Some(match self.auth_type {
            AuthType::ScramSha256 => Way::Scram,
            AuthType::Md5 => Way::Md5,
            AuthType::Plain => Way::Plain,
            AuthType::Cert => Way::Cert(None),
            AuthType::Trust => Way::Trust,
            AuthType::Any => Way::Any,
            AuthType::Hba => {
                let rule = self.hba.rules.iter().find(|rule| fits(rule, asked, transport))?;
                match rule.method {
                    Method::Trust => Way::Trust,
                    Method::Reject => Way::Reject,
                    Method::Md5 => Way::Md5,
                    Method::Scram => Way::Scram,
                    Method::Password => Way::Plain,
                    Method::Cert => Way::Cert(rule.map.clone()),
                    Method::Peer => Way::Peer(rule.map.clone()),
                }
            }
        })
    }

    /// May the one whom the certificate or the system calls `system` be `user`?
    #[must_use]
    pub fn is(&self, system: &str, user: &str, map: Option<&str>) -> bool {
        match map {
            Some(map) => self.ident_maps.allows(map, system, user),
            None => system == user,
        }
    }
}

fn fits(rule: &Rule, asked: Asked<'_>, transport: &Transport) -> bool {
    let over = match (rule.over, transport.addr) {
        (Over::Local, addr) => addr.is_none(),
        (_, None) => false,
        (Over::Host, _) => true,
        (Over::HostSsl, _) => transport.tls,
        (Over::HostNoSsl, _) => !transport.tls,
    };
    let near = match (rule.net, transport.addr) {
        (Some(net), Some(addr)) => net.contains(addr),
        _ => true,
    };
    over && near && database_fits(&rule.databases, asked) && user_fits(&rule.users, asked)
}

fn database_fits(names: &Names, asked: Asked<'_>) -> bool {
    if asked.replication {
        return names.replication;
    }
    // The console is one, whatever it is called: a rule for one of its names is for each of them.
    let console: &[&str] = if CONSOLE.contains(&asked.database) { &CONSOLE } else { &[] };
    let mut called = console.iter().chain([&asked.database]);
    names.all || called.any(|name| (names.same_user && *name == asked.user) || names.names.contains(*name))
}

fn user_fits(names: &Names, asked: Asked<'_>) -> bool {
    names.all || names.names.contains(asked.user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Net;

    fn names(text: &str) -> Names {
        let is = |word: &str| text.split(',').any(|one| one == word);
        let plain = text.split(',').filter(|one| !["all", "sameuser", "replication"].contains(one));
        Names {
            all: is("all"),
            same_user: is("sameuser"),
            replication: is("replication"),
            names: plain.map(str::to_owned).collect(),
        }
    }

    fn rule(over: Over, databases: &str, users: &str, net: Option<(&str, u8)>, method: Method) -> Rule {
        let net = net.map(|(addr, bits)| Net::new(addr.parse().unwrap(), bits).unwrap());
        Rule { line: 1, over, databases: names(databases), users: names(users), net, method, map: Some("m".to_owned()) }
    }

    fn come(tls: bool, addr: Option<&str>) -> Transport {
        Transport { tls, addr: addr.map(|addr| addr.parse().unwrap()), ..Transport::default() }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules {
            auth_type: AuthType::Hba,
            hba: Hba {
                rules: vec![
                    rule(Over::Local, "all", "root", None, Method::Peer),
                    rule(Over::Local, "sameuser", "all", None, Method::Trust),
                    rule(Over::Host, "all", "evil", None, Method::Reject),
                    rule(Over::HostSsl, "shop,bank", "app", Some(("10.0.0.0", 8)), Method::Cert),
                    rule(Over::HostNoSsl, "all", "all", Some(("127.0.0.1", 32)), Method::Md5),
                    rule(Over::Host, "all", "all", Some(("10.0.0.0", 8)), Method::Scram),
                    rule(Over::Host, "replication", "all", Some(("::", 0)), Method::Password),
                    rule(Over::Host, "all", "all", Some(("127.0.0.1", 32)), Method::Trust),
                ],
            },
            ident_maps: IdentMaps::default(),
        };
        let map = || Some("m".to_owned());
        for (user, database, tls, addr, expect) in [
            ("root", "shop", false, None, Some(Way::Peer(map()))),
            ("joe", "joe", false, None, Some(Way::Trust)),
            ("joe", "shop", false, None, None),
            ("evil", "shop", true, Some("10.0.0.1"), Some(Way::Reject)),
            ("app", "shop", true, Some("10.0.0.1"), Some(Way::Cert(map()))),
            ("app", "shop", false, Some("10.0.0.1"), Some(Way::Scram)),
            ("app", "other", true, Some("10.0.0.1"), Some(Way::Scram)),
            ("joe", "shop", false, Some("127.0.0.1"), Some(Way::Md5)),
            ("joe", "shop", true, Some("127.0.0.1"), Some(Way::Trust)),
            ("joe", "shop", false, Some("192.168.0.1"), None),
            ("joe", "shop", false, Some("::1"), None),
            // `all` and names are equal in case and letter only.
            ("EVIL", "shop", false, Some("127.0.0.1"), Some(Way::Md5)),
        ] {
            let asked = Asked { user, database, replication: false };
            assert_eq!(rules.way(asked, &come(tls, addr)), expect, "{user} {database} {tls} {addr:?}");
        }
        let replication = Asked { user: "joe", database: "shop", replication: true };
        assert_eq!(rules.way(replication, &come(false, Some("::1"))), Some(Way::Plain));
        assert_eq!(rules.way(replication, &come(false, Some("127.0.0.1"))), None);
    }

    #[test]
    fn a_rule_for_one_name_of_the_console_is_for_both() {
        let way = |databases: &str, user: &str, database: &str| {
            let hba = Hba { rules: vec![rule(Over::Host, databases, "all", None, Method::Reject)] };
            let rules = Rules { auth_type: AuthType::Hba, hba, ident_maps: IdentMaps::default() };
            rules.way(Asked { user, database, replication: false }, &come(false, Some("127.0.0.1")))
        };
        for asked in CONSOLE {
            for written in CONSOLE {
                assert_eq!(way(written, "boss", asked), Some(Way::Reject), "{asked} by {written}");
                assert_eq!(way("sameuser", written, asked), Some(Way::Reject), "{asked} of {written}");
            }
            assert_eq!(way("shop", "boss", asked), None);
        }
        assert_eq!(way("pgbouncer,pglull", "boss", "shop"), None);
    }

    #[test]
    fn without_rules_the_type_decides() {
        for (auth_type, way) in [
            (AuthType::ScramSha256, Way::Scram),
            (AuthType::Md5, Way::Md5),
            (AuthType::Plain, Way::Plain),
            (AuthType::Trust, Way::Trust),
            (AuthType::Any, Way::Any),
            (AuthType::Cert, Way::Cert(None)),
        ] {
            let rules = Rules { auth_type, ..Rules::default() };
            let asked = Asked { user: "u", database: "d", replication: false };
            assert_eq!(rules.way(asked, &come(false, None)), Some(way));
        }
        let nobody = Rules { auth_type: AuthType::Hba, ..Rules::default() };
        assert_eq!(nobody.way(Asked { user: "u", database: "d", replication: false }, &come(false, None)), None);
    }

    #[test]
    fn without_a_map_names_are_the_same_or_not() {
        let rules = Rules::default();
        assert!(rules.is("joe", "joe", None));
        for (system, user) in [("joe", "Joe"), ("", "joe"), ("joe", "joe ")] {
            assert!(!rules.is(system, user, None));
        }
        assert!(!rules.is("joe", "joe", Some("gone")));
    }
}
