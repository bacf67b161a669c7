//! What every session needs of the process. Built once by `app.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::journey::Way;
use super::lookup::Lookups;
use crate::auth::users::Users;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config::{Config, Running};
use crate::net::tls::accept::Acceptor;
use crate::pool::databases::Databases;
use crate::prepared::catalog::Catalog;
use crate::telemetry::metrics::ProxyMetrics;
use crate::telemetry::seldom::Seldom;
use crate::wire::startup::CancelKey;

/// The process as a session sees it.
#[derive(Clone)]
pub struct Front {
    /// The configuration in force; see [`Front::config`].
    pub running: Arc<Running>,
    /// The clock.
    pub clock: Clock,
    /// Who is logged in.
    pub clients: Arc<Clients>,
    /// Who may log in.
    pub users: Arc<Users>,
    /// How those are found that are not in auth_file.
    pub lookups: Arc<Lookups>,
    /// Where they may go.
    pub databases: Arc<Databases>,
    /// The statements that clients have prepared.
    pub catalog: Arc<Catalog>,
    /// Counters of the process.
    pub metrics: Arc<ProxyMetrics>,
    /// Places for connections that are not logged in yet: as many as there may be clients, and some for cancels.
    pub guests: Arc<Semaphore>,
    /// How clients come in.
    pub door: Arc<Door>,
}

/// How clients come in, as it is now.
#[derive(Debug)]
pub struct Door {
    /// How those are answered that ask for TLS. A reload swaps it; connections that stand keep what they have.
    pub acceptor: ArcSwap<Acceptor>,
    /// Set when nobody may log in any more.
    pub closing: AtomicBool,
    /// Where clients go that are to go on in another process; `None` while none are.
    pub way: ArcSwapOption<Way>,
    /// The process that came before this one, while it still serves clients.
    pub elder: watch::Sender<Option<Elder>>,
    /// An upgrade is under way: nothing may be held that the other process would not know of.
    pub moving: AtomicBool,
    /// SIGHUP has come meanwhile: it is for the process that is in charge then, too.
    pub hangup: Notify,
    /// How many listeners take connections in.
    accepting: AtomicUsize,
    /// For the log: connections for which there was no place.
    pub crowd: Seldom,
}

impl Door {
    /// Open, with these answers to those who ask for TLS.
    #[must_use]
    pub fn new(acceptor: ArcSwap<Acceptor>) -> Self {
        Self {
            acceptor,
            closing: AtomicBool::new(false),
            way: ArcSwapOption::empty(),
            moving: AtomicBool::new(false),
            hangup: Notify::new(),
            elder: watch::Sender::default(),
            accepting: AtomicUsize::new(0),
            crowd: Seldom::default(),
        }
    }
}

/// A listener that takes connections in, until this is dropped.
#[derive(Debug)]
pub struct Accepting(Arc<Door>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    /// A listener begins to take connections in.
    #[must_use]
    pub fn accepts(self: &Arc<Self>) -> Accepting {
        self.accepting.fetch_add(1, Ordering::AcqRel);
        Accepting(Arc::clone(self))
    }

    /// How many listeners do. When none does, whoever was taken in has its place among those who log in.
    #[must_use]
    pub fn accepting(&self) -> usize {
        self.accepting.load(Ordering::Acquire)
    }
}

/// The process that came before this one.
#[derive(Clone, Debug)]
pub struct Elder {
    /// Takes cancel requests for its clients.
    pub cancels: mpsc::Sender<CancelKey>,
}

/// Connections that may be logging in besides as many as there may be clients: for cancel requests and probes.
pub const GUESTS: usize = 64;

/// Places for connections that are not logged in, for so many clients.
#[must_use]
pub fn guest_places(max_client_conn: usize) -> usize {
    max_client_conn.saturating_add(GUESTS).min(Semaphore::MAX_PERMITS)
}

impl Front {
    /// Makes more or fewer places for connections that are not logged in, after `max_client_conn` has changed. Places that
    /// are taken are given up when they become free.
    pub fn resize_guests(&self, before: usize, now: usize) {
        let (before, now) = (guest_places(before), guest_places(now));
        self.guests.add_permits(now.saturating_sub(before));
        let surplus = before.saturating_sub(now);
        let missing = surplus - self.guests.forget_permits(surplus);
        if missing > 0 {
            let guests = Arc::clone(&self.guests);
            tokio::spawn(async move {
                for _ in 0..missing {
                    let Ok(place) = guests.acquire().await else { return };
                    place.forget();
                }
            });
        }
    }

    /// How many connections are logging in now, or have said nothing yet.
    #[must_use]
    pub fn logging_in(&self) -> usize {
        guest_places(self.config().max_client_conn).saturating_sub(self.guests.available_permits())
    }

    /// The configuration as it is now. Taken for one use, not kept: a reload puts another one in its place.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.running.get()
    }

    /// Whether the process is shutting down.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.door.closing.load(Ordering::Acquire)
    }
}

/// Through which socket a connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// One that applications use.
    Listener,
    /// The console's own: peers are known by their uid.
    AdminSocket,
}
