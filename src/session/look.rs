//! Whether a client is still there that cannot be read from now, because what it has sent has nowhere to go.
//!
//! The kernel reports a closed connection behind the bytes that are still unread, so nothing but a look from time to
//! time tells.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::net::stream::Stream;

/// How often to look.
const PERIOD: Duration = Duration::from_millis(100);

/// The looks after one client. The timer is made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Look {
    timer: Option<Pin<Box<Sleep>>>,
    /// Something has moved since the last look.
    moved: bool,
    /// Something had moved between the two looks before.
    lively: bool,
}

impl Look {
    /// Something has moved: what the client has sent may come to its end by itself, so its departure is no news yet.
    pub(super) const fn moves(&mut self) {
        (self.moved, self.lively) = (true, true);
    }

    /// Ready when the client has gone and nothing has moved for a while. To be polled while it cannot be read from.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<()> {
        loop {
            if !self.lively && stream.read_closed() {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(PERIOD)));
            ready!(timer.as_mut().poll(cx));
            self.lively = std::mem::take(&mut self.moved);
            timer.as_mut().reset(Instant::now() + PERIOD);
        }
    }
}
