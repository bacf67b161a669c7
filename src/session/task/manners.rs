//! What some clients get at a shut gate instead of being held: an error at once, or the answer to their probe.

use super::super::probe::{Probe, probe};
use super::super::reject::Ear;
use super::super::relay::End;
use super::{Life, Session};
use crate::clients::Doing;
use crate::config::Who;
use crate::pool::database::Database;
use crate::pool::gate::Gate;
use crate::wire::frame::{Flow, Verdict};
use crate::wire::reply::{Report, sqlstate};

impl Session {
    /// Whether the configuration spares this client from being held.
    pub(super) fn fails_fast(&self) -> bool {
        let config = self.front.config();
        let crowd = &config.window.fail_fast;
        !crowd.is_nobody() && crowd.has(self.who(&self.presence.client().application_name()))
    }

    fn who<'a>(&'a self, application: &'a str) -> Who<'a> {
        let client = self.presence.client();
        Who { user: &client.user, database: &client.database, application }
    }

    /// At a gate that is shut for this client: whether its request has been answered already. Such a request reaches no server.
    /// `keeps`: the client has a server of its own, which knows its statements and nobody else does. **Not cancel-safe.**
    pub(super) async fn answered_at_the_gate(&mut self, keeps: bool) -> Life<bool> {
        if !self.pool.database.is_shut_for(self.presence.client()) {
            return Ok(false);
        }
        if let Some(probe) = self.probe().filter(|probe| !keeps || probe.unnamed.is_none()) {
            // It may have waited before, for a server that was of no use.
            if !keeps {
                self.presence.client().ends(self.front.clock.now());
            }
            self.answer(probe).await?;
            return Ok(true);
        }
        if !self.fails_fast() {
            return Ok(false);
        }
        let report = being_changed(&self.pool.database);
        if keeps {
            self.reject_resting(&report).await?
        } else {
            self.reject(&report).await?
        }
        Ok(true)
    }

    fn probe(&self) -> Option<Probe> {
        let config = self.front.config();
        let crowd = &config.window.probes;
        let ours = !crowd.is_nobody() && crowd.has(self.who(&self.presence.client().application_name()));
        if ours { probe(self.input.unread()) } else { None }
    }

    async fn answer(&mut self, Probe { messages, answer, unnamed }: Probe) -> Life<()> {
        let mut left = messages;
        self.input.walk(|_, _, _| {
            let over = left == 0;
            left = left.saturating_sub(1);
            Ok::<_, End>(if over { Verdict::Stop } else { Verdict::Drop })
        })?;
        self.state.names.unnamed = unnamed;
        self.state.names.version += 1;
        Box::pin(self.ear(Doing::Resting).0.tell(answer)).await
    }

    /// Itself, to be told something while it does this; and what it has sent.
    pub(super) fn ear(&mut self, doing: Doing) -> (Ear<'_>, &mut Flow) {
        let Self { stream, presence, mid_answer, input, .. } = self;
        (Ear { stream, client: presence.client(), doing, mid_answer }, input)
    }
}

/// What a client is told that does not want to wait. It can be tried again: nothing of it has run.
pub(in super::super) fn being_changed(database: &Database) -> Report {
    let text = format!("database \"{}\" is held for a change of its schema", database.name);
    let report = Report::new(sqlstate::LOCK_NOT_AVAILABLE, text);
    match database.pulse().0 {
        Gate::Shut { bound: Some(bound), .. } => {
            let left = bound.since(database.now()).as_secs() + 1;
            report.hint(format!("Nothing of the request has run. Try again; the change takes {left} s more at most."))
        }
        _ => report.hint("Nothing of the request has run. Try again later."),
    }
}
