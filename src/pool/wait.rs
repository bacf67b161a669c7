//! A client in the queue. Whatever happens to it, its place is given up and no server is lost on the way.

use std::sync::Arc;
use std::time::Duration;

use super::database::Pool;
use super::gate::Why;
use super::lease::Lease;
use super::ledger::GroupIx;
use crate::clients::Client;
use crate::clients::seat::Word;
use crate::ids::WaiterId;
use crate::server::conn::Rested;
use crate::wire::reply::Report;

/// The answer to a wish to begin a transaction.
#[derive(Debug)]
pub enum Begun {
    /// Begin. With a lease, if a server was needed.
    Now(Option<Lease>),
    /// Wait.
    Wait(Wait),
}

/// What a waiting client is told in the end.
#[derive(Debug)]
pub enum Answer {
    /// Begin.
    Go {
        /// A server, if one was needed.
        lease: Option<Lease>,
        /// How long a shut gate kept the client, if one did.
        stall: Option<Duration>,
    },
    /// There is no server to be had.
    No(Report),
}

/// A place in the queue; given up on drop.
#[derive(Debug)]
pub struct Wait {
    pool: Arc<Pool>,
    client: Arc<Client>,
    id: WaiterId,
    group: GroupIx,
    over: bool,
}

impl Wait {
    pub(super) const fn new(pool: Arc<Pool>, client: Arc<Client>, (id, group): (WaiterId, GroupIx)) -> Self {
        Self { pool, client, id, group, over: false }
    }

    /// The answer, when it has come; once. The client's task is woken for it where it [listens](Client::listen).
    pub fn answered(&mut self) -> Option<Answer> {
        let word = self.client.seat.answered()?;
        self.over = true;
        Some(match word {
            Word::Go { server, stall } => Answer::Go { lease: self.lease(server), stall },
            Word::No(report) => Answer::No(*report),
        })
    }

    fn lease(&self, server: Option<Rested>) -> Option<Lease> {
        server.map(|server| Lease::new(Arc::clone(&self.pool), self.group, server))
    }

    /// How much of `limit` is left; time behind a shut gate does not count.
    #[must_use]
    pub fn left(&self, limit: Duration) -> Duration {
        let database = &self.pool.database;
        let now = database.clock.now();
        database.books().wait_left(self.pool.ix, self.id, limit, now).unwrap_or(limit)
    }

    /// Gives the place up, for this reason. True: the client was still in the queue. False: it has been answered, and
    /// the answer, which this call has undone, is void.
    pub fn give_up(&mut self, why: Why) -> bool {
        if std::mem::replace(&mut self.over, true) {
            return false;
        }
        let ticket = self.pool.database.books().leave(self.pool.ix, self.id, why);
        self.pool.database.news.notify_one();
        // Where the grant is on its way, either it is here already, or who brings it finds nobody and takes it back.
        if let Some(Word::Go { server, .. }) = self.client.seat.rise() {
            self.undo(self.lease(server));
        }
        ticket.is_some()
    }
}

impl Wait {
    /// Takes back a leave to begin that came as its answer and is not used.
    pub fn undo(&self, lease: Option<Lease>) {
        self.pool.undo(self.group, lease);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.give_up(Why::Left);
    }
}
