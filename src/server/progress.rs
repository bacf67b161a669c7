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
    expected: VecDeque<Expect>,
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
    /// The client sent something whose effect on the replies we cannot predict: never a boundary again.
    tainted: bool,
    broken: bool,
}

impl Progress {
    /// A connection that has just logged in, with the proof that goes with it.
    pub fn fresh() -> (Self, Boundary) {
        let progress = Self {
            expected: VecDeque::new(),
            status: Status::Idle,
            unsynced: false,
            skipping: false,
            copy_in: false,
            early: 0,
            surplus: 0,
            tainted: false,
            broken: false,
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

    /// The proof, if there is one: both directions must be empty too.
    #[must_use]
    pub fn boundary(&self, to_server: &Flow, to_client: &Flow) -> Option<Boundary> {
        let nothing_half_sent = to_server.at_message_end() && to_client.at_message_end() && to_client.buf.is_empty();
        let clean = self.at_rest() && !self.tainted && self.status == Status::Idle;
        (clean && nothing_half_sent).then_some(Boundary(()))
    }

    /// Whether more may come than was asked for: whoever has the server may go on with it, but nobody else may get it.
    #[must_use]
    pub const fn may_say_more(&self) -> bool {
        self.surplus > 0
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

    /// A client's message with this tag has been let through to the server.
    pub fn sent(&mut self, tag: u8) {
        match tag {
            client::COPY_DATA | client::FLUSH => {}
            client::COPY_DONE | client::COPY_FAIL => {
                if self.copy_in {
                    self.copy_in = false;
                } else if !self.expected.is_empty() {
                    self.expected.push_back(Expect::CopyEnd);
                }
            }
            client::SYNC => {
                if !self.copy_in {
                    self.skipping = false;
                    self.unsynced = false;
                    self.expected.push_back(Expect::Sync);
                }
            }
            // The server ends the COPY with an error and eats the message; whether it answers the ones
            // behind it depends on what it had read by then.
            _ if self.copy_in => self.tainted = true,
            _ if self.skipping => {}
            client::QUERY => self.request(Expect::Query),
            client::FUNCTION_CALL => self.request(Expect::Function),
            client::PARSE => self.extended(Expect::Parse),
            client::BIND => self.extended(Expect::Bind),
            client::DESCRIBE => self.extended(Expect::Describe),
            client::EXECUTE => self.extended(Expect::Execute),
            client::CLOSE => self.extended(Expect::Close),
            _ => self.tainted = true,
        }
    }

    fn request(&mut self, expect: Expect) {
        self.unsynced = false;
        self.expected.push_back(expect);
    }

    fn extended(&mut self, expect: Expect) {
        self.unsynced = true;
        self.expected.push_back(expect);
    }

    /// A server's message with this tag has arrived; `status` is the body of a ReadyForQuery.
    ///
    /// # Errors
    /// [`Unexpected`] if it answers nothing that was asked; the server is [`broken`](Self::broken) from then on.
    pub fn received(&mut self, tag: u8, status: &[u8]) -> Result<(), Unexpected> {
        let front = self.expected.front().copied();
        let fits = match (tag, front) {
            (server::NOTICE | server::NOTIFICATION | server::PARAMETER_STATUS, _) => true,
            (server::READY_FOR_QUERY, Some(Expect::Query | Expect::Function | Expect::Sync)) => self.ready(status),
            (server::READY_FOR_QUERY, None) if self.surplus > 0 => {
                self.surplus -= 1;
                // The Sync has ended the skipping after all.
                self.unsynced &= !std::mem::take(&mut self.skipping);
                self.ready(status)
            }
            (server::ERROR, front) => self.error(front),
            (server::PARSE_COMPLETE, Some(Expect::Parse))
            | (server::BIND_COMPLETE, Some(Expect::Bind))
            | (server::CLOSE_COMPLETE, Some(Expect::Close))
            | (server::ROW_DESCRIPTION | server::NO_DATA, Some(Expect::Describe))
            | (server::COMMAND_COMPLETE | server::EMPTY_QUERY | server::PORTAL_SUSPENDED, Some(Expect::Execute)) => {
                self.expected.pop_front();
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
        // The end of COPY data belongs to what stood before it, and that is over.
        while self.expected.front() == Some(&Expect::CopyEnd) {
            self.expected.pop_front();
        }
        if tag == server::COMMAND_COMPLETE {
            // The COPY was read to its end, and with it what was sent ahead of that.
            self.early = 0;
        }
        if fits {
            Ok(())
        } else {
            self.broken = true;
            Err(Unexpected { tag })
        }
    }

    fn ready(&mut self, status: &[u8]) -> bool {
        self.status = match status {
            b"I" => Status::Idle,
            b"T" => Status::InTransaction,
            b"E" => Status::Failed,
            _ => return false,
        };
        self.expected.pop_front();
        self.copy_in = false;
        true
    }

    /// After an error in the extended protocol the server skips everything up to the next Sync, simple
    /// queries among it; after one in a simple query its own ReadyForQuery still comes.
    fn error(&mut self, front: Option<Expect>) -> bool {
        self.copy_in = false;
        self.surplus += std::mem::take(&mut self.early);
        match front {
            Some(Expect::Query | Expect::Function | Expect::Sync) => true,
            Some(_) => {
                while self.expected.front().is_some_and(|expect| *expect != Expect::Sync) {
                    self.expected.pop_front();
                }
                self.skipping = self.expected.is_empty();
                true
            }
            // Nothing was asked: the server is going down, or says so to a connection it is about to close.
            None => false,
        }
    }

    /// The server reads COPY data now. Syncs that were sent ahead of the data's end do not count: it ignores them.
    fn copy_begins(&mut self, front: Expect) {
        let end = self.expected.iter().position(|expect| *expect == Expect::CopyEnd);
        let ahead = end.unwrap_or(self.expected.len());
        if self.expected.iter().take(ahead).skip(1).any(|expect| *expect != Expect::Sync) {
            self.tainted = true;
            return;
        }
        self.early += ahead.saturating_sub(1);
        let later = self.expected.split_off(end.map_or(ahead, |end| end + 1));
        self.expected.truncate(1);
        self.copy_in = end.is_none();
        // Those Syncs seemed to end the implicit transaction; it is open again unless a later one was sent.
        if front == Expect::Execute && !later.contains(&Expect::Sync) {
            self.unsynced = true;
        }
        self.expected.extend(later);
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
