//! Requests about statements: read as a client sends them, written with our names for a server. Pure.

use bytes::{BufMut, BytesMut};

use crate::prepared::hints::Leaves;
use crate::prepared::{slots, string};
use crate::wire::frame::{HEADER, Header};
use crate::wire::reply::{Report, Routine, sqlstate};
use crate::wire::tags::client;

/// Tag and length; so many bytes follow.
pub(super) fn write_head(tag: u8, body: usize, out: &mut BytesMut) {
    out.put_u8(tag);
    // A message of this length has been let in with a length word of its own.
    out.put_u32(u32::try_from(body + 4).unwrap_or(u32::MAX));
}

/// Room for a head, the names behind it and what most requests go on with, so that it is asked for once.
const FRONT: usize = 256;

/// A head, what `before` writes, and our name for a statement with its closing zero; so many bytes follow.
fn write_front(tag: u8, (id, rest): (u64, usize), out: &mut BytesMut, before: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.reserve(FRONT);
    write_head(tag, 0, out);
    before(out);
    slots::write_name(id, out);
    out.put_u8(0);
    // All but the tag counts. A message of this length has been let in with a length word of its own.
    let length = u32::try_from(out.len() - start - 1 + rest).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start + 1..start + HEADER) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// A Parse up to and with the name; so many bytes follow.
pub(super) fn write_parse_front(id: u64, rest: usize, out: &mut BytesMut) {
    write_front(client::PARSE, (id, rest), out, |_| ());
}

/// A Parse of the unnamed statement. `body`: what stands behind the name; `renamed`: what its text becomes, if anything else.
pub(super) fn write_unnamed(body: &[u8], renamed: &[u8], out: &mut BytesMut) {
    let (text, rest) = body.split_at(string(body).map_or(0, <[u8]>::len));
    let text = if renamed.is_empty() { text } else { renamed };
    write_head(client::PARSE, 1 + text.len() + rest.len(), out);
    out.put_u8(0);
    out.put_slice(text);
    out.put_slice(rest);
}

/// A Bind up to and with the statement's name; so many bytes follow.
pub(super) fn write_bind_front((head, id): (Header, u64), portal: &[u8], rest: usize, out: &mut BytesMut) {
    write_front(head.tag, (id, rest), out, |out| {
        out.put_slice(portal);
        out.put_u8(0);
    });
}

/// A Describe or Close of a statement; `None`: of the unnamed one.
pub(super) fn write_target(tag: u8, id: Option<u64>, out: &mut BytesMut) {
    match id {
        Some(id) => write_front(tag, (id, 0), out, |out| out.put_u8(b'S')),
        None => {
            write_head(tag, 2, out);
            out.put_slice(b"S\0");
        }
    }
}

/// What a Describe or Close is about.
pub(super) enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
    /// Something that Postgres will refuse.
    Other,
    More,
}

/// Reads one.
pub(super) fn target(head: Header, body: &[u8]) -> Target<'_> {
    if body.len() < head.body {
        return Target::More;
    }
    match body.split_first() {
        Some((b'S', rest)) if string(rest).is_some_and(|name| name.len() + 1 == rest.len()) => {
            Target::Statement(string(rest).unwrap_or_default())
        }
        Some((b'P', rest)) if string(rest).is_some_and(|name| name.len() + 1 == rest.len()) => {
            Target::Portal(string(rest).unwrap_or_default())
        }
        _ => Target::Other,
    }
}

/// What a Parse, behind the name, may leave on a server.
pub(super) fn of_body(body: &[u8]) -> Leaves {
    Leaves::of_text(string(body).unwrap_or(body))
}

/// Whether a FunctionCall is one of those for large objects, for which libpq has it. Source: `pg_proc.dat`.
pub(super) fn is_large_object(body: &[u8]) -> bool {
    let oid = body.first_chunk().map_or(0, |oid| u32::from_be_bytes(*oid));
    matches!(oid, 715 | 764 | 765 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 | 3457..=3460)
}

/// Postgres' own words.
pub(super) fn changed() -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .routine(Routine::RevalidateCachedQuery)
}

/// For how many columns a Bind asks for a format of their own, behind the two names. One is for all; `None`: not all is there.
pub(super) fn result_formats(body: &[u8]) -> Option<usize> {
    fn count(body: &mut &[u8]) -> Option<usize> {
        let (count, rest) = body.split_first_chunk::<2>()?;
        *body = rest;
        Some(usize::from(u16::from_be_bytes(*count)))
    }
    let mut rest = body;
    let formats = count(&mut rest)?;
    rest = rest.get(2 * formats..)?;
    for _ in 0..count(&mut rest)? {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        // -1 is NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        rest = behind.get(length..)?;
    }
    count(&mut rest)
}

/// There is no room for another statement.
pub(super) fn full() -> Report {
    Report::new("53200", "too many prepared statements")
        .detail("The memory for the statements that clients have prepared is used up.")
        .hint("Close statements that are not needed, or raise prepared_statement_memory.")
}
