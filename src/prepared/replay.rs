//! What a client has sent since it began to use a statement, kept until the server says that it has taken that.
//!
//! A statement that another client has prepared, or this one on another server, may be of an older schema there, and a client
//! whose own knowledge is not wrong must not be told so. Postgres refuses such a statement before anything of the batch has run,
//! so the batch can be sent again from there, with the statement prepared anew, and nothing is done twice. That is so for the
//! first use in a batch, outside a transaction block, while nothing behind the batch was sent; everything else is Postgres' own answer.

use bytes::{BufMut, BytesMut};

use crate::wire::frame::{HEADER, Header};
use crate::wire::tags::client;

/// The most that is kept; what is longer is not sent twice.
const KEPT_MAX: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Nothing of this batch has used anything.
    #[default]
    Open,
    /// The first use has been sent, and this batch goes on.
    Keeping,
    /// It has been sent to its end.
    Kept,
    /// The server has refused it, and what is kept is to be sent again.
    Due,
    /// It is answered, or it cannot be sent twice.
    Spent,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Replay {
    stage: Stage,
    kept: BytesMut,
    /// The part of the server's answer to it that comes before Postgres looks whether it is stale; the client gets it with the rest.
    held: BytesMut,
}

impl Replay {
    /// The buffers keep their memory, of which there is [`KEPT_MAX`] for a server at most: this is done in each transaction.
    fn is(&mut self, stage: Stage) {
        self.stage = stage;
        self.kept.clear();
        self.held.clear();
    }

    /// Nothing is on its way: what is sent next begins a batch.
    pub fn rests(&mut self) {
        if self.stage != Stage::Open {
            self.is(Stage::Open);
        }
    }

    /// The message that is judged uses a statement that was there before.
    pub fn uses(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Keeping;
        }
    }

    /// A client's message has been let through; `body` is as much of it as has arrived.
    pub fn sent(&mut self, head: Header, body: &[u8]) {
        match (self.stage, head.tag) {
            (Stage::Open, client::PARSE | client::CLOSE | client::FLUSH | client::SYNC) => {}
            (Stage::Keeping, _) if body.len() == head.body && self.kept.len() + HEADER + body.len() <= KEPT_MAX => {
                write(head.tag, body, &mut self.kept);
                if head.tag == client::SYNC {
                    self.stage = Stage::Kept;
                }
            }
            (Stage::Open | Stage::Keeping | Stage::Kept, _) => self.is(Stage::Spent),
            (Stage::Due | Stage::Spent, _) => {}
        }
    }

    const fn keeps(&self) -> bool {
        matches!(self.stage, Stage::Keeping | Stage::Kept)
    }

    /// The server has begun to answer a Describe. True: the client gets it later.
    pub fn holds(&mut self, tag: u8, body: &[u8]) -> bool {
        if self.keeps() {
            write(tag, body, &mut self.held);
        }
        self.keeps()
    }

    /// The server has taken a use of a statement, or said something else than that it is stale. What the client is to be told
    /// before that.
    #[must_use]
    pub fn taken(&mut self) -> BytesMut {
        let held = std::mem::take(&mut self.held);
        if self.keeps() {
            self.is(Stage::Spent);
        }
        held
    }

    /// The server has refused a use of a statement, because that is stale. True: it will be sent again, and nobody needs to know.
    pub fn refused(&mut self) -> bool {
        let keeps = self.keeps();
        if keeps {
            self.stage = Stage::Due;
            self.held.clear();
        }
        keeps
    }

    /// Whether what is kept waits for the end of the refused batch.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.stage == Stage::Due
    }

    /// The refused batch is over: what is to be sent again.
    pub fn take(&mut self) -> BytesMut {
        self.stage = Stage::Open;
        std::mem::take(&mut self.kept)
    }
}

fn write(tag: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(replay: &mut Replay, tag: u8, body: &[u8]) {
        replay.sent(Header { tag, body: body.len() }, body);
    }

    #[test]
    fn the_first_use_is_kept_to_the_end_of_its_batch() {
        let mut replay = Replay::default();
        sent(&mut replay, client::PARSE, b"s");
        replay.uses();
        sent(&mut replay, client::BIND, b"bind");
        sent(&mut replay, client::SYNC, b"");
        assert!(replay.refused() && replay.is_due());
        assert_eq!(&replay.take()[..], b"B\0\0\0\x08bindS\0\0\0\x04");
        assert!(!replay.is_due());
    }

    #[test]
    fn nothing_is_sent_twice_that_something_ran_before_or_came_behind() {
        let ran = |replay: &mut Replay| sent(replay, client::EXECUTE, b"");
        let taken = |replay: &mut Replay| {
            replay.uses();
            sent(replay, client::BIND, b"one");
            assert!(replay.taken().is_empty());
        };
        let both: [fn(&mut Replay); 2] = [ran, taken];
        for before in both {
            let mut replay = Replay::default();
            before(&mut replay);
            replay.uses();
            sent(&mut replay, client::BIND, b"two");
            assert!(!replay.refused());
            replay.rests();
            replay.uses();
            sent(&mut replay, client::BIND, b"three");
            assert!(replay.refused());
        }
        let mut replay = Replay::default();
        replay.uses();
        for tag in [client::BIND, client::SYNC, client::PARSE] {
            sent(&mut replay, tag, b"");
        }
        assert!(!replay.refused(), "another batch stands behind it");
    }

    #[test]
    fn half_an_answer_is_told_once() {
        let mut replay = Replay::default();
        assert!(!replay.holds(b't', b"1"));
        for stale in [true, false] {
            replay.uses();
            sent(&mut replay, client::DESCRIBE, b"s");
            assert!(replay.holds(b't', b"1"));
            if stale {
                assert!(replay.refused());
                assert_eq!(&replay.take()[..], b"D\0\0\0\x05s");
            } else {
                assert_eq!(&replay.taken()[..], b"t\0\0\0\x051");
            }
        }
    }

    #[test]
    fn what_is_long_or_has_not_all_arrived_is_not_kept() {
        for (head, body) in [(KEPT_MAX, KEPT_MAX), (9, 4)] {
            let mut replay = Replay::default();
            replay.uses();
            replay.sent(Header { tag: client::BIND, body: head }, &vec![0; body]);
            assert!(!replay.refused() && replay.kept.is_empty());
        }
    }
}
