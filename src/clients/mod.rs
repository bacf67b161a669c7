//! Every client that is logged in: what others may see of it, and how they reach it.
//!
//! A client's own task writes its [`Client`] entry; console, metrics, cancel requests and windows read it. The lock
//! inside guards a few words and is never held across an await. What a client may be told from outside: its
//! waiting is cancelled, or it has to leave.

mod registry;
pub mod seat;
mod statement;

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

pub use registry::{Caps, Clients, Entry, Full, Local, Presence};
use seat::{Seat, Word};
pub use statement::Statement;

use crate::ids::{Moment, SessionId};
use crate::net::stream::Peer;
use crate::prepared::hints::Hints;
use crate::server::cancel::{Link, UnderWay};
use crate::wire::reply::Report;
use crate::wire::startup::CancelKey;

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Between transactions.
    Idle,
    /// It wants to begin one and waits: for a server, or at a shut gate.
    Waiting,
    /// A request of its is running.
    Active,
    /// In a transaction, and silent.
    IdleInTransaction,
}

/// What others may know of a client, all of one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// When its open transaction began.
    pub transaction: Option<Moment>,
    /// The beginning of its last statement.
    pub statement: Statement,
    /// The server that it has.
    pub link: Option<Arc<Link>>,
    /// What its last transaction counts as at the gate: it may call itself something else since.
    pub group: u32,
}

/// One client. See the module's text.
#[derive(Debug)]
pub struct Client {
    /// Our number for it.
    pub id: SessionId,
    /// Who it is.
    pub user: String,
    /// The database that it asked for.
    pub database: String,
    /// The user whose pool it is in: itself, or the one that the database's entry forces.
    pub pool_user: String,
    /// Where it comes from.
    pub peer: Peer,
    /// Version and cipher of its TLS, if it has any.
    pub tls: Option<String>,
    /// Our end of its connection.
    pub local: Local,
    /// When it connected.
    pub connected_at: Moment,
    /// The cancel key that it was given.
    pub key: CancelKey,
    /// The minor version of the protocol that it speaks.
    pub minor: u16,
    application_name: Mutex<String>,
    /// Under which number the gate of its database knew it last; [`UNKNOWN`] until it is asked for, and when it has another name.
    group: AtomicU32,
    view: Mutex<View>,
    /// How many prepared statements it has names for.
    pub statements: AtomicU64,
    keeps: AtomicU16,
    told: AtomicU8,
    /// How its task is woken, and where it is told that it may begin.
    pub(crate) seat: Seat<Word>,
    farewell: Mutex<Option<Report>>,
}

/// No group.
const UNKNOWN: u32 = u32::MAX;

const CANCEL: u8 = 1;
const LEAVE: u8 = 2;
const LEAVE_AT_REST: u8 = 4;
const MOVE: u8 = 8;

/// Something that a client's task is told from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Its waiting request is cancelled.
    Cancel,
    /// It has to leave; this is the reason.
    Leave(Report),
}

/// What a client's task does while it listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It waits for a request, or rests between transactions.
    Resting,
    /// It waits to begin a transaction: the only time at which a cancel is its own to answer.
    Waiting,
    /// Its transaction is open.
    Working,
}

/// What a cancel request for a client comes to.
#[derive(Debug)]
pub enum Cancel {
    /// It waits; its task has been told.
    Told,
    /// It has a server: send the cancel there. The server is not lent to others before this is dropped.
    Send(Arc<Link>, UnderWay),
    /// It is doing nothing that could be cancelled.
    Nothing,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each write below is a plain assignment: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// A copy of what others may know.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// What it is doing, since when, and when its open transaction began.
    #[must_use]
    pub fn timing(&self) -> (State, Moment, Option<Moment>) {
        let view = lock(&self.view);
        (view.state, view.since, view.transaction)
    }

    /// The number under which the gate knows its open transaction; `None` if it has none.
    #[must_use]
    pub fn runs_as(&self) -> Option<u32> {
        let view = lock(&self.view);
        view.transaction.map(|_| view.group)
    }

    /// The name that the application gives itself, as it last reported it.
    #[must_use]
    pub fn application_name(&self) -> String {
        lock(&self.application_name).clone()
    }

    /// Notes the name that the application gives itself.
    pub fn set_application_name(&self, name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        let mut known = lock(&self.application_name);
        if *known != name {
            *known = name.into_owned();
            self.group.store(UNKNOWN, Ordering::Release);
        }
    }

    /// The number under which it was known to the gate of its database when it was last looked for there.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group.load(Ordering::Acquire)
    }

    /// Notes that number.
    pub fn set_group(&self, group: u32) {
        self.group.store(group, Ordering::Release);
    }

    /// What keeps it on its server; none while it is free to get another.
    #[must_use]
    pub fn keeps(&self) -> Hints {
        Hints::from_bits(self.keeps.load(Ordering::Relaxed))
    }

    /// Notes what keeps it on its server.
    pub fn set_keeps(&self, keeps: Hints) {
        self.keeps.store(keeps.bits(), Ordering::Relaxed);
    }

    /// It wants to begin a transaction and waits.
    pub fn waits(&self, now: Moment) {
        let mut view = lock(&self.view);
        // One that waits already goes on with the same request, and a cancel that has come is for that.
        if view.state != State::Waiting {
            self.forget_cancel(&view);
        }
        (view.state, view.since) = (State::Waiting, now);
    }

    /// It has leave to begin, and its server is made ready. A cancel that comes now is remembered: it is for the
    /// request, and must not hit what the proxy itself does on that server.
    pub fn prepares(&self, now: Moment) {
        let mut view = lock(&self.view);
        if view.state != State::Waiting {
            self.forget_cancel(&view);
            (view.state, view.since) = (State::Waiting, now);
        }
    }

    /// Its transaction begins on this server. False: its request was cancelled before, and nothing begins.
    #[must_use]
    pub fn begins(&self, link: &Arc<Link>, now: Moment) -> bool {
        let mut view = lock(&self.view);
        if self.forget_cancel(&view) {
            return false;
        }
        (view.state, view.since, view.transaction) = (State::Active, now, Some(now));
        view.link = Some(Arc::clone(link));
        // Its own task alone changes that, and has asked for leave under this number.
        view.group = self.group.load(Ordering::Relaxed);
        true
    }

    /// It has sent a request inside its transaction.
    pub fn requests(&self, text: Option<&[u8]>, now: Moment) {
        let mut view = lock(&self.view);
        if view.state != State::Active {
            (view.state, view.since) = (State::Active, now);
        }
        if let Some(text) = text {
            view.statement.set(text);
        }
    }

    /// Its request is answered, and the next one was sent already.
    pub fn goes_on(&self, now: Moment) {
        lock(&self.view).since = now;
    }

    /// Its request is answered and its transaction is open.
    pub fn rests_in_transaction(&self, now: Moment) {
        let mut view = lock(&self.view);
        (view.state, view.since) = (State::IdleInTransaction, now);
    }

    /// Its transaction is over; it keeps its server (session mode).
    pub fn rests(&self, now: Moment) {
        self.become_idle(&mut lock(&self.view), now);
    }

    /// Its transaction is over; it keeps no server. Returns whether a cancel is on its way to the one that it had:
    /// after this no new one can start.
    pub fn ends(&self, now: Moment) -> bool {
        let mut view = lock(&self.view);
        self.become_idle(&mut view, now);
        view.link.take().is_some_and(|link| link.guard.in_doubt())
    }

    fn become_idle(&self, view: &mut View, now: Moment) {
        // A cancel that came for a request that has not begun and never will must not hit the next one.
        if view.state == State::Waiting {
            self.forget_cancel(view);
        }
        (view.state, view.since, view.transaction) = (State::Idle, now, None);
    }

    /// Whether it was told of a cancel that it has not heeded. That is told with the view locked, as it is here: a look is enough where
    /// there is none.
    fn forget_cancel(&self, _: &View) -> bool {
        let told = self.told.load(Ordering::Acquire) & CANCEL != 0;
        if told {
            self.told.fetch_and(!CANCEL, Ordering::AcqRel);
        }
        told
    }

    /// A cancel request with its key has come.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        let view = lock(&self.view);
        match (view.state, &view.link) {
            (State::Waiting, _) => {
                self.told.fetch_or(CANCEL, Ordering::AcqRel);
                drop(view);
                self.wake();
                Cancel::Told
            }
            (_, Some(link)) => match link.start_cancel() {
                Some(under_way) => Cancel::Send(Arc::clone(link), under_way),
                None => Cancel::Nothing,
            },
            (_, None) => Cancel::Nothing,
        }
    }

    /// Tells it to leave, for this reason. The first reason counts.
    pub fn dismiss(&self, why: Report) {
        lock(&self.farewell).get_or_insert(why);
        self.told.fetch_or(LEAVE, Ordering::AcqRel);
        self.wake();
    }

    /// Tells it to leave as soon as it is between transactions: nothing that it has begun or asked for is cut.
    pub fn dismiss_at_rest(&self, why: Report) {
        lock(&self.farewell).get_or_insert(why);
        self.told.fetch_or(LEAVE_AT_REST, Ordering::AcqRel);
        self.wake();
    }

    /// Asks it to go on in another process as soon as it is between transactions, or not to any more.
    pub fn ask_to_move(&self, wanted: bool) {
        if wanted {
            self.told.fetch_or(MOVE, Ordering::AcqRel);
            self.wake();
        } else {
            self.told.fetch_and(!MOVE, Ordering::AcqRel);
        }
    }

    /// Whether it is asked to go on in another process. Its task is woken if it [listens](Self::listen).
    #[must_use]
    pub fn is_to_move(&self) -> bool {
        self.told.load(Ordering::Acquire) & MOVE != 0
    }

    fn wake(&self) {
        self.seat.wake();
    }

    /// For its own task, before it looks at what it is [told](Self::told): from now on this one is woken when there is something.
    pub fn listen(&self, waker: &Waker) {
        self.seat.listen(waker);
    }

    /// For its own task: what it is told, once, as far as it counts for what the task does.
    pub fn poll_told(&self, cx: &mut Context<'_>, doing: Doing) -> Poll<Told> {
        // Before the look, whatever was told before: what is told behind the look finds the waker.
        self.listen(cx.waker());
        self.told(doing).map_or(Poll::Pending, Poll::Ready)
    }

    /// The same for a task that [listens](Self::listen) already.
    #[inline]
    pub fn told(&self, doing: Doing) -> Option<Told> {
        match self.told.load(Ordering::Acquire) {
            0 => None,
            told => self.heed(told, doing),
        }
    }

    #[cold]
    fn heed(&self, told: u8, doing: Doing) -> Option<Told> {
        if told & LEAVE != 0 || (told & LEAVE_AT_REST != 0 && doing == Doing::Resting) {
            let why = lock(&self.farewell).clone();
            return Some(Told::Leave(why.unwrap_or_else(|| Report::new("57P01", "terminating connection"))));
        }
        if doing == Doing::Waiting && told & CANCEL != 0 {
            self.told.fetch_and(!CANCEL, Ordering::AcqRel);
            return Some(Told::Cancel);
        }
        None
    }

    /// For its own task, while it does this and does not [wait](Doing::Waiting): why it has to leave, when it has. Cancel-safe.
    pub async fn sent_away(&self, doing: Doing) -> Report {
        std::future::poll_fn(|cx| match self.poll_told(cx, doing) {
            Poll::Ready(Told::Leave(why)) => Poll::Ready(why),
            Poll::Ready(Told::Cancel) | Poll::Pending => Poll::Pending,
        })
        .await
    }
}
