//! What of a client's session follows it from server to server: the names of its statements, its settings; and the traces of
//! what does not.

use std::sync::Arc;

use super::asked::Asked;
use crate::prepared::catalog::Catalog;
use crate::prepared::hints::{Hints, Leaves};
use crate::prepared::names::Names;
use crate::server::conn::{Failure, Server};
use crate::server::parameters::Parameters;
use crate::server::recover;
use crate::server::residue::{self, Residue, Settings};

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    /// The names of its prepared statements.
    pub(super) names: Names,
    /// What all clients have prepared.
    pub(super) catalog: Arc<Catalog>,
    /// The settings that Postgres reports.
    pub(super) wanted: Parameters,
    /// The settings that it does not report, if there are any.
    pub(super) settings: Option<Arc<Settings>>,
    /// Those among them that it asked for at its log-in: a session that is made new has them again.
    first: Option<Arc<Settings>>,
    /// The names of settings that Postgres does not list.
    pub(super) hidden: Leaves,
    /// What the requests of this transaction may have left on the server.
    pub(super) traces: Traces,
    /// What keeps the client on its server, as Postgres has said; none while it is free.
    pub(super) keeps: Hints,
}

impl State {
    pub(super) fn new(catalog: Arc<Catalog>, Asked { tracked: wanted, others: first }: Asked) -> Self {
        let (traces, keeps, settings) = (Traces::default(), Hints::default(), first.clone());
        let hidden = hidden(first.as_deref());
        Self { names: Names::default(), catalog, wanted, settings, first, hidden, traces, keeps }
    }

    /// Whether Postgres has to be asked what is on the server before it may go to another client.
    pub(super) const fn is_unsettled(&self) -> bool {
        self.traces.in_doubt() || self.traces.wiped || !self.keeps.is_empty()
    }

    /// Gives a server the settings of this client. **Not cancel-safe.**
    ///
    /// # Errors
    /// Postgres' own if it refuses them: it would have refused the log-in or the SET, and to go on with others (an encoding!)
    /// would mean wrong answers. Any other: the server is in doubt.
    pub(super) async fn move_to(&mut self, server: &mut Server) -> Result<(), Failure> {
        residue::apply(server, self.settings.as_ref()).await?;
        if let Some(sql) = self.wanted.difference(&server.parameters) {
            server.query_within(&sql, recover::BOUND).await?;
            self.wanted.adopt(&server.parameters);
        }
        Ok(())
    }

    /// At a boundary: finds out what the traces have come to. **Not cancel-safe.**
    ///
    /// # Errors
    /// The server is lost, and with it what the client had there.
    pub(super) async fn settle(&mut self, server: &mut Server) -> Result<(), Failure> {
        let Traces { leaves, ended, wiped } = std::mem::take(&mut self.traces);
        if wiped {
            self.settings.clone_from(&self.first);
            self.hidden = hidden(self.first.as_deref());
            server.settings = None;
        }
        self.hidden.add(&leaves);
        let too_many = self.hidden.hints.only(Hints::HIDDEN_SETTINGS);
        let hints = leaves.hints.residue().with(too_many);
        let asked = if ended || !hints.is_empty() { hints.with(self.keeps) } else { hints };
        if asked.is_empty() {
            return Ok(());
        }
        match residue::ask(server, asked, &self.hidden.settings).await {
            Ok(Residue { settings, keeps }) => {
                if let Some(settings) = settings {
                    let found = (!settings.is_empty()).then(|| Arc::new(settings));
                    server.settings.clone_from(&found);
                    self.settings = match (&self.first, &found) {
                        (Some(first), Some(found)) if wiped => {
                            Some(Arc::new(Settings::new(first.iter().chain(found.iter()).cloned())))
                        }
                        (Some(first), None) if wiped => Some(Arc::clone(first)),
                        _ => found,
                    };
                }
                self.keeps = keeps;
            }
            // Perhaps by the client's own statement_timeout. Nothing is lost: the client stays, and the next boundary asks again.
            Err(Failure::Refused(_)) if server.boundary().is_some() => {
                self.keeps = self.keeps.with(asked);
                self.traces.ended = true;
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// The names of settings that Postgres does not list.
fn hidden(settings: Option<&Settings>) -> Leaves {
    let names = settings.into_iter().flat_map(Settings::iter).map(|(name, _)| name);
    let settings = names.filter(|name| name.contains(&b'.')).map(|name| name.as_ref().into()).collect();
    Leaves { settings, ..Leaves::default() }
}

/// What is known from texts and tags alone, since the last boundary.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Traces {
    /// What may have been left behind.
    pub(super) leaves: Leaves,
    /// Something that keeps the client may have been ended.
    pub(super) ended: bool,
    /// The session was made new: its settings are gone.
    pub(super) wiped: bool,
}

impl Traces {
    /// A command has ended.
    pub(super) fn command(&mut self, tag: &[u8], rows: bool) {
        if tag == b"DISCARD ALL\0" {
            // It cannot run inside a transaction: what was before is gone for certain.
            *self = Self { leaves: Leaves::default(), ended: true, wiped: true };
        }
        self.leaves.hints = self.leaves.hints.of_tag(tag, rows);
        self.ended |= Hints::may_end_residue(tag);
    }

    /// Whether Postgres has to be asked before the server may go to another client.
    pub(super) const fn in_doubt(&self) -> bool {
        !self.leaves.hints.residue().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_made_new_has_no_traces() {
        let mut traces = Traces::default();
        traces.command(b"SET\0", false);
        assert!(traces.in_doubt());
        traces.command(b"DISCARD ALL\0", false);
        assert!(!traces.in_doubt() && traces.wiped && traces.ended);
        traces.command(b"LISTEN\0", false);
        assert!(traces.in_doubt());
    }
}
