//! A client's time in the queue or behind a shut gate. Meanwhile its socket is watched: a request whose client has
//! left is never started, and at most one buffer of what it sends on is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, Interval, timeout};

use super::look::Look;
use super::task::being_changed;
use super::timer::Timer;
use crate::clients::{Client, Doing, Told};
use crate::net::watched::Watched;
use crate::pool::database::Pool;
use crate::pool::gate::{Gate, Why};
use crate::pool::lease::Lease;
use crate::pool::wait::{Answer, Wait};
use crate::wire::frame::Flow;
use crate::wire::reply::{Report, Severity, sqlstate};
use crate::wire::tags::client;

/// At most this much is read ahead while waiting; beyond it TCP pushes back.
const AHEAD: usize = 16 << 10;

/// How long a client may take to read the rest of a notice before it counts as gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often one that is not to be held looks at the gate while it waits for a server.
const GLANCE: Duration = Duration::from_millis(50);

/// How the waiting ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// Begin, with a server if one was needed; so long a shut gate has kept it.
    Go(Option<Lease>, Duration),
    /// The request will not run; the client is told why and stays.
    Rejected(Report),
    /// The client left.
    Gone,
    /// Somebody told the client to leave.
    Dismissed(Report),
}

/// What Postgres says to a request that its client has cancelled.
pub(super) fn cancelled() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

/// A waiting client. Its task listens to what it is told.
pub(super) struct Waiting<'a> {
    pub(super) stream: &'a mut Watched,
    pub(super) input: &'a mut Flow,
    pub(super) client: &'a Client,
    pub(super) pool: &'a Arc<Pool>,
    /// Since when it waits.
    pub(super) asked: Instant,
    /// How long for a server.
    pub(super) limit: Option<Duration>,
    /// After how long it is told that it waits; `None`: not, or not again.
    pub(super) notify: Option<Duration>,
    /// For both. It is the session's, and is not set anew for each waiting: one that fires too early is set to what is left.
    pub(super) timer: &'a mut Timer,
    /// What of that notice is still to be written.
    pub(super) notice: BytesMut,
    /// When its turn came, there was something to read from it: perhaps its end.
    pub(super) heard: bool,
    /// It is not to be held: a gate that is shut while it waits ends its waiting.
    pub(super) fails_fast: bool,
}

impl Waiting<'_> {
    /// Waits. Dropping the future gives the place up.
    pub(super) async fn run(&mut self, mut wait: Wait) -> Waited {
        self.set_timer();
        let mut look = Look::default();
        if self.input.has(client::TERMINATE) {
            wait.give_up(Why::Left);
            return Waited::Gone;
        }
        let mut glance = self.fails_fast.then(|| tokio::time::interval(GLANCE));
        let waited = std::future::poll_fn(|cx| {
            self.poll_notice(cx);
            if let Some(glance) = &mut glance
                && let Poll::Ready(report) = self.poll_gate(cx, glance)
            {
                wait.give_up(Why::Cancelled);
                return Poll::Ready(Waited::Rejected(report));
            }
            self.poll(cx, &mut wait, &mut look)
        })
        .await;
        // What comes next is written behind the whole notice.
        self.heard |= !self.notice.is_empty();
        if !self.notice.is_empty()
            && !matches!(timeout(FAREWELL, self.stream.write_all(&self.notice)).await, Ok(Ok(())))
        {
            if let Waited::Go(lease, _) = waited {
                wait.undo(lease);
            }
            return Waited::Gone;
        }
        // A client that went in the same moment as its turn came has not been served: its request must not start.
        match waited {
            Waited::Go(lease, _) if self.heard && self.stream.socket().read_closed() => {
                wait.undo(lease);
                Waited::Gone
            }
            waited => waited,
        }
    }

    fn set_timer(&mut self) {
        let Some(first) = self.limit.into_iter().chain(self.notify).min() else { return };
        self.timer.fires_by(self.asked + first);
    }

    fn poll(&mut self, cx: &mut Context<'_>, wait: &mut Wait, look: &mut Look) -> Poll<Waited> {
        match self.client.told(Doing::Waiting) {
            Some(Told::Cancel) => {
                wait.give_up(Why::Cancelled);
                return Poll::Ready(Waited::Rejected(cancelled()));
            }
            Some(Told::Leave(why)) => return Poll::Ready(Waited::Dismissed(why)),
            None => {}
        }
        if let Some(answer) = wait.answered() {
            self.heard = self.stream.socket().may_be_read();
            return Poll::Ready(match answer {
                Answer::Go { lease, stall } => Waited::Go(lease, stall.unwrap_or_default()),
                Answer::No(report) => Waited::Rejected(report),
            });
        }
        if self.poll_client(cx, look).is_ready() {
            wait.give_up(Why::Left);
            return Poll::Ready(Waited::Gone);
        }
        self.poll_timer(cx, wait)
    }

    /// Ready when the gate has been shut.
    fn poll_gate(&self, cx: &mut Context<'_>, glance: &mut Interval) -> Poll<Report> {
        let database = &self.pool.database;
        loop {
            if database.is_shut_for(self.client) {
                return Poll::Ready(being_changed(database));
            }
            std::task::ready!(glance.poll_tick(cx));
        }
    }

    /// Writes what the client is told of its waiting, as far as it takes it.
    fn poll_notice(&mut self, cx: &mut Context<'_>) {
        while !self.notice.is_empty() {
            match Pin::new(&mut *self.stream).poll_write(cx, &self.notice) {
                Poll::Ready(Ok(n @ 1..)) => self.notice.advance(n),
                // That it is gone is seen where it is read.
                Poll::Ready(_) => self.notice.clear(),
                Poll::Pending => return,
            }
        }
    }

    fn why_it_waits(&self) -> Report {
        let database = &self.pool.database;
        match database.pulse().0 {
            Gate::Open => {
                Report::new("00000", "No server connection available in postgres backend, client being queued")
            }
            Gate::Shut { bound, .. } => {
                let report =
                    Report::new("00000", "the database is paused for a change of its schema, client being held");
                match bound {
                    None => report,
                    Some(bound) => report.detail(format!(
                        "The request goes on by itself, in {} s at the latest.",
                        bound.since(database.now()).as_secs() + 1
                    )),
                }
            }
        }
    }

    /// Ready when the client has left, or has said that it does.
    fn poll_client(&mut self, cx: &mut Context<'_>, look: &mut Look) -> Poll<()> {
        while let room @ 1.. = AHEAD.saturating_sub(self.input.unread().len()) {
            match self.stream.poll_read_into(cx, &mut self.input.buf, room) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) if self.input.has(client::TERMINATE) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        look.poll(cx, self.stream.socket())
    }

    /// Ready when the client has waited too long for a server. Time behind a shut gate does not count. Tells it that it waits,
    /// once, when it is time.
    fn poll_timer(&mut self, cx: &mut Context<'_>, wait: &mut Wait) -> Poll<Waited> {
        while self.limit.is_some() || self.notify.is_some() {
            std::task::ready!(self.timer.poll(cx));
            let (now, limit) = (Instant::now(), self.limit.map(|limit| wait.left(limit)));
            if limit.is_some_and(|left| left.is_zero()) {
                wait.give_up(Why::Expired);
                return Poll::Ready(Waited::Rejected(self.too_long()));
            }
            if self.notify.is_some_and(|after| now >= self.asked + after) {
                self.notify = None;
                self.why_it_waits().write(Severity::Notice, &mut self.notice);
                self.poll_notice(cx);
            }
            let notify = self.notify.map(|after| self.asked + after - now);
            if let Some(left) = limit.into_iter().chain(notify).min() {
                self.timer.set(now + left.max(Duration::from_millis(1)));
            }
        }
        Poll::Pending
    }

    fn too_long(&self) -> Report {
        let report = Report::new(sqlstate::TOO_MANY_CONNECTIONS, "query_wait_timeout");
        match self.pool.welcome().failure {
            Some(failure) => report.detail(failure.message),
            None => report.hint("All servers of the pool were busy for that long: see SHOW POOLS and SHOW CLIENTS."),
        }
    }
}
