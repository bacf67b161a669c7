//! What a client has left on its server: Postgres is asked, at a boundary, where a hint says that there may be something.
//!
//! Settings are taken down with the values that the server itself gives, and follow the client from then on. Everything else
//! cannot be moved: it keeps the client on its server until it is gone.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::conn::{Failure, Server};
use super::parameters::{Parameters, TRACKED, marked, quote, set_config};
use super::recover::BOUND;
use crate::ids::SessionId;
use crate::prepared::hints::Hints;

/// Settings that Postgres does not report and by which it reads literals.
const READING: [&str; 5] = ["array_nulls", "backslash_quote", "lc_monetary", "timezone_abbreviations", "xmloption"];

/// By which settings of a session, reported or not, literals are read, in one number.
#[must_use]
pub fn reading(parameters: &Parameters, settings: Option<&Settings>) -> u64 {
    parameters.reading() ^ settings.map_or(0, Settings::reading)
}

/// Settings of a session that Postgres does not report: names and values, in the order of their names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings(Vec<(Bytes, Bytes)>);

impl Settings {
    /// The last value of each name counts.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> Self {
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        for (name, value) in pairs {
            match found.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                Some((_, known)) => *known = value,
                None => found.push((name, value)),
            }
        }
        found.sort();
        Self(found)
    }

    /// The value of a setting, whatever the case of its name.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// By which of these, beside those that are reported, the literals of a statement are read, in one number; 0 for none of them.
    #[must_use]
    pub fn reading(&self) -> u64 {
        let values = READING.map(|name| self.value(name.as_bytes()));
        if values.iter().all(Option::is_none) { 0 } else { marked(values.into_iter()) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.0.iter()
    }

    /// The statement that gives them to a session that has none of its own; `None` if there is nothing to give.
    #[must_use]
    pub fn statement(&self) -> Option<Bytes> {
        // The role last: it may not be allowed to set the others.
        let (roles, others): (Vec<_>, Vec<_>) = self.0.iter().partition(|(name, _)| name == "role");
        set_config(others.into_iter().chain(roles).map(|(name, value)| (name, value)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes every setting back to what the session began with.
const CLEAR: &[u8] = b"SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL";

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Residue {
    /// The settings, if they were asked for.
    pub settings: Option<Settings>,
    /// What keeps the client on this server.
    pub keeps: Hints,
}

/// Asks the server what of `hints` is there; `hidden` are names of settings that it does not list. **Not cancel-safe.**
///
/// # Errors
/// As [`Server::query_within`].
pub async fn ask(server: &mut Server, hints: Hints, hidden: &[Box<[u8]>]) -> Result<Residue, Failure> {
    // Nobody can tell whether these are there, or that they are gone.
    let mut residue = Residue { settings: None, keeps: hints.only(Hints::LIBRARY.with(Hints::HIDDEN_SETTINGS)) };
    let Some(sql) = question(hints, hidden) else { return Ok(residue) };
    let answer = server.query_within(&sql, BOUND).await?;
    let mut settings = Vec::new();
    for row in answer.rows {
        let mut values = row.into_iter().map(Option::unwrap_or_default);
        let (kind, name, value) =
            (values.next().unwrap_or_default(), values.next().unwrap_or_default(), values.next().unwrap_or_default());
        match THINGS.iter().find(|thing| thing.0.as_bytes() == kind) {
            Some((_, hint, _)) => residue.keeps = residue.keeps.with(*hint),
            // A copy: a slice would keep the whole answer alive.
            None => settings.push((Bytes::copy_from_slice(&name), Bytes::copy_from_slice(&value))),
        }
    }
    residue.settings = hints.any_of(Hints::SETTINGS).then_some(Settings(settings));
    Ok(residue)
}

/// What cannot be moved, by name, and how Postgres says that it is there. Operators are named in full: the session may have a
/// search path of its own.
const THINGS: [(&str, Hints, &str); 6] = [
    (
        "prepare",
        Hints::PREPARED,
        "pg_catalog.pg_prepared_statements WHERE from_sql OR name OPERATOR(pg_catalog.!~) '^pglull_[0-9]+$'",
    ),
    ("listen", Hints::CHANNELS, "pg_catalog.pg_listening_channels()"),
    ("cursor", Hints::CURSORS, "pg_catalog.pg_cursors WHERE is_holdable"),
    (
        "advisory lock",
        Hints::LOCKS,
        "pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
    ),
    (
        "temporary",
        Hints::TEMPORARY,
        "(SELECT relnamespace FROM pg_catalog.pg_class UNION ALL SELECT pronamespace FROM pg_catalog.pg_proc \
         UNION ALL SELECT typnamespace FROM pg_catalog.pg_type) found (namespace) \
         WHERE namespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()",
    ),
    ("session authorization", Hints::AUTHORIZATION, ""),
];

/// The query that asks for it; `None` if there is nothing to ask.
fn question(hints: Hints, hidden: &[Box<[u8]>]) -> Option<BytesMut> {
    let mut parts = Vec::new();
    for (name, hint, from) in THINGS.iter().filter(|thing| !thing.2.is_empty()) {
        if hints.any_of(*hint) {
            parts.push(format!("SELECT '{name}', NULL, NULL WHERE EXISTS (SELECT FROM {from})"));
        }
    }
    if hints.any_of(Hints::SETTINGS) {
        let mut tracked = String::new();
        for name in TRACKED {
            let _ = write!(tracked, "{}'{name}'", if tracked.is_empty() { "" } else { ", " });
        }
        parts.push(format!(
            "SELECT '', name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
             AND name OPERATOR(pg_catalog.<>) ALL (ARRAY[{tracked}])"
        ));
        parts.push(
            "SELECT '', 'role', pg_catalog.current_setting('role') WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'"
                .to_owned(),
        );
        parts.push(
            "SELECT 'session authorization', NULL, NULL FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) me \
             WHERE me.usesysid OPERATOR(pg_catalog.<>) (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) SESSION_USER)"
                .to_owned(),
        );
    }
    if parts.is_empty() {
        return None;
    }
    let mut sql = BytesMut::from(parts.join(" UNION ALL ").as_bytes());
    if hints.any_of(Hints::SETTINGS) {
        for name in hidden {
            sql.put_slice(b" UNION ALL SELECT '', ");
            quote(name, &mut sql);
            sql.put_slice(b", pg_catalog.current_setting(");
            quote(name, &mut sql);
            sql.put_slice(b", true) WHERE pg_catalog.current_setting(");
            quote(name, &mut sql);
            sql.put_slice(b", true) IS NOT NULL");
        }
    }
    sql.put_slice(b" ORDER BY 1, 2");
    Some(sql)
}

/// The names of what keeps a client, for people.
#[must_use]
pub fn words(keeps: Hints) -> String {
    let mut words: Vec<&str> = THINGS.iter().filter(|thing| keeps.any_of(thing.1)).map(|thing| thing.0).collect();
    if keeps.any_of(Hints::LIBRARY) {
        words.push("load");
    }
    if keeps.any_of(Hints::HIDDEN_SETTINGS) {
        words.push("set_config");
    }
    if words.is_empty() && !keeps.is_empty() {
        words.push("unknown");
    }
    words.join(", ")
}

/// Settings of the server may have been led back to what they were before its `connect_query`.
pub const fn stripped(server: &mut Server) {
    server.bare |= !server.connect_query.is_empty();
}

/// Takes the settings that it was given from a server, if it has any; it has those of its `connect_query` again then.
/// **Not cancel-safe.**
///
/// # Errors
/// As [`Server::query_within`]; never Postgres' own for the `connect_query`, which is no client's: such a server is to be closed.
pub async fn clear(server: &mut Server) -> Result<(), Failure> {
    let listed = server.settings.take().is_some();
    if std::mem::take(&mut server.unlisted) || listed {
        server.query_within(CLEAR, BOUND).await?;
        stripped(server);
    }
    if std::mem::take(&mut server.bare) {
        // By itself, as at the opening: it may be something that cannot stand in a block with others.
        let query = server.connect_query.clone();
        server.query_within(&query, BOUND).await.map_err(|failure| match failure {
            Failure::Refused(report) => Failure::Protocol(format!("connect_query was refused: {}", report.message)),
            failure => failure,
        })?;
    }
    Ok(())
}

/// Whether the server has other settings than this client, may have some that Postgres does not list, or lacks those of its
/// `connect_query`.
#[must_use]
pub fn differs(server: &Server, client: SessionId, wanted: Option<&Arc<Settings>>) -> bool {
    let foreign = server.unlisted && server.client != Some(client);
    foreign || server.bare || !same(server.settings.as_ref(), wanted)
}

/// Gives the server the settings that this client has. **Not cancel-safe.**
///
/// # Errors
/// As [`Server::query_within`]; the server has to be cleaned then.
pub async fn apply(server: &mut Server, wanted: Option<&Arc<Settings>>) -> Result<(), Failure> {
    clear(server).await?;
    if let Some(settings) = wanted
        && let Some(sql) = settings.statement()
    {
        if !sql.is_ascii()
            && let Some(encoding) = server.parameters.value(b"server_encoding").cloned()
            && server.parameters.value(b"client_encoding") != Some(&encoding)
        {
            // As at a log-in, where Postgres converts nothing.
            let mut sql = BytesMut::from(&b"SET client_encoding TO "[..]);
            quote(&encoding, &mut sql);
            server.query_within(&sql, BOUND).await?;
        }
        // It has them from here on, in whole or in part.
        server.settings = Some(Arc::clone(settings));
        server.query_within(&sql, BOUND).await?;
    }
    Ok(())
}

fn same(a: Option<&Arc<Settings>>, b: Option<&Arc<Settings>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_there_is_asked_for() {
        assert_eq!(question(Hints::default(), &[]), None);
        assert_eq!(question(Hints::LIBRARY, &[]), None);
        let text = |hints, hidden: &[Box<[u8]>]| String::from_utf8(question(hints, hidden).unwrap().to_vec()).unwrap();
        let sql = text(Hints::CHANNELS, &[]);
        assert!(sql.contains("pg_listening_channels") && !sql.contains("pg_settings"), "{sql}");
        let sql = text(Hints::ANYTHING, &[b"a.b".as_slice().into()]);
        for word in
            ["pg_settings", "pg_locks", "pg_cursors", "pg_prepared_statements", "pg_my_temp_schema", "$v$a.b$v$"]
        {
            assert!(sql.contains(word), "{word}");
        }
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let pairs = [("Work_Mem", "1MB"), ("a.b", "1"), ("work_mem", "2MB")];
        let settings = Settings::new(pairs.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(settings.iter().count(), 2);
        assert_eq!(settings.value(b"WORK_MEM").unwrap(), "2MB");
    }

    #[test]
    fn the_role_comes_last() {
        let pair = |name: &'static str, value: &'static str| (Bytes::from(name), Bytes::from(value));
        let settings = Settings(vec![pair("role", "r"), pair("work_mem", "1MB")]);
        let sql = settings.statement().unwrap();
        let text = std::str::from_utf8(&sql).unwrap();
        assert!(text.find("work_mem").unwrap() < text.find("$v$role$v$").unwrap(), "{text}");
        assert_eq!(Settings::default().statement(), None);
    }

    #[test]
    fn what_keeps_a_client_has_a_word() {
        assert_eq!(words(Hints::CHANNELS.with(Hints::LOCKS).with(Hints::LIBRARY)), "listen, advisory lock, load");
    }
}
