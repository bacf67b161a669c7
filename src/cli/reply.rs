//! What a console answers, taken apart: bytes in, one [`Reply`] out, no socket.
//!
//! Lengths are checked before anything is believed, and a message that does not fit its own length is an error,
//! never a panic. Only the messages that a simple query and a log-in can bring are known; others are passed over.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// No honest answer of a console is longer than this; a larger length means that it is not a console.
const LENGTH_MAX: usize = 64 << 20;

/// An ErrorResponse or a NoticeResponse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// `ERROR`, `FATAL`, `NOTICE` and so on.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The one sentence.
    pub message: String,
    /// More of it, or empty.
    pub detail: String,
    /// What to do next, or empty.
    pub hint: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        // Some messages end with it already.
        let said = self.message.ends_with(&format!("({})", self.code));
        if !self.code.is_empty() && self.code != "00000" && !said {
            write!(f, " (SQLSTATE {})", self.code)?;
        }
        Ok(())
    }
}

/// One message from the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// An authentication request: its number and what belongs to it.
    Auth(u32, Bytes),
    /// The names of the columns of the rows that follow.
    Columns(Vec<String>),
    /// One row; `None` is NULL.
    Row(Vec<Option<String>>),
    /// A command is complete; its tag.
    Done(String),
    /// Something to tell the operator while the command runs.
    Notice(Report),
    /// The command failed.
    Error(Report),
    /// The console waits for the next command.
    Ready,
    /// A message that does not matter here.
    Other,
}

/// Why bytes are not an answer of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this does not look like a PostgreSQL server: {0}")]
pub struct NotAConsole(&'static str);

/// Takes the next whole message off the front of `buffer`; `None` if there is none yet.
pub(crate) fn next(buffer: &mut BytesMut) -> Result<Option<Reply>, NotAConsole> {
    let Some(&[tag, a, b, c, d]) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=LENGTH_MAX).contains(&length) {
        return Err(NotAConsole("a message has an impossible length"));
    }
    if buffer.len() < length + 1 {
        return Ok(None);
    }
    let mut body = buffer.split_to(length + 1).freeze();
    body.advance(5);
    let short = NotAConsole("a message is shorter than it says");
    let reply = match tag {
        b'R' => Reply::Auth(body.try_get_u32().map_err(|_| short)?, body),
        b'T' => Reply::Columns(columns(body).ok_or(short)?),
        b'D' => Reply::Row(row(body).ok_or(short)?),
        b'C' => Reply::Done(text(&mut body).ok_or(short)?),
        b'N' => Reply::Notice(report(body).ok_or(short)?),
        b'E' => Reply::Error(report(body).ok_or(short)?),
        b'Z' => Reply::Ready,
        b'S' | b'K' | b'I' | b'A' | b'v' => Reply::Other,
        _ => return Err(NotAConsole("a message of an unknown kind")),
    };
    Ok(Some(reply))
}

/// A string that ends with a zero byte.
fn text(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|&b| b == 0)?;
    let out = String::from_utf8_lossy(&body[..end]).into_owned();
    body.advance(end + 1);
    Some(out)
}

fn columns(mut body: Bytes) -> Option<Vec<String>> {
    let count = body.try_get_u16().ok()?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(text(&mut body)?);
        // Table, column, type, size, modifier and format: 18 bytes that a text answer does not need.
        if body.len() < 18 {
            return None;
        }
        body.advance(18);
    }
    Some(names)
}

fn row(mut body: Bytes) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            values.push(None);
            continue;
        };
        if body.len() < length {
            return None;
        }
        values.push(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    Some(values)
}

fn report(mut body: Bytes) -> Option<Report> {
    let mut out = Report::default();
    loop {
        let field = body.try_get_u8().ok()?;
        if field == 0 {
            return Some(out);
        }
        let value = text(&mut body)?;
        match field {
            // V is the severity that is never translated; S stands before it.
            b'V' | b'S' => out.severity = value,
            b'C' => out.code = value,
            b'M' => out.message = value,
            b'D' => out.detail = value,
            b'H' => out.hint = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn one(tag: u8, body: &[u8]) -> Result<Option<Reply>, NotAConsole> {
        next(&mut BytesMut::from(&message(tag, body)[..]))
    }

    #[test]
    fn known_messages() {
        let columns = [&[0, 1][..], b"id\0", &[0; 18]].concat();
        assert_eq!(one(b'T', &columns), Ok(Some(Reply::Columns(vec!["id".into()]))));
        let row = [&[0, 2, 0, 0, 0, 2][..], b"ab", &[0xff; 4]].concat();
        assert_eq!(one(b'D', &row), Ok(Some(Reply::Row(vec![Some("ab".into()), None]))));
        assert_eq!(one(b'C', b"WINDOW\0"), Ok(Some(Reply::Done("WINDOW".into()))));
        assert_eq!(one(b'Z', b"I"), Ok(Some(Reply::Ready)));
        assert_eq!(one(b'R', &[0, 0, 0, 0]), Ok(Some(Reply::Auth(0, Bytes::new()))));
        let error = b"SERROR\0C55000\0Mno\0Ddetail\0Hhint\0\0";
        let expect = Report {
            severity: "ERROR".into(),
            code: "55000".into(),
            message: "no".into(),
            detail: "detail".into(),
            hint: "hint".into(),
        };
        assert_eq!(one(b'E', error), Ok(Some(Reply::Error(expect))));
    }

    #[test]
    fn partial_messages_wait_at_every_byte() {
        let whole = message(b'C', b"SHOW\0");
        for cut in 0..whole.len() {
            assert_eq!(next(&mut BytesMut::from(&whole[..cut])), Ok(None), "{cut}");
        }
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        assert!(one(b'H', b"TTP").is_err());
        assert!(next(&mut BytesMut::from(&b"C\0\0\0\x03"[..])).is_err());
        assert!(next(&mut BytesMut::from(&b"C\xff\xff\xff\xff"[..])).is_err());
        for tag in *b"RTDCNE" {
            assert!(one(tag, b"").is_err(), "{}", tag as char);
        }
        assert!(one(b'D', &[0, 1, 0, 0, 0, 9, 1]).is_err());
        assert!(one(b'T', b"\0\x01id\0short").is_err());
        assert!(one(b'E', b"Mno end").is_err());
    }
}
