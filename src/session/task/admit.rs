//! From a request that has come to a server that is ready for it.

use std::time::Duration;

use bytes::BytesMut;

use super::super::reject::reject;
use super::super::relay::End;
use super::super::wait::{Waited, Waiting};
use super::{Life, Session};
use crate::clients::Doing;
use crate::ids::Tick;
use crate::pool::lease::{Lease, Seen};
use crate::pool::ledger::Need;
use crate::pool::wait::Begun;
use crate::server::conn::Failure;
use crate::wire::reply::{Report, sqlstate};

/// How many dead servers in a row a request may meet before it is told so.
const DEAD_SERVERS: usize = 100;

impl Session {
    /// Gets leave to begin, and a server if one is needed, and says since when. `None`: the request was answered with an error
    /// instead. The clock is looked at when somebody may have been waited for, and only then.
    pub(super) async fn admit(&mut self, need: Need) -> Life<Option<(Lease, Tick)>> {
        let asked = self.front.clock.tick();
        let (mut held, mut waited, mut at) = (Duration::ZERO, Duration::ZERO, asked);
        for _ in 0..DEAD_SERVERS {
            if self.pool.database.is_shut() && self.answered_at_the_gate(false).await? {
                return Ok(None);
            }
            let lease = match self.pool.begin(self.presence.client(), need, at.moment()) {
                Begun::Now(lease) => lease,
                Begun::Wait(wait) => {
                    let answer = self.waiting(true, at).run(wait).await;
                    match answer {
                        Waited::Go(lease, stall) => {
                            at = self.front.clock.tick();
                            held += stall;
                            waited = at.since(asked).saturating_sub(held);
                            lease
                        }
                        Waited::Gone => return Err(End::ClientGone),
                        Waited::Dismissed(why) => return Err(End::Dismissed(why)),
                        Waited::Rejected(report) => return self.reject(&report).await.map(|()| None),
                    }
                }
            };
            let Some(mut lease) = lease else { return Ok(None) };
            match self.ready(&mut lease, (asked, at, waited)).await {
                Ok(Some(at)) => return Ok(Some((lease, at))),
                Ok(None) => at = self.front.clock.tick(),
                Err(report) => {
                    if let Some(boundary) = lease.server().and_then(|server| server.boundary()) {
                        lease.release(boundary, false, self.front.clock.now());
                    }
                    return Err(End::Dismissed(report));
                }
            }
        }
        let report =
            Report::new(sqlstate::CONNECTION_FAILURE, "servers close their connections as soon as they are used");
        self.reject(&report).await.map(|()| None)
    }

    /// Makes sure that the server is there, and gives it this client's settings. `asked`: when its request came; `at`: now. Returns
    /// since when it is ready; `None`: it is of no use. An error as [`tune`](Self::tune). **Not cancel-safe.**
    pub(super) async fn ready(
        &mut self,
        lease: &mut Lease,
        (asked, mut at, waited): (Tick, Tick, Duration),
    ) -> Result<Option<Tick>, Report> {
        match lease.look(at.moment()) {
            Seen::Good => {}
            Seen::Gone => return Ok(None),
            Seen::Unsure => {
                // From here on there is something that a cancel must not hit.
                self.presence.client().prepares(asked.moment());
                // Boxed, as it is seldom: it would be part of every transaction's future.
                if !Box::pin(lease.ask()).await {
                    return Ok(None);
                }
                at = self.front.clock.tick();
            }
        }
        self.pool.stats.wait.record(waited);
        let Some(server) = lease.server() else { return Ok(None) };
        let client = self.presence.client().id;
        if !self.state.is_at_home_on(client, server) {
            self.presence.client().prepares(asked.moment());
            return Ok(self.tune(lease).await?.then(|| self.front.clock.tick()));
        }
        Ok(server.boundary().map(|_| at))
    }

    /// Itself, as one that waits since `asked`; `limited`: for a server, and no longer than it may.
    pub(super) fn waiting(&mut self, limited: bool, asked: Tick) -> Waiting<'_> {
        let patience = self.state.patience.of(self.presence.client(), &self.front);
        let fails_fast = patience.some_fail_fast && self.fails_fast();
        Waiting {
            stream: &mut self.stream,
            input: &mut self.input,
            client: self.presence.client(),
            pool: &self.pool,
            asked: self.front.clock.instant_of(asked),
            limit: patience.limit().filter(|_| limited),
            notify: patience.notify(),
            timer: &mut self.timer,
            notice: BytesMut::new(),
            heard: false,
            fails_fast,
        }
    }

    pub(super) async fn reject(&mut self, report: &Report) -> Life<()> {
        self.presence.client().ends(self.front.clock.now());
        self.reject_as(Doing::Resting, report).await
    }

    pub(super) async fn reject_as(&mut self, doing: Doing, report: &Report) -> Life<()> {
        let (ear, input) = self.ear(doing);
        // Boxed, as it is seldom: it would be part of every transaction's future.
        Box::pin(reject(ear, input, report)).await
    }

    /// Postgres has refused what the server was to do before a request of which nothing has reached it: the request is answered with
    /// that. Gives the server back where a transaction is open on it, which goes on, to be rolled back.
    pub(super) async fn refused(&mut self, mut lease: Lease, report: &Report) -> Life<Option<Lease>> {
        if !lease.server().is_some_and(|server| server.in_transaction()) {
            return self.turned_down(lease, report).await.map(|()| None);
        }
        self.presence.client().rests_in_transaction(self.front.clock.now());
        match self.reject_as(Doing::Working, report).await {
            Ok(()) => Ok(Some(lease)),
            Err(end) => {
                self.give_up(lease, false);
                Err(end)
            }
        }
    }

    /// Gives the server the settings that this client has. False: the server is in doubt. An error is Postgres' own: it
    /// would have refused the log-in, and to go on with other settings (an encoding!) would mean wrong answers.
    pub(super) async fn tune(&mut self, lease: &mut Lease) -> Result<bool, Report> {
        let client = self.presence.client().id;
        let Some(server) = lease.server() else { return Ok(false) };
        match self.state.move_to(client, server).await {
            Ok(()) => Ok(server.boundary().is_some()),
            Err(Failure::Refused(report)) if server.boundary().is_some() => {
                server.dirty = true;
                Err(report)
            }
            Err(_) => Ok(false),
        }
    }
}
