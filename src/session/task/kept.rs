//! A client that keeps its server, in session mode or because of what is on it: what lies between its transactions.

use tokio::time::Instant;

use super::super::reject::reject;
use super::super::relay::End;
use super::super::wait::{Waited, cancelled};
use super::{Life, Session};
use crate::config::PoolMode;
use crate::pool::lease::Lease;
use crate::pool::ledger::Need;
use crate::pool::wait::Begun;
use crate::wire::reply::Report;

impl Session {
    /// The request was cancelled while its server was made ready: nothing of it has reached that.
    pub(super) async fn cancelled(&mut self, mut lease: Lease) -> Life<()> {
        let boundary = lease.server().and_then(|server| server.boundary());
        match boundary {
            Some(boundary) if self.mode == PoolMode::Session || !self.state.keeps.is_empty() => {
                lease.rest(boundary);
                self.kept = Some(lease);
                self.reject_resting(&cancelled()).await
            }
            boundary => {
                if let Some(boundary) = boundary {
                    lease.release(boundary, false, self.front.clock.now());
                }
                self.reject(&cancelled()).await
            }
        }
    }

    /// A client that keeps its server: serves what comes between its transactions, and gets leave for the next.
    pub(super) async fn next_of_session(&mut self, mut lease: Lease) -> Life<Option<(Lease, Instant)>> {
        loop {
            match self.relay(&mut lease, false, &mut Instant::now()).await {
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
            let asked = Instant::now();
            match self.pool.begin(self.presence.client(), Need::Leave, self.front.clock.moment(asked)) {
                Begun::Now(_) => {
                    lease.resume(self.presence.client());
                    return Ok(Some((lease, asked)));
                }
                Begun::Wait(wait) => {
                    let waiting = self.waiting(false, asked);
                    let waited = Box::pin(waiting.run(wait)).await;
                    let end = match waited {
                        Waited::Go(..) => {
                            lease.resume(self.presence.client());
                            return Ok(Some((lease, Instant::now())));
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
        reject(&mut self.stream, &mut self.input, (self.presence.client(), report)).await
    }
}
