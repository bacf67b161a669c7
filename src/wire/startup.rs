//! Packets before the log-in: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.
//!
//! They have no tag, only a length, and come from peers nobody knows yet: at most 10 000 bytes
//! (`MAX_STARTUP_PACKET_LENGTH` in `pqcomm.h`), names and values kept as bytes, duplicates kept in order.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest packet, length word included, that is read before a log-in.
pub const MAX_PACKET: usize = 10_000;
/// The newest minor version of protocol 3 that we speak, to either side.
pub const NEWEST_MINOR: u16 = 2;
/// The longest secret of a cancel key (protocol 3.2).
pub const MAX_SECRET: usize = 256;

const CANCEL: u32 = (1234 << 16) | 5678;
const SSL: u32 = (1234 << 16) | 5679;
const GSS: u32 = (1234 << 16) | 5680;

/// A packet that opens a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// The client asks for TLS; answered by one byte.
    Ssl,
    /// The client asks for GSSAPI encryption; answered by one byte.
    Gss,
    /// Stop what the session with this key is doing. Nothing is answered.
    Cancel(CancelKey),
    /// The client wants to log in.
    Startup(Startup),
}

/// A session's secret: process id and key (4 bytes in protocol 3.0, up to 256 in 3.2).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// As in BackendKeyData.
    pub pid: i32,
    /// As in BackendKeyData.
    pub secret: Bytes,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({}, ..)", self.pid)
    }
}

/// A StartupMessage of protocol 3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Startup {
    /// The minor protocol version that was asked for.
    pub minor: u16,
    /// Names and values in the order they came, duplicates and all.
    pub parameters: Vec<(Bytes, Bytes)>,
}

impl Startup {
    /// The minor version that the session speaks: what was asked for, or the newest that we know.
    #[must_use]
    pub fn speaks(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// Whether the client has to be told (NegotiateProtocolVersion) that it does not get all that it asked for. As
    /// Postgres: 3.1, which was never published, is simply spoken as 3.0.
    #[must_use]
    pub fn asks_for_more(&self) -> bool {
        self.minor > NEWEST_MINOR || self.protocol_options().next().is_some()
    }

    /// The last value of a parameter, as Postgres takes it.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Bytes> {
        self.parameters.iter().rev().find(|(n, _)| n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Protocol options (`_pq_.*`): answered by NegotiateProtocolVersion, never handed to a server.
    pub fn protocol_options(&self) -> impl Iterator<Item = &Bytes> {
        self.parameters.iter().map(|(name, _)| name).filter(|name| name.starts_with(b"_pq_."))
    }
}

/// Why a first packet cannot be taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPacket {
    /// Shorter than 8 or longer than [`MAX_PACKET`] bytes.
    #[error("invalid length of startup packet")]
    Length,
    /// A cancel request with a key of impossible length. Whoever sends one expects no answer.
    #[error("invalid length of cancel request")]
    Cancel,
    /// A major version other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Version {
        /// Upper half of the version word.
        major: u32,
        /// Lower half of the version word.
        minor: u32,
    },
    /// The parameters are not pairs of zero-terminated strings, closed by a zero.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// Takes one packet off the front of `buf`; `None` while it is not all there.
///
/// # Errors
/// [`BadPacket`]; the connection cannot go on after one.
pub fn take(buf: &mut BytesMut) -> Result<Option<Packet>, BadPacket> {
    let Some(word) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*word)).map_err(|_| BadPacket::Length)?;
    if !(8..=MAX_PACKET).contains(&length) {
        return Err(BadPacket::Length);
    }
    if buf.len() < length {
        return Ok(None);
    }
    let mut packet = buf.split_to(length).freeze();
    packet.advance(4);
    let code = packet.get_u32();
    match code {
        SSL => Ok(Some(Packet::Ssl)),
        GSS => Ok(Some(Packet::Gss)),
        CANCEL => match packet.len() {
            8.. if packet.len() <= 4 + MAX_SECRET => {
                Ok(Some(Packet::Cancel(CancelKey { pid: packet.get_i32(), secret: packet })))
            }
            _ => Err(BadPacket::Cancel),
        },
        _ if code >> 16 == 3 => {
            let minor = u16::try_from(code & 0xffff).unwrap_or(u16::MAX);
            Ok(Some(Packet::Startup(Startup { minor, parameters: pairs(packet)? })))
        }
        _ => Err(BadPacket::Version { major: code >> 16, minor: code & 0xffff }),
    }
}

/// Writes a StartupMessage. No name or value may contain a zero.
pub fn write(minor: u16, parameters: &[(&str, &str)], out: &mut BytesMut) {
    let length: usize = parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    out.put_u32(u32::try_from(length + 9).unwrap_or(u32::MAX));
    out.put_u16(3);
    out.put_u16(minor);
    for (name, value) in parameters {
        for text in [name, value] {
            out.put_slice(text.as_bytes());
            out.put_u8(0);
        }
    }
    out.put_u8(0);
}

/// Writes a CancelRequest with a key of any length.
pub fn write_cancel(key: &CancelKey, out: &mut BytesMut) {
    out.put_u32(u32::try_from(key.secret.len() + 12).unwrap_or(u32::MAX));
    out.put_u32(CANCEL);
    out.put_i32(key.pid);
    out.put_slice(&key.secret);
}

fn pairs(mut rest: Bytes) -> Result<Vec<(Bytes, Bytes)>, BadPacket> {
    let mut found = Vec::new();
    loop {
        let name = cstring(&mut rest)?;
        if name.is_empty() {
            return if rest.is_empty() { Ok(found) } else { Err(BadPacket::Layout) };
        }
        let value = cstring(&mut rest)?;
        found.push((name, value));
    }
}

/// Splits a zero-terminated string off the front, without its zero.
fn cstring(rest: &mut Bytes) -> Result<Bytes, BadPacket> {
    let end = rest.iter().position(|&byte| byte == 0).ok_or(BadPacket::Layout)?;
    let text = rest.split_to(end);
    rest.advance(1);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn startup(version: [u8; 4], parameters: &[u8]) -> BytesMut {
        packet(&[&version[..], parameters].concat())
    }

    #[test]
    fn each_kind_is_told_apart() {
        assert_eq!(take(&mut packet(&SSL.to_be_bytes())), Ok(Some(Packet::Ssl)));
        assert_eq!(take(&mut packet(&GSS.to_be_bytes())), Ok(Some(Packet::Gss)));
        let mut cancel = CANCEL.to_be_bytes().to_vec();
        cancel.extend([0, 0, 0, 7, 1, 2, 3, 4]);
        let key = CancelKey { pid: 7, secret: Bytes::from_static(&[1, 2, 3, 4]) };
        assert_eq!(take(&mut packet(&cancel)), Ok(Some(Packet::Cancel(key))));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = BytesMut::new();
        write(2, &[("user", "a"), ("database", "d")], &mut out);
        let Ok(Some(Packet::Startup(startup))) = take(&mut out) else { panic!("not a startup") };
        assert_eq!((startup.minor, startup.parameters.len()), (2, 2));
        for length in [4, 32, MAX_SECRET] {
            let key = CancelKey { pid: 7, secret: Bytes::from(vec![9; length]) };
            write_cancel(&key, &mut out);
            assert_eq!(take(&mut out), Ok(Some(Packet::Cancel(key))));
        }
        write_cancel(&CancelKey { pid: 7, secret: Bytes::from(vec![9; MAX_SECRET + 1]) }, &mut out);
        assert_eq!(take(&mut out), Err(BadPacket::Cancel));
    }

    #[test]
    fn a_client_gets_the_version_it_asks_for_or_the_newest_there_is() {
        for (minor, option, speaks, told) in [
            (0, None, 0, false),
            (1, None, 1, false),
            (2, None, 2, false),
            (3, None, 2, true),
            (9999, Some("_pq_.test_protocol_negotiation"), 2, true),
            (0, Some("_pq_.x"), 0, true),
        ] {
            let parameters = option.map(|name| (name.into(), "".into())).into_iter().collect();
            let startup = Startup { minor, parameters };
            assert_eq!((startup.speaks(), startup.asks_for_more()), (speaks, told), "3.{minor} {option:?}");
        }
    }

    #[test]
    fn the_last_of_duplicate_parameters_counts() {
        let mut bytes = startup([0, 3, 0, 0], b"user\0a\0database\0d\0user\0b\0\0");
        let Ok(Some(Packet::Startup(startup))) = take(&mut bytes) else { panic!("not a startup") };
        assert_eq!(startup.parameter("user").unwrap(), "b");
        assert_eq!(startup.parameters.len(), 3);
        assert!(bytes.is_empty());
    }

    #[test]
    fn bad_packets_are_named() {
        for (bytes, expected) in [
            (startup([0, 2, 0, 0], b""), BadPacket::Version { major: 2, minor: 0 }),
            (startup([0, 9, 0, 9], b"user\0a\0\0"), BadPacket::Version { major: 9, minor: 9 }),
            (startup([0, 3, 0, 0], b"user\0a\0"), BadPacket::Layout),
            (startup([0, 3, 0, 0], b"user"), BadPacket::Layout),
            (startup([0, 3, 0, 0], b""), BadPacket::Layout),
            (startup([0, 3, 0, 0], b"\0extra"), BadPacket::Layout),
            (BytesMut::from(&[0, 0, 0, 7, 0, 0, 0][..]), BadPacket::Length),
            (BytesMut::from(&[0, 0, 0x27, 0x11][..]), BadPacket::Length),
            (BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]), BadPacket::Length),
            (BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]), BadPacket::Length),
            (packet(&[&CANCEL.to_be_bytes()[..], &[0, 0, 0, 7]].concat()), BadPacket::Cancel),
        ] {
            let mut given = bytes.clone();
            assert_eq!(take(&mut given), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_packet_in_pieces_waits_for_its_end() {
        let whole = startup([0, 3, 0, 2], b"user\0a\0\0");
        for cut in 0..whole.len() {
            assert_eq!(take(&mut BytesMut::from(&whole[..cut])), Ok(None), "cut at {cut}");
        }
    }
}
