//! A server in a client's hands, from the start of a transaction to a proven boundary.
//!
//! [`Lease::release`] with a [`Boundary`] is the only way back to idle; dropping a lease in any other way closes the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::database::{Pool, Ticket};
use super::ledger::{Grant, GroupIx};
use crate::clients::Client;
use crate::ids::Moment;
use crate::server::conn::{Failure, Rested, Server};
use crate::server::progress::Boundary;
use crate::server::recover;

/// A server that was idle for longer is looked at by a system call before it is lent: the runtime may not have noticed yet
/// that it has said good-bye. One that was busy just now is not worth the call.
const GLANCE_AFTER: Duration = Duration::from_millis(20);

/// A lent server. See the module's text.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    /// What the transaction counts as.
    group: GroupIx,
    held: Held,
    /// A transaction of the client counts as running.
    running: bool,
    /// The server counts as lent.
    booked: bool,
}

/// What a look at a server has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is as it was put back.
    Good,
    /// It has gone, or must not be used any more: the lease is to be dropped.
    Gone,
    /// It was idle for so long that it is to be [asked](Lease::ask).
    Unsure,
}

/// What a lease has in its hands.
#[derive(Debug)]
enum Held {
    /// Not touched since it left the pool: it may go straight back.
    Rested(Rested),
    Awake(Box<Server>),
    /// On its way somewhere else; the lease only keeps the place in the books.
    Gone,
}

impl Lease {
    /// Of a server whose lending has been booked, with a running transaction.
    pub(super) const fn new(pool: Arc<Pool>, group: GroupIx, server: Rested) -> Self {
        Self { pool, group, held: Held::Rested(server), running: true, booked: true }
    }

    /// Of a server whose lending has been booked, for an errand of ours: no transaction runs.
    pub(super) const fn of_ours(pool: Arc<Pool>, server: Rested) -> Self {
        Self { pool, group: GroupIx(0), held: Held::Rested(server), running: false, booked: true }
    }

    /// Has the server prepare anew what it ran last, within the bound, and gives it back.
    pub(super) async fn heal(mut self, bound: Duration) {
        let schema = self.pool.database.schema.state();
        let Some(server) = self.server() else { return };
        let mut written = false;
        let renewed = tokio::time::timeout(bound, async {
            let (mut left, mut count) = (server.renew(schema).await?, 0);
            while !left.is_empty() {
                written = true;
                let prepared = server.renewed(&left).await?;
                count += prepared as u64;
                left.drain(..left.len().min(prepared + 1));
                written = false;
                server.prepare_anew(&left, BytesMut::new()).await?;
            }
            Ok::<_, Failure>(count)
        });
        match renewed.await {
            Ok(Ok(count)) => {
                let (id, proof) = (server.id.0, server.boundary());
                self.pool.stats.server_parses.add(count);
                match proof {
                    Some(boundary) => {
                        let now = self.pool.database.clock.now();
                        self.release(boundary, false, now);
                    }
                    None => tracing::info!(
                        server = id,
                        "closing server: it has not ended what it was asked to prepare anew"
                    ),
                }
            }
            Ok(Err(failure)) => {
                tracing::info!(server = server.id.0, %failure, "closing server: it did not prepare anew")
            }
            // Somebody has a lock that it needs: whoever is held does not wait for that.
            Err(_) => {
                server.slots.doubt();
                self.abandon(!written);
            }
        }
    }

    /// The server to work with; from the first call on it needs a proof to go back.
    pub fn server(&mut self) -> Option<&mut Server> {
        if let Held::Rested(_) = self.held
            && let Held::Rested(rested) = std::mem::replace(&mut self.held, Held::Gone)
        {
            self.held = Held::Awake(rested.wake());
        }
        match &mut self.held {
            Held::Awake(server) => Some(server),
            Held::Rested(_) | Held::Gone => None,
        }
    }

    /// Looks whether the server is still there before a client's request goes to it: one that died while idle costs nobody an error.
    pub fn look(&mut self, now: Moment) -> Seen {
        let Held::Rested(rested) = &mut self.held else { return Seen::Good };
        if rested.server().is_outdated() || self.pool.leads_elsewhere(rested.server()) || !rested.still_fresh() {
            return Seen::Gone;
        }
        let idle = now.since(rested.server().used_at);
        if idle >= GLANCE_AFTER && !rested.looks_alive() {
            return Seen::Gone;
        }
        if self.pool.database.often().is_to_be_checked(idle) { Seen::Unsure } else { Seen::Good }
    }

    /// Asks the server for a sign of life. False: there was none, and the lease is to be dropped. **Not cancel-safe.**
    pub async fn ask(&mut self) -> bool {
        let Held::Rested(rested) = std::mem::replace(&mut self.held, Held::Gone) else { return false };
        let query = self.pool.database.settings().server_check_query.clone();
        match recover::reset(rested.wake(), &query).await {
            Ok(rested) => {
                self.held = Held::Rested(rested);
                true
            }
            Err(_) => false,
        }
    }

    /// The client's transaction is over and it keeps the server (session mode).
    pub fn rest(&mut self, boundary: Boundary) {
        let _ = boundary;
        self.stop_running();
    }

    /// The next transaction of a client that kept its server begins; the gate has given leave.
    pub fn resume(&mut self, client: &Client) {
        self.group = GroupIx(client.group());
        self.running = true;
    }

    fn stop_running(&mut self) {
        if std::mem::take(&mut self.running) {
            self.pool.database.finish(self.group);
        }
    }

    /// Gives the server back, clean as `boundary` proves. `cancel_under_way`: a cancel may still be on its way to it.
    /// `now`: when its last answer was read.
    pub fn release(mut self, boundary: Boundary, cancel_under_way: bool, now: Moment) {
        let Some(mut server) = self.take_awake() else { return };
        server.used_at = now;
        let over = server.expires_at.is_some_and(|moment| now >= moment).then_some("server lifetime over");
        let unsure = server.progress.may_say_more().then_some("an answer may still come");
        let lost = (server.progress.was_mixed() && server.is_18_or_newer()).then_some("it may have lost its place");
        if let Some(reason) = over.or(unsure).or(lost).or_else(|| self.unwanted(&server)) {
            tracing::debug!(server = server.id.0, reason, "closing server");
            server.farewell();
        } else if server.dirty || server.slots.doubtful() || cancel_under_way || server.link.guard.in_doubt() {
            self.stop_running();
            tokio::spawn(self.clean(server));
        } else {
            self.put_back(Rested::new(server, boundary), now);
        }
    }

    /// The client has gone and left the server as it is. `half_sent`: part of a message of its has reached the server.
    /// The transaction counts as running until it is rolled back.
    pub fn abandon(mut self, half_sent: bool) {
        let Some(server) = self.take_awake() else {
            // Never used: it is as clean as it was.
            return self.return_unused();
        };
        tokio::spawn(async move {
            let id = server.id;
            match recover::recover(server, half_sent).await {
                Ok(rested) => {
                    self.stop_running();
                    self.clean(rested.wake()).await;
                }
                Err(failure) => {
                    tracing::info!(server = id.0, %failure, "closing server: its client left in mid-transaction")
                }
            }
        });
    }

    /// Waits until no cancel is on its way to the server any more, and makes it forget its client.
    async fn clean(mut self, mut server: Box<Server>) {
        let settings = Arc::clone(&self.pool.database.settings());
        let id = server.id;
        if server.link.guard.in_doubt() {
            let link = Arc::clone(&server.link);
            if tokio::time::timeout(settings.cancel_wait_timeout, link.guard.quiet()).await.is_err() {
                tracing::info!(server = id.0, "closing server: a cancel on its way to it did not end in time");
                return;
            }
            if server.link.guard.lost() {
                tracing::info!(server = id.0, "closing server: a cancel was sent to it and may still hit it");
                return;
            }
            // The signal is with the backend by now; a round trip makes sure that it hits nothing of the next client's.
            match server.query_within(b";", recover::BOUND).await {
                Ok(_) | Err(Failure::Refused(_)) => {}
                Err(_) => return,
            }
        }
        if let Some(reason) = self.unwanted(&server) {
            tracing::debug!(server = id.0, reason, "closing server");
            return server.farewell();
        }
        let query = if server.dirty { settings.reset_query.clone() } else { Bytes::new() };
        match recover::reset(server, &query).await {
            Ok(rested) => {
                let now = self.pool.database.clock.now();
                self.put_back(rested, now);
            }
            Err(failure) => tracing::info!(server = id.0, %failure, "closing server: it could not be cleaned"),
        }
    }

    /// Why a server that is free now is closed, in PgBouncer's words.
    fn unwanted(&self, server: &Server) -> Option<&'static str> {
        let evicted = || self.pool.asked.to_yield().then_some("evicted");
        self.pool.unwanted(server, false).or_else(evicted)
    }

    fn take_awake(&mut self) -> Option<Box<Server>> {
        match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Awake(server) => Some(server),
            rested => {
                self.held = rested;
                None
            }
        }
    }

    fn put_back(&mut self, rested: Rested, now: Moment) {
        self.booked = false;
        if std::mem::take(&mut self.running) {
            self.pool.finish_and_put_back(self.group, rested, now);
        } else {
            self.pool.put_back(rested, false);
        }
    }

    /// Gives back a server that was never used.
    pub(super) fn return_unused(self) {
        if let Some(grant) = self.take_back() {
            super::database::deliver(grant);
        }
    }

    /// The same, for the giver: who gets it next?
    pub(super) fn take_back(mut self) -> Option<Grant<Rested, Ticket>> {
        self.stop_running();
        match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Rested(rested) => {
                self.booked = false;
                let database = &self.pool.database;
                database.books().put_back(self.pool.ix, rested, false, database.clock.now())
            }
            Held::Awake(_) | Held::Gone => None,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_running();
        if self.booked {
            self.pool.stats.server_closes.add(1);
            self.pool.database.books().lost(self.pool.ix);
            self.pool.open_servers();
        }
    }
}
