//! What a client asks for in its start-up packet: settings by name, settings in `options`, and what is left out.
//!
//! Nothing that it asks for is fatal here. What Postgres knows is put in place before the client's first request; what
//! Postgres does not know, it refuses with its own words, as it would at a log-in.

use std::sync::Arc;

use bytes::Bytes;

use crate::server::parameters::{Parameters, TRACKED, tracked};
use crate::server::residue::Settings;
use crate::wire::startup::Startup;

/// The settings of a client.
#[derive(Debug)]
pub(super) struct Asked {
    /// Those that Postgres reports and that are carried along: what it asked for, or else what a fresh connection has.
    pub(super) tracked: Parameters,
    /// All others that it asked for.
    pub(super) others: Option<Arc<Settings>>,
}

impl Asked {
    /// Reads them; `ignored` are not for Postgres.
    pub(super) fn of(startup: &Startup, server: &Parameters, ignored: &[String]) -> Self {
        let mut found = Parameters::default();
        // Names and values are the server's own, not copies: there may be very many clients.
        found.share(TRACKED.into_iter().filter_map(|name| match name {
            "application_name" => Some((name, Bytes::new())),
            _ => Some((name, server.value(name.as_bytes())?.clone())),
        }));
        let ignored = |name: &[u8]| ignored.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
        let given = startup.parameters.iter().filter(|(name, _)| !is_ours(name));
        let given = given.map(|(name, value)| (name.to_vec(), value.to_vec()));
        let options = startup.parameter("options").filter(|_| !ignored(b"options"));
        let options = options.map(|text| options_of(text)).unwrap_or_default();
        let mut others = Vec::new();
        for (name, value) in options.into_iter().chain(given).filter(|(name, _)| !ignored(name)) {
            match tracked(&name) {
                Some(name) => found.set(name.as_bytes(), &canonical(name, value, server)),
                None => others.push((name.into(), value.into())),
            }
        }
        Self { tracked: found, others: (!others.is_empty()).then(|| Arc::new(Settings::new(others))) }
    }

    /// What the client is told of a setting that the server has reported with this value.
    pub(super) fn told<'a>(&'a self, name: &[u8], value: &'a Bytes) -> &'a [u8] {
        if let Some(wanted) = self.tracked.value(name) {
            return wanted;
        }
        let Some(wanted) = self.others.as_ref().and_then(|others| others.value(name)) else { return value };
        match (&value[..], &wanted.to_ascii_lowercase()[..]) {
            (b"on" | b"off", b"1" | b"t" | b"true" | b"y" | b"yes") => b"on",
            (b"on" | b"off", b"0" | b"f" | b"false" | b"n" | b"no") => b"off",
            _ => wanted,
        }
    }
}

/// Whether a start-up parameter is no setting: it is for whoever answers the log-in.
fn is_ours(name: &[u8]) -> bool {
    matches!(name, b"user" | b"database" | b"options" | b"replication") || name.starts_with(b"_pq_.")
}

/// The form in which Postgres reports a value, where drivers spell it in several; any other is adopted from the server
/// with the first transaction.
fn canonical(name: &str, value: Vec<u8>, server: &Parameters) -> Vec<u8> {
    match name {
        // The one spelling that Postgres leaves as it is, for the sake of old drivers.
        "client_encoding" if value != b"UNICODE" => encoding(&value).map_or(value, Into::into),
        "application_name" => clean_ascii(&value, server),
        _ => value,
    }
}

/// Names of encodings as Postgres reports them. It looks at letters and digits only, so asyncpg's `'utf-8'`, quotes and
/// all, is one. Source: `pg_encname_tbl` in `encnames.c`.
fn encoding(value: &[u8]) -> Option<String> {
    const NAMES: [&str; 21] = [
        "UTF8",
        "SQL_ASCII",
        "EUC_JP",
        "EUC_CN",
        "EUC_KR",
        "EUC_TW",
        "EUC_JIS_2004",
        "MULE_INTERNAL",
        "KOI8R",
        "KOI8U",
        "SJIS",
        "SHIFT_JIS_2004",
        "BIG5",
        "GBK",
        "UHC",
        "GB18030",
        "JOHAB",
        "ISO_8859_5",
        "ISO_8859_6",
        "ISO_8859_7",
        "ISO_8859_8",
    ];
    const LATIN: [(&str, u8); 10] =
        [("1", 1), ("2", 2), ("3", 3), ("4", 4), ("9", 5), ("10", 6), ("13", 7), ("14", 8), ("15", 9), ("16", 10)];
    let clean = |text: &[u8]| {
        let kept = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
        kept.map(|byte| char::from(byte.to_ascii_uppercase())).collect::<String>()
    };
    let bare = clean(value);
    if let Some(name) = NAMES.into_iter().find(|name| clean(name.as_bytes()) == bare) {
        return Some(name.to_owned());
    }
    if bare == "UNICODE" {
        return Some("UTF8".to_owned());
    }
    if let Some(part) = bare.strip_prefix("ISO8859") {
        return LATIN.into_iter().find(|(iso, _)| *iso == part).map(|(_, latin)| format!("LATIN{latin}"));
    }
    if let Some(number) = bare.strip_prefix("LATIN") {
        return LATIN.into_iter().any(|(_, latin)| latin.to_string() == number).then(|| bare.clone());
    }
    let page = bare.strip_prefix("WINDOWS").or_else(|| bare.strip_prefix("WIN"))?;
    let known = ["866", "874", "1250", "1251", "1252", "1253", "1254", "1255", "1256", "1257", "1258"].contains(&page);
    known.then(|| format!("WIN{page}"))
}

/// What Postgres makes of a name that the application gives itself: plain ASCII (`pg_clean_ascii`; from version 16 on the
/// bytes stay readable).
fn clean_ascii(value: &[u8], server: &Parameters) -> Vec<u8> {
    let version = server.value(b"server_version").map(|text| String::from_utf8_lossy(text).into_owned());
    let major = version.as_deref().and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    let escapes = major.is_none_or(|major: u32| major >= 16);
    let clean = |&byte: &u8| match byte {
        b' '..=b'~' => vec![byte],
        _ if escapes => format!("\\x{byte:02x}").into_bytes(),
        _ => vec![b'?'],
    };
    value.iter().flat_map(clean).collect()
}

/// Settings in the start-up parameter `options`: `-c name=value` and `--name=value`, blanks escaped by a backslash, as
/// `pg_split_opts` of Postgres reads it. Other switches are not for us to interpret.
fn options_of(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut words: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, words.last_mut()) {
            (b'\\', Some(word)) => word.extend(bytes.next()),
            (byte, Some(word)) if !byte.is_ascii_whitespace() => word.push(byte),
            _ => words.push(Vec::new()),
        }
    }
    let mut found = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match &word[..] {
            b"-c" => words.next().unwrap_or_default(),
            [b'-', b'c', rest @ ..] | [b'-', b'-', rest @ ..] => rest.to_vec(),
            _ => continue,
        };
        if let Some(at) = setting.iter().position(|&byte| byte == b'=') {
            let (name, value) = setting.split_at(at);
            let name: Vec<u8> = name.iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect();
            found.push((name, value.get(1..).unwrap_or_default().to_vec()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_postgres_splits_them() {
        let pairs = |text: &str| -> Vec<String> {
            let show = |(name, value): (Vec<u8>, Vec<u8>)| {
                format!("{}={}", String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap())
            };
            options_of(text.as_bytes()).into_iter().map(show).collect()
        };
        assert_eq!(pairs("-c a=b  -cc=d --time-zone=UTC -B 5"), ["a=b", "c=d", "time_zone=UTC"]);
        assert_eq!(pairs(r"-c application_name=a\ b\\c"), [r"application_name=a b\c"]);
        assert_eq!(pairs("-c a=b=c+d"), ["a=b=c+d"]);
        // An empty name or none, and a switch at the end (CVE-2026-107349: an endless loop).
        assert_eq!(pairs("-c =x"), ["=x"]);
        for odd in ["-c", "-c=", "--", "\\", "", "   ", "-", "--=", "-c -c -c"] {
            let _ = pairs(odd);
        }
    }

    fn server() -> Parameters {
        let mut server = Parameters::default();
        for (name, value) in [
            ("client_encoding", "UTF8"),
            ("TimeZone", "UTC"),
            ("application_name", "pglull"),
            ("server_version", "15.6 (Debian)"),
            ("default_transaction_read_only", "off"),
        ] {
            server.set(name.as_bytes(), value.as_bytes());
        }
        server
    }

    fn asked(pairs: &[(&'static str, &'static str)], ignored: &[&str]) -> Asked {
        let parameters = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
        Asked::of(&Startup { minor: 0, parameters }, &server(), &ignored)
    }

    #[test]
    fn a_client_gets_what_it_asked_for_and_defaults_for_the_rest() {
        let asked = asked(&[("user", "a"), ("client_encoding", "'utf-8'"), ("timezone", "CET"), ("X.y", "y")], &[]);
        let value = |name: &str| asked.tracked.value(name.as_bytes()).map(|value| value.as_ref().to_vec());
        assert_eq!(value("client_encoding"), Some(b"UTF8".to_vec()));
        assert_eq!(value("TimeZone"), Some(b"CET".to_vec()));
        assert_eq!(value("application_name"), Some(Vec::new()));
        assert_eq!(value("server_version"), None);
        assert_eq!(asked.others.unwrap().value(b"x.y").unwrap(), "y");
    }

    #[test]
    fn what_stands_alone_beats_options_and_what_is_ignored_is_gone() {
        let pairs = [
            ("options", "-c work_mem=1MB -c DateStyle=SQL --extra-float-digits=1"),
            ("work_mem", "2MB"),
            ("_pq_.x", "1"),
            ("replication", "off"),
        ];
        let others = |ignored: &[&str]| asked(&pairs, ignored).others.map(|others| others.statement().unwrap());
        let sql = String::from_utf8(others(&[]).unwrap().to_vec()).unwrap();
        assert!(sql.contains("$v$2MB$v$") && sql.contains("extra_float_digits") && !sql.contains("1MB"), "{sql}");
        assert!(!sql.contains("_pq_") && !sql.contains("replication"), "{sql}");
        assert_eq!(others(&["EXTRA_FLOAT_DIGITS", "work_mem"]), None);
        let without = asked(&pairs, &["options"]);
        assert_eq!(without.tracked.value(b"DateStyle"), None);
        assert_eq!(without.others.unwrap().value(b"extra_float_digits"), None);
    }

    #[test]
    fn a_client_is_told_what_its_session_has() {
        let asked = asked(&[("default_transaction_read_only", "true"), ("timezone", "CET")], &[]);
        let told = |name: &str| asked.told(name.as_bytes(), server().value(name.as_bytes()).unwrap()).to_vec();
        assert_eq!(told("default_transaction_read_only"), b"on");
        assert_eq!(told("TimeZone"), b"CET");
        assert_eq!(told("server_version"), b"15.6 (Debian)");
    }

    #[test]
    fn encodings_and_names_are_told_as_postgres_tells_them() {
        for (given, told) in [
            ("'utf-8'", Some("UTF8")),
            ("unicode", Some("UTF8")),
            ("latin1", Some("LATIN1")),
            ("ISO-8859-15", Some("LATIN9")),
            ("iso_8859_5", Some("ISO_8859_5")),
            ("windows-1252", Some("WIN1252")),
            ("sql_ascii", Some("SQL_ASCII")),
            ("klingon", None),
            ("", None),
        ] {
            assert_eq!(encoding(given.as_bytes()).as_deref(), told, "{given}");
        }
        let mut newer = server();
        newer.set(b"server_version", b"16beta1");
        assert_eq!(clean_ascii("a\n\u{e9} b".as_bytes(), &server()), b"a??? b");
        assert_eq!(clean_ascii("a\u{e9}".as_bytes(), &newer), br"a\xc3\xa9");
    }
}
