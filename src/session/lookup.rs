//! Looks up users that are not in `auth_file`, by `auth_query` in the database.
//!
//! - A look-up has connections of its own, as `auth_user`, that no client ever gets: nothing that a client sends reaches them
//!   but the bound name (CVE-2025-12819 was a client's `search_path` on such a connection).
//! - It does not pass the gate: a log-in completes while clients are held. It reads, outside of any transaction of a client,
//!   and is bounded in time, so it can neither be a blocker nor be kept by a window for longer than a few seconds.
//! - Everything is bounded: connections for each target, look-ups at once, time, and what is remembered. One look-up at a
//!   time runs for each name; those who ask meanwhile get its result. It goes on if the client that asked leaves.
//! - A failure is told to those who waited for it, and the next one tries again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::timeout;

use crate::auth::credential::Credential;
use crate::auth::users::{Account, Users};
use crate::clock::Clock;
use crate::config::{CONSOLE, Config, UserSecret};
use crate::ids::{Moment, ServerId};
use crate::pool::databases;
use crate::server::conn::{Failure, Rested};
use crate::server::connect::{self, Target};
use crate::server::tls::Connector;
use crate::wire::reply::sqlstate;

/// How long one look-up may take, and how long it may wait for its turn.
const BOUND: Duration = Duration::from_secs(5);
/// The most connections, and look-ups at once, of one target.
const AT_ONCE: usize = 4;
/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// The longest that a name is taken for unknown without another look.
const UNKNOWN: Duration = Duration::from_secs(2);
/// The most names that are remembered. Strangers can fill it; then a look-up is not remembered.
const NAMES: usize = 10_000;

/// The look-up could not be made; why is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("auth_query failed")]
pub struct LookupFailed;

/// A user of this name in this database.
type Key = (String, String);
/// What is known of a name; the lock is held while it is being looked up.
type Place = Arc<tokio::sync::Mutex<Option<Known>>>;

/// The look-ups of one process. See the module's text.
#[derive(Debug)]
pub struct Lookups {
    clock: Clock,
    users: Arc<Users>,
    names: Mutex<HashMap<Key, Place>>,
    desks: Mutex<BTreeMap<String, Arc<Desk>>>,
}

#[derive(Clone, Debug)]
struct Known {
    at: Moment,
    found: Found,
}

#[derive(Clone, Debug)]
enum Found {
    User(Arc<Account>),
    Nobody,
    Failed,
}

/// The connections to one target.
#[derive(Debug)]
struct Desk {
    turns: Semaphore,
    idle: Mutex<Vec<Rested>>,
}

/// What is to be done for one look-up.
struct Errand {
    desk: Arc<Desk>,
    /// Whether connections are kept for the next one. Not if a client has chosen the name of the database.
    keep: bool,
    target: Arc<Target>,
    query: String,
    user: String,
}

/// What a look-up needs of the process as it is now.
type Setting<'a> = (&'a Config, &'a Arc<Connector>);

impl Lookups {
    /// None made yet. Needs the runtime: idle connections are closed in the background.
    #[must_use]
    pub fn new(clock: Clock, users: Arc<Users>) -> Arc<Self> {
        let desks = Mutex::default();
        let lookups = Arc::new(Self { clock, users, names: Mutex::default(), desks });
        let weak = Arc::downgrade(&lookups);
        tokio::spawn(async move {
            let mut period = tokio::time::interval(IDLE / 4);
            loop {
                period.tick().await;
                let Some(lookups) = weak.upgrade() else { return };
                lookups.close_idle();
            }
        });
        lookups
    }

    /// Forgets what was found: for a reload.
    pub fn forget(&self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The user of this name, as the database that `database` is looked up in knows it. `None` if it knows none, or if
    /// nothing is looked up there. Cancel-safe.
    ///
    /// # Errors
    /// [`LookupFailed`].
    pub async fn find(
        self: &Arc<Self>,
        (config, connector): Setting<'_>,
        database: &str,
        user: &str,
    ) -> Result<Option<Arc<Account>>, LookupFailed> {
        let Some((key, errand)) = self.errand((config, connector), database, user) else { return Ok(None) };
        let asked = self.clock.now();
        let place = timeout(2 * BOUND, self.place(key).lock_owned()).await.map_err(|_| LookupFailed)?;
        let keep = config.auth_query_cache_time;
        if let Some(found) = place.as_ref().and_then(|known| known.good(asked, self.clock.now(), keep)) {
            return found.answer();
        }
        let (lookups, user) = (Arc::clone(self), user.to_owned());
        let done = tokio::spawn(async move { lookups.run(errand, &user, place).await });
        done.await.unwrap_or(Found::Failed).answer()
    }

    /// Where users of a database are looked up, if they are.
    fn errand(&self, (config, connector): Setting<'_>, database: &str, user: &str) -> Option<(Key, Errand)> {
        // The console has no entry of its own; its users are looked up where auth_dbname says.
        let entry = config.database(database);
        let console = CONSOLE.contains(&database);
        let own = entry.filter(|_| !console);
        let role = own.and_then(|entry| entry.auth_user.clone()).or_else(|| config.auth_user.clone())?;
        let named = own.and_then(|entry| entry.auth_dbname.clone()).or_else(|| config.auth_dbname.clone());
        let (at, keep) = match named {
            Some(name) => (name, true),
            None if console || entry.is_none() => return None,
            None => (database.to_owned(), config.databases.contains_key(database)),
        };
        let query = own.and_then(|entry| entry.auth_query.clone()).unwrap_or_else(|| config.auth_query.clone());
        let password = config.database(&at).filter(|entry| entry.user.as_ref() == Some(&role));
        let password = password.and_then(|entry| entry.password.as_ref()).map(Credential::of_password);
        let credential = password.or_else(|| self.users.credential(&role));
        let target = databases::target((config, connector), &at, &role, credential);
        // All databases that only "*" covers share one desk: their names are the clients' choice.
        let name = if keep { &at } else { "*" };
        let label = format!("{role}@{name}");
        let errand = Errand { desk: self.desk(label), keep, target: Arc::new(target), query, user: user.to_owned() };
        Some(((format!("{at} {role}"), user.to_owned()), errand))
    }

    fn desk(&self, label: String) -> Arc<Desk> {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Desk { turns: Semaphore::new(AT_ONCE), idle: Mutex::default() });
        Arc::clone(desks.entry(label).or_insert_with(make))
    }

    fn place(&self, key: Key) -> Place {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES && !names.contains_key(&key) {
            let now = self.clock.now();
            let fresh = |known: &Option<Known>| known.as_ref().is_some_and(|known| now.since(known.at) < UNKNOWN);
            names.retain(|_, place| place.try_lock().map_or(true, |known| fresh(&known)));
            if names.len() >= NAMES {
                return Place::default();
            }
        }
        Arc::clone(names.entry(key).or_default())
    }

    async fn run(&self, errand: Errand, user: &str, mut place: OwnedMutexGuard<Option<Known>>) -> Found {
        let asked = async {
            let turn = timeout(BOUND, errand.desk.turns.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return Err(Failure::Late(BOUND)) };
            timeout(BOUND, self.ask(&errand)).await.unwrap_or(Err(Failure::Late(BOUND)))
        };
        let found = match asked.await.and_then(|rows| user_of(&rows, user)) {
            Ok(Some(account)) => Found::User(account),
            Ok(None) => Found::Nobody,
            // A database that is not there has no users; who is not logged in is not told which it is.
            Err(Failure::Refused(report)) if report.sqlstate == sqlstate::INVALID_CATALOG_NAME => Found::Nobody,
            Err(failure) => {
                tracing::warn!(dbname = %errand.target.dbname, as_user = %errand.target.user, %failure, "auth_query failed");
                Found::Failed
            }
        };
        *place = Some(Known { at: self.clock.now(), found: found.clone() });
        found
    }

    /// Asks on a connection that is there, or on a new one. One that died while it was idle is replaced.
    async fn ask(&self, errand: &Errand) -> Result<Rows, Failure> {
        while let Some(mut rested) = errand.desk.take() {
            if !rested.still_fresh() {
                continue;
            }
            match self.ask_on(rested, errand).await {
                Err(Failure::Lost(_)) => {}
                other => return other,
            }
        }
        let rested = connect::connect(&errand.target, ServerId(0), self.clock.now(), BOUND).await?;
        self.ask_on(rested, errand).await
    }

    async fn ask_on(&self, rested: Rested, errand: &Errand) -> Result<Rows, Failure> {
        let mut server = rested.wake();
        let rows = server.ask(&errand.query, &errand.user).await?;
        server.used_at = self.clock.now();
        match server.boundary() {
            Some(proof) if errand.keep => errand.desk.put(Rested::new(server, proof)),
            _ => server.farewell(),
        }
        Ok(rows)
    }

    fn close_idle(&self) {
        let desks: Vec<_> = self.desks.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let now = self.clock.now();
        for desk in desks {
            let old = |rested: &mut Rested| now.since(rested.server().used_at) >= IDLE || !rested.still_fresh();
            let closed: Vec<Rested> = desk.idle().extract_if(.., old).collect();
            closed.into_iter().for_each(|rested| rested.wake().farewell());
        }
    }
}

type Rows = Vec<Vec<Option<bytes::Bytes>>>;

impl Desk {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Rested>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Rested> {
        self.idle().pop()
    }

    fn put(&self, rested: Rested) {
        self.idle().push(rested);
    }
}

impl Known {
    /// Is it still good at `now`, for somebody who asked at `asked`? What was found after that is always.
    fn good(&self, asked: Moment, now: Moment, keep: Duration) -> Option<Found> {
        let keep = match self.found {
            Found::User(_) => keep,
            Found::Nobody => keep.min(UNKNOWN),
            Found::Failed => Duration::ZERO,
        };
        (self.at > asked || now.since(self.at) < keep).then(|| self.found.clone())
    }
}

impl Found {
    fn answer(self) -> Result<Option<Arc<Account>>, LookupFailed> {
        match self {
            Self::User(account) => Ok(Some(account)),
            Self::Nobody => Ok(None),
            Self::Failed => Err(LookupFailed),
        }
    }
}

/// Reads the answer: no row, or one of name and secret. Only a row for the very name that was asked for counts.
fn user_of(rows: &Rows, user: &str) -> Result<Option<Arc<Account>>, Failure> {
    let wrong = |text: String| Err(Failure::Protocol(text));
    let row = match rows.as_slice() {
        [] => return Ok(None),
        [row] => row,
        more => return wrong(format!("expected 1 row from auth_query, not {}", more.len())),
    };
    let [name, secret] = row.as_slice() else {
        return wrong(format!("expected 2 columns from auth_query, not {}", row.len()));
    };
    let Some(name) = name else { return wrong("auth_query response contained null user name".to_owned()) };
    if name.as_ref() != user.as_bytes() {
        tracing::warn!("auth_query answered with another user than the one that was asked for");
        return Ok(None);
    }
    // No secret, or one that has expired: the user is there, and no password is right.
    let Ok(text) = std::str::from_utf8(secret.as_deref().unwrap_or_default()) else {
        return wrong("auth_query response contained a secret that is not UTF-8".to_owned());
    };
    match UserSecret::read(text) {
        Some(secret) => Ok(Some(Account::new(secret))),
        None => wrong("auth_query response contained a damaged SCRAM secret".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as lines, values between bars; `~` is NULL.
    fn rows(text: &str) -> Rows {
        let value = |value: &str| (value != "~").then(|| bytes::Bytes::copy_from_slice(value.as_bytes()));
        text.lines().map(|line| line.split('|').map(value).collect()).collect()
    }

    #[test]
    fn only_one_row_for_the_very_name_counts() {
        for (text, expect) in [
            ("", Some(false)),
            ("joe|pw", Some(true)),
            ("joe|~", Some(true)),
            ("Joe|pw", Some(false)),
            ("postgres|pw", Some(false)),
            ("joe|SCRAM-SHA-256$nonsense", None),
            ("~|pw", None),
            ("joe", None),
            ("joe|pw|x", None),
            ("joe|pw\njoe|pw2", None),
        ] {
            assert_eq!(user_of(&rows(text), "joe").ok().map(|found| found.is_some()), expect, "{text}");
        }
    }

    #[test]
    fn what_was_found_is_good_for_a_while() {
        let user = Found::User(Account::new(UserSecret::read("x").unwrap()));
        let keep = Duration::from_secs(10);
        for (found, at, asked, now, good) in [
            (&user, 1000, 5000, 10_999, true),
            (&user, 1000, 5000, 11_000, false),
            // It came after the question.
            (&user, 5001, 5000, 90_000, true),
            (&Found::Nobody, 1000, 2000, 2999, true),
            (&Found::Nobody, 1000, 2000, 3000, false),
            (&Found::Failed, 1000, 1000, 1000, false),
            (&Found::Failed, 1001, 1000, 1001, true),
        ] {
            let known = Known { at: Moment(at), found: found.clone() };
            assert_eq!(known.good(Moment(asked), Moment(now), keep).is_some(), good, "{found:?} {at} {asked} {now}");
        }
    }
}
