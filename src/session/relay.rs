//! The hot loop: bytes between a client and its server, in both directions, from leave to boundary.
//!
//! One task drives both directions; neither waits for the other. Messages are walked by their headers and written out
//! of the buffer that they were read into. Everything that the loop knows is in [`Relay`] and what it borrows, so
//! dropping a poll loses nothing. While a gate is shut the client's side stops between requests, until it is known
//! whether a transaction is open: a pipeline cannot slip past, and no batch is split.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::look::Look;
use crate::clients::{Client, Doing, Told};
use crate::clock::Clock;
use crate::net::stream::Stream;
use crate::pool::database::Pool;
use crate::server::conn::Server;
use crate::server::parameters::{Parameters, tracked};
use crate::server::progress::{Boundary, Progress, Status, Unexpected};
use crate::wire::frame::{BadLength, Flow, Header, Verdict};
use crate::wire::reply::Report;
use crate::wire::tags::{self, Meaning, client as from_client, server as from_server};

/// Room that is made for a read. Large enough that a small request and its answer take one read each.
const READ: usize = 8 << 10;
/// Room after a read that filled the buffer: bulk data.
const READ_BULK: usize = 64 << 10;
/// The longest server message that is looked at whole; only messages that are small by nature are.
const WHOLE_MAX: usize = 64 << 10;

/// How a relay ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server stands at a boundary: here is the proof.
    Boundary(Boundary),
    /// A client that keeps its server wants to begin its next transaction.
    Wants,
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
    queries: u64,
    query_time: Duration,
}

/// A client and its server. See the module's text.
pub(super) struct Relay<'a> {
    pub(super) stream: &'a mut Stream,
    pub(super) input: &'a mut Flow,
    pub(super) server: &'a mut Server,
    pub(super) wanted: &'a mut Parameters,
    pub(super) client: &'a Client,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) clock: Clock,
    /// A transaction has leave; false while a client that keeps its server rests.
    pub(super) running: bool,
    /// A request of this transaction has been let through.
    pub(super) began: bool,
    /// Since the last command ended, rows or their description have come.
    pub(super) rows: bool,
    pub(super) requested: Instant,
    pub(super) look: Look,
}

impl Relay<'_> {
    /// Moves bytes until something ends it. Dropping the future loses no byte.
    pub(super) async fn run(mut self) -> End {
        let mut counts = Counts::default();
        let end = std::future::poll_fn(|cx| self.poll(cx, &mut counts)).await;
        let stats = &self.pool.stats;
        stats.received.add(counts.received);
        stats.sent.add(counts.sent);
        stats.queries.add(counts.queries);
        stats.query_us.add_us(counts.query_time);
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Poll<End> {
        let doing = if self.running { Doing::Working } else { Doing::Resting };
        if let Poll::Ready(Told::Leave(why)) = self.client.poll_told(cx, doing) {
            return Poll::Ready(End::Dismissed(why));
        }
        loop {
            let mut moved = match self.answers(cx, counts) {
                Ok(moved) => moved,
                Err(end) => return Poll::Ready(end),
            };
            // Before its first request has gone out, the boundary of the one before still stands.
            if self.began
                && let Some(boundary) = self.server.progress.boundary(self.input, &self.server.flow)
            {
                return Poll::Ready(End::Boundary(boundary));
            }
            match self.requests(cx, counts) {
                Ok(more) => moved |= more,
                Err(end) => return Poll::Ready(end),
            }
            if !moved {
                return if self.full() {
                    self.look.poll(cx, self.stream).map(|()| End::ClientGone)
                } else {
                    Poll::Pending
                };
            }
            self.look.moves();
        }
    }

    /// Whether so much of what the client has sent is still here that no more is read.
    fn full(&self) -> bool {
        !self.input.pending().is_empty() || (self.input.unread().len() >= READ_BULK && !self.input.wants_more())
    }

    /// Server to client. Reads only when everything before is written: a client that does not read stops its server.
    fn answers(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Result<bool, End> {
        let flow = &mut self.server.flow;
        let mut moved = false;
        if flow.pending().is_empty() {
            let room = if flow.buf.capacity() > READ { READ_BULK } else { READ };
            match self.server.stream.poll_read_into(cx, &mut flow.buf, room) {
                Poll::Ready(Ok(0)) => return Err(self.server_gone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(n)) => {
                    moved = true;
                    counts.sent += n as u64;
                    if n >= room {
                        flow.buf.reserve(READ_BULK);
                    }
                    self.walk_answers(counts)?;
                }
                Poll::Ready(Err(error)) => return Err(self.server_gone(error)),
                Poll::Pending => {}
            }
        }
        let written = write(self.stream, cx, &mut self.server.flow).map_err(|_| End::ClientGone)?;
        Ok(moved || written)
    }

    fn server_gone(&self, error: io::Error) -> End {
        End::ServerGone(error, self.server.said_farewell)
    }

    fn walk_answers(&mut self, counts: &mut Counts) -> Result<(), End> {
        let Server { flow, progress, parameters, dirty, said_farewell, .. } = &mut *self.server;
        let (client, wanted, clock, requested) = (self.client, &mut *self.wanted, self.clock, &mut self.requested);
        let (rows, timing) = (&mut self.rows, &self.pool.metrics.query);
        flow.walk(|head, body, _| {
            let small = head.body <= WHOLE_MAX;
            match head.tag {
                from_server::READY_FOR_QUERY | from_server::PARAMETER_STATUS | from_server::COMMAND_COMPLETE
                    if small && body.len() < head.body =>
                {
                    return Ok(Verdict::Whole);
                }
                from_server::PARAMETER_STATUS => {
                    parameters.report(body);
                    note_setting(body, wanted, client);
                }
                from_server::DATA_ROW | from_server::ROW_DESCRIPTION => *rows = true,
                from_server::COMMAND_COMPLETE => *dirty |= leaves_state(body, std::mem::take(rows)),
                from_server::ERROR => *said_farewell |= is_fatal(body),
                _ => {}
            }
            match progress.received(head.tag, body) {
                Ok(_) => {}
                // The server's farewell to a client that has asked nothing: it is to read it, as it would directly.
                Err(_) if head.tag == from_server::ERROR => *said_farewell = true,
                Err(unexpected) => return Err(End::ServerBroken(unexpected)),
            }
            if head.tag == from_server::READY_FOR_QUERY {
                let now = Instant::now();
                let took = now.duration_since(*requested);
                counts.queries += 1;
                counts.query_time += took;
                timing.record(took);
                *requested = now;
                if progress.status() != Status::Idle && progress.at_rest() {
                    client.rests_in_transaction(clock.moment(now));
                }
            }
            Ok(Verdict::Pass)
        })
        .map(|_| ())
    }

    /// Client to server. The client is read only when everything before is written: back-pressure is TCP's.
    fn requests(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Result<bool, End> {
        let mut moved = false;
        if self.input.pending().is_empty() {
            // What is in the buffer may have been stopped before; look again before more is read.
            self.walk_requests()?;
        }
        if !self.full() {
            match self.stream.poll_read_into(cx, &mut self.input.buf, READ) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(End::ClientGone),
                Poll::Ready(Ok(n)) => {
                    moved = true;
                    counts.received += n as u64;
                    self.walk_requests()?;
                }
                Poll::Pending => {}
            }
        }
        let written = write(&mut self.server.stream, cx, self.input).map_err(|error| self.server_gone(error))?;
        Ok(moved || written)
    }

    fn walk_requests(&mut self) -> Result<(), End> {
        let Server { progress, dirty, unnamed, .. } = &mut *self.server;
        let (client, database, running) = (self.client, &self.pool.database, self.running);
        let (clock, requested, began) = (self.clock, &mut self.requested, &mut self.began);
        self.input
            .walk(|head, body, _| {
                check(head)?;
                if tags::between_transactions(head.tag) == Meaning::Begin {
                    if !running {
                        return Err(End::Wants);
                    }
                    if *began && progress.between_requests() && database.is_shut() {
                        return Ok(Verdict::Stop);
                    }
                    *began = true;
                }
                match head.tag {
                    from_client::TERMINATE => return Err(End::ClientLeft),
                    from_client::PARSE | from_client::QUERY if body.is_empty() && head.body > 0 => {
                        return Ok(Verdict::Whole);
                    }
                    from_client::PARSE if body.first() == Some(&0) => *unnamed = Some(client.id),
                    from_client::PARSE => *dirty = true,
                    from_client::BIND | from_client::DESCRIBE if *unnamed != Some(client.id) => {
                        match uses_unnamed(head.tag, body) {
                            None if body.len() < head.body => return Ok(Verdict::Whole),
                            Some(true) => return Err(End::Dismissed(no_unnamed())),
                            Some(false) | None => {}
                        }
                    }
                    _ => {}
                }
                note_request(head.tag, body, progress, (client, clock, requested));
                progress.sent(head.tag);
                Ok(Verdict::Pass)
            })
            .map(|_| ())
    }
}

/// Whether a Bind or Describe refers to the unnamed prepared statement; `None` while too little of it has arrived.
/// That statement is the server's, not the client's: another client's would be run in its place.
fn uses_unnamed(tag: u8, body: &[u8]) -> Option<bool> {
    let statement = if tag == from_client::BIND {
        // Behind the portal's name.
        let portal = body.iter().position(|&byte| byte == 0)?;
        body.get(portal + 1)
    } else {
        match body.first()? {
            b'S' => body.get(1),
            _ => return Some(false),
        }
    };
    statement.map(|first| *first == 0)
}

fn no_unnamed() -> Report {
    Report::new("26000", "unnamed prepared statement does not exist")
        .detail("It was made in an earlier transaction, on another server or before another client used this one.")
        .hint("Send Parse with each Bind of the unnamed statement, or use pool_mode = session.")
}

/// Postgres' own limits on what a client may send.
pub(super) fn check(head: Header) -> Result<(), End> {
    match tags::client_limit(head.tag) {
        None => Err(End::Violation(head.tag)),
        Some(limit) if head.body > limit => {
            let length = i32::try_from(head.body.saturating_add(4)).unwrap_or(i32::MAX);
            Err(End::Malformed(BadLength { tag: head.tag, length }))
        }
        Some(_) => Ok(()),
    }
}

/// Keeps what others may see of the client up to date.
fn note_request(tag: u8, body: &[u8], progress: &Progress, (client, clock, requested): (&Client, Clock, &mut Instant)) {
    let text = match tag {
        from_client::QUERY => Some(body),
        // Behind the statement's name.
        from_client::PARSE => body.iter().position(|&byte| byte == 0).and_then(|end| body.get(end + 1..)),
        _ => None,
    };
    let first = progress.at_rest();
    if first || text.is_some() {
        let now = Instant::now();
        if first {
            *requested = now;
        }
        client.requests(text, clock.moment(now));
    }
}

/// A setting that the client changed, or that Postgres changed for it, follows it from now on.
fn note_setting(body: &[u8], wanted: &mut Parameters, client: &Client) {
    let Some(end) = body.iter().position(|&byte| byte == 0) else { return };
    let (name, value) = (body.get(..end).unwrap_or_default(), body.get(end + 1..).unwrap_or_default());
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    if let Some(name) = tracked(name) {
        wanted.set(name.as_bytes(), value);
        if name == "application_name" {
            client.set_application_name(value);
        }
    }
}

/// Whether a command with this tag may leave something on the server that the next client would find. `SET` and
/// `RESET` too: only reported settings are carried along. A `SELECT` without `rows` may have made a temporary table
/// (`CREATE TABLE AS` has that tag). Doubt means yes; a reset costs one round trip.
fn leaves_state(tag: &[u8], rows: bool) -> bool {
    const TAGS: [&[u8]; 9] =
        [b"SET", b"RESET", b"PREPARE\0", b"LISTEN", b"DECLARE", b"LOAD", b"CREATE", b"DISCARD", b"DO\0"];
    TAGS.iter().any(|known| tag.starts_with(known)) || (!rows && tag.starts_with(b"SELECT "))
}

/// Whether an ErrorResponse says that the connection ends with it. Field V is never translated.
fn is_fatal(body: &[u8]) -> bool {
    body.split(|&byte| byte == 0).any(|field| matches!(field, b"VFATAL" | b"VPANIC"))
}

/// Writes what is ready, as far as the socket takes it. True if anything moved.
fn write(stream: &mut Stream, cx: &mut Context<'_>, flow: &mut Flow) -> io::Result<bool> {
    let mut moved = false;
    while !flow.pending().is_empty() {
        match poll_write(stream, cx, flow.pending()) {
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

fn poll_write(stream: &mut Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let n = ready!(std::pin::Pin::new(stream).poll_write(cx, bytes))?;
    Poll::Ready(Ok(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_leave_state_are_known_by_their_tags() {
        for tag in ["SET\0", "RESET\0", "PREPARE\0", "LISTEN\0", "DECLARE CURSOR\0", "LOAD\0", "CREATE TABLE\0"] {
            assert!(leaves_state(tag.as_bytes(), true), "{tag}");
        }
        for tag in ["SELECT 1\0", "INSERT 0 1\0", "BEGIN\0", "COMMIT\0", "PREPARE TRANSACTION\0", "UPDATE 3\0"] {
            assert!(!leaves_state(tag.as_bytes(), true), "{tag}");
        }
        assert!(leaves_state(b"SELECT 3\0", false), "CREATE TEMP TABLE AS");
    }

    #[test]
    fn the_unnamed_statement_is_seen_where_it_is_used() {
        for (tag, body, expected) in [
            (b'B', &b"\0\0\0\0"[..], Some(true)),
            (b'B', b"portal\0\0\0\0", Some(true)),
            (b'B', b"\0name\0\0\0", Some(false)),
            (b'B', b"", None),
            (b'B', b"port", None),
            (b'B', b"portal\0", None),
            (b'D', b"S\0", Some(true)),
            (b'D', b"Sname\0", Some(false)),
            (b'D', b"P\0", Some(false)),
            (b'D', b"", None),
            (b'D', b"S", None),
        ] {
            assert_eq!(uses_unnamed(tag, body), expected, "{body:?}");
        }
    }

    #[test]
    fn a_farewell_is_known_in_any_language() {
        assert!(is_fatal(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0"));
        assert!(is_fatal("SFATALNÍ\0VFATAL\0".as_bytes()));
        assert!(!is_fatal(b"SERROR\0VERROR\0C42601\0MVFATAL?\0\0"));
    }
}
