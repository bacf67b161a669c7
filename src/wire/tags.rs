//! Message tags by name, and what a client's tag means for the proxy.
//! Source: "Message Formats" in the protocol chapter; `src/include/libpq/protocol.h`.

/// Messages that a client sends after start-up.
pub mod client {
    #![allow(missing_docs, reason = "the names are those of the protocol chapter")]
    pub const QUERY: u8 = b'Q';
    pub const PARSE: u8 = b'P';
    pub const BIND: u8 = b'B';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const CLOSE: u8 = b'C';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const FLUSH: u8 = b'H';
    pub const SYNC: u8 = b'S';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const PASSWORD: u8 = b'p';
    pub const TERMINATE: u8 = b'X';
}

/// Messages that a server sends.
pub mod server {
    #![allow(missing_docs, reason = "the names are those of the protocol chapter")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ERROR: u8 = b'E';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const ROW_DESCRIPTION: u8 = b'T';
    pub const DATA_ROW: u8 = b'D';
    pub const NO_DATA: u8 = b'n';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const FUNCTION_RESULT: u8 = b'V';
    pub const NEGOTIATE_VERSION: u8 = b'v';
}

/// What a client's message means while the client has no server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It begins work: a server is needed, and with it the gate's leave.
    Begin,
    /// It asks for nothing now (Flush with nothing to flush; late COPY messages after a failed COPY,
    /// which Postgres ignores too): drop it.
    Ignore,
    /// The client says good-bye.
    Leave,
    /// No client may send it here.
    Violation,
}

/// What `tag` means between transactions.
#[must_use]
pub const fn between_transactions(tag: u8) -> Meaning {
    match tag {
        client::QUERY
        | client::PARSE
        | client::BIND
        | client::DESCRIBE
        | client::EXECUTE
        | client::CLOSE
        | client::FUNCTION_CALL
        | client::SYNC => Meaning::Begin,
        client::FLUSH | client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => Meaning::Ignore,
        client::TERMINATE => Meaning::Leave,
        _ => Meaning::Violation,
    }
}

/// The longest body that Postgres accepts for a client's message with this tag (`SocketBackend` in
/// `postgres.c`): a gigabyte less one for those that carry data, 10 000 bytes for the others. `None`: unknown tag.
#[must_use]
pub const fn client_limit(tag: u8) -> Option<usize> {
    const LARGE: usize = 0x3fff_ffff - 5;
    const SMALL: usize = 10_000;
    match tag {
        client::QUERY | client::PARSE | client::BIND | client::FUNCTION_CALL | client::COPY_DATA => Some(LARGE),
        client::DESCRIBE
        | client::EXECUTE
        | client::CLOSE
        | client::FLUSH
        | client::SYNC
        | client::COPY_DONE
        | client::COPY_FAIL
        | client::TERMINATE => Some(SMALL),
        _ => None,
    }
}
