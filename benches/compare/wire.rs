//! The little of Postgres' protocol that the load, the null backend and the log-ins need; written here so that
//! neither side of a measurement is the code that is measured.

/// Protocol 3.0, as a start-up packet names it.
pub(crate) const PROTOCOL: u32 = 3 << 16;
/// What stands in place of a protocol version to ask for TLS.
pub(crate) const TLS_PLEASE: u32 = 80_877_103;
/// Likewise for encryption by GSSAPI.
pub(crate) const GSS_PLEASE: u32 = 80_877_104;
/// Likewise for a cancel request.
pub(crate) const CANCEL: u32 = 80_877_102;

/// Appends one message: its tag, its length, and the body that `body` writes.
pub(crate) fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    framed(out, body);
}

/// Appends a length and what it counts, itself included.
fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a text and the zero that ends it.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The packet that opens a session.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut out = Vec::new();
    framed(&mut out, |out| {
        out.extend_from_slice(&PROTOCOL.to_be_bytes());
        for word in ["user", user, "database", database, "application_name", "bench"] {
            text(out, word);
        }
        out.push(0);
    });
    out
}

/// The packet that asks for TLS.
pub(crate) fn tls_please() -> [u8; 8] {
    let mut out = [0, 0, 0, 8, 0, 0, 0, 0];
    out[4..].copy_from_slice(&TLS_PLEASE.to_be_bytes());
    out
}

/// A statement of the simple protocol.
pub(crate) fn query(statement: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, b'Q', |out| text(out, statement));
    out
}

/// Appends Parse, without types.
pub(crate) fn parse(out: &mut Vec<u8>, name: &str, statement: &str) {
    message(out, b'P', |out| {
        text(out, name);
        text(out, statement);
        out.extend_from_slice(&[0, 0]);
    });
}

/// Appends Bind of one text parameter, Describe of the portal, Execute and Sync, as libpq does.
pub(crate) fn bind_and_run(out: &mut Vec<u8>, name: &str, parameter: &str) {
    message(out, b'B', |out| {
        text(out, "");
        text(out, name);
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(&u32::try_from(parameter.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(parameter.as_bytes());
        out.extend_from_slice(&[0, 1, 0, 0]);
    });
    message(out, b'D', |out| {
        out.push(b'P');
        text(out, "");
    });
    message(out, b'E', |out| {
        text(out, "");
        out.extend_from_slice(&[0; 4]);
    });
    sync(out);
}

/// Appends Sync.
pub(crate) fn sync(out: &mut Vec<u8>) {
    message(out, b'S', |_| ());
}

/// Finds the messages in what arrives, in pieces of any size, and keeps none of them.
#[derive(Default)]
pub(crate) struct Frames {
    head: [u8; 5],
    have: usize,
    skip: usize,
}

impl Frames {
    /// Calls `each` with the tag of every message that is complete with `bytes`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8)) {
        while !bytes.is_empty() {
            if self.have < 5 {
                let take = bytes.len().min(5 - self.have);
                self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                if self.have < 5 {
                    return;
                }
                let [_, length @ ..] = self.head;
                self.skip = (u32::from_be_bytes(length) as usize).saturating_sub(4);
            }
            let take = bytes.len().min(self.skip);
            self.skip -= take;
            bytes = &bytes[take..];
            if self.skip > 0 {
                return;
            }
            self.have = 0;
            each(self.head[0]);
        }
    }
}

/// Tag and whole length of the message that `bytes` begins with, if all of it is there.
pub(crate) fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let (tag, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize + 1;
    (bytes.len() >= length).then_some((*tag, length))
}

/// What an error says to people (field `M`), from the bytes that it arrived in.
pub(crate) fn error_text(bytes: &[u8]) -> String {
    let found = bytes.windows(2).position(|pair| pair == b"\0M").map(|at| &bytes[at + 2..]);
    let told = found.and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or(b"an error");
    String::from_utf8_lossy(told).into_owned()
}
