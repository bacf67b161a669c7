//! The end of a log-in: a place among the clients, a pool, and what Postgres would say of its settings.
//!
//! The settings come from the last server that the pool opened, so a log-in completes while a gate is shut and while
//! all servers are busy. Only the first log-in of a cold pool waits for a connection to be opened.

use std::sync::Arc;

use super::asked::Asked;
use super::front::Front;
use super::greet::{Guest, Refusal, no_such_database};
use super::look::Look;
use crate::auth::credential::Credential;
use crate::clients::{Caps, Doing, Entry, Presence};
use crate::pool::database::{Database, Pool};
use crate::server::parameters::Parameters;
use crate::wire::reply::{self, Report, sqlstate};
use crate::wire::startup::Startup;

/// Everything that a session is made of, but for its socket.
pub(super) struct Ready {
    pub(super) front: Front,
    pub(super) presence: Presence,
    pub(super) pool: Arc<Pool>,
    pub(super) asked: Asked,
}

/// Completes the log-in of a client that has proved who it is.
pub(super) async fn welcome(
    guest: &mut Guest,
    front: &Front,
    startup: &Startup,
    (entry, database, proved): (Entry, Arc<Database>, Option<Credential>),
) -> Result<Ready, Refusal> {
    let user = entry.user.clone();
    let config = front.config();
    let (of_database, of_user) = config.client_caps(&entry.database, &entry.user);
    let caps = Caps { process: config.max_client_conn, database: of_database, user: of_user };
    let presence = front.clients.enter(caps, entry).map_err(|full| {
        Refusal::Say(Report::new(sqlstate::TOO_MANY_CONNECTIONS, full.to_string()), "too_many_clients")
    })?;
    let pool = front.databases.pool(&database, &user, proved, |role| front.users.credential(role));
    // Looked at after the client is in the list: a reload that removes the database sends away whom it finds there.
    let pool = pool.filter(|_| !database.is_removed()).ok_or_else(|| no_such_database(&database.name))?;
    let mut look = Look::default();
    let server = tokio::select! {
        biased;
        why = presence.client().sent_away(Doing::Resting) => {
            return Err(match why {
                _ if database.is_removed() => no_such_database(&database.name),
                why if front.is_closing() => Refusal::Say(why, "shutdown"),
                why => Refusal::Say(why, "dismissed"),
            });
        }
        first = first_server(guest, front, &pool) => {
            first.map_err(|report| Refusal::Say(report, "server_unreachable"))?
        }
        () = std::future::poll_fn(|cx| look.poll(cx, &guest.stream)) => return Err(Refusal::Gone),
    };
    let mut asked = Asked::of(startup, &server, &config.ignore_startup_parameters);
    if config.application_name_add_host {
        let name = asked.tracked.value(b"application_name").map(|name| String::from_utf8_lossy(name).into_owned());
        let name = format!("{} - {}", name.filter(|name| !name.is_empty()).unwrap_or("app".to_owned()), guest.peer);
        asked.tracked.set(b"application_name", name.as_bytes());
    }
    if let Some(name) = asked.tracked.value(b"application_name") {
        presence.client().set_application_name(name);
    }
    let out = &mut guest.unsent;
    out.reserve(512);
    reply::authentication_ok(out);
    for (name, value) in server.iter() {
        reply::parameter_status(name, asked.told(name, value), out);
    }
    reply::backend_key_data(&presence.client().key, out);
    reply::ready_for_query(out);
    guest.flush().await?;
    pool.stats.logins.add(1);
    if front.config().log_connections {
        let client = presence.client();
        tracing::debug!(client = client.id.0, database = %client.database, user = %client.user, peer = %client.peer, tls = client.tls.as_deref().unwrap_or("no"), "log-in");
    }
    Ok(Ready { front: front.clone(), presence, pool, asked })
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
