//! The five-byte header of every message after start-up, and the walk over a stream of them.
//!
//! Invariant: what a [`Flow`] says is pending never reaches past the bytes that a caller has agreed to let through, and a
//! declared length is checked before anything is kept for it, so no length can make the proxy allocate.

use bytes::{Buf, BytesMut};

/// Bytes of a message header: tag and length.
pub const HEADER: usize = 5;

/// The most room that is made at once for a message that is to be seen whole.
const WHOLE_ROOM: usize = 64 << 10;

/// A message's tag and the length of its body, that is without tag and length word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The message's type byte.
    pub tag: u8,
    /// Bytes that follow the header.
    pub body: usize,
}

/// A length word below 4, which no message can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid message length {length} for message type {tag:#04x}")]
pub struct BadLength {
    /// The message's type byte.
    pub tag: u8,
    /// The length word as the peer sent it.
    pub length: i32,
}

/// Reads a header off the front of `bytes`; `None` while fewer than five are there.
///
/// # Errors
/// [`BadLength`] if the length word is below 4, its own size.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [tag, length @ ..] = *head;
    let length = i32::from_be_bytes(length);
    match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
        Some(body) => Ok(Some(Header { tag, body })),
        None => Err(BadLength { tag, length }),
    }
}

/// Takes one whole message of at most `limit` body bytes off the front of `buf`: its tag and its body.
/// `None` while it is not all there. For log-in and console, where messages are small; never for the relay.
///
/// # Errors
/// [`BadLength`] for a length below 4 or above `limit`.
pub fn take(buf: &mut BytesMut, limit: usize) -> Result<Option<(u8, BytesMut)>, BadLength> {
    let Some(Header { tag, body }) = header(buf)? else {
        return Ok(None);
    };
    if body > limit {
        return Err(BadLength { tag, length: i32::try_from(body.saturating_add(4)).unwrap_or(i32::MAX) });
    }
    if buf.len() < HEADER + body {
        return Ok(None);
    }
    buf.advance(HEADER);
    Ok(Some((tag, buf.split_to(body))))
}

/// What is made room for, step by step as reads fill it. Most requests and answers fit into the first, which the allocator
/// keeps at hand for each thread.
const ROOMS: [usize; 3] = [1000, 8 << 10, ROOM_MAX];
/// Bulk data.
const ROOM_MAX: usize = 64 << 10;

/// What the owner of a [`Flow`] says about the message whose header stands next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it through, all of it, as its bytes arrive.
    Pass,
    /// Let it through but for its first bytes, header included, so many of which must have arrived: what was inserted
    /// stands in their place.
    Without(usize),
    /// Ask again when the whole message is in the buffer.
    Whole,
    /// Swallow it.
    Drop,
    /// Stop before it: it stays in the buffer.
    Stop,
}

/// One direction of a relay: bytes that may be written out, then bytes that were not looked at yet.
///
/// What passes unchanged is written out of the buffer that it was read into. Where something is inserted, swallowed or
/// replaced, the bytes around it are copied to a second buffer, once for each walk and not for each message.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes in arrival order: those that may be written, then those not yet looked at.
    pub buf: BytesMut,
    /// How many bytes at the front of `buf` may be written. None while anything is staged.
    ready: usize,
    /// Bytes that go out before anything in `buf`.
    staged: BytesMut,
    /// Bytes of the current message that have not arrived yet.
    rest: usize,
    /// Whether those are to be swallowed.
    dropping: bool,
    /// How long the message is that is to be seen whole and has not all arrived.
    awaited: usize,
}

impl Flow {
    /// A flow that begins with these bytes.
    #[must_use]
    pub fn new(buf: BytesMut) -> Self {
        let mut flow = Self { buf, ..Self::default() };
        flow.release_memory();
        flow
    }

    /// Whether the last message that was let through is complete: nothing of it is still to come or to be written.
    #[must_use]
    pub fn at_message_end(&self) -> bool {
        self.rest == 0 && !self.has_pending()
    }

    /// Whether nothing is in it, and no message is half through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.staged.is_empty() && self.rest == 0
    }

    /// Whether a message has been let through of which bytes are still to come.
    #[must_use]
    pub const fn mid_message(&self) -> bool {
        self.rest > 0
    }

    /// Bytes that may be written now. There may be more behind them: ask again until none are left.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        if self.staged.is_empty() { self.buf.get(..self.ready).unwrap_or_default() } else { &self.staged }
    }

    /// Whether there are such bytes.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.ready > 0 || !self.staged.is_empty()
    }

    /// Bytes that have arrived but were not let through yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.buf.get(self.ready..).unwrap_or_default()
    }

    /// Whether a whole message with this tag has arrived and was not let through yet. To be asked between messages.
    #[must_use]
    pub fn has(&self, tag: u8) -> bool {
        let mut bytes = if self.at_message_end() { self.unread() } else { &[] };
        while let Ok(Some(head)) = header(bytes)
            && let Some(rest) = bytes.get(HEADER + head.body..)
        {
            if head.tag == tag {
                return true;
            }
            bytes = rest;
        }
        false
    }

    /// Whether a walk has asked for a whole message that is longer than what has arrived: reading on is all that helps.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.unread().len() < self.awaited
    }

    /// Marks `n` of the pending bytes as written.
    pub fn written(&mut self, n: usize) {
        if self.staged.is_empty() {
            let n = n.min(self.ready);
            self.ready -= n;
            self.buf.advance(n);
        } else {
            self.staged.advance(n.min(self.staged.len()));
        }
    }

    /// Drops what was let through and not written.
    pub fn forget_pending(&mut self) {
        self.staged.clear();
        self.written(self.ready);
    }

    /// Puts a message of our own behind what was let through. False, and nothing done, in the middle of a message.
    pub fn insert(&mut self, message: &[u8]) -> bool {
        if self.rest > 0 {
            return false;
        }
        self.stage();
        self.staged.extend_from_slice(message);
        true
    }

    /// Puts whole messages before those that were not looked at yet. False, and nothing done, in the middle of a message.
    pub fn put_back(&mut self, messages: &[u8]) -> bool {
        if self.rest > 0 {
            return false;
        }
        self.stage();
        let mut buf = BytesMut::with_capacity(messages.len() + self.buf.len());
        buf.extend_from_slice(messages);
        buf.extend_from_slice(&self.buf);
        self.buf = buf;
        true
    }

    /// Walks the headers that have arrived. `judge` sees each header once (again after [`Verdict::Whole`] or
    /// [`Verdict::Stop`]) with as much of the message's body as is there, and says what to do with the message. What it
    /// writes to its last argument goes out before the message, whatever becomes of that.
    ///
    /// Returns true if it ended at a [`Verdict::Stop`].
    ///
    /// # Errors
    /// What `judge` returns, and [`BadLength`] turned into the same type.
    pub fn walk<E: From<BadLength>>(
        &mut self,
        mut judge: impl FnMut(Header, &[u8], &mut BytesMut) -> Result<Verdict, E>,
    ) -> Result<bool, E> {
        self.awaited = 0;
        loop {
            if self.rest > 0 {
                let n = self.rest.min(self.buf.len() - self.ready);
                self.rest -= n;
                self.advance(n);
                if self.rest > 0 {
                    return Ok(false);
                }
            }
            let unread = self.buf.get(self.ready..).unwrap_or_default();
            let Some(head) = header(unread)? else {
                return Ok(false);
            };
            let arrived = unread.get(HEADER..).unwrap_or_default();
            let body = arrived.get(..head.body).unwrap_or(arrived);
            let incomplete = body.len() < head.body;
            let staged = self.staged.len();
            let verdict = judge(head, body, &mut self.staged).inspect_err(|_| self.staged.truncate(staged))?;
            if self.staged.is_empty() {
                // By far the most frequent: it stays where it is.
                if verdict == Verdict::Pass && !incomplete {
                    self.ready += HEADER + head.body;
                    continue;
                }
            } else if staged == 0 {
                self.stage_behind_ready();
            }
            self.dropping = false;
            match verdict {
                Verdict::Stop => return Ok(true),
                Verdict::Whole if incomplete => {
                    // Never for all that is declared: a peer may say a gigabyte and send nothing.
                    self.awaited = HEADER + head.body;
                    self.buf.reserve((self.awaited - self.unread().len()).min(WHOLE_ROOM));
                    return Ok(false);
                }
                Verdict::Whole | Verdict::Pass => self.rest = HEADER + head.body,
                Verdict::Without(first) => {
                    self.cut(first);
                    self.rest = (HEADER + head.body).saturating_sub(first);
                }
                Verdict::Drop => {
                    self.rest = HEADER + head.body;
                    self.dropping = true;
                }
            }
        }
    }

    /// What is staged was written by a judge, and is the first that is: it goes out behind all that was let through before, and all
    /// that follows it is to have room, once.
    fn stage_behind_ready(&mut self) {
        if self.ready > 0 {
            let written = std::mem::take(&mut self.staged);
            self.staged.reserve(written.len() + self.buf.len());
            self.stage();
            self.staged.extend_from_slice(&written);
        } else {
            self.staged.reserve(self.buf.len());
        }
    }

    /// Takes the next `n` bytes of the current message out of the unread ones.
    fn advance(&mut self, n: usize) {
        if self.dropping {
            self.cut(n);
        } else if self.staged.is_empty() {
            self.ready += n;
        } else {
            self.staged.extend_from_slice(self.buf.get(..n).unwrap_or_default());
            self.buf.advance(n);
        }
    }

    /// Removes the first `n` unread bytes.
    fn cut(&mut self, n: usize) {
        if self.ready > 0 {
            self.stage();
        }
        self.buf.advance(n);
    }

    /// From here on until all is written, what goes out is staged: nothing ready stays in `buf`.
    fn stage(&mut self) {
        if self.ready > 0 {
            // A copy: a part that was split off would keep the buffer from being used again.
            self.staged.extend_from_slice(self.buf.get(..self.ready).unwrap_or_default());
            self.buf.advance(std::mem::take(&mut self.ready));
        }
    }

    /// How much room to make for the next read: more where reads have filled what was there.
    #[must_use]
    pub fn room(&self) -> usize {
        ROOMS.into_iter().find(|room| self.buf.capacity() <= *room).unwrap_or(ROOM_MAX)
    }

    /// A read into `room` has brought `n` bytes; if it has filled it, the next one gets more, up to the most.
    pub fn was_read(&mut self, n: usize, room: usize) {
        // By what there is, not by `room`: behind bytes that were taken out of it, a large buffer looks small.
        if n >= room
            && let Some(more) = ROOMS.into_iter().find(|more| *more > self.buf.capacity())
        {
            self.buf.reserve(more);
        }
    }

    /// Gives the buffers' memory back if nothing is in them: idle clients keep none.
    pub fn release_memory(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > 0 {
            self.buf = BytesMut::new();
        }
        if self.staged.is_empty() && self.staged.capacity() > 0 {
            self.staged = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    fn write_all(flow: &mut Flow, out: &mut Vec<u8>) {
        while flow.has_pending() {
            out.extend_from_slice(flow.pending());
            flow.written(flow.pending().len());
        }
    }

    #[test]
    fn a_length_below_its_own_size_is_refused() {
        for length in [i32::MIN, -2, -1, 0, 1, 3] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(header(&bytes), Err(BadLength { tag: b'Q', length }));
        }
        assert_eq!(header(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', body: 0 })));
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
    }

    #[test]
    fn a_message_that_has_arrived_is_found_behind_others_and_not_inside_them() {
        let bytes = [message(b'Q', b"X\0\0\0\x04"), message(b'S', b""), message(b'X', b"")].concat();
        for end in 0..bytes.len() {
            assert!(!Flow::new(BytesMut::from(&bytes[..end])).has(b'X'), "{end} of {}", bytes.len());
        }
        assert!(Flow::new(BytesMut::from(&bytes[..])).has(b'X'));
        assert!(!Flow::new(BytesMut::from(&b"Q\0\0\0\x03X\0\0\0\x04"[..])).has(b'X'), "nothing is behind nonsense");
    }

    #[test]
    fn take_refuses_more_than_its_limit_before_it_arrives() {
        let mut buf = BytesMut::from(&b"p\x7f\xff\xff\xff"[..]);
        assert!(take(&mut buf, 1000).is_err());
    }

    /// Any split of the stream lets the same bytes through, in the same order, and drops the same ones.
    #[test]
    fn any_split_passes_the_same_bytes() {
        let mut stream = Vec::<u8>::new();
        let mut expected = Vec::<u8>::new();
        for (tag, body) in
            [(b'D', &b"abc"[..]), (b'x', b"dropped"), (b'C', b""), (b'Z', b"I"), (b'x', b""), (b'D', &[7; 300])]
        {
            let m = message(tag, body);
            if tag != b'x' {
                expected.extend(&m);
            }
            stream.extend(&m);
        }
        for step in 1..stream.len() {
            let mut flow = Flow::default();
            let mut out = Vec::new();
            for chunk in stream.chunks(step) {
                flow.buf.extend_from_slice(chunk);
                let stopped = flow.walk(|head, body, _| {
                    Ok::<_, BadLength>(match head.tag {
                        b'x' => Verdict::Drop,
                        b'Z' if body.is_empty() => Verdict::Whole,
                        _ => Verdict::Pass,
                    })
                });
                assert_eq!(stopped, Ok(false));
                // Write only some of it, so that dropping behind unwritten bytes is covered too.
                let n = flow.pending().len() / 2;
                out.extend_from_slice(&flow.pending()[..n]);
                flow.written(n);
            }
            write_all(&mut flow, &mut out);
            assert_eq!(out, expected, "split every {step} bytes");
            assert!(flow.at_message_end() && flow.buf.is_empty());
        }
    }

    /// The same for what is inserted and replaced, with the messages that pass around it.
    #[test]
    fn any_split_rewrites_the_same_bytes() {
        let (mut stream, mut expected) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (tag, body) in [
            (b'D', &b"abc"[..]),
            (b'B', b"name\0rest"),
            (b'C', b""),
            (b'x', b"gone"),
            (b'B', b"n\0"),
            (b'D', &[7; 300]),
        ] {
            let m = message(tag, body);
            match tag {
                b'x' => expected.extend(message(b'i', b"instead")),
                b'B' => {
                    let rest = body.iter().position(|&byte| byte == 0).unwrap() + 1;
                    expected.extend(message(b'i', b""));
                    expected.extend(message(b'B', &[b"other\0", &body[rest..]].concat()));
                }
                _ => expected.extend(&m),
            }
            stream.extend(&m);
        }
        for step in 1..stream.len() {
            let (mut flow, mut out) = (Flow::default(), Vec::new());
            for chunk in stream.chunks(step) {
                flow.buf.extend_from_slice(chunk);
                flow.walk(|head, body, insert| {
                    Ok::<_, BadLength>(match head.tag {
                        b'x' => {
                            insert.extend_from_slice(&message(b'i', b"instead"));
                            Verdict::Drop
                        }
                        b'B' => {
                            let Some(end) = body.iter().position(|&byte| byte == 0) else { return Ok(Verdict::Whole) };
                            insert.extend_from_slice(&message(b'i', b""));
                            let head = message(b'B', &vec![0; head.body - end - 1 + 6]);
                            insert.extend_from_slice(&head[..HEADER]);
                            insert.extend_from_slice(b"other\0");
                            Verdict::Without(HEADER + end + 1)
                        }
                        _ => Verdict::Pass,
                    })
                })
                .unwrap();
                let n = flow.pending().len() / 2;
                out.extend_from_slice(&flow.pending()[..n]);
                flow.written(n);
            }
            write_all(&mut flow, &mut out);
            assert_eq!(out, expected, "split every {step} bytes");
            assert!(flow.at_message_end() && flow.buf.is_empty());
        }
    }

    #[test]
    fn a_declared_length_makes_no_room_for_it() {
        let mut flow = Flow::default();
        flow.buf.extend_from_slice(b"Q\x3f\xff\xff\xf0");
        assert_eq!(flow.walk(|_, _, _| Ok::<_, BadLength>(Verdict::Whole)), Ok(false));
        assert!(flow.buf.capacity() <= 2 * WHOLE_ROOM, "{}", flow.buf.capacity());
    }

    #[test]
    fn stop_leaves_the_message_in_the_buffer() {
        let mut flow = Flow::default();
        flow.buf.extend(message(b'S', b""));
        flow.buf.extend(message(b'Q', b"select 1\0"));
        let judge = |head: Header, _: &[u8], _: &mut BytesMut| {
            Ok::<_, BadLength>(if head.tag == b'Q' { Verdict::Stop } else { Verdict::Pass })
        };
        assert_eq!(flow.walk(judge), Ok(true));
        assert_eq!(flow.pending().len(), 5);
        assert_eq!(flow.unread(), message(b'Q', b"select 1\0"));
    }
}
