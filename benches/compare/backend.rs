//! The null backend: a Postgres that answers every statement at once with one row, on one thread. It is as fast as a
//! server can be, so what a proxy costs is all that is left to see.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::wire::{self, CANCEL, GSS_PLEASE, TLS_PLEASE, message, text};

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A connection that breaks is a client that left.
            let _ = session(stream).await;
        });
    }
}

/// The state of a session: what has arrived and is not yet a whole message, what has to go out, the transaction.
struct Session {
    stream: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    status: u8,
}

async fn session(stream: TcpStream) -> io::Result<()> {
    let mut session = Session { stream, input: Vec::with_capacity(8192), out: Vec::with_capacity(8192), status: b'I' };
    while !session.greet().await? {}
    loop {
        let mut used = 0;
        while let Some((tag, length)) = wire::header(&session.input[used..]) {
            let body = session.input[used + 5..used + length].to_vec();
            used += length;
            if tag == b'X' {
                return Ok(());
            }
            session.answer(tag, &body);
        }
        session.input.drain(..used);
        session.flush().await?;
        session.more().await?;
    }
}

impl Session {
    /// Reads what there is, at least a byte.
    async fn more(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.try_write(&self.out[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        Ok(())
    }

    /// Answers the packet that a session begins with; whether it has begun.
    async fn greet(&mut self) -> io::Result<bool> {
        loop {
            if let Some(length) = self.input.get(..4) {
                let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
                if self.input.len() >= length.max(8) {
                    let code = u32::from_be_bytes(self.input[4..8].try_into().unwrap_or_default());
                    self.input.drain(..length.max(8));
                    return self.greeted(code).await;
                }
            }
            self.more().await?;
        }
    }

    async fn greeted(&mut self, code: u32) -> io::Result<bool> {
        match code {
            TLS_PLEASE | GSS_PLEASE => {
                self.out.push(b'N');
                self.flush().await?;
                return Ok(false);
            }
            CANCEL => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
        let out = &mut self.out;
        if code & 0xffff != 0 {
            message(out, b'v', |out| out.extend_from_slice(&[wire::PROTOCOL.to_be_bytes(), [0; 4]].concat()));
        }
        message(out, b'R', |out| out.extend_from_slice(&[0; 4]));
        for (name, value) in SETTINGS {
            message(out, b'S', |out| {
                text(out, name);
                text(out, value);
            });
        }
        message(out, b'K', |out| out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]));
        message(out, b'Z', |out| out.push(b'I'));
        self.flush().await?;
        Ok(true)
    }

    fn answer(&mut self, tag: u8, body: &[u8]) {
        let out = &mut self.out;
        match tag {
            b'Q' => {
                if body.get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"select")) {
                    row_description(out);
                    row(out);
                } else {
                    self.status = other(out, body, self.status);
                }
                message(out, b'Z', |out| out.push(self.status));
            }
            b'P' => out.extend_from_slice(b"1\0\0\0\x04"),
            b'B' => out.extend_from_slice(b"2\0\0\0\x04"),
            b'C' => out.extend_from_slice(b"3\0\0\0\x04"),
            b'D' => {
                if body.first() == Some(&b'S') {
                    message(out, b't', |out| out.extend_from_slice(&[0, 1, 0, 0, 0, 23]));
                }
                row_description(out);
            }
            b'E' => row(out),
            b'S' => message(out, b'Z', |out| out.push(self.status)),
            _ => {}
        }
    }
}

/// What Postgres 15 says of itself, as far as a proxy may look.
const SETTINGS: [(&str, &str); 12] = [
    ("application_name", "bench"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

fn row_description(out: &mut Vec<u8>) {
    message(out, b'T', |out| {
        out.extend_from_slice(&[0, 1]);
        text(out, "abalance");
        out.extend_from_slice(&[0, 0, 0x40, 0x12, 0, 3, 0, 0, 0, 23, 0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    });
}

fn row(out: &mut Vec<u8>) {
    message(out, b'D', |out| out.extend_from_slice(b"\0\x01\0\0\0\x010"));
    message(out, b'C', |out| text(out, "SELECT 1"));
}

/// A statement without rows; the status that it leaves.
fn other(out: &mut Vec<u8>, body: &[u8], status: u8) -> u8 {
    let word: Vec<u8> = body.iter().take_while(|byte| byte.is_ascii_alphabetic()).map(u8::to_ascii_uppercase).collect();
    if word.is_empty() {
        message(out, b'I', |_| ());
        return status;
    }
    let word = String::from_utf8_lossy(&word).into_owned();
    message(out, b'C', |out| text(out, &word));
    match word.as_str() {
        "BEGIN" | "START" => b'T',
        "COMMIT" | "ROLLBACK" | "END" | "ABORT" => b'I',
        _ => status,
    }
}
