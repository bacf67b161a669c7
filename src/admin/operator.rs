//! The operator's end of a connection to the console: what is said to it, and what it may say while a command runs.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::clients::{Client, Doing, Presence, Told};
use crate::clock::Clock;
use crate::net::stream::Stream;
use crate::wire::frame;
use crate::wire::reply::{Report, Severity, sqlstate};
use crate::wire::tags::client;

use super::console::Problem;

/// The longest command: a change's SQL may be long.
pub(super) const COMMAND_MAX: usize = 16 << 20;

/// How long an operator may take to read an answer.
const UNREAD: Duration = Duration::from_mins(1);

/// The operator's end of the connection.
pub(super) struct Operator {
    pub(super) stream: Stream,
    pub(super) buf: BytesMut,
    pub(super) presence: Presence,
    pub(super) clock: Clock,
    /// Who it is, for receipts and the log.
    pub(super) name: String,
    pub(super) admin: bool,
}

/// What ends a command before its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Interrupt {
    /// The operator has gone.
    Gone,
    /// It has asked for the command to be cancelled, as psql does at Ctrl-C.
    Cancelled,
}

impl Operator {
    fn client(&self) -> &Client {
        self.presence.client()
    }

    /// A command begins: a cancel that comes from here on is for it.
    pub(super) fn begins(&self) {
        self.client().waits(self.clock.now());
    }

    /// A command is over.
    pub(super) fn ends(&self) {
        self.client().rests(self.clock.now());
    }

    /// Sends a notice now.
    pub(super) async fn notice(&mut self, text: String) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        Report::new("00000", text).write(Severity::Notice, &mut out);
        self.send(&out).await
    }

    /// Sends a warning now.
    pub(super) async fn warning(&mut self, text: String) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        Report::new("01000", text).write(Severity::Warning, &mut out);
        self.send(&out).await
    }

    /// Sends bytes. One that does not read them has gone when it is sent away, or after a while.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let client = std::sync::Arc::clone(self.presence.client());
        tokio::select! {
            biased;
            sent = self.stream.write_all(bytes) => Ok(sent?),
            _ = client.sent_away(Doing::Working) => Err(Problem::Gone),
            () = tokio::time::sleep(UNREAD) => Err(Problem::Gone),
        }
    }

    /// Ready when the operator wants the running command to end, or has gone. Cancel-safe.
    pub(super) async fn interrupted(&mut self) -> Interrupt {
        let client = std::sync::Arc::clone(self.presence.client());
        let told = std::future::poll_fn(|cx| client.poll_told(cx, Doing::Waiting));
        tokio::select! {
            biased;
            told = told => match told {
                Told::Cancel => Interrupt::Cancelled,
                Told::Leave(_) => Interrupt::Gone,
            },
            () = self.gone() => Interrupt::Gone,
        }
    }

    /// Ready when the operator has gone. What it sends on is kept for later, up to a bound. Cancel-safe.
    async fn gone(&mut self) {
        loop {
            if self.buf.len() > COMMAND_MAX {
                return;
            }
            self.buf.reserve(1024);
            match self.stream.read_buf(&mut self.buf).await {
                // A driver that says good-bye has gone too, even while its socket is still open.
                Ok(n) if n > 0 && self.buf.first() != Some(&client::TERMINATE) => {}
                _ => return,
            }
        }
    }

    /// The next message. **Cancel-safe.**
    ///
    /// # Errors
    /// [`Problem::Gone`], also for one that has to leave: it has been told then.
    pub(super) async fn message(&mut self) -> Result<(u8, BytesMut), Problem> {
        loop {
            match frame::take(&mut self.buf, COMMAND_MAX) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.more().await?,
                Err(bad) => {
                    return Err(self.farewell(&Report::new(sqlstate::PROTOCOL_VIOLATION, bad.to_string())).await);
                }
            }
        }
    }

    async fn more(&mut self) -> Result<(), Problem> {
        self.buf.reserve(4096);
        let client = std::sync::Arc::clone(self.presence.client());
        let why = tokio::select! {
            biased;
            told = std::future::poll_fn(|cx| client.poll_told(cx, Doing::Resting)) => match told {
                Told::Leave(why) => why,
                Told::Cancel => return Ok(()),
            },
            read = self.stream.read_buf(&mut self.buf) => {
                return if read? == 0 { Err(Problem::Gone) } else { Ok(()) };
            }
        };
        Err(self.farewell(&why).await)
    }

    /// Says why the connection ends.
    pub(super) async fn farewell(&mut self, why: &Report) -> Problem {
        let mut out = BytesMut::new();
        why.write(Severity::Fatal, &mut out);
        let _ = self.send(&out).await;
        Problem::Gone
    }
}
