//! The messages of the protocol: those that a client sends, and how to read those that it gets.

use std::fmt;

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DbError {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

impl DbError {
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|byte| *byte == 0).filter(|f| !f.is_empty()) {
            let value = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'S' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = value,
                b'H' => error.hint = value,
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        if !self.hint.is_empty() {
            write!(f, " [hint: {}]", self.hint)?;
        }
        Ok(())
    }
}

/// One message of the peer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Msg {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(120)];
        write!(f, "{}[{}] {:?}", self.tag as char, self.body.len(), String::from_utf8_lossy(shown))
    }
}

impl Msg {
    pub(crate) fn error(&self) -> DbError {
        assert_eq!(self.tag, b'E', "expected an ErrorResponse, got {self:?}");
        DbError::parse(&self.body)
    }

    /// The values of a DataRow.
    pub(crate) fn values(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D');
        let mut at = 2;
        let count = u16::from_be_bytes([self.body[0], self.body[1]]);
        (0..count)
            .map(|_| {
                let len = i32::from_be_bytes(self.body[at..at + 4].try_into().unwrap());
                at += 4;
                let len = usize::try_from(len).ok()?;
                at += len;
                Some(String::from_utf8_lossy(&self.body[at - len..at]).into_owned())
            })
            .collect()
    }

    pub(super) fn columns(&self) -> Vec<String> {
        let mut rest = &self.body[2..];
        let mut names = vec![];
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 19..];
        }
        names
    }
}

/// A message with a tag.
pub(crate) fn msg_of(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut msg = vec![tag];
    msg.extend(untagged(body));
    msg
}

/// A message without a tag, as at start-up.
pub(crate) fn untagged(body: &[u8]) -> Vec<u8> {
    let mut msg = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    msg.extend(body);
    msg
}

/// A string with its NUL.
pub(crate) fn cstr(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A StartupMessage of protocol 3.0.
pub(crate) fn startup(params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in params {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    untagged(&body)
}

pub(crate) fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

pub(crate) fn gss_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    msg_of(b'Q', &cstr(sql))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut body = cstr(name);
    body.extend(cstr(sql));
    body.extend([0, 0]);
    msg_of(b'P', &body)
}

/// A Parse with parameter types; name and text are bytes.
pub(crate) fn parse_as(name: &[u8], sql: &[u8], types: &[u32]) -> Vec<u8> {
    let mut body = [name, b"\0", sql, b"\0"].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    msg_of(b'P', &body)
}

/// A Bind with values as text or (true) as binary, and the formats of the results.
pub(crate) fn bind_as(portal: &[u8], name: &[u8], values: &[(bool, Option<Vec<u8>>)], results: &[u16]) -> Vec<u8> {
    let mut body = [portal, b"\0", name, b"\0"].concat();
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    if values.iter().any(|(binary, _)| *binary) {
        body.extend(count);
        values.iter().for_each(|(binary, _)| body.extend(u16::from(*binary).to_be_bytes()));
    } else {
        body.extend([0, 0]);
    }
    body.extend(count);
    for (_, value) in values {
        let len = value.as_ref().map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
        body.extend(len.to_be_bytes());
        body.extend(value.as_deref().unwrap_or_default());
    }
    body.extend(u16::try_from(results.len()).unwrap().to_be_bytes());
    results.iter().for_each(|format| body.extend(format.to_be_bytes()));
    msg_of(b'B', &body)
}

/// Binds text parameters to a portal; results come as text.
pub(crate) fn bind(portal: &str, name: &str, values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = cstr(portal);
    body.extend(cstr(name));
    body.extend([0, 0]);
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend(*bytes);
            }
        }
    }
    body.extend([0, 0]);
    msg_of(b'B', &body)
}

pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(cstr(name));
    msg_of(b'D', &body)
}

pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(cstr(name));
    msg_of(b'C', &body)
}

pub(crate) fn execute(portal: &str, max_rows: u32) -> Vec<u8> {
    let mut body = cstr(portal);
    body.extend(max_rows.to_be_bytes());
    msg_of(b'E', &body)
}

pub(crate) fn sync() -> Vec<u8> {
    msg_of(b'S', b"")
}

pub(crate) fn flush() -> Vec<u8> {
    msg_of(b'H', b"")
}

pub(crate) fn copy_data(data: &[u8]) -> Vec<u8> {
    msg_of(b'd', data)
}

pub(crate) fn copy_done() -> Vec<u8> {
    msg_of(b'c', b"")
}

pub(crate) fn copy_fail(why: &str) -> Vec<u8> {
    msg_of(b'f', &cstr(why))
}

/// Parse, Bind, Execute of the unnamed statement, without Sync.
pub(crate) fn extended(sql: &str, values: &[&str]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
    [parse("", sql), bind("", "", &values), describe(b'P', ""), execute("", 0)].concat()
}
