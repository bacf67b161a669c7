//! A client's life after its log-in: idle, admitted, served, idle again, until one of the two sides ends it.

mod admit;
mod kept;
mod manners;

pub(super) use manners::being_changed;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;

use super::asked::Asked;
use super::farewell::farewell;
use super::front::Front;
use super::look::Look;
use super::relay::{End, Relay, check};
use super::state::{State, forget_sequences};
use super::timer::Timer;
use super::wait::cancelled;
use crate::clients::{Doing, Presence, Told};
use crate::config::PoolMode;
use crate::ids::{Moment, Tick};
use crate::net::stream::Stream;
use crate::net::watched::Watched;
use crate::pool::database::Pool;
use crate::pool::lease::Lease;
use crate::pool::ledger::Need;
use crate::prepared::hints::Hints;
use crate::server::progress::Boundary;
use crate::telemetry::metrics::Connected;
use crate::wire::frame::{Flow, Verdict};
use crate::wire::reply::Severity;
use crate::wire::tags::{self, Meaning};

/// A client that is logged in. See the module's text.
pub struct Session {
    pub(super) front: Front,
    pub(super) presence: Presence,
    pub(super) pool: Arc<Pool>,
    pub(super) stream: Watched,
    input: Flow,
    pub(super) state: Box<State>,
    /// For how long it keeps a server; as configured when it logged in.
    mode: PoolMode,
    /// The server that the client keeps: in session mode, or because of what is on it.
    kept: Option<Lease>,
    /// For how long it waits for a server.
    timer: Timer,
    /// The client may have got half a message: what is written now would be taken for the rest of it.
    mid_answer: bool,
}

/// What an idle client is woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    /// It has begun to send a request.
    Request,
    /// It is to go on in another process.
    Move,
}

/// What comes of a piece of a session's life.
type Life<T> = Result<T, End>;

impl Session {
    pub(super) fn new(
        front: Front,
        presence: Presence,
        pool: Arc<Pool>,
        (stream, input, asked): (Stream, Flow, Asked),
    ) -> Self {
        let state = State::new(Arc::clone(&front.catalog), &pool, asked);
        Self { input, ..Self::with_state(front, presence, pool, (stream, state)) }
    }

    pub(super) fn with_state(
        front: Front,
        presence: Presence,
        pool: Arc<Pool>,
        (stream, state): (Stream, State),
    ) -> Self {
        let client = presence.client();
        client.statements.store(state.names.len() as u64, Ordering::Relaxed);
        let mode = front.config().client_limits(&client.database, &client.user).pool_mode;
        let (state, input) = (Box::new(state), Flow::default());
        Self {
            front,
            presence,
            pool,
            stream: Watched::new(stream),
            input,
            state,
            mode,
            kept: None,
            timer: Timer::default(),
            mid_answer: false,
        }
    }

    /// Lives it to its end. Dropping the future ends the session: its server is cleaned up or closed.
    ///
    /// What only a busy client needs is boxed: an idle one is a small future and a socket.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for its arguments twice")]
    pub fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let connected = self.front.metrics.connected();
            // Once: it stays this task.
            std::future::poll_fn(|cx| {
                self.presence.client().listen(cx.waker());
                Poll::Ready(())
            })
            .await;
            let end = loop {
                // A client that keeps its server may be sent something while it is idle: its turn listens to both.
                let mut wish = Wish::Request;
                if self.kept.is_none() {
                    match std::future::poll_fn(|cx| self.poll_wish(cx)).await {
                        Ok(found) => wish = found,
                        Err(end) => break end,
                    }
                }
                let lived = match wish {
                    Wish::Request => Box::pin(self.transaction()).await,
                    Wish::Move if Box::pin(self.departs()).await => Err(End::Moves),
                    Wish::Move => Ok(()),
                };
                if let Err(end) = lived {
                    break end;
                }
            };
            Box::pin(self.end(end, connected)).await;
        }
    }

    /// Says good-bye, to the client and to the log, and parts with the server.
    async fn end(mut self, end: End, mut connected: Connected) {
        let (report, reason, label) = farewell(&end);
        if let Some(report) = report.filter(|_| !self.mid_answer) {
            let mut out = BytesMut::new();
            report.write(Severity::Fatal, &mut out);
            // A client that does not read does not get its farewell.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.write_all(&out)).await;
        }
        connected.ends_because(label);
        if matches!(end, End::Malformed(_) | End::Violation(_)) {
            self.front.metrics.protocol_error();
        }
        if self.front.config().log_disconnections {
            let client = self.presence.client();
            let age = self.front.clock.now().since(client.connected_at).as_secs();
            let peer = &client.peer;
            tracing::info!(client = client.id.0, database = %client.database, user = %client.user, %peer, "closing because: {reason} (age={age}s)");
        }
        if let Some(lease) = self.kept.take() {
            self.give_up(lease, true);
        }
        if !matches!(end, End::Moves) {
            self.stream.close().await;
        }
    }

    /// One turn: gets leave and a server, and serves until the transaction is over.
    async fn transaction(&mut self) -> Life<()> {
        let kept = self.kept.is_some();
        let admitted = match self.kept.take() {
            None => self.admit(Need::Server).await?,
            Some(lease) => self.next_of_session(lease).await?,
        };
        let Some((mut lease, began)) = admitted else { return Ok(()) };
        let now = began.moment();
        if kept && lease.server().is_some_and(|server| self.state.differs(server)) {
            Box::pin(self.retune(&mut lease)).await?;
        }
        let Some(server) = lease.server() else { return Err(End::ClientGone) };
        if !self.presence.client().begins(&server.link, now) {
            return self.turned_down(lease, &cancelled()).await;
        }
        // Where nothing has been waited for since, it still is the time that it was.
        let mut at = if kept { self.front.clock.tick() } else { began };
        let end = loop {
            match self.relay(&mut lease, true, &mut at).await {
                End::Errand => {
                    if let Some(report) = forget_sequences(&mut lease, self.presence.client().id).await? {
                        let Some(back) = Box::pin(self.refused(lease, &report)).await? else { return Ok(()) };
                        lease = back;
                    }
                    at = self.front.clock.tick();
                }
                end => break end,
            }
        };
        let ended = if matches!(end, End::Boundary(_)) { at } else { self.front.clock.tick() };
        self.after((lease, end), (began, ended)).await
    }

    /// Books what a transaction took and decides where its server goes.
    async fn after(&mut self, (mut lease, end): (Lease, End), (began, ended): (Tick, Tick)) -> Life<()> {
        let (took, now) = (ended.since(began), ended.moment());
        self.pool.stats.transaction.record(took);
        match end {
            End::Boundary(boundary) if self.mode == PoolMode::Session => {
                self.presence.client().rests(now);
                lease.rest(boundary);
                self.kept = Some(lease);
                Ok(())
            }
            End::Boundary(boundary) => {
                if self.state.is_unsettled() {
                    let _ = boundary;
                    return Box::pin(self.settle(lease)).await;
                }
                self.release(lease, boundary, now);
                Ok(())
            }
            end => {
                self.give_up(lease, self.mode == PoolMode::Session);
                Err(end)
            }
        }
    }

    fn release(&self, mut lease: Lease, boundary: Boundary, now: Moment) {
        let cancel_under_way = self.presence.client().ends(now);
        if let Some(server) = lease.server() {
            server.dirty |= self.pool.database.often().reset_always();
        }
        lease.release(boundary, cancel_under_way, now);
    }

    /// The transaction may have left something on its server, or may have ended what keeps the client there: asks, and parts
    /// with the server or keeps it.
    async fn settle(&mut self, mut lease: Lease) -> Life<()> {
        let settings = Arc::clone(&self.pool.database.settings());
        let client = Arc::clone(self.presence.client());
        let Some(server) = lease.server() else { return Ok(()) };
        if settings.reset_always {
            (server.dirty, server.leftovers) = (true, true);
            self.state.begin_anew();
        } else if let Err(failure) = self.state.settle(server).await {
            return Err(End::ServerGone(std::io::Error::other(failure.to_string()), false));
        }
        let Some(boundary) = server.boundary() else {
            return Err(End::ServerGone(std::io::Error::other("not clean after a question"), false));
        };
        if !self.state.keeps.is_empty() && !settings.pin_sessions {
            (server.dirty, server.leftovers) = (true, true);
            self.state.keeps = Hints::default();
        }
        client.set_keeps(self.state.keeps);
        let missed = std::mem::take(&mut server.notifications);
        if self.state.keeps.is_empty() {
            self.release(lease, boundary, self.front.clock.now());
        } else {
            if !missed.is_empty() && self.state.keeps.any_of(Hints::CHANNELS) {
                server.flow.insert(&missed);
            }
            client.rests(self.front.clock.now());
            lease.rest(boundary);
            self.kept = Some(lease);
        }
        Ok(())
    }

    /// Parts with a server whose client is leaving.
    fn give_up(&self, mut lease: Lease, used_for_long: bool) {
        let now = self.front.clock.now();
        let cancel_under_way = self.presence.client().ends(now);
        let Some(server) = lease.server() else { return };
        server.leftovers |= self.mode != PoolMode::Session && self.state.is_unsettled();
        server.dirty |= used_for_long || self.state.is_unsettled();
        if server.progress.broken() {
            return;
        }
        match server.progress.boundary(Some(&self.input), &server.flow) {
            Some(boundary) => lease.release(boundary, cancel_under_way, now),
            None => lease.abandon(!self.input.at_message_end()),
        }
    }

    /// Ready when the client has begun to send a request, or is to move. An idle client holds no buffer.
    fn poll_wish(&mut self, cx: &mut Context<'_>) -> Poll<Life<Wish>> {
        // Asked before the socket is read: under load the next request is there already, and may be read by the other process.
        if self.input.is_empty() && self.presence.client().is_to_move() {
            return Poll::Ready(Ok(Wish::Move));
        }
        loop {
            match self.look_for_request() {
                Ok(true) => return Poll::Ready(Ok(Wish::Request)),
                Ok(false) => {}
                Err(end) => return Poll::Ready(Err(end)),
            }
            self.input.release_memory();
            let room = self.input.room();
            match self.stream.poll_read_into(cx, &mut self.input.buf, room) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Err(End::ClientGone)),
                Poll::Ready(Ok(n)) => {
                    self.input.was_read(n, room);
                    self.pool.stats.received.add(n as u64);
                }
                Poll::Pending => {
                    self.input.release_memory();
                    return self.poll_dismissed();
                }
            }
        }
    }

    fn poll_dismissed(&self) -> Poll<Life<Wish>> {
        match self.presence.client().told(Doing::Resting) {
            Some(Told::Leave(why)) => Poll::Ready(Err(End::Dismissed(why))),
            // With half a message read it would have to be told too; it comes to its end first.
            _ if self.presence.client().is_to_move() && self.input.is_empty() => Poll::Ready(Ok(Wish::Move)),
            Some(Told::Cancel) | None => Poll::Pending,
        }
    }

    /// Whether a message that begins work stands at the front; those that mean nothing here are dropped on the way.
    fn look_for_request(&mut self) -> Life<bool> {
        self.input.walk(|head, _, _| {
            let meaning = tags::between_transactions(head.tag);
            if meaning != Meaning::Violation {
                check(head)?;
            }
            match meaning {
                Meaning::Begin => Ok(Verdict::Stop),
                Meaning::Ignore => Ok(Verdict::Drop),
                Meaning::Leave => Err(End::ClientLeft),
                Meaning::Violation => Err(End::Violation(head.tag)),
            }
        })
    }

    /// Serves a transaction that has begun, or listens to a client that keeps its server, and to that. `at`: now; when it ends
    /// at a boundary, when the last answer was read.
    async fn relay(&mut self, lease: &mut Lease, running: bool, at: &mut Tick) -> End {
        let Some(server) = lease.server() else { return End::ClientGone };
        if running {
            let schema = self.pool.database.schema.state();
            if std::mem::replace(&mut server.schema, schema) != schema {
                server.slots.schema_changed();
            }
        }
        let carried = self.mode != PoolMode::Session;
        let mut relay = Relay {
            stream: &mut self.stream,
            input: &mut self.input,
            server,
            state: &mut self.state,
            client: self.presence.client(),
            pool: &self.pool,
            clock: self.front.clock,
            running,
            began: false,
            single: self.mode == PoolMode::Statement,
            refused: false,
            rows: false,
            statements: carried.then(|| self.pool.database.often().max_prepared_statements()),
            at,
            fresh: true,
            look: Look::default(),
            leaving: None,
        };
        let end = relay.run().await;
        let client = self.presence.client();
        client.statements.store(u64::try_from(self.state.names.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.mid_answer = lease.server().is_some_and(|server| !server.flow.at_message_end());
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that is idle is this future and little else; ten thousand of them should fit where PgBouncer's do.
    #[test]
    fn an_idle_session_is_small() {
        fn size<F: Future>(_: impl FnOnce(Session) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(Session::run);
        assert!(bytes <= 368, "{bytes} bytes");
    }
}
