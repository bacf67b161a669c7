//! What of a client's session follows it from server to server: the names of its statements, its settings; and the traces of
//! what does not.

mod luggage;

use std::sync::Arc;

use bytes::BytesMut;

use super::asked::Asked;
use super::patience::Patience;
use super::relay::End;
use crate::clients::Client;
use crate::ids::SessionId;
use crate::pool::database::Pool;
use crate::pool::lease::Lease;
use crate::prepared::catalog::Catalog;
use crate::prepared::hints::{Hints, Leaves};
use crate::prepared::names::Names;
use crate::prepared::string;
use crate::server::conn::{Failure, Server};
use crate::server::parameters::{Parameters, tracked};
use crate::server::recover;
use crate::server::residue::{self, Residue, Settings};
use crate::wire::frame::Verdict;
use crate::wire::reply::{self, Report};

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    /// The names of its prepared statements.
    pub(super) names: Names,
    /// What all clients have prepared.
    pub(super) catalog: Arc<Catalog>,
    /// The settings that Postgres reports.
    pub(super) wanted: Arc<Parameters>,
    /// The same as they were at the log-in: RESET leads back to these.
    home: Arc<Parameters>,
    /// A RESET has gone through, and its reports are on their way.
    resetting: bool,
    /// The same for DISCARD ALL.
    wiping: bool,
    /// The client asks for the last values of sequences.
    pub(super) asks_sequences: bool,
    /// Since it got its server it has run something that may have asked a sequence for a number.
    pub(super) drew: bool,
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
    /// For how long it waits.
    pub(super) patience: Patience,
}

impl State {
    pub(super) fn new(catalog: Arc<Catalog>, pool: &Pool, Asked { tracked, others: first }: Asked) -> Self {
        let wanted = pool.shared(tracked);
        Self {
            names: Names::default(),
            catalog,
            home: Arc::clone(&wanted),
            wanted,
            resetting: false,
            wiping: false,
            asks_sequences: false,
            drew: false,
            settings: first.clone(),
            hidden: hidden(first.as_deref()),
            first,
            traces: Traces::default(),
            keeps: Hints::default(),
            patience: Patience::default(),
        }
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
    pub(super) async fn move_to(&mut self, client: SessionId, server: &mut Server) -> Result<(), Failure> {
        // Boxed, as they are seldom: they would be part of every transaction's future.
        if residue::differs(server, client, self.settings.as_ref()) {
            Box::pin(residue::apply(server, self.settings.as_ref())).await?;
        }
        if let Some(sql) = self.wanted.difference(&server.parameters) {
            Box::pin(server.query_within(&sql, recover::BOUND)).await?;
            let at_home = Arc::ptr_eq(&self.wanted, &self.home);
            Arc::make_mut(&mut self.wanted).adopt(&server.parameters);
            if at_home {
                self.home = Arc::clone(&self.wanted);
            }
        }
        Ok(())
    }

    /// Whether [`move_to`](Self::move_to) has nothing to do.
    pub(super) fn is_at_home_on(&self, client: SessionId, server: &Server) -> bool {
        !residue::differs(server, client, self.settings.as_ref()) && !self.differs(server)
    }

    /// Whether a server that the client keeps has other settings than the client.
    pub(super) fn differs(&self, server: &Server) -> bool {
        self.wanted.difference(&server.parameters).is_some()
    }

    /// A command has ended.
    pub(super) fn command(&mut self, tag: &[u8], rows: bool) {
        if self.creates_temporary() {
            self.traces.leaves.hints = self.traces.leaves.hints.with(Hints::SAYS_TEMP);
        }
        self.traces.command(tag, rows);
        self.drew |= may_draw(tag);
        self.wiping |= tag == b"DISCARD ALL\0";
        self.resetting |= self.wiping || tag == b"RESET\0";
        self.asks_sequences |= self.traces.leaves.hints.any_of(Hints::SEQUENCES);
    }

    /// What it creates is temporary by its search path, whatever its texts say.
    fn creates_temporary(&self) -> bool {
        let path = self.settings.as_ref().and_then(|settings| settings.value(b"search_path"));
        path.is_some_and(|path| path.windows(7).any(|part| part.eq_ignore_ascii_case(b"pg_temp")))
    }

    /// A setting was changed, by the client or by Postgres for it: it follows the client from now on. What `RESET` leads back
    /// to on the server is the proxy's; the client is told, and gets, what it had at its log-in.
    pub(super) fn reported(
        &mut self,
        body: &[u8],
        initial: &Parameters,
        client: &Client,
        out: &mut BytesMut,
    ) -> Verdict {
        let Some(name) = string(body) else { return Verdict::Pass };
        let Some(value) = body.get(name.len() + 1..).and_then(string) else { return Verdict::Pass };
        let Some(known) = tracked(name) else { return Verdict::Pass };
        let back = self.resetting && initial.value(name).is_some_and(|initial| initial == value);
        let home = self.home.value(known.as_bytes()).filter(|home| back && *home != value).cloned();
        let real = home.as_deref().unwrap_or(value);
        let told = self.wanted.value(known.as_bytes()).is_some_and(|told| told == real);
        if !told {
            Arc::make_mut(&mut self.wanted).set(known.as_bytes(), real);
            if known == "application_name" {
                client.set_application_name(real);
            }
        }
        match (&home, told) {
            // Nothing new to the client: on the server it was something else in between.
            (_, true) => Verdict::Drop,
            (None, false) => Verdict::Pass,
            (Some(home), false) => {
                reply::parameter_status(name, home, out);
                Verdict::Drop
            }
        }
    }

    /// The answers to a batch are over. What `DISCARD ALL` has led back without a report of the server's is reported here.
    pub(super) fn batch_ends(&mut self, client: &Client, out: &mut BytesMut) {
        self.resetting = false;
        if !std::mem::take(&mut self.wiping) || self.wanted == self.home {
            return;
        }
        for (name, value) in self.home.iter() {
            if self.wanted.value(name) != Some(value) {
                reply::parameter_status(name, value, out);
                if name == "application_name" {
                    client.set_application_name(value);
                }
            }
        }
        self.wanted = Arc::clone(&self.home);
    }

    /// At a boundary behind which the server is reset, whatever is on it: what the client had there is gone.
    pub(super) fn begin_anew(&mut self) {
        self.traces = Traces::default();
        self.keeps = Hints::default();
        self.settings.clone_from(&self.first);
        self.hidden = hidden(self.first.as_deref());
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
            server.unlisted = false;
        }
        server.unlisted |= leaves.hints.any_of(Hints::UNLISTED);
        if wiped || leaves.hints.any_of(Hints::SETTINGS) {
            // Nobody knows which of them are its `connect_query`'s.
            residue::stripped(server);
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

/// Makes a server forget what the sequences have given to the clients before this one. If Postgres refuses that, as it does when the
/// client's request is cancelled meanwhile, gives its report: nothing has been forgotten then. **Not cancel-safe.**
pub(super) async fn forget_sequences(lease: &mut Lease, client: SessionId) -> Result<Option<Report>, End> {
    let Some(server) = lease.server() else { return Err(End::ClientGone) };
    match server.query_within(b"DISCARD SEQUENCES", recover::BOUND).await {
        Ok(_) => {
            server.client = Some(client);
            server.numbers = Some(client);
            Ok(None)
        }
        Err(Failure::Refused(report)) if server.progress.at_rest() && !server.progress.broken() => Ok(Some(report)),
        Err(failure) => Err(End::ServerGone(std::io::Error::other(failure.to_string()), false)),
    }
}

/// Whether a command with this tag may have run code, and that may have asked a sequence for a number.
fn may_draw(tag: &[u8]) -> bool {
    let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
    !matches!(
        tag,
        b"BEGIN" | b"START TRANSACTION" | b"SET" | b"RESET" | b"SHOW" | b"SAVEPOINT" | b"COMMIT" | b"ROLLBACK"
    )
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
        assert!(may_draw(b"INSERT 0 1\0") && may_draw(b"SELECT 1\0") && !may_draw(b"BEGIN\0"));
    }
}
