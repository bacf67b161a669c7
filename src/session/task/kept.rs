//! A client that keeps its server, in session mode or because of what is on it: what lies between its transactions.

use super::super::relay::End;
use super::super::wait::Waited;
use super::{Life, Session};
use crate::clients::Doing;
use crate::config::PoolMode;
use crate::ids::Tick;
use crate::pool::lease::Lease;
use crate::pool::ledger::Need;
use crate::pool::wait::Begun;
use crate::wire::reply::{Report, sqlstate};

/// How often settings are tried to be put in place while cancels of earlier requests come in between.
const TRIES: usize = 3;

impl Session {
    /// Gives a server that the client keeps the settings that the client has by now.
    pub(super) async fn retune(&mut self, lease: &mut Lease) -> Life<()> {
        // A cancel that comes from here on is for the request, not for this.
        self.presence.client().prepares(self.front.clock.now());
        for _ in 0..TRIES {
            match self.tune(lease).await {
                Ok(true) => return Ok(()),
                Err(report) if report.sqlstate == sqlstate::QUERY_CANCELED => {}
                Ok(false) | Err(_) => break,
            }
        }
        Err(End::ServerGone(std::io::Error::other("the settings of the client were refused"), false))
    }

    /// The request will not run, for this reason, and nothing of it has reached the server.
    pub(super) async fn turned_down(&mut self, mut lease: Lease, report: &Report) -> Life<()> {
        let boundary = lease.server().and_then(|server| server.boundary());
        match boundary {
            Some(boundary) if self.mode == PoolMode::Session || !self.state.keeps.is_empty() => {
                lease.rest(boundary);
                self.kept = Some(lease);
                self.reject_resting(report).await
            }
            boundary => {
                let now = self.front.clock.now();
                // Before another client may have it: no cancel of this one's is sent to it any more.
                let cancel_under_way = self.presence.client().ends(now);
                if let Some(boundary) = boundary {
                    lease.release(boundary, cancel_under_way, now);
                }
                self.reject(report).await
            }
        }
    }

    /// A client that keeps its server: serves what comes between its transactions, and gets leave for the next.
    pub(super) async fn next_of_session(&mut self, mut lease: Lease) -> Life<Option<(Lease, Tick)>> {
        loop {
            match self.relay(&mut lease, false, &mut self.front.clock.tick()).await {
                End::Wants => {}
                end => {
                    self.kept = Some(lease);
                    return Err(end);
                }
            }
            match self.answered_at_the_gate(true).await {
                Ok(false) => {}
                Ok(true) => continue,
                Err(end) => {
                    self.kept = Some(lease);
                    return Err(end);
                }
            }
            let asked = self.front.clock.tick();
            match self.pool.begin(self.presence.client(), Need::Leave, asked.moment()) {
                Begun::Now(_) => {
                    lease.resume(self.presence.client());
                    return Ok(Some((lease, asked)));
                }
                Begun::Wait(wait) => {
                    let mut waiting = self.waiting(false, asked);
                    let waited = Box::pin(waiting.run(wait)).await;
                    let end = match waited {
                        Waited::Go(..) => {
                            lease.resume(self.presence.client());
                            return Ok(Some((lease, self.front.clock.tick())));
                        }
                        Waited::Gone => End::ClientGone,
                        Waited::Dismissed(why) => End::Dismissed(why),
                        Waited::Rejected(report) => match self.reject_resting(&report).await {
                            Ok(()) => continue,
                            Err(end) => end,
                        },
                    };
                    self.kept = Some(lease);
                    return Err(end);
                }
            }
        }
    }

    pub(super) async fn reject_resting(&mut self, report: &Report) -> Life<()> {
        self.presence.client().rests(self.front.clock.now());
        self.reject_as(Doing::Resting, report).await
    }
}
