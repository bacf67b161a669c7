//! What the relay wants to know of one message, by its header and as much of its body as is there.

use super::super::answers;
use crate::prepared::string;
use crate::wire::frame::Header;
use crate::wire::tags::{client, server};

/// The longest server message that is looked at whole; only messages that are small by nature are.
const WHOLE_MAX: usize = 64 << 10;
/// The same for descriptions and errors: longer than any description of 1600 columns.
const DESCRIPTION_MAX: usize = 1 << 20;

/// The statement's text, as far as it has arrived.
pub(super) fn text_of(tag: u8, body: &[u8]) -> Option<&[u8]> {
    match tag {
        client::QUERY => Some(body),
        // Behind the statement's name.
        client::PARSE => string(body).and_then(|name| body.get(name.len() + 1..)),
        _ => None,
    }
}

/// Whether a server's message is looked at whole.
pub(super) fn is_judged_whole(head: Header, noted: bool) -> bool {
    let small_by_nature =
        matches!(head.tag, server::READY_FOR_QUERY | server::PARAMETER_STATUS | server::COMMAND_COMPLETE);
    (small_by_nature && head.body <= WHOLE_MAX) || (answers::looks_at(head.tag, noted) && head.body <= DESCRIPTION_MAX)
}

/// Whether an ErrorResponse says that the connection ends with it. Field V is never translated.
pub(super) fn is_fatal(body: &[u8]) -> bool {
    body.split(|&byte| byte == 0).any(|field| matches!(field, b"VFATAL" | b"VPANIC"))
}
