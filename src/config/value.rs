//! Single values: durations, choices, secrets; and [`Slot`], which reads a text into a typed place and shows it again.
//!
//! Pure. A reader says what it expected and nothing more; the caller knows the file, the line and the key.

use super::tls::TlsProtocols;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// What a duration looks like, for mistakes.
const DURATION: &str = "a duration like 250ms, 15s, 2min or 1h (a bare number is seconds), at most 365d";
/// The longest duration that is accepted; far below where any clock arithmetic overflows.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The names of units, with the nanoseconds of one.
const UNITS: [(&str, u128); 8] = [
    ("", 1_000_000_000),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads `250ms`, `15s`, `2min` (or `2m`), `1h`, `1d`, or a bare number of seconds as PgBouncer has them; fractions are
/// allowed (`1.5s`).
///
/// # Errors
/// What was expected, if the text is not a duration, is negative, or is longer than 365 days.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos).ok_or(DURATION)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return Err(DURATION);
    }
    let whole = u128::from(whole.parse::<u64>().map_err(|_| DURATION)?);
    let digits = u32::try_from(fraction.len()).map_err(|_| DURATION)?;
    let part = u128::from(fraction.parse::<u64>().map_err(|_| DURATION)?);
    let nanos = whole * scale + part * scale / 10_u128.pow(digits);
    let nanos = u64::try_from(nanos).map_err(|_| DURATION)?;
    Some(Duration::from_nanos(nanos)).filter(|found| *found <= DURATION_MAX).ok_or(DURATION)
}

/// A duration in whole seconds, or else milliseconds, or else microseconds; `0` if it is none.
pub(crate) fn show_duration(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis(), duration.as_micros()) {
        (_, _, 0) => "0".to_owned(),
        (seconds, 0, micros) if micros % 1_000_000 == 0 => format!("{seconds}s"),
        (_, _, micros) if micros % 1000 == 0 => format!("{}ms", duration.as_millis()),
        (_, _, micros) => format!("{micros}us"),
    }
}

/// A password or what proves one. It has no `Display`, no comparison and no way out but [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself; for authentication only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    /// Takes the same time whatever the answer is.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A value that is one of a few words.
pub(crate) trait Choice {
    /// Takes the word, or says which are known.
    fn choose(&mut self, word: &str) -> Result<(), &'static str>;
    /// The word as it is written in a configuration.
    fn word(&self) -> &'static str;
}

/// Makes an enum whose variants are words of the configuration.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident, $expected:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word as it is written in a configuration and on the console.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// The value of a word, in any case.
            ///
            /// # Errors
            /// What was expected, if the word is unknown.
            pub fn parse(word: &str) -> Result<Self, &'static str> {
                $(if word.eq_ignore_ascii_case($word) {
                    return Ok(Self::$variant);
                })+
                Err($expected)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Choice for $name {
            fn choose(&mut self, word: &str) -> Result<(), &'static str> {
                *self = Self::parse(word)?;
                Ok(())
            }

            fn word(&self) -> &'static str {
                self.as_str()
            }
        }
    };
}

choice!(
    /// How clients prove who they are.
    AuthType, "scram-sha-256, md5, plain, cert, hba, trust or any (pam and ldap are not supported)" {
        /// SCRAM-SHA-256; the stored secret may be plain or a SCRAM verifier.
        #[default]
        ScramSha256 = "scram-sha-256",
        /// MD5, for old drivers; a user whose stored secret is a SCRAM verifier is asked for SCRAM.
        Md5 = "md5",
        /// The password itself, in the clear unless there is TLS.
        Plain = "plain",
        /// A certificate of the client's, whose common name is the user's.
        Cert = "cert",
        /// What the first rule of `auth_hba_file` that fits says.
        Hba = "hba",
        /// No proof at all; the user must be known.
        Trust = "trust",
        /// No proof, and the name does not matter: each database forces a user.
        Any = "any",
    }
);
choice!(
    /// For how long a client keeps its server.
    PoolMode, "transaction, session or statement" {
        /// For one transaction.
        #[default]
        Transaction = "transaction",
        /// Until it disconnects.
        Session = "session",
        /// For one statement; transactions of several are refused.
        Statement = "statement",
    }
);
choice!(
    /// The shape of log lines.
    LogFormat, "text, json or pgbouncer" {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
        /// As PgBouncer writes it, for tools that read its log.
        Pgbouncer = "pgbouncer",
    }
);
choice!(
    /// What happens to transactions that are still open when the drain bound is reached.
    Stragglers, "abort, cancel or terminate" {
        /// Nothing: the window aborts, nobody is hurt.
        #[default]
        Abort = "abort",
        /// Their running statement is cancelled.
        Cancel = "cancel",
        /// Their connections are ended.
        Terminate = "terminate",
    }
);

choice!(
    /// When TLS is used, and what of the peer is verified. The names are libpq's and PgBouncer's.
    SslMode, "disable, allow, prefer, require, verify-ca or verify-full" {
        /// Never.
        #[default]
        Disable = "disable",
        /// If the peer wants it.
        Allow = "allow",
        /// If the peer has it.
        Prefer = "prefer",
        /// Always; the peer's certificate is not verified.
        Require = "require",
        /// Always, and the peer's certificate must come from a known authority.
        VerifyCa = "verify-ca",
        /// As `verify-ca`; that of a server must also be for the host that was dialled.
        VerifyFull = "verify-full",
    }
);

impl SslMode {
    /// Is a connection without TLS refused?
    #[must_use]
    pub const fn demands(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Must the peer's certificate come from a known authority?
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// A value that is read from a text of its own kind.
pub(crate) trait Parsed {
    /// Takes the text, or says what was expected.
    fn read(&mut self, text: &str) -> Result<(), &'static str>;
    /// The text that it can be read back from.
    fn text(&self) -> String;
}

/// A typed place for one value.
pub(crate) enum Slot<'a> {
    Text(&'a mut String),
    OptText(&'a mut Option<String>),
    Secret(&'a mut Option<Secret>),
    Names(&'a mut Vec<String>),
    Listen(&'a mut Vec<String>),
    Host(&'a mut String),
    Port(&'a mut u16),
    Count(&'a mut usize),
    Bytes(&'a mut usize),
    Size(&'a mut usize),
    OptCount(&'a mut Option<usize>),
    Flag(&'a mut bool),
    /// A duration whose zero means "at once".
    Span(&'a mut Duration),
    /// A duration that may not be zero.
    Bound(&'a mut Duration),
    /// A duration whose zero means "off".
    Timeout(&'a mut Option<Duration>),
    /// The same, where a bare number is milliseconds.
    Millis(&'a mut Option<Duration>),
    /// The same, with "as elsewhere" for none.
    OptTimeout(&'a mut Option<Option<Duration>>),
    Path(&'a mut Option<PathBuf>),
    Mode(&'a mut u32),
    /// A schema and a table, or none.
    Table(&'a mut Option<String>),
    Address(&'a mut Option<SocketAddr>),
    Level(&'a mut String),
    Choice(&'a mut dyn Choice),
    Parsed(&'a mut dyn Parsed),
    Protocols(&'a mut TlsProtocols),
    OptPoolMode(&'a mut Option<PoolMode>),
}

impl Slot<'_> {
    /// Reads `text` into the place; leaves the place alone and says what was expected if it cannot.
    pub(crate) fn set(self, text: &str) -> Result<(), &'static str> {
        match self {
            Self::Text(place) => text.clone_into(place),
            Self::OptText(place) => *place = Some(text.to_owned()).filter(|text| !text.is_empty()),
            Self::Secret(place) => *place = Some(Secret::new(text)).filter(|_| !text.is_empty()),
            Self::Names(place) => *place = list(text),
            Self::Listen(place) => *place = listen(text)?,
            Self::Host(place) => *place = host(text)?,
            Self::Port(place) => *place = port(text)?,
            Self::Count(place) => *place = count(text)?,
            Self::Bytes(place) => *place = bytes(text)?,
            Self::Size(place) => *place = size(text)?,
            Self::OptCount(place) => *place = Some(count(text)?),
            Self::Flag(place) => *place = flag(text)?,
            Self::Span(place) => *place = parse_duration(text)?,
            Self::Bound(place) => *place = bound(text)?,
            Self::Timeout(place) => *place = timeout(text)?,
            Self::Millis(place) => *place = timeout(&in_millis(text))?,
            Self::OptTimeout(place) => *place = Some(timeout(text)?),
            Self::Path(place) => *place = Some(PathBuf::from(text)).filter(|_| !text.is_empty()),
            Self::Mode(place) => *place = mode(text)?,
            Self::Table(place) => *place = table(text)?,
            Self::Address(place) => *place = address(text)?,
            Self::Level(place) => *place = level(text)?,
            Self::Choice(place) => place.choose(text)?,
            Self::Parsed(place) => place.read(text)?,
            Self::Protocols(place) => *place = TlsProtocols::parse(text)?,
            Self::OptPoolMode(place) => *place = Some(PoolMode::parse(text)?),
        }
        Ok(())
    }

    /// As `SHOW CONFIG` shows it, in PgBouncer's forms: times are seconds, switches 1 or 0. It can be read back.
    pub(crate) fn show_plain(self) -> String {
        match self {
            Self::Flag(place) => u8::from(*place).to_string(),
            Self::Span(place) | Self::Bound(place) => place.as_secs_f64().to_string(),
            Self::Timeout(place) => place.unwrap_or_default().as_secs_f64().to_string(),
            Self::Millis(place) => place.unwrap_or_default().as_millis().to_string(),
            other => other.show(),
        }
    }

    /// The value as it would be written in a configuration; a secret never is.
    pub(crate) fn show(self) -> String {
        match self {
            Self::Text(place) | Self::Host(place) | Self::Level(place) => place.clone(),
            Self::OptText(place) | Self::Table(place) => place.clone().unwrap_or_default(),
            Self::Secret(place) => place.as_ref().map_or("", |_| "[redacted]").to_owned(),
            Self::Names(place) | Self::Listen(place) => place.join(","),
            Self::Port(place) => place.to_string(),
            Self::Count(place) | Self::Size(place) => place.to_string(),
            Self::Bytes(place) => format!("{}MB", *place >> 20),
            Self::OptCount(place) => place.map_or_else(String::new, |n| n.to_string()),
            Self::Flag(place) => place.to_string(),
            Self::Span(place) | Self::Bound(place) => show_duration(*place),
            Self::Timeout(place) | Self::Millis(place) => show_duration(place.unwrap_or_default()),
            Self::OptTimeout(place) => place.map_or_else(String::new, |span| show_duration(span.unwrap_or_default())),
            Self::Path(place) => place.as_deref().map_or(String::new(), |path| path.display().to_string()),
            Self::Mode(place) => format!("{place:04o}"),
            Self::Address(place) => place.map_or_else(String::new, |address| address.to_string()),
            Self::Choice(place) => place.word().to_owned(),
            Self::Parsed(place) => place.text(),
            Self::Protocols(place) => place.to_string(),
            Self::OptPoolMode(place) => place.map_or("", PoolMode::as_str).to_owned(),
        }
    }
}

/// A bare number of milliseconds with its unit; anything else as it is.
fn in_millis(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if bare { format!("{text}ms") } else { text.to_owned() }
}

/// The parts of a comma list, without blanks around them.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn listen(text: &str) -> Result<Vec<String>, &'static str> {
    const EXPECTED: &str = "addresses or host names, each once, or * for all";
    let found = list(text);
    for (i, one) in found.iter().enumerate() {
        if (one != "*" && !is_host(one)) || found[..i].contains(one) {
            return Err(EXPECTED);
        }
    }
    Ok(found)
}

/// One host: an address, a name, or the folder of a Unix socket.
fn host(text: &str) -> Result<String, &'static str> {
    if Path::new(text).is_absolute() || is_host(text) {
        return Ok(text.to_owned());
    }
    Err("one address, one host name, or the absolute path of the folder of a Unix socket")
}

/// Could this be an address or a host name? Nothing is looked up.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-._:%".contains(c))
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port > 0).ok_or("a port from 1 to 65535")
}

/// A number of megabytes; the unit may be written kB, MB or GB. Kept in whole megabytes.
fn bytes(text: &str) -> Result<usize, &'static str> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let megabytes = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "mb" => number.parse::<usize>().ok(),
        "kb" => number.parse::<usize>().ok().map(|n| n >> 10),
        "gb" => number.parse::<usize>().ok().and_then(|n| n.checked_mul(1024)),
        _ => None,
    };
    let good = megabytes.filter(|n| (1..=65_536).contains(n));
    good.map(|n| n << 20).ok_or("a size like 64MB or 1GB, from 1MB to 64GB (a bare number is megabytes)")
}

fn count(text: &str) -> Result<usize, &'static str> {
    const EXPECTED: &str = "a whole number from 0 to 1000000";
    text.parse().ok().filter(|n| *n <= 1_000_000).ok_or(EXPECTED)
}

fn size(text: &str) -> Result<usize, &'static str> {
    count(text).ok().filter(|n| *n > 0).ok_or("a whole number from 1 to 1000000")
}

fn flag(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("true or false (or 1 or 0)"),
    }
}

/// A duration whose zero is none.
fn timeout(text: &str) -> Result<Option<Duration>, &'static str> {
    Ok(Some(parse_duration(text)?).filter(|span| !span.is_zero()))
}

fn bound(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a duration above 0 like 250ms, 15s, 2min or 1h, at most 365d";
    parse_duration(text).ok().filter(|span| !span.is_zero()).ok_or(EXPECTED)
}

fn mode(text: &str) -> Result<u32, &'static str> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = digits.chars().all(|c| c.is_digit(8));
    let found = u32::from_str_radix(digits, 8).ok();
    found.filter(|mode| plain && *mode <= 0o777).ok_or("a file mode in octal digits, \"0000\" to \"0777\"")
}

fn table(text: &str) -> Result<Option<String>, &'static str> {
    let part = |part: &str| (1..=63).contains(&part.len()) && !part.contains(['.', '"', '\0']);
    match text.split_once('.') {
        None if text.is_empty() => Ok(None),
        Some((schema, table)) if part(schema) && part(table) => Ok(Some(text.to_owned())),
        _ => Err("a schema and a table, like \"pglull.change\", or \"\" for none"),
    }
}

fn address(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    let found: Option<SocketAddr> = text.parse().ok();
    found.filter(|at| at.port() > 0).map(Some).ok_or("an address with a port like 127.0.0.1:9632, or nothing")
}

fn level(text: &str) -> Result<String, &'static str> {
    let word = text.to_ascii_lowercase();
    let known = ["error", "warn", "info", "debug", "trace"].contains(&word.as_str());
    Some(word).filter(|_| known).ok_or("error, warn, info, debug or trace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("15", 15_000),
            ("0.5", 500),
            ("250ms", 250),
            ("1.5s", 1500),
            ("15 s", 15_000),
            (" 2min ", 120_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1",
            "+1s",
            ".5s",
            "1.",
            "1..5",
            "1e3",
            "5sec",
            "5 S",
            "366d",
            "99999999999999999999",
            "1.0000000001",
            "1s s",
        ] {
            assert_eq!(parse_duration(text), Err(DURATION), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_can_be_read() {
        for (text, shown) in [("0", "0"), ("5min", "300s"), ("1.5s", "1500ms"), ("1500us", "1500us"), ("120", "120s")] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(show_duration(duration), shown);
            assert_eq!(parse_duration(shown), Ok(duration));
        }
    }

    #[test]
    fn choices() {
        assert_eq!(PoolMode::parse("Session"), Ok(PoolMode::Session));
        assert_eq!(PoolMode::parse("Statement"), Ok(PoolMode::Statement));
        assert_eq!(PoolMode::parse("pinned"), Err("transaction, session or statement"));
        assert_eq!(AuthType::parse("Cert"), Ok(AuthType::Cert));
        let expected = "scram-sha-256, md5, plain, cert, hba, trust or any (pam and ldap are not supported)";
        assert_eq!(AuthType::parse("pam"), Err(expected));
        assert_eq!(Stragglers::Terminate.as_str(), "terminate");
        assert_eq!(LogFormat::default().to_string(), "text");
    }

    #[test]
    fn a_secret_shows_nothing() {
        let mut secret = Some(Secret::new("hunter2"));
        assert_eq!(format!("{secret:?}"), "Some([redacted])");
        assert_eq!(secret.as_ref().map(Secret::expose), Some("hunter2"));
        assert_eq!(Slot::Secret(&mut secret).show(), "[redacted]");
        assert!(Slot::Secret(&mut secret).set("").is_ok());
        assert!(secret.is_none());
    }

    #[test]
    fn odd_values_are_refused() {
        assert_eq!(mode("0777"), Ok(0o777));
        assert_eq!(mode("0o600"), Ok(0o600));
        for text in ["", "8", "1777", "+7", "rwx"] {
            assert!(mode(text).is_err(), "{text}");
        }
        for text in ["", "0", "65536", "-1", "6432 ; comment", "1,2"] {
            assert!(port(text).is_err(), "{text}");
        }
        for text in ["", "a b", "a,b", "relative/path", "a\0b"] {
            assert!(host(text).is_err(), "{text}");
        }
        for text in ["127.0.0.1", "::1", "db.example.org", "/run/postgresql", "db_1"] {
            assert_eq!(host(text), Ok(text.to_owned()));
        }
        for text in ["localhost:9632", "127.0.0.1", "127.0.0.1:0", "9632"] {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["a,a", "a b", "/tmp"] {
            assert!(listen(text).is_err(), "{text}");
        }
        assert_eq!(listen(" 127.0.0.1 , ::1,"), Ok(vec!["127.0.0.1".to_owned(), "::1".to_owned()]));
        assert_eq!(listen(""), Ok(vec![]));
        for text in ["", "-1", "1.5", "1000001", "many"] {
            assert!(count(text).is_err(), "{text}");
        }
        assert!(size("0").is_err() && size("1").is_ok());
        assert!(flag("maybe").is_err());
        assert!(bound("0").is_err());
        assert!(level("loud").is_err());
    }
}
