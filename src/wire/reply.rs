//! Messages that we author: errors, notices, the welcome, console rows.
//!
//! `pgwire`'s typed messages do the encoding; relayed bytes never come here. Texts that an operator or a
//! driver may match keep PgBouncer's wording where the meaning is the same.

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::Authentication;

use super::startup::CancelKey;
use super::tags;

/// SQLSTATEs that we use ourselves. Source: `src/backend/utils/errcodes.txt`.
pub mod sqlstate {
    #![allow(missing_docs, reason = "the names are those of errcodes.txt")]
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const LOCK_NOT_AVAILABLE: &str = "55P03";
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const CANNOT_CONNECT: &str = "08001";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const INVALID_PASSWORD: &str = "28P01";
    pub const INVALID_CATALOG_NAME: &str = "3D000";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const DUPLICATE_CURSOR: &str = "42P03";
    pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    pub const INVALID_CURSOR_NAME: &str = "34000";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const UNIQUE_VIOLATION: &str = "23505";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    pub const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const IDLE_IN_TRANSACTION: &str = "25P03";
    pub const TRANSACTION_TIMEOUT: &str = "25P04";
    pub const IDLE_SESSION: &str = "57P05";
    pub const QUERY_CANCELED: &str = "57014";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const IO_ERROR: &str = "58030";
    pub const ASSERT_FAILURE: &str = "P0004";
    pub const CONFIG_FILE_ERROR: &str = "F0000";
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// How bad it is, in Postgres' words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The statement failed; the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    /// Something that is not as it should be; the command goes on.
    Warning,
    /// News.
    Notice,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// A function of Postgres' that drivers go by where a code has several meanings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routine {
    /// Finds a plan to be stale, in `plancache.c`: asyncpg and pgjdbc prepare anew if it is named in the error.
    RevalidateCachedQuery,
}

impl Routine {
    /// As Postgres writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RevalidateCachedQuery => "RevalidateCachedQuery",
        }
    }
}

/// An error or notice in Postgres' form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Five characters from `errcodes.txt`.
    pub sqlstate: String,
    /// One line, no trailing stop.
    pub message: String,
    /// More about the case.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// The function of Postgres' that says so. Never read from a server's.
    pub routine: Option<Routine>,
}

impl Report {
    /// A report without detail and hint.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { sqlstate: sqlstate.to_owned(), message: message.into(), detail: None, hint: None, routine: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds more about the case.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the function of Postgres' that says so.
    #[must_use]
    pub fn routine(mut self, routine: Routine) -> Self {
        self.routine = Some(routine);
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse; what it lacks stays empty.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let mut report = Self::new("", "");
        for field in body.split(|&byte| byte == 0) {
            let Some((kind, text)) = field.split_first() else {
                break;
            };
            let text = || String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => report.sqlstate = text(),
                b'M' => report.message = text(),
                b'D' => report.detail = Some(text()),
                b'H' => report.hint = Some(text()),
                _ => {}
            }
        }
        if report.sqlstate.len() != 5 {
            sqlstate::INTERNAL_ERROR.clone_into(&mut report.sqlstate);
        }
        report
    }

    fn fields(&self, severity: Severity) -> Vec<(u8, String)> {
        let mut fields = vec![
            (b'S', severity.as_str().to_owned()),
            (b'V', severity.as_str().to_owned()),
            (b'C', self.sqlstate.clone()),
            (b'M', clean(&self.message)),
        ];
        fields.extend(self.detail.iter().map(|text| (b'D', clean(text))));
        fields.extend(self.hint.iter().map(|text| (b'H', clean(text))));
        fields.extend(self.routine.map(|routine| (b'R', routine.as_str().to_owned())));
        fields
    }

    /// Writes this as a fatal error of protocol 2, as Postgres does to who speaks that (`send_message_to_frontend`).
    pub fn write_old(&self, out: &mut BytesMut) {
        out.put_slice(b"EFATAL:  ");
        out.put_slice(clean(&self.message).as_bytes());
        out.put_slice(b"\n\0");
    }

    /// Writes this as an ErrorResponse or, for what is no error, a NoticeResponse.
    pub fn write(&self, severity: Severity, out: &mut BytesMut) {
        let fields = self.fields(severity);
        match severity {
            Severity::Warning | Severity::Notice => put(&NoticeResponse::new(fields), out),
            Severity::Error | Severity::Fatal => put(&ErrorResponse::new(fields), out),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

/// A zero inside a string would end it early and shift every field behind it.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Writes a message; one that the encoder refuses leaves no trace in the stream.
fn put<M: Message>(message: &M, out: &mut BytesMut) {
    let start = out.len();
    if message.encode(out).is_err() {
        out.truncate(start);
    }
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    put(&Authentication::Ok, out);
}

/// One of the other authentication requests.
pub fn authentication(request: &Authentication, out: &mut BytesMut) {
    put(request, out);
}

/// ParameterStatus. The value's bytes are the server's own, whatever their encoding.
pub fn parameter_status(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.put_u8(b'S');
    out.put_u32(u32::try_from(name.len() + value.len() + 6).unwrap_or(u32::MAX));
    out.put_slice(name);
    out.put_u8(0);
    out.put_slice(value);
    out.put_u8(0);
}

/// BackendKeyData with our own key: a secret of 4 bytes in protocol 3.0, a longer one in 3.2.
pub fn backend_key_data(key: &CancelKey, out: &mut BytesMut) {
    out.put_u8(tags::server::BACKEND_KEY_DATA);
    out.put_u32(u32::try_from(key.secret.len() + 8).unwrap_or(u32::MAX));
    out.put_i32(key.pid);
    out.put_slice(&key.secret);
}

/// NegotiateProtocolVersion: the minor version of protocol 3 that the session speaks, and the options that we do not
/// know, byte by byte. The version goes as a whole word (`SendNegotiateProtocolVersion` in `backend_startup.c`).
pub fn negotiate_version<'a>(minor: u16, unknown: impl Iterator<Item = &'a Bytes>, out: &mut BytesMut) {
    let mut list = BytesMut::new();
    let mut count = 0;
    for name in unknown {
        list.put_slice(name);
        list.put_u8(0);
        count += 1;
    }
    out.put_u8(tags::server::NEGOTIATE_VERSION);
    out.put_u32(u32::try_from(list.len() + 12).unwrap_or(u32::MAX));
    out.put_u16(3);
    out.put_u16(minor);
    out.put_u32(count);
    out.put_slice(&list);
}

/// ReadyForQuery, outside a transaction.
pub fn ready_for_query(out: &mut BytesMut) {
    put(&ReadyForQuery::new(TransactionStatus::Idle), out);
}

/// ReadyForQuery, in a transaction that has failed.
pub fn ready_to_roll_back(out: &mut BytesMut) {
    put(&ReadyForQuery::new(TransactionStatus::Error), out);
}

/// CommandComplete.
pub fn command_complete(tag: &str, out: &mut BytesMut) {
    put(&CommandComplete::new(tag.to_owned()), out);
}

/// EmptyQueryResponse.
pub fn empty_query(out: &mut BytesMut) {
    put(&EmptyQueryResponse::new(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn a_report_survives_its_own_encoding() {
        let report = Report::new(sqlstate::QUERY_CANCELED, "canceling\0statement").hint("wait").detail("d");
        let mut out = BytesMut::new();
        report.write(Severity::Error, &mut out);
        let (tag, body) = frame::take(&mut out, 10_000).unwrap().unwrap();
        assert_eq!(tag, b'E');
        assert!(out.is_empty());
        assert_eq!(Report::parse(&body), Report { message: "canceling\u{fffd}statement".into(), ..report });
    }

    #[test]
    fn an_error_without_sqlstate_gets_one() {
        assert_eq!(Report::parse(b"SERROR\0Moops\0\0").sqlstate, sqlstate::INTERNAL_ERROR);
        assert_eq!(Report::parse(b"").sqlstate, sqlstate::INTERNAL_ERROR);
    }

    #[test]
    fn every_authored_message_is_one_whole_frame() {
        let writers: [&dyn Fn(&mut BytesMut); 6] = [
            &authentication_ok,
            &ready_for_query,
            &|out| parameter_status(b"TimeZone", b"UTC", out),
            &|out| backend_key_data(&CancelKey { pid: 1, secret: Bytes::from_static(&[1, 2, 3, 4]) }, out),
            &|out| negotiate_version(2, [Bytes::from_static(b"_pq_.x")].iter(), out),
            &|out| command_complete("SHOW", out),
        ];
        for (n, write) in writers.iter().enumerate() {
            let mut out = BytesMut::new();
            write(&mut out);
            assert!(frame::take(&mut out, 1000).unwrap().is_some() && out.is_empty(), "writer {n}");
        }
    }
}
