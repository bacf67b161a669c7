//! The extended query protocol, from the serving side: what a client's messages say, and the short answers to them.
//!
//! For the console, which answers such messages itself; those of sessions are relayed unread. Names and texts are taken as
//! UTF-8, which is the console's only encoding. Source: "Message Formats" in the protocol chapter.

use bytes::{BufMut, BytesMut};

/// A message that is not what its tag says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// What a message gives, or that it is none.
pub type Read<T> = Result<T, Malformed>;

/// `Parse`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parse {
    /// Of the statement; empty for the unnamed one.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Types that the client declares for parameters, from the first on.
    pub types: Vec<u32>,
}

/// `Bind`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// Of the portal to be made; empty for the unnamed one.
    pub portal: String,
    /// Of the statement that it is made of.
    pub statement: String,
    /// How many parameters are given.
    pub parameters: usize,
    /// The format of each column: none for text, one for all, or one for each.
    pub formats: Vec<i16>,
}

/// What `Describe` and `Close` are about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum About {
    /// A prepared statement.
    Statement(String),
    /// A portal.
    Portal(String),
}

/// `Execute`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Execute {
    /// Of the portal.
    pub portal: String,
    /// The most rows that are wanted now; `None` for all.
    pub limit: Option<usize>,
}

/// A place in a message's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn text(&mut self) -> Read<String> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let text = std::str::from_utf8(self.bytes(end)?).map_err(|_| Malformed)?.to_owned();
        self.bytes(1)?;
        Ok(text)
    }

    fn short(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.bytes(2)?.try_into().map_err(|_| Malformed)?))
    }

    fn long(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.bytes(4)?.try_into().map_err(|_| Malformed)?))
    }

    /// How many things follow, of this many bytes at least: no more than there is room for.
    fn count(&mut self, size: usize) -> Read<usize> {
        let count = usize::try_from(self.short()?).map_err(|_| Malformed)?;
        if count.saturating_mul(size) > self.0.len() { Err(Malformed) } else { Ok(count) }
    }

    fn formats(&mut self) -> Read<Vec<i16>> {
        (0..self.count(2)?).map(|_| self.short()).collect()
    }

    fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Reads the body of a `Parse`.
///
/// # Errors
/// [`Malformed`].
pub fn parse(body: &[u8]) -> Read<Parse> {
    let mut body = Body(body);
    let (name, text) = (body.text()?, body.text()?);
    let types = (0..body.count(4)?).map(|_| body.long().map(i32::cast_unsigned)).collect::<Read<_>>()?;
    body.end()?;
    Ok(Parse { name, text, types })
}

/// Reads the body of a `Bind`.
///
/// # Errors
/// [`Malformed`].
pub fn bind(body: &[u8]) -> Read<Bind> {
    let mut body = Body(body);
    let (portal, statement) = (body.text()?, body.text()?);
    body.formats()?;
    let parameters = body.count(4)?;
    for _ in 0..parameters {
        // A length of -1 is NULL.
        let length = body.long()?;
        if length != -1 {
            body.bytes(usize::try_from(length).map_err(|_| Malformed)?)?;
        }
    }
    let formats = body.formats()?;
    body.end()?;
    Ok(Bind { portal, statement, parameters, formats })
}

/// Reads the body of a `Describe` or a `Close`.
///
/// # Errors
/// [`Malformed`].
pub fn about(body: &[u8]) -> Read<About> {
    let mut body = Body(body);
    let kind = body.bytes(1)?;
    let name = body.text()?;
    body.end()?;
    match kind {
        b"S" => Ok(About::Statement(name)),
        b"P" => Ok(About::Portal(name)),
        _ => Err(Malformed),
    }
}

/// Reads the body of an `Execute`.
///
/// # Errors
/// [`Malformed`].
pub fn execute(body: &[u8]) -> Read<Execute> {
    let mut body = Body(body);
    let portal = body.text()?;
    // Zero and, as Postgres takes it, anything below is no limit.
    let limit = usize::try_from(body.long()?).ok().filter(|limit| *limit > 0);
    body.end()?;
    Ok(Execute { portal, limit })
}

/// An answer without a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Short {
    ParseComplete,
    BindComplete,
    CloseComplete,
    NoData,
    PortalSuspended,
}

impl Short {
    /// Writes it.
    pub fn write(self, out: &mut BytesMut) {
        let tag = match self {
            Self::ParseComplete => b'1',
            Self::BindComplete => b'2',
            Self::CloseComplete => b'3',
            Self::NoData => b'n',
            Self::PortalSuspended => b's',
        };
        out.put_u8(tag);
        out.put_u32(4);
    }
}

/// Writes a ParameterDescription.
pub fn parameter_description(types: &[u32], out: &mut BytesMut) {
    out.put_u8(b't');
    out.put_u32(u32::try_from(6 + 4 * types.len()).unwrap_or(u32::MAX));
    out.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
    types.iter().for_each(|oid| out.put_u32(*oid));
}

/// A column as RowDescription tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its name.
    pub name: &'a str,
    /// The OID of its type.
    pub oid: u32,
    /// The size of its type; negative if that varies.
    pub size: i16,
    /// 0: text, 1: binary.
    pub format: i16,
}

/// Writes a RowDescription.
pub fn row_description<'a>(fields: impl Iterator<Item = Field<'a>>, out: &mut BytesMut) {
    framed(b'T', out, |out| {
        let (at, mut count) = (out.len(), 0_u16);
        out.put_u16(0);
        for field in fields {
            count = count.saturating_add(1);
            out.put_slice(field.name.as_bytes());
            out.put_u8(0);
            // Of no table, so of no column of one.
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(field.oid);
            out.put_i16(field.size);
            out.put_i32(-1);
            out.put_i16(field.format);
        }
        patch(out, at, &count.to_be_bytes());
    });
}

/// Writes a DataRow; `None` is NULL.
pub fn data_row<V: AsRef<[u8]>>(values: impl Iterator<Item = Option<V>>, out: &mut BytesMut) {
    framed(b'D', out, |out| {
        let (at, mut count) = (out.len(), 0_u16);
        out.put_u16(0);
        for value in values {
            count = count.saturating_add(1);
            match value.as_ref().map(AsRef::as_ref) {
                Some(value) => {
                    out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
                    out.put_slice(value);
                }
                None => out.put_i32(-1),
            }
        }
        patch(out, at, &count.to_be_bytes());
    });
}

/// Writes a ReadyForQuery, with the word on the transaction.
pub fn ready_for_query(in_transaction: bool, out: &mut BytesMut) {
    out.put_slice(&[b'Z', 0, 0, 0, 5, if in_transaction { b'T' } else { b'I' }]);
}

fn framed(tag: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    patch(out, at, &length.to_be_bytes());
}

fn patch(out: &mut BytesMut, at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn messages_are_read_and_wrong_ones_are_refused() {
        let body = b"s\0SHOW POOLS\0\0\x01\0\0\0\x19";
        assert_eq!(parse(body), Ok(Parse { name: "s".into(), text: "SHOW POOLS".into(), types: vec![25] }));
        let body = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x02\0\x01\0\0";
        let bound = Bind { portal: "p".into(), statement: "s".into(), parameters: 2, formats: vec![1, 0] };
        assert_eq!(bind(body), Ok(bound));
        assert_eq!(about(b"Sx\0"), Ok(About::Statement("x".into())));
        assert_eq!(about(b"P\0"), Ok(About::Portal(String::new())));
        for (body, limit) in [(b"p\0\0\0\0\0", None), (b"p\0\0\0\0\x07", Some(7)), (b"p\0\xff\xff\xff\xff", None)] {
            assert_eq!(execute(body), Ok(Execute { portal: "p".into(), limit }));
        }
        // Every cut of a good message is refused, and so are rests, and counts that nothing stands behind.
        let good = b"p\0s\0\0\x01\0\x01\0\x01\0\0\0\x01x\0\x01\0\x01";
        assert!(bind(good).is_ok());
        for cut in 0..good.len() {
            assert_eq!(bind(&good[..cut]), Err(Malformed), "{cut}");
        }
        assert_eq!(bind(&[&good[..], b"\0"].concat()), Err(Malformed));
        assert_eq!(parse(b"\0\0\x7f\xff"), Err(Malformed));
        assert_eq!(parse(b"\xff\0\0\0\0"), Err(Malformed));
        assert_eq!(about(b"Xx\0"), Err(Malformed));
    }

    #[test]
    fn answers_are_whole_frames() {
        let mut out = BytesMut::new();
        Short::NoData.write(&mut out);
        parameter_description(&[25, 23], &mut out);
        row_description([Field { name: "a", oid: 23, size: 4, format: 1 }].into_iter(), &mut out);
        data_row([Some("1"), None].into_iter(), &mut out);
        ready_for_query(true, &mut out);
        let mut tags = vec![];
        while let Some((tag, body)) = frame::take(&mut out, 1000).unwrap() {
            tags.push((tag, body.len()));
        }
        assert_eq!(tags, [(b'n', 0), (b't', 10), (b'T', 22), (b'D', 11), (b'Z', 1)]);
        assert!(out.is_empty());
    }
}
