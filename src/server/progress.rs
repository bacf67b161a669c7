//! How far a server is with answering: the queue of expected replies and the proof that it is clean.
//!
//! A pure machine: it is told the tags of what was sent to the server and of what came back. It is the only
//! maker of a [`Boundary`], and it makes one only when every expected reply has come, the last status is
//! idle, no COPY runs and nothing is half sent. Whatever it does not understand ends the proof, never the care:
//! an unexpected reply makes the server [`broken`](Progress::broken), a doubtful request makes it tainted.
//! Source: "Message Flow" in the protocol chapter; `PostgresMain` in `src/backend/tcop/postgres.c` (skip until
//! Sync); `CopyGetData` in `copyfromparse.c` (Sync and Flush are ignored while COPY data is read).

use std::collections::VecDeque;

use crate::wire::frame::Flow;
use crate::wire::tags::{client, server};

/// More replies than this are not waited for at once; a pipeline that is longer goes on as they come.
const OWED_MAX: usize = 1 << 16;

/// A reply, or series of replies, that the server owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// Ends with its own ReadyForQuery.
    Query,
    /// FunctionCall: ends with its own ReadyForQuery.
    Function,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// ReadyForQuery of a Sync.
    Sync,
    /// No reply: marks where the client ended its COPY data, for the Syncs that the server ignored before it.
    CopyEnd,
    /// The server was not asked: whoever drives it answers, in this place.
    Own,
}

impl Expect {
    /// Whether a ReadyForQuery comes for it.
    const fn ends_batch(self) -> bool {
        matches!(self, Self::Query | Self::Function | Self::Sync)
    }
}

/// A reply that is owed, and whether somebody has kept a note on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owed {
    expect: Expect,
    noted: bool,
}

/// What a server's message means for whoever keeps notes on requests, one for each that was [noted](Progress::sent_noted).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It belongs to no noted request.
    Plain,
    /// It belongs to the noted request in front; true: it is the last of its answer.
    Noted(bool),
    /// An error that ends the batch: the first so many notes are void. True: the first of them is of the request that failed
    /// itself; all others were skipped, unread.
    Failed(usize, bool),
}

/// Transaction status as the last ReadyForQuery told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// No transaction.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed.
    Failed,
}

/// Proof that a server stood at a transaction boundary, clean, when this was made.
///
/// Only [`Progress::boundary`] and [`Progress::fresh`] make one, and only a `Boundary` puts a server back into its pool.
#[derive(Debug)]
#[must_use = "a boundary that is not used means a server that is thrown away"]
pub struct Boundary(());

/// A reply that nobody expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unexpected message type {tag:#04x} from server")]
pub struct Unexpected {
    /// The message's type byte.
    pub tag: u8,
}

/// The machine. See the module's text.
#[derive(Debug)]
pub struct Progress {
    expected: VecDeque<Owed>,
    /// How many of them end with a ReadyForQuery.
    ends: usize,
    status: Status,
    /// Extended-protocol messages were sent since the last Sync: an implicit transaction may be open.
    unsynced: bool,
    /// An error was reported in the extended protocol: the server skips everything until a Sync, which was not sent yet.
    skipping: bool,
    /// The server is reading COPY data and the client has not ended it yet.
    copy_in: bool,
    /// Syncs that were sent ahead of the COPY data that is being read: the server ignores those that it reads before the end.
    early: usize,
    /// So many of them may be answered all the same: the COPY failed, perhaps before the server had read them.
    surplus: usize,
    /// A simple query or function call was sent before a Sync had ended the requests before it.
    mixed: bool,
    /// The client sent something whose effect on the replies we cannot predict: never a boundary again.
    tainted: bool,
    broken: bool,
    /// Since the last answer it has been told to flush.
    hurried: bool,
}

impl Progress {
    /// A connection that has just logged in, with the proof that goes with it.
    pub fn fresh() -> (Self, Boundary) {
        let progress = Self {
            expected: VecDeque::new(),
            ends: 0,
            status: Status::Idle,
            unsynced: false,
            skipping: false,
            copy_in: false,
            early: 0,
            surplus: 0,
            mixed: false,
            tainted: false,
            broken: false,
            hurried: false,
        };
        (progress, Boundary(()))
    }

    /// The transaction status of the last ReadyForQuery.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether something came that nobody expected. Such a server must be closed.
    #[must_use]
    pub const fn broken(&self) -> bool {
        self.broken
    }

    /// Whether the server owes nothing and has been asked for nothing: idle, perhaps inside a transaction.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.expected.is_empty() && !self.unsynced && !self.skipping && !self.copy_in && !self.broken
    }

    /// The proof, if there is one: both directions must be empty too. To a server without a client nothing is on its way.
    #[must_use]
    pub fn boundary(&self, to_server: Option<&Flow>, to_client: &Flow) -> Option<Boundary> {
        let all_sent = to_server.is_none_or(Flow::at_message_end);
        let nothing_half_sent = all_sent && to_client.at_message_end() && to_client.buf.is_empty();
        let clean = self.at_rest() && !self.tainted && self.status == Status::Idle;
        (clean && nothing_half_sent).then_some(Boundary(()))
    }

    /// Whether more may come than was asked for: whoever has the server may go on with it, but nobody else may get it.
    #[must_use]
    pub const fn may_say_more(&self) -> bool {
        self.surplus > 0
    }

    /// Whether a simple query or function call has come amid requests without a Sync. Postgres 18 itself loses track then: the next
    /// client would get "unexpected state STARTED" (`StartTransactionCommand` in `xact.c`).
    #[must_use]
    pub const fn was_mixed(&self) -> bool {
        self.mixed
    }

    /// Whether the server waits for COPY data.
    #[must_use]
    pub const fn in_copy(&self) -> bool {
        self.copy_in
    }

    /// Whether the next message would begin a request of its own, and perhaps a transaction: no transaction is known
    /// to be open. While a gate is shut the relay stops here until it knows more, or stands at the boundary.
    #[must_use]
    pub fn between_requests(&self) -> bool {
        let known_to_be_open = self.expected.is_empty() && self.status != Status::Idle;
        !self.unsynced && !self.skipping && !self.copy_in && !known_to_be_open
    }

    /// Whether every batch before the one that is being sent has been answered: [`status`](Self::status) is of now.
    #[must_use]
    pub const fn earlier_answered(&self) -> bool {
        self.ends == 0
    }

    /// Whether everything that was sent has been answered.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.expected.is_empty()
    }

    /// How many batches have been sent to their end and not been answered to theirs.
    #[must_use]
    pub const fn batches_owed(&self) -> usize {
        self.ends
    }

    /// Whether so many answers are owed that no more requests should be sent: the queue of them has a bound.
    #[must_use]
    pub fn owes_much(&self) -> bool {
        self.expected.len() >= OWED_MAX
    }

    /// Whether the server has to be told to flush what it has answered so far, for somebody waits for that; once for each answer.
    pub fn hurries(&mut self) -> bool {
        !std::mem::replace(&mut self.hurried, true)
    }

    /// Whether requests were sent that no Sync has followed: an implicit transaction may be open.
    #[must_use]
    pub const fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether what is sent now is looked at by the server at all: it is not skipping to a Sync, and not reading COPY data.
    #[must_use]
    pub const fn listens(&self) -> bool {
        !self.skipping && !self.copy_in
    }

    /// A client's message with this tag has been let through to the server.
    pub fn sent(&mut self, tag: u8) {
        self.send(tag, false);
    }

    /// The same for one that a note is kept on. Only while the server [listens](Self::listens).
    pub fn sent_noted(&mut self, tag: u8) {
        self.send(tag, true);
    }

    /// A client's message was kept from the server and is answered in its place, by whoever asks
    /// [`next_is_own`](Self::next_is_own); a note is kept on it. Only while the server [listens](Self::listens).
    pub fn owe_own(&mut self) {
        self.unsynced = true;
        self.push(Expect::Own, true);
    }

    /// Whether the next reply is not the server's to give.
    #[must_use]
    pub fn owes_own(&self) -> bool {
        self.front() == Some(Expect::Own)
    }

    /// Whether the next reply is not the server's to give; it counts as given then.
    pub fn next_is_own(&mut self) -> bool {
        let own = self.owes_own();
        if own {
            self.pop();
        }
        own
    }

    /// Whether the next reply is one that a note is kept on.
    #[must_use]
    pub fn next_is_noted(&self) -> bool {
        self.expected.front().is_some_and(|owed| owed.noted)
    }

    fn front(&self) -> Option<Expect> {
        self.expected.front().map(|owed| owed.expect)
    }

    fn push(&mut self, expect: Expect, noted: bool) {
        self.ends += usize::from(expect.ends_batch());
        self.expected.push_back(Owed { expect, noted });
    }

    fn pop(&mut self) -> Option<Owed> {
        let owed = self.expected.pop_front()?;
        self.ends -= usize::from(owed.expect.ends_batch());
        // The end of COPY data belongs to what stood before it, and that is over.
        while self.front() == Some(Expect::CopyEnd) {
            self.expected.pop_front();
        }
        Some(owed)
    }

    fn send(&mut self, tag: u8, noted: bool) {
        match tag {
            client::COPY_DATA | client::FLUSH => {}
            client::COPY_DONE | client::COPY_FAIL => {
                if self.copy_in {
                    self.copy_in = false;
                } else if !self.expected.is_empty() {
                    self.push(Expect::CopyEnd, false);
                }
            }
            client::SYNC => {
                if !self.copy_in {
                    self.skipping = false;
                    self.unsynced = false;
                    self.push(Expect::Sync, noted);
                } else {
                    // Ignored, unless the COPY fails before it is read.
                    self.early += 1;
                }
            }
            // The server ends the COPY with an error and eats the message; whether it answers the ones
            // behind it depends on what it had read by then.
            _ if self.copy_in => self.tainted = true,
            _ if self.skipping => {}
            client::QUERY => self.request(Expect::Query, noted),
            client::FUNCTION_CALL => self.request(Expect::Function, noted),
            client::PARSE => self.extended(Expect::Parse, noted),
            client::BIND => self.extended(Expect::Bind, noted),
            client::DESCRIBE => self.extended(Expect::Describe, noted),
            client::EXECUTE => self.extended(Expect::Execute, noted),
            client::CLOSE => self.extended(Expect::Close, noted),
            _ => self.tainted = true,
        }
    }

    fn request(&mut self, expect: Expect, noted: bool) {
        self.mixed |= self.unsynced;
        self.unsynced = false;
        self.push(expect, noted);
    }

    fn extended(&mut self, expect: Expect, noted: bool) {
        self.unsynced = true;
        self.push(expect, noted);
    }

    /// A server's message with this tag has arrived. True: it is part of an answer that goes on, nobody keeps a note on that, and nothing
    /// follows from it; otherwise it has to be [looked at](Self::received). By far the most are such.
    #[inline]
    pub fn is_amid(&mut self, tag: u8) -> bool {
        let amid = match self.expected.front() {
            Some(Owed { expect: Expect::Query, noted: false }) => {
                matches!(tag, server::DATA_ROW | server::ROW_DESCRIPTION | server::COPY_DATA)
            }
            Some(Owed { expect: Expect::Execute, noted: false }) => matches!(tag, server::DATA_ROW | server::COPY_DATA),
            _ => false,
        };
        self.hurried &= !amid;
        amid
    }

    /// A server's message with this tag has arrived; `status` is the body of a ReadyForQuery.
    ///
    /// # Errors
    /// [`Unexpected`] if it answers nothing that was asked; the server is [`broken`](Self::broken) from then on.
    pub fn received(&mut self, tag: u8, status: &[u8]) -> Result<Heard, Unexpected> {
        self.hurried = false;
        // Nobody was there to give them.
        while self.next_is_own() {}
        let owed = self.expected.front().copied();
        let front = owed.map(|owed| owed.expect);
        let before = self.expected.len();
        let mut failed = None;
        let fits = match (tag, front) {
            (server::NOTICE | server::NOTIFICATION | server::PARAMETER_STATUS, _) => return Ok(Heard::Plain),
            (server::READY_FOR_QUERY, Some(Expect::Query | Expect::Function | Expect::Sync)) => self.ready(status),
            (server::READY_FOR_QUERY, None) if self.surplus > 0 => {
                self.surplus -= 1;
                // The Sync has ended the skipping after all.
                self.unsynced &= !std::mem::take(&mut self.skipping);
                self.ready(status)
            }
            (server::ERROR, Some(Expect::Query | Expect::Function | Expect::Sync)) => {
                self.copy_ends();
                true
            }
            (server::ERROR, Some(_)) => {
                self.copy_ends();
                failed = Some(self.skip());
                true
            }
            // Nothing was asked: the server is going down, or says so to a connection it is about to close.
            (server::ERROR, None) => {
                self.copy_ends();
                false
            }
            (server::PARSE_COMPLETE, Some(Expect::Parse))
            | (server::BIND_COMPLETE, Some(Expect::Bind))
            | (server::CLOSE_COMPLETE, Some(Expect::Close))
            | (server::ROW_DESCRIPTION | server::NO_DATA, Some(Expect::Describe))
            | (server::COMMAND_COMPLETE | server::EMPTY_QUERY | server::PORTAL_SUSPENDED, Some(Expect::Execute)) => {
                self.pop();
                true
            }
            (server::PARAMETER_DESCRIPTION, Some(Expect::Describe))
            | (server::FUNCTION_RESULT, Some(Expect::Function))
            | (server::ROW_DESCRIPTION | server::COMMAND_COMPLETE | server::EMPTY_QUERY, Some(Expect::Query))
            | (
                server::DATA_ROW | server::COPY_OUT | server::COPY_DATA | server::COPY_DONE,
                Some(Expect::Query | Expect::Execute),
            ) => true,
            (server::COPY_IN, Some(front @ (Expect::Query | Expect::Execute))) => {
                self.copy_begins(front);
                true
            }
            _ => false,
        };
        let over = tag != server::COPY_IN && self.expected.len() < before;
        if tag == server::COMMAND_COMPLETE {
            // The COPY was read to its end, and with it what was sent ahead of that.
            self.early = 0;
        }
        if !fits {
            self.broken = true;
            return Err(Unexpected { tag });
        }
        Ok(match (failed, owed) {
            (Some((notes, first)), _) => Heard::Failed(notes, first),
            (None, Some(Owed { noted: true, .. })) => Heard::Noted(over),
            (None, _) => Heard::Plain,
        })
    }

    fn ready(&mut self, status: &[u8]) -> bool {
        self.status = match status {
            b"I" => Status::Idle,
            b"T" => Status::InTransaction,
            b"E" => Status::Failed,
            _ => return false,
        };
        self.pop();
        self.copy_in = false;
        true
    }

    fn copy_ends(&mut self) {
        self.copy_in = false;
        self.surplus += std::mem::take(&mut self.early);
    }

    /// After an error in the extended protocol the server skips everything up to the next Sync, simple queries
    /// among it; after one in a simple query its own ReadyForQuery still comes. Returns how many notes are void, and
    /// whether the first is of what failed.
    fn skip(&mut self) -> (usize, bool) {
        let first = self.next_is_noted();
        let mut notes = 0;
        while self.front().is_some_and(|expect| expect != Expect::Sync) {
            notes += usize::from(self.pop().is_some_and(|owed| owed.noted));
        }
        self.skipping = self.expected.is_empty();
        (notes, first)
    }

    /// The server reads COPY data now. Syncs that were sent ahead of the data's end do not count: it ignores them.
    fn copy_begins(&mut self, front: Expect) {
        let end = self.expected.iter().position(|owed| owed.expect == Expect::CopyEnd);
        let ahead = end.unwrap_or(self.expected.len());
        if self.expected.iter().take(ahead).skip(1).any(|owed| owed.expect != Expect::Sync) {
            self.tainted = true;
            return;
        }
        self.early += ahead.saturating_sub(1);
        let later = self.expected.split_off(end.map_or(ahead, |end| end + 1));
        self.expected.truncate(1);
        self.copy_in = end.is_none();
        // Those Syncs seemed to end the implicit transaction; it is open again unless a later one was sent.
        if front == Expect::Execute && !later.iter().any(|owed| owed.expect == Expect::Sync) {
            self.unsynced = true;
        }
        self.expected.extend(later);
        self.ends = self.expected.iter().filter(|owed| owed.expect.ends_batch()).count();
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
