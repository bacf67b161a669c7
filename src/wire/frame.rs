//! The five-byte header of every message after start-up, and the walk over a stream of them.
//!
//! Invariant: [`Flow::ready`] never reaches past the bytes that a caller has agreed to let through, and a
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

/// What the owner of a [`Flow`] says about the message whose header stands next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it through, all of it, as its bytes arrive.
    Pass,
    /// Ask again when the whole message is in the buffer.
    Whole,
    /// Swallow it.
    Drop,
    /// Stop before it: it stays in the buffer.
    Stop,
}

/// One direction of a relay: a buffer of which the first [`ready`](Flow::ready) bytes may be written out.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes in arrival order: those that may be written, then those not yet looked at.
    pub buf: BytesMut,
    /// How many bytes at the front of `buf` may be written.
    pub ready: usize,
    /// Bytes of the current message that have not arrived yet.
    rest: usize,
    /// Whether those are to be swallowed.
    dropping: bool,
}

impl Flow {
    /// A flow that begins with these bytes.
    #[must_use]
    pub fn new(buf: BytesMut) -> Self {
        Self { buf, ..Self::default() }
    }

    /// Whether the last message that was let through is complete: nothing of it is still to come or to be written.
    #[must_use]
    pub const fn at_message_end(&self) -> bool {
        self.rest == 0 && self.ready == 0
    }

    /// Whether a message has been let through of which bytes are still to come.
    #[must_use]
    pub const fn mid_message(&self) -> bool {
        self.rest > 0
    }

    /// Bytes that have arrived but were not let through yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.buf.get(self.ready..).unwrap_or_default()
    }

    /// Marks `n` of the ready bytes as written.
    pub fn written(&mut self, n: usize) {
        let n = n.min(self.ready);
        self.ready -= n;
        self.buf.advance(n);
    }

    /// Walks the headers that have arrived. `judge` sees each header once (again after [`Verdict::Whole`] or
    /// [`Verdict::Stop`]) with as much of the message's body as is there, and says what to do with the message.
    ///
    /// Returns true if it ended at a [`Verdict::Stop`].
    ///
    /// # Errors
    /// What `judge` returns, and [`BadLength`] turned into the same type.
    pub fn walk<E: From<BadLength>>(
        &mut self,
        mut judge: impl FnMut(Header, &[u8]) -> Result<Verdict, E>,
    ) -> Result<bool, E> {
        loop {
            if self.rest > 0 {
                let n = self.rest.min(self.buf.len() - self.ready);
                self.rest -= n;
                if self.dropping {
                    self.cut(n);
                } else {
                    self.ready += n;
                }
                if self.rest > 0 {
                    return Ok(false);
                }
            }
            let unread = self.unread();
            let Some(head) = header(unread)? else {
                return Ok(false);
            };
            let arrived = unread.get(HEADER..).unwrap_or_default();
            let body = arrived.get(..head.body).unwrap_or(arrived);
            match judge(head, body)? {
                Verdict::Stop => return Ok(true),
                Verdict::Whole if body.len() < head.body => {
                    // Never for all that is declared: a peer may say a gigabyte and send nothing.
                    self.buf.reserve((head.body - body.len()).min(WHOLE_ROOM));
                    return Ok(false);
                }
                Verdict::Whole | Verdict::Pass => {
                    self.dropping = false;
                    self.ready += HEADER;
                    self.rest = head.body;
                }
                Verdict::Drop => {
                    self.dropping = true;
                    self.cut(HEADER);
                    self.rest = head.body;
                }
            }
        }
    }

    /// Removes `n` bytes that stand right behind the ready ones.
    fn cut(&mut self, n: usize) {
        if self.ready == 0 {
            self.buf.advance(n);
        } else {
            let tail = self.buf.split_off(self.ready + n);
            self.buf.truncate(self.ready);
            self.buf.unsplit(tail);
        }
    }

    /// Gives the buffer's memory back if nothing is in it: idle clients keep none.
    pub fn release_memory(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > 0 {
            self.buf = BytesMut::new();
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
                let stopped = flow.walk(|head, body| {
                    Ok::<_, BadLength>(match head.tag {
                        b'x' => Verdict::Drop,
                        b'Z' if body.is_empty() => Verdict::Whole,
                        _ => Verdict::Pass,
                    })
                });
                assert_eq!(stopped, Ok(false));
                // Write only some of it, so that dropping behind unwritten bytes is covered too.
                let n = flow.ready / 2;
                out.extend_from_slice(&flow.buf[..n]);
                flow.written(n);
            }
            out.extend_from_slice(&flow.buf[..flow.ready]);
            flow.written(flow.ready);
            assert_eq!(out, expected, "split every {step} bytes");
            assert!(flow.at_message_end() && flow.buf.is_empty());
        }
    }

    #[test]
    fn a_declared_length_makes_no_room_for_it() {
        let mut flow = Flow::default();
        flow.buf.extend_from_slice(b"Q\x3f\xff\xff\xf0");
        assert_eq!(flow.walk(|_, _| Ok::<_, BadLength>(Verdict::Whole)), Ok(false));
        assert!(flow.buf.capacity() <= 2 * WHOLE_ROOM, "{}", flow.buf.capacity());
    }

    #[test]
    fn stop_leaves_the_message_in_the_buffer() {
        let mut flow = Flow::default();
        flow.buf.extend(message(b'S', b""));
        flow.buf.extend(message(b'Q', b"select 1\0"));
        let judge =
            |head: Header, _: &[u8]| Ok::<_, BadLength>(if head.tag == b'Q' { Verdict::Stop } else { Verdict::Pass });
        assert_eq!(flow.walk(judge), Ok(true));
        assert_eq!(flow.ready, 5);
        assert_eq!(flow.unread(), message(b'Q', b"select 1\0"));
    }
}
