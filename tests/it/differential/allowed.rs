//! What may differ between an answer of Postgres itself and the same answer through the proxy: this list and nothing
//! else. Each entry makes two messages alike that differ in that one respect only.

use crate::support::wire::Msg;

/// One allowed difference.
pub(crate) struct Allowed {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Takes the difference out of a message; the number is the first oid that the set-up did not give.
    pub(crate) level: fn(&mut Msg, u32),
}

pub(crate) const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "oid-of-new-relation",
        reason: "two databases of one cluster draw oids from one counter, so what a script creates has other numbers",
        level: relation_oids,
    },
    Allowed {
        name: "oid-of-new-type",
        reason: "the same, for types that a script creates, where they are described as a parameter",
        level: parameter_oids,
    },
    Allowed {
        name: "pid-of-notifier",
        reason: "a notification names the process of the session that sent it, which is another one",
        level: notifier,
    },
    Allowed {
        name: "place-in-the-source",
        reason: "an error names file, line and routine of Postgres' source; one that the proxy words has none, and \
                 nobody acts on them",
        level: source_place,
    },
    Allowed {
        name: "application-name-right-after-reset",
        reason: "RESET leads a server back to the name that it logged in with, the proxy's; the client's own is back at \
                 the end of the transaction, but one that looks before that sees it",
        level: own_name,
    },
    Allowed {
        name: "message-that-breaks-a-copy",
        reason: "a batch that copies by an Execute is refused as a whole with the name of the first message behind it; a \
                 Close may be the proxy's to answer, and then it is the next one",
        level: breaker_of_copy,
    },
];

/// Replaces an oid that was given after the set-up.
fn level_oid(place: &mut [u8], first_new: u32) {
    if place.try_into().map(u32::from_be_bytes).is_ok_and(|oid| oid >= first_new) {
        place.fill(0xff);
    }
}

fn relation_oids(msg: &mut Msg, first_new: u32) {
    if msg.tag != b'T' {
        return;
    }
    let mut at = 2;
    while at < msg.body.len() {
        at += msg.body[at..].iter().position(|byte| *byte == 0).unwrap() + 1;
        level_oid(&mut msg.body[at..at + 4], first_new);
        level_oid(&mut msg.body[at + 6..at + 10], first_new);
        at += 18;
    }
}

fn parameter_oids(msg: &mut Msg, first_new: u32) {
    if msg.tag == b't' {
        msg.body[2..].chunks_mut(4).for_each(|oid| level_oid(oid, first_new));
    }
}

fn notifier(msg: &mut Msg, _: u32) {
    if msg.tag == b'A' {
        msg.body[..4].fill(0);
    }
}

fn source_place(msg: &mut Msg, _: u32) {
    if msg.tag == b'E' {
        let fields = msg.body.split(|byte| *byte == 0);
        let kept = fields.filter(|field| !matches!(field.first(), None | Some(b'F' | b'L' | b'R')));
        msg.body = kept.flat_map(|field| [field, b"\0"].concat()).chain([0]).collect();
    }
}

/// One row of one column, or the report.
fn own_name(msg: &mut Msg, _: u32) {
    let own: [(u8, &[u8], &[u8]); 2] = [
        (b'D', b"\0\x01\0\0\0\x06pglull", b"\0\x01\0\0\0\0"),
        (b'S', b"application_name\0pglull\0", b"application_name\0\0"),
    ];
    if let Some((.., none)) = own.iter().find(|(tag, named, _)| msg.tag == *tag && msg.body == *named) {
        msg.body = none.to_vec();
    }
}

fn breaker_of_copy(msg: &mut Msg, _: u32) {
    let words = b"Munexpected message type 0x";
    if msg.tag == b'E'
        && let Some(at) = msg.body.windows(words.len()).position(|part| part == words)
        && let Some(kind) = msg.body.get_mut(at + words.len()..at + words.len() + 2)
    {
        kind.fill(b'?');
    }
}

/// A message without what may differ.
pub(crate) fn level(mut msg: Msg, first_new: u32) -> Msg {
    ALLOWED.iter().for_each(|allowed| (allowed.level)(&mut msg, first_new));
    msg
}
