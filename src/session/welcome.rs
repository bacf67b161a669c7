//! The end of a log-in: a place among the clients, a pool, and what Postgres would say of its settings.
//!
//! The settings come from the last server that the pool opened, so a log-in completes while a gate is shut and while
//! all servers are busy. Only the first log-in of a cold pool waits for a connection to be opened.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;

use super::front::Front;
use super::greet::{Guest, Refusal, no_such_database};
use crate::auth::credential::Credential;
use crate::clients::{Entry, Presence};
use crate::pool::database::{Database, Pool};
use crate::server::parameters::{Parameters, TRACKED, tracked};
use crate::wire::reply::{self, Report, sqlstate};
use crate::wire::startup::Startup;

/// Everything that a session is made of, but for its socket.
pub(super) struct Ready {
    pub(super) front: Front,
    pub(super) presence: Presence,
    pub(super) pool: Arc<Pool>,
    pub(super) wanted: Parameters,
}

/// Completes the log-in of a client that has proved who it is.
pub(super) async fn welcome(
    guest: &mut Guest,
    front: &Front,
    startup: &Startup,
    (entry, database, proved): (Entry, Arc<Database>, Option<Credential>),
) -> Result<Ready, Refusal> {
    let user = entry.user.clone();
    let Ok(presence) = front.clients.enter(front.config().max_client_conn, entry) else {
        let report = Report::new(sqlstate::TOO_MANY_CONNECTIONS, "no more connections allowed (max_client_conn)");
        return Err(Refusal::Say(report, "too_many_clients"));
    };
    let pool = front.databases.pool(&database, &user, proved, |role| front.users.credential(role));
    // Looked at after the client is in the list: a reload that removes the database sends away whom it finds there.
    let pool = pool.filter(|_| !database.is_removed()).ok_or_else(|| no_such_database(&database.name))?;
    let server =
        first_server(guest, front, &pool).await.map_err(|report| Refusal::Say(report, "server_unreachable"))?;
    let wanted = wanted(startup, &server);
    if let Some(name) = wanted.value(b"application_name") {
        presence.client().set_application_name(name);
    }
    let mut out = BytesMut::with_capacity(512);
    reply::authentication_ok(&mut out);
    for (name, value) in server.iter() {
        reply::parameter_status(name, wanted.value(name).unwrap_or(value), &mut out);
    }
    reply::backend_key_data(&presence.client().key, &mut out);
    reply::ready_for_query(&mut out);
    guest.stream.write_all(&out).await?;
    pool.stats.logins.add(1);
    if front.config().log_connections {
        let client = presence.client();
        tracing::info!(client = client.id.0, database = %client.database, user = %client.user, peer = %client.peer, tls = client.tls.as_deref().unwrap_or("no"), "log-in");
    }
    Ok(Ready { front: front.clone(), presence, pool, wanted })
}

/// What servers of the pool say of themselves. Who waits for the first of them in vain is told what Postgres said last, a
/// little before the log-in's own bound, which knows nothing of it.
async fn first_server(guest: &Guest, front: &Front, pool: &Arc<Pool>) -> Result<Arc<Parameters>, Report> {
    let Some(bound) = front.config().client_login_timeout else { return pool.greet().await };
    let gone = front.clock.now().since(guest.connected_at);
    let left = bound.mul_f64(0.9).saturating_sub(gone);
    let late = || Report::new(sqlstate::PROTOCOL_VIOLATION, "client_login_timeout");
    let greeted = tokio::time::timeout(left, pool.greet()).await;
    greeted.unwrap_or_else(|_| Err(pool.welcome().failure.unwrap_or_else(late)))
}

/// The tracked settings as this client wants them: what it asked for, or else what a fresh connection has.
fn wanted(startup: &Startup, server: &Parameters) -> Parameters {
    let mut wanted = Parameters::default();
    for name in TRACKED {
        let name = name.as_bytes();
        if name == b"application_name" {
            wanted.set(name, b"");
        } else if let Some(value) = server.value(name) {
            wanted.set(name, value);
        }
    }
    let asked = startup.parameters.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
    let options = startup.parameter("options").map(|text| options(text)).unwrap_or_default();
    for (name, value) in options.into_iter().chain(asked) {
        if let Some(name) = tracked(&name) {
            wanted.set(name.as_bytes(), &canonical(name, value));
        }
    }
    wanted
}

/// The form in which Postgres reports a value, for the one setting whose spelling varies between drivers; any other is
/// adopted from the server with the first transaction.
fn canonical(name: &str, value: Vec<u8>) -> Vec<u8> {
    if name != "client_encoding" {
        return value;
    }
    let bare: Vec<u8> =
        value.iter().copied().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase()).collect();
    match &bare[..] {
        b"UTF8" | b"UNICODE" => b"UTF8".to_vec(),
        _ => value,
    }
}

/// Settings in the start-up parameter `options`: `-c name=value` and `--name=value`, blanks escaped by a backslash, as
/// `pg_split_opts` of Postgres reads it. Other switches are not for us to interpret.
fn options(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
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
            options(text.as_bytes()).into_iter().map(show).collect()
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

    #[test]
    fn a_client_gets_what_it_asked_for_and_defaults_for_the_rest() {
        let mut server = Parameters::default();
        for (name, value) in
            [("client_encoding", "UTF8"), ("TimeZone", "UTC"), ("application_name", "pglull"), ("server_version", "15")]
        {
            server.set(name.as_bytes(), value.as_bytes());
        }
        let pair = |name: &'static str, value: &'static str| (name.into(), value.into());
        let parameters =
            vec![pair("user", "a"), pair("client_encoding", "'utf-8'"), pair("timezone", "CET"), pair("x", "y")];
        let wanted = wanted(&Startup { minor: 0, parameters }, &server);
        let value = |name: &str| wanted.value(name.as_bytes()).map(|value| value.as_ref().to_vec());
        assert_eq!(value("client_encoding"), Some(b"UTF8".to_vec()));
        assert_eq!(value("TimeZone"), Some(b"CET".to_vec()));
        assert_eq!(value("application_name"), Some(Vec::new()));
        assert_eq!(value("server_version"), None);
    }
}
