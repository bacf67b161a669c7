//! The hot loop: bytes between a client and its server, in both directions, from leave to boundary.
//!
//! One task drives both directions; neither waits for the other. Messages are walked by their headers and written out
//! of the buffer that they were read into. Everything that the loop knows is in [`Relay`] and what it borrows, so
//! dropping a poll loses nothing. While a gate is shut the client's side stops between requests, until it is known
//! whether a transaction is open: a pipeline cannot slip past, and no batch is split.

mod burst;
mod heads;
mod requests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use self::heads::{is_fatal, is_judged_whole};
pub(super) use self::requests::check;
use super::answers::Answers;
use super::look::Look;
use super::state::State;
use super::translate;
use crate::clients::{Client, Doing, Told};
use crate::clock::Clock;
use crate::ids::Tick;
use crate::net::watched::Watched;
use crate::pool::database::Pool;
use crate::server::conn::Server;
use crate::server::progress::{Boundary, Heard, Status, Unexpected};
use crate::wire::frame::{BadLength, Flow, Verdict};
use crate::wire::reply::{Report, sqlstate};
use crate::wire::tags::{client as from_client, server as from_server};

/// So much that was read and not let through yet is enough.
const UNSENT_MAX: usize = 64 << 10;
/// With so much in its way a client's requests wait: also the answers that no server gives have a bound.
const UNREAD_MAX: usize = 1 << 20;

/// A Sync, whole.
const SYNC: [u8; 5] = [from_client::SYNC, 0, 0, 0, 4];

/// How a relay ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server stands at a boundary: here is the proof.
    Boundary(Boundary),
    /// A client that keeps its server wants to begin its next transaction.
    Wants,
    /// Before the first request goes out, the server has to forget what other clients' sequences have given.
    Errand,
    /// The client closed its connection, or it broke.
    ClientGone,
    /// The client said good-bye.
    ClientLeft,
    /// The server closed its connection, or it broke. True: it has told the client why.
    ServerGone(io::Error, bool),
    /// The server sent what nobody asked for.
    ServerBroken(Unexpected),
    /// One of the two sent an impossible length.
    Malformed(BadLength),
    /// The client sent what no client may send here.
    Violation(u8),
    /// Somebody told the client to leave.
    Dismissed(Report),
    /// The client goes on in another process.
    Moves,
}

impl From<BadLength> for End {
    fn from(bad: BadLength) -> Self {
        Self::Malformed(bad)
    }
}

/// What went through, counted here and booked once at the end.
#[derive(Debug, Default)]
struct Counts {
    received: u64,
    sent: u64,
    statements: translate::Counts,
}

/// A client, whose task listens to what it is told, and its server. See the module's text.
pub(super) struct Relay<'a> {
    pub(super) stream: &'a mut Watched,
    pub(super) input: &'a mut Flow,
    pub(super) server: &'a mut Server,
    pub(super) state: &'a mut State,
    pub(super) client: &'a Client,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) clock: Clock,
    /// A transaction has leave; false while a client that keeps its server rests.
    pub(super) running: bool,
    /// A request of this transaction has been let through.
    pub(super) began: bool,
    /// Each statement is a transaction (statement mode); a block of several is refused.
    pub(super) single: bool,
    /// Such a block was begun: nothing more of it reaches the client.
    pub(super) refused: bool,
    /// Since the last command ended, rows or their description have come.
    pub(super) rows: bool,
    /// The most prepared statements on a server; `None`: the client keeps its server, and its statements are its own affair.
    pub(super) statements: Option<usize>,
    /// When the request that is to be answered next was sent. In the end, when the last answer was read.
    pub(super) at: &'a mut Tick,
    /// It has not been polled yet, so `at` is now.
    pub(super) fresh: bool,
    pub(super) look: Look,
    /// The client has said good-bye, and will not be waited for longer than this.
    pub(super) leaving: Option<Pin<Box<Sleep>>>,
}

impl Relay<'_> {
    /// Moves bytes until something ends it. Dropping the future loses no byte. Once: it counts what has gone through then.
    pub(super) async fn run(&mut self) -> End {
        let mut counts = Counts::default();
        let end = std::future::poll_fn(|cx| {
            let polled = self.poll(cx, &mut counts);
            self.fresh = false;
            polled
        })
        .await;
        let stats = &self.pool.stats;
        stats.received.add(counts.received);
        stats.sent.add(counts.sent);
        stats.client_parses.add(counts.statements.client_parses);
        stats.server_parses.add(counts.statements.server_parses);
        stats.binds.add(counts.statements.binds);
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Poll<End> {
        let doing = if self.running { Doing::Working } else { Doing::Resting };
        if let Some(Told::Leave(why)) = self.client.told(doing) {
            // An answer that was put off is the client's: what it tells of has happened.
            if !self.server.flow.mid_message() && write(self.stream, cx, &mut self.server.flow).is_err() {
                return Poll::Ready(End::ClientGone);
            }
            return Poll::Ready(End::Dismissed(why));
        }
        // A server that was asked nothing yet has nothing to say: its turn comes when the request is out.
        let mut asks_first = self.fresh && self.running;
        loop {
            let first = std::mem::take(&mut asks_first);
            let answers = if first { Ok(true) } else { ready!(self.answers(cx, counts)) };
            let mut moved = match answers {
                Ok(moved) => moved,
                Err(end) => return Poll::Ready(end),
            };
            // Before its first request has gone out, the boundary of the one before still stands.
            if self.began
                && let Some(boundary) = self.server.progress.boundary(Some(self.input), &self.server.flow)
            {
                self.server.note_prepared();
                return Poll::Ready(End::Boundary(boundary));
            }
            match self.requests(cx, counts) {
                Ok(more) => moved |= more,
                Err(end) => return Poll::Ready(end),
            }
            if self.poll_left(cx) {
                return Poll::Ready(End::ClientLeft);
            }
            if moved {
                self.look.moves();
            }
            if !moved || self.only_waits() {
                if self.poll_arrivals(cx).is_ready() {
                    continue;
                }
                return if self.full() {
                    self.look.poll(cx, self.stream.socket()).map(|()| End::ClientGone)
                } else {
                    Poll::Pending
                };
            }
        }
    }

    /// Whether all that has come is through, and everything that is owed is the server's to give: only what arrives leads on.
    fn only_waits(&self) -> bool {
        let Server { progress, slots, flow, .. } = &*self.server;
        let through = self.input.is_empty() && flow.is_empty();
        through && !progress.all_answered() && !progress.owes_own() && !slots.replay.is_due() && !slots.found_stale
    }

    /// Whether a client that has said good-bye has got all that will come, or has been waited for long enough.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(grace) = &mut self.leaving else { return false };
        let progress = &self.server.progress;
        let nothing_comes = progress.earlier_answered() || progress.in_copy();
        let all_out = !self.input.has_pending() && !self.server.flow.has_pending();
        (nothing_comes && all_out) || grace.as_mut().poll(cx).is_ready()
    }

    /// Ready when one of the two whose turn it is has something to be read. Asked where nothing is left to do, and only there: to be
    /// woken is dearer than to look.
    fn poll_arrivals(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let server = self.hears_server() && self.server.stream.poll_readable(cx).is_ready();
        let client = self.hears_client() && self.stream.poll_readable(cx).is_ready();
        if server || client { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A server is read only when everything before is written: a client that does not read stops its server.
    fn hears_server(&self) -> bool {
        !self.server.flow.has_pending()
    }

    /// A client is read only when everything before is written: back-pressure is TCP's.
    fn hears_client(&self) -> bool {
        self.leaving.is_none() && !self.server.slots.replay.is_due() && !self.full()
    }

    /// Whether so much of what the client has sent is still here that no more is read.
    fn full(&self) -> bool {
        self.owes_reading()
            || self.input.has_pending()
            || (self.input.unread().len() >= UNSENT_MAX && !self.input.wants_more())
    }

    /// Whether the client has so many answers to read that it is not listened to before it does.
    fn owes_reading(&self) -> bool {
        self.server.flow.pending().len() >= UNREAD_MAX
    }

    /// Server to client. Pending: the answer is written in another poll, which comes without anybody's doing.
    fn answers(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Poll<Result<bool, End>> {
        let before = *self.at;
        let moved = self.read_answers(cx, counts)?;
        let ended = moved && *self.at != before && self.server.progress.at_rest();
        self.send_again();
        self.give_own();
        if ended && self.server.flow.has_pending() && burst::puts_off(*self.at, cx) {
            return Poll::Pending;
        }
        let written = write(self.stream, cx, &mut self.server.flow).map_err(|_| End::ClientGone)?;
        if self.refused && !self.server.flow.has_pending() {
            return Poll::Ready(Err(End::Dismissed(no_blocks())));
        }
        Poll::Ready(Ok(moved || written))
    }

    /// Returns whether there was anything.
    fn read_answers(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Result<bool, End> {
        if !self.hears_server() {
            return Ok(false);
        }
        let flow = &mut self.server.flow;
        let room = flow.room();
        match self.server.stream.read_into(cx, &mut flow.buf, room) {
            Some(Ok(0)) => Err(self.server_gone(io::ErrorKind::UnexpectedEof.into())),
            Some(Ok(n)) => {
                counts.sent += n as u64;
                flow.was_read(n, room);
                self.walk_answers().map(|()| true)
            }
            Some(Err(error)) => Err(self.server_gone(error)),
            None => Ok(false),
        }
    }

    /// Where a statement was stale and nobody needs to know: ends the batch, and when that is over puts what the client has sent back.
    fn send_again(&mut self) {
        let Server { progress, slots, .. } = &mut *self.server;
        if std::mem::take(&mut slots.found_stale) {
            self.pool.database.schema.found_stale(self.clock.now());
        }
        if !slots.replay.is_due() {
            return;
        }
        if progress.at_rest() {
            self.input.put_back(&slots.replay.take());
        } else if progress.earlier_answered() && self.input.insert(&SYNC) {
            // The client waits for an answer and has not ended the batch yet.
            progress.sent(from_client::SYNC);
            slots.batch_ends();
        }
    }

    fn server_gone(&self, error: io::Error) -> End {
        End::ServerGone(error, self.server.said_farewell)
    }

    /// Gives the answers that are not the server's to give, where no message of its follows that they stand before.
    fn give_own(&mut self) {
        let Server { flow, progress, slots, .. } = &mut *self.server;
        if !progress.owes_own() || flow.mid_message() {
            return;
        }
        let mut out = BytesMut::new();
        Answers { names: &mut self.state.names, slots }.own(progress, &mut out);
        if !out.is_empty() {
            flow.insert(&out);
        }
    }

    fn walk_answers(&mut self) -> Result<(), End> {
        let Server { flow, progress, parameters, initial, slots, said_farewell, .. } = &mut *self.server;
        let (client, clock, requested) = (self.client, self.clock, &mut *self.at);
        let (state, rows, timing) = (&mut *self.state, &mut self.rows, &self.pool.stats.query);
        let (single, refused) = (self.single, &mut self.refused);
        flow.walk(|head, body, out| {
            if progress.is_amid(head.tag) {
                *rows |= head.tag != from_server::COPY_DATA;
                return Ok(if *refused { Verdict::Drop } else { Verdict::Pass });
            }
            Answers { names: &mut state.names, slots }.own(progress, out);
            if body.len() < head.body && is_judged_whole(head, progress.next_is_noted()) {
                return Ok(Verdict::Whole);
            }
            let mut verdict = Verdict::Pass;
            match head.tag {
                from_server::PARAMETER_STATUS => {
                    parameters.report(body);
                    let before = state.wanted.reading();
                    verdict = state.reported(body, initial, client, out);
                    if state.wanted.reading() != before {
                        slots.read_otherwise(progress.batches_owed());
                    }
                }
                from_server::DATA_ROW | from_server::ROW_DESCRIPTION => *rows = true,
                from_server::COMMAND_COMPLETE => state.command(body, std::mem::take(rows)),
                from_server::ERROR => *said_farewell |= is_fatal(body),
                from_server::READY_FOR_QUERY => state.batch_ends(client, out),
                _ => {}
            }
            let mut answers = Answers { names: &mut state.names, slots };
            let kept = answers.keeps(head.tag);
            match progress.received(head.tag, body) {
                Ok(Heard::Plain) => {}
                Ok(heard) => verdict = answers.judge(heard, (head, body), out),
                // The server's farewell to a client that has asked nothing: it is to read it, as it would directly.
                Err(_) if head.tag == from_server::ERROR => *said_farewell = true,
                Err(unexpected) => return Err(End::ServerBroken(unexpected)),
            }
            if head.tag == from_server::COMMAND_COMPLETE {
                answers.command(body);
            }
            if head.tag == from_server::READY_FOR_QUERY {
                let now = clock.tick();
                let took = now.since(*requested);
                timing.record(took);
                *requested = now;
                answers.batch_ends(progress.batches_owed());
                if !progress.at_rest() {
                    client.goes_on(now.moment());
                } else if progress.status() != Status::Idle {
                    client.rests_in_transaction(now.moment());
                }
            }
            *refused |= single && head.tag == from_server::READY_FOR_QUERY && progress.status() != Status::Idle;
            Ok(if *refused || kept { Verdict::Drop } else { verdict })
        })
        .map(|_| ())
    }
}

fn no_blocks() -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "transaction blocks not allowed in statement pooling mode")
        .hint("Use pool_mode = transaction for clients that need BEGIN.")
}

/// Writes what is ready, as far as the socket takes it. True if anything moved.
fn write<S: AsyncWrite + Unpin>(stream: &mut S, cx: &mut Context<'_>, flow: &mut Flow) -> io::Result<bool> {
    let mut moved = false;
    while flow.has_pending() {
        match Pin::new(&mut *stream).poll_write(cx, flow.pending()) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                flow.written(n);
                moved = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_is_known_in_any_language() {
        assert!(is_fatal(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0"));
        assert!(is_fatal("SFATALNÍ\0VFATAL\0".as_bytes()));
        assert!(!is_fatal(b"SERROR\0VERROR\0C42601\0MVFATAL?\0\0"));
    }
}
