//! Opening servers for a pool: as many at once as the ledger says, with a growing pause after failures.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::database::{Pool, Welcome};
use super::failing::{self, Failing};
use super::places::Place;
use crate::auth::credential::Credential;
use crate::clients::seat::Word;
use crate::ids::{Moment, millis};
use crate::server::conn::{Failure, Rested};
use crate::server::connect;
use crate::server::parameters::Parameters;
use crate::server::recover;
use crate::wire::reply::{Report, sqlstate};

impl Pool {
    /// Starts the connects that the ledger finds needed.
    pub fn open_servers(self: &Arc<Self>) {
        let count = {
            let mut books = self.database.books();
            books.start_connects(self.ix, self.database.clock.now())
        };
        if count == 0 {
            return self.retry_later();
        }
        for started in 0..count {
            let Some(place) = self.database.places.take(self.sharer) else {
                self.database.books().connects_denied(self.ix, count - started);
                if self.is_short() {
                    self.database.places.ask(self.sharer);
                }
                return;
            };
            self.attempt(place);
        }
    }

    /// Starts a connect with a place that was stood in line for, if it is still needed.
    pub(super) fn connect_with(self: &Arc<Self>, place: Place) {
        let needed = self.database.books().start_connect(self.ix, self.database.clock.now());
        if needed {
            self.attempt(place);
            if self.is_short() {
                self.database.places.ask(self.sharer);
            }
        }
    }

    /// Whether somebody waits for a server that is not on its way.
    pub(super) fn is_short(&self) -> bool {
        self.database.books().is_short(self.ix, self.database.clock.now())
    }

    fn attempt(self: &Arc<Self>, place: Place) {
        let attempt = Attempt { pool: Arc::clone(self), booked: true };
        tokio::spawn(attempt.run(place));
    }

    /// What servers of this pool say of themselves: at once if any was ever opened, or else when one is. Cancel-safe;
    /// bounded by the caller.
    ///
    /// # Errors
    /// Postgres' own report if it refuses us in a way that another attempt would not change; that the database is gone.
    pub async fn greet(self: &Arc<Self>) -> Result<Arc<Parameters>, Report> {
        let mut welcome = self.welcome.subscribe();
        loop {
            {
                let known = welcome.borrow_and_update();
                if let Some(parameters) = &known.parameters {
                    return Ok(Arc::clone(parameters));
                }
                if let (true, Some(failure)) = (known.hopeless, &known.failure) {
                    // Another attempt is under way for those who come after us.
                    let report = failure.clone();
                    drop(known);
                    self.want_server();
                    return Err(report);
                }
            }
            if self.database.is_removed() {
                let text = format!("no such database: {}", self.database.name);
                return Err(Report::new(sqlstate::INVALID_CATALOG_NAME, text));
            }
            self.want_server();
            // The sender lives in the pool, which we hold.
            let _ = welcome.changed().await;
        }
    }

    /// Settings of a client, shared with the one that logged in before it if that has the same, as most have in a pool.
    pub fn shared(&self, settings: Parameters) -> Arc<Parameters> {
        let mut last = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != settings {
            *last = Arc::new(settings);
        }
        Arc::clone(&last)
    }

    /// Takes over what its servers log in with from now on. With another than before, a refusal of before means nothing.
    pub fn learn(&self, credential: Credential) {
        if self.target().keychain.learn(credential) {
            self.failing().hopes();
            self.welcome.send_if_modified(|welcome| std::mem::replace(&mut welcome.hopeless, false));
        }
    }

    fn want_server(self: &Arc<Self>) {
        self.database.books().want_server(self.ix);
        self.open_servers();
    }

    /// If a connect is needed and has to wait for the end of a pause, sees to it that somebody comes back then.
    fn retry_later(self: &Arc<Self>) {
        let Some(at) = self.database.books().retry_at(self.ix) else { return };
        if at <= self.database.clock.now() || self.retrying.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(pool.database.clock.instant(at)).await;
            pool.retrying.store(false, Ordering::Release);
            pool.open_servers();
        });
    }

    fn connected(&self, mut rested: Rested) {
        *self.failing() = Failing::default();
        self.stats.server_connects.add(1);
        let parameters = Arc::new(rested.server().parameters.clone());
        self.welcome.send_modify(|welcome| {
            *welcome = Welcome { parameters: Some(parameters), failure: None, hopeless: false };
        });
        rested.expires(self.database.settings.load().server_lifetime);
        self.put_back(rested, true);
    }

    /// A reload or a `RECONNECT` has overtaken the connect.
    fn connected_in_vain(&self, rested: Rested, reason: &str) {
        let now = self.database.clock.now();
        {
            let mut books = self.database.books();
            books.connect_failed(self.ix, now);
            if !self.database.is_removed() {
                // A log-in may wait for what this server would have said, and nobody else wakes it.
                books.want_server(self.ix);
            }
        }
        self.close(vec![rested], reason);
    }

    fn connect_failed(self: &Arc<Self>, failure: &Failure, began: Moment) {
        self.stats.server_connect_failures.add(1);
        let hopeless = matches!(failure, Failure::Refused(report) if is_hopeless(report));
        let report = match failure {
            Failure::Refused(report) => report.clone(),
            other => {
                let text = format!("server login has been failing, cached error: {other} (server_login_retry)");
                Report::new(sqlstate::CANNOT_CONNECT, text)
            }
        };
        tracing::warn!(database = %self.database.name, user = %self.user, %failure, "cannot open a server");
        let given_up = self.failed(began, hopeless);
        // After the books: a log-in that waits for this wants another server from here on.
        self.welcome.send_modify(|welcome| {
            welcome.failure = Some(report);
            welcome.hopeless = given_up;
        });
        self.turn_away();
        self.retry_later();
    }

    /// Notes the failure. Returns whether those who wait are to be told.
    fn failed(&self, began: Moment, hopeless: bool) -> bool {
        let (now, retry) = (self.database.clock.now(), self.database.settings().server_login_retry);
        let counts = self.counts();
        let attempt = failing::Attempt { began, failed: now, hopeless, has_servers: counts.idle + counts.lent > 0 };
        let jitter = jitter(now.0 ^ self.next_server().0);
        let (retry_at, given_up) = self.failing().failed(attempt, retry, jitter);
        self.database.books().connect_failed(self.ix, retry_at);
        given_up
    }

    pub(super) fn failing(&self) -> MutexGuard<'_, Failing> {
        // Each write is one call of a structure without I/O: a panic elsewhere leaves nothing half done.
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If servers cannot be had and none is left, tells those who wait for one why; held clients go on being held.
    pub(super) fn turn_away(&self) {
        let report = match &*self.welcome.borrow() {
            Welcome { failure: Some(report), hopeless: true, .. } => report.clone(),
            _ => return,
        };
        let turned_away = self.database.books().turn_away(self.ix);
        for (waiter, ticket) in turned_away {
            let _ = ticket.client.seat.answer(waiter, Word::No(Box::new(report.clone())));
        }
    }
}

/// Runs the `connect_query`, which the server runs again from here on where its session is made new.
async fn begin(rested: Rested, query: &Bytes) -> Result<Rested, Failure> {
    let mut server = recover::reset(rested.wake(), query).await?.wake();
    server.connect_query = query.clone();
    let proof = server.boundary().ok_or_else(|| Failure::Protocol("not clean after connect_query".to_owned()))?;
    Ok(Rested::new(server, proof))
}

/// A number from 0 to 1 that looks random; for spreading things out in time only.
fn jitter(seed: u64) -> f64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let top = u32::try_from(mixed >> 32).unwrap_or_default();
    f64::from(top) / f64::from(u32::MAX)
}

/// Whether another attempt would be refused alike: class 28 (authorization), no such database.
fn is_hopeless(report: &Report) -> bool {
    report.sqlstate.starts_with("28") || report.sqlstate == sqlstate::INVALID_CATALOG_NAME
}

/// One connect under way; if it is dropped in the middle, the books say that it failed.
struct Attempt {
    pool: Arc<Pool>,
    booked: bool,
}

impl Attempt {
    async fn run(mut self, place: Place) {
        let pool = Arc::clone(&self.pool);
        let now = pool.database.clock.now();
        let settings = Arc::clone(&pool.database.settings());
        let id = pool.next_server();
        let badge = pool.roster.enter(id, now);
        let result = connect::connect(&pool.target(), id, now, settings.server_connect_timeout).await;
        let result = match result {
            Ok(rested) if !settings.connect_query.is_empty() => begin(rested, &settings.connect_query).await,
            result => result,
        };
        self.booked = false;
        match result {
            Ok(mut rested) => {
                rested.wear(badge);
                rested.keep(Box::new(place));
                match pool.unwanted(rested.server(), true) {
                    Some(reason) => pool.connected_in_vain(rested, reason),
                    None => pool.connected(rested),
                }
                pool.open_servers();
            }
            Err(failure) => pool.connect_failed(&failure, now),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.booked {
            self.pool.database.books().connect_failed(self.pool.ix, self.pool.database.clock.now());
        }
    }
}

impl Rested {
    /// Sets when it is closed: at its lifetime, or up to a tenth earlier.
    pub(super) fn expires(&mut self, lifetime: Option<Duration>) {
        let (connected, id) = (self.server().connected_at, self.server().id.0);
        self.set_expiry(lifetime.map(|lifetime| {
            let less = jitter(id ^ millis(lifetime)) / 10.0;
            connected.plus(lifetime.mul_f64(1.0 - less))
        }));
    }
}
