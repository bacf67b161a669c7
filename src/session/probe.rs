//! Liveness probes that are answered here, while their client would be held: `SELECT 1` and the empty query, as a simple
//! query or as one batch of the extended protocol.
//!
//! Pure. What is not such a probe, whole and to the letter, is held like everything else. Answers are those of Postgres 15.

use bytes::BytesMut;

use super::messages::of_body;
use crate::prepared::names::Unnamed;
use crate::prepared::string;
use crate::wire::extended::{self, About, Field, Short};
use crate::wire::frame::{HEADER, header};
use crate::wire::reply;
use crate::wire::tags::client;

/// A longer request is no probe.
const LONGEST: usize = 1024;
/// The type of the answer, `int4`.
const INT4: u32 = 23;

/// A probe, and what to do about it.
#[derive(Debug)]
pub(super) struct Probe {
    /// So many messages it is.
    pub(super) messages: usize,
    /// The whole answer.
    pub(super) answer: BytesMut,
    /// The client's unnamed statement from here on; a simple query ends it.
    pub(super) unnamed: Option<Unnamed>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    One,
    Nothing,
}

impl Asks {
    fn of(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.trim().trim_end_matches(';').trim_end();
        let mut words = text.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => Some(Self::Nothing),
            (Some(verb), Some("1"), None) if verb.eq_ignore_ascii_case("select") => Some(Self::One),
            _ => None,
        }
    }

    fn describe(self, format: i16, out: &mut BytesMut) {
        match self {
            Self::One => {
                extended::row_description([Field { name: "?column?", oid: INT4, size: 4, format }].into_iter(), out);
            }
            Self::Nothing => Short::NoData.write(out),
        }
    }

    fn run(self, format: i16, out: &mut BytesMut) {
        match self {
            Self::One => {
                let value: &[u8] = if format == 0 { b"1" } else { &[0, 0, 0, 1] };
                extended::data_row([Some(value)].into_iter(), out);
                reply::command_complete("SELECT 1", out);
            }
            Self::Nothing => reply::empty_query(out),
        }
    }
}

/// The probe at the front of what a client has sent; `None` if there is none, or not the whole of it.
pub(super) fn probe(unread: &[u8]) -> Option<Probe> {
    let mut left = unread.get(..LONGEST).unwrap_or(unread);
    let mut answer = BytesMut::new();
    let (tag, body) = next(&mut left)?;
    if tag == client::QUERY {
        let asks = Asks::of(body.strip_suffix(&[0])?)?;
        if asks == Asks::One {
            asks.describe(0, &mut answer);
        }
        asks.run(0, &mut answer);
        reply::ready_for_query(&mut answer);
        return Some(Probe { messages: 1, answer, unnamed: None });
    }
    if tag != client::PARSE {
        return None;
    }
    let parse = extended::parse(body).ok().filter(|parse| parse.name.is_empty() && parse.types.is_empty())?;
    let asks = Asks::of(parse.text.as_bytes())?;
    let rest = body.get(string(body)?.len() + 1..)?;
    Short::ParseComplete.write(&mut answer);
    let (mut messages, mut format) = (1, None);
    loop {
        let (tag, body) = next(&mut left)?;
        messages += 1;
        match tag {
            client::BIND if format.is_none() => {
                let bind = extended::bind(body).ok()?;
                let plain = bind.portal.is_empty() && bind.statement.is_empty() && bind.parameters == 0;
                // More formats than columns are refused by Postgres; that it may do itself.
                format = match bind.formats.as_slice() {
                    [] => Some(0),
                    [one @ (0 | 1)] if asks == Asks::One => Some(*one),
                    _ => None,
                };
                format.filter(|_| plain)?;
                Short::BindComplete.write(&mut answer);
            }
            client::DESCRIBE => match (extended::about(body).ok()?, format) {
                (About::Statement(name), _) if name.is_empty() => {
                    extended::parameter_description(&[], &mut answer);
                    asks.describe(0, &mut answer);
                }
                (About::Portal(name), Some(format)) if name.is_empty() => asks.describe(format, &mut answer),
                _ => return None,
            },
            client::EXECUTE => {
                let execute = extended::execute(body).ok()?;
                // With a limit that is reached the answer is another.
                if !execute.portal.is_empty() || execute.limit == Some(1) {
                    return None;
                }
                asks.run(format?, &mut answer);
                // A portal that has run to its end gives no rows the second time.
                let (tag, _) = next(&mut left)?;
                if tag != client::SYNC {
                    return None;
                }
                reply::ready_for_query(&mut answer);
                let unnamed = Some(Unnamed { body: rest.into(), leaves: of_body(rest), told: None });
                return Some(Probe { messages: messages + 1, answer, unnamed });
            }
            _ => return None,
        }
    }
}

/// The next whole message.
fn next<'a>(left: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let head = header(left).ok()??;
    let body = left.get(HEADER..HEADER + head.body)?;
    *left = left.get(HEADER + head.body..)?;
    Some((head.tag, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn tags(answer: &[u8]) -> String {
        let (mut left, mut tags) = (answer, String::new());
        while let Some((tag, _)) = next(&mut left) {
            tags.push(char::from(tag));
        }
        tags
    }

    #[test]
    fn simple_queries() {
        for (text, expected) in [
            ("SELECT 1", Some("TDCZ")),
            (" select\t1 ; ", Some("TDCZ")),
            ("", Some("IZ")),
            (";", Some("IZ")),
            ("SELECT 2", None),
            ("SELECT 1; SELECT 1", None),
            ("SELECT 1 FROM t", None),
            ("SELECT 11", None),
            ("SELECT1", None),
        ] {
            let sent = message(b'Q', &[text.as_bytes(), b"\0"].concat());
            let found = probe(&[&sent[..], b"Q"].concat());
            assert_eq!(found.as_ref().map(|probe| tags(&probe.answer)).as_deref(), expected, "{text}");
            assert!(found.is_none_or(|probe| probe.messages == 1 && probe.unnamed.is_none()));
            assert!(probe(&sent[..sent.len() - 1]).is_none(), "half of {text}");
        }
    }

    #[test]
    fn batches() {
        let parse = |text: &str| message(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat());
        let bind = |formats: &[u8]| message(b'B', &[b"\0\0\0\0\0\0", formats].concat());
        let (about, portal) = (message(b'D', b"S\0"), message(b'D', b"P\0"));
        let execute = |limit: u8| message(b'E', &[0, 0, 0, 0, limit]);
        let sync = message(b'S', b"");
        let (text, binary) = (bind(&[0, 0]), bind(&[0, 1, 0, 1]));
        let one = parse("SELECT 1");
        for (sent, expected) in [
            ([&one[..], &text, &portal, &execute(0), &sync].concat(), Some("12TDCZ")),
            ([&one[..], &about, &binary, &execute(9), &sync].concat(), Some("1tT2DCZ")),
            ([&parse("")[..], &text, &portal, &execute(0), &sync].concat(), Some("12nIZ")),
            ([&one[..], &text, &execute(1), &sync].concat(), None),
            ([&one[..], &text, &execute(0), &execute(0), &sync].concat(), None),
            ([&one[..], &portal, &text, &execute(0), &sync].concat(), None),
            ([&one[..], &bind(&[0, 2, 0, 0, 0, 0]), &execute(0), &sync].concat(), None),
            ([&one[..], &text, &execute(0)].concat(), None),
            ([&one[..], &sync].concat(), None),
            ([&text[..], &execute(0), &sync].concat(), None),
            (message(b'P', b"named\0SELECT 1\0\0\0"), None),
        ] {
            let found = probe(&sent);
            assert_eq!(found.as_ref().map(|probe| tags(&probe.answer)).as_deref(), expected, "{sent:?}");
            if let Some(Probe { unnamed, answer, .. }) = found {
                assert_eq!(
                    unnamed.map(|unnamed| unnamed.body.len()),
                    Some(sent[6..].iter().position(|b| *b == 0).unwrap() + 3)
                );
                let is_binary = answer.windows(4).any(|part| part == [0, 0, 0, 1]) && tags(&answer).contains('t');
                assert_eq!(is_binary, tags(&answer).contains('t'), "{answer:?}");
            }
        }
    }
}
