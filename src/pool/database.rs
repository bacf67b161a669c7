//! One database: its ledger behind the lock, its pools, and the shell around both.
//!
//! The lock is held for a few plain operations and never across an await. Grants that the ledger makes are
//! delivered outside the lock; a client that has gone in the meantime gives its server back, so none is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::caps::SharerIx;
use super::failing::Failing;
use super::gate::{Gate, Tally};
use super::groups::{Groups, Scope};
use super::holds::Earlier;
use super::lease::Lease;
use super::ledger::{Begin, Counts, Grant, GroupIx, Ledger, Need, PoolIx, Size};
use super::places::{Asked, Places};
use super::schema::Schema;
use super::settings::{Kept, Often, Settings};
use super::stats::Stats;
use super::wait::{Begun, Wait};
use crate::clients::Client;
use crate::clients::seat::Word;
use crate::clock::Clock;
use crate::config::{PoolLimits, PoolMode};
use crate::ids::{Epoch, Moment, ServerId, millis};
use crate::server::cancel::Link;
use crate::server::conn::Rested;
use crate::server::connect::Target;
use crate::server::parameters::Parameters;
use crate::server::roster::Roster;
use crate::telemetry::metrics::{DatabaseMetrics, Holds, PoolMetrics, Recorder};
use crate::wire::reply::Report;

/// What a waiting client leaves in the queue.
#[derive(Debug)]
pub struct Ticket {
    pub(super) pool: Arc<Pool>,
    /// Who waits.
    pub client: Arc<Client>,
}

pub(super) type Books = Ledger<Rested, Ticket>;

/// A database. See the module's text.
#[derive(Debug)]
pub struct Database {
    /// The name that clients ask for.
    pub name: String,
    /// What is to be noticed by the window's driver: drained, one more held, one less.
    pub news: Notify,
    /// Its figures for the scraper.
    pub metrics: DatabaseMetrics,
    /// Where its figures, and those of its pools, are recorded.
    pub recorder: Recorder,
    pub(super) clock: Clock,
    pub(super) settings: Kept,
    pub(super) last_server: Arc<AtomicU64>,
    pub(super) places: Arc<Places>,
    ledger: Mutex<Books>,
    /// Locked before the books.
    pub(super) groups: Mutex<Groups>,
    /// The holds of all shuttings but the last. Locked behind the books.
    earlier: Mutex<Earlier>,
    shut: AtomicBool,
    /// Which state its schema is in.
    pub schema: Schema,
    /// The configuration does not have it any more.
    removed: AtomicBool,
    pub(super) disabled: AtomicBool,
    pools: Mutex<Vec<Arc<Pool>>>,
}

/// The servers of one user in one database.
#[derive(Debug)]
pub struct Pool {
    /// Its database.
    pub database: Arc<Database>,
    /// The user whose clients share it.
    pub user: String,
    pub(super) shape: ArcSwap<Shape>,
    /// Where its target is in memory; set before the shape is. A server with that very target leads where it should.
    pub(super) target_at: AtomicUsize,
    /// Its counters.
    pub stats: Stats,
    /// Its servers.
    pub roster: Arc<Roster>,
    pub(super) ix: PoolIx,
    /// Its number among those who share caps, and what they ask of it.
    pub(super) sharer: SharerIx,
    pub(super) asked: Asked,
    /// What the client that logged in last has asked for.
    pub(super) settings: Mutex<Arc<Parameters>>,
    pub(super) welcome: watch::Sender<Welcome>,
    pub(super) failing: Mutex<Failing>,
    /// There may be more servers than a reload allows.
    pub(super) crowded: AtomicBool,
    pub(super) retrying: AtomicBool,
}

/// What a reload may change of a pool, besides its size.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) target: Arc<Target>,
    pub(super) mode: PoolMode,
}

/// What a configuration says of a pool.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) mode: PoolMode,
    pub(super) size: Size,
    pub(super) limits: PoolLimits,
}

/// What a log-in can be told without a server of its own.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    /// What the last server that was opened said of its settings.
    pub parameters: Option<Arc<Parameters>>,
    /// Why the last attempt to open one failed, if it did.
    pub failure: Option<Report>,
    /// Whether another attempt would fail alike: wrong password, no such database.
    pub hopeless: bool,
}

/// What the gate has done to clients, as one look sees it.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// What the last shutting did to clients.
    pub tally: Tally,
    /// How long those who were held and still wait have waited so far, in milliseconds.
    pub waiting_ms: Vec<u64>,
}

impl Database {
    /// A database without pools; they come with the users that ask.
    #[must_use]
    pub(super) fn new(
        name: String,
        clock: Clock,
        (settings, last_server, places): (Settings, Arc<AtomicU64>, Arc<Places>),
        recorder: Recorder,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics: DatabaseMetrics::new(&recorder, &name),
            recorder,
            name,
            news: Notify::new(),
            clock,
            settings: Kept::new(settings),
            last_server,
            places,
            ledger: Mutex::default(),
            groups: Mutex::default(),
            earlier: Mutex::default(),
            shut: AtomicBool::new(false),
            schema: Schema::default(),
            removed: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            pools: Mutex::default(),
        })
    }

    /// The settings that its pools share, as they are now. For a look; what is kept over an await is an `Arc` of its own.
    #[must_use]
    pub fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Those of them that every transaction asks for.
    #[must_use]
    pub const fn often(&self) -> &Often {
        &self.settings.often
    }

    /// Whether the configuration has forgotten it: nobody may log in to it any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Notes that the configuration has forgotten it.
    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Whether nobody but the list of databases has it or one of its pools in hand. Means something only under that list's lock.
    pub(super) fn nobody_has(self: &Arc<Self>) -> bool {
        let pools = self.pool_list();
        Arc::strong_count(self) == 1 + pools.len() && pools.iter().all(|pool| Arc::strong_count(pool) == 1)
    }

    /// Takes the pools out: they live on for those who have one in their hands.
    pub(super) fn forget_pools(&self) -> Vec<Arc<Pool>> {
        std::mem::take(&mut *self.pool_list())
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        match self.ledger.lock() {
            Ok(books) => books,
            // Somebody panicked while the books were half written: nothing that they say can be trusted any more.
            Err(_) => std::process::abort(),
        }
    }

    fn pool_list(&self) -> MutexGuard<'_, Vec<Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The moment it is now, as the gate counts.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// All pools, in the order of their making.
    #[must_use]
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pool_list().clone()
    }

    /// The pool of a user; made if it is not there, with what `make` says.
    pub(super) fn pool(self: &Arc<Self>, user: &str, make: impl FnOnce() -> Plan) -> Arc<Pool> {
        let mut pools = self.pool_list();
        if let Some(pool) = pools.iter().find(|pool| pool.user == user) {
            return Arc::clone(pool);
        }
        let Plan { target, mode, size, limits } = make();
        let sharer = self.places.enter(&self.name, user, &limits);
        let target = Arc::new(target);
        let pool = Arc::new(Pool {
            database: Arc::clone(self),
            user: user.to_owned(),
            target_at: AtomicUsize::new(Arc::as_ptr(&target).addr()),
            shape: ArcSwap::from_pointee(Shape { target, mode }),
            stats: Stats::new(PoolMetrics::new(&self.recorder, &self.name, user)),
            roster: Arc::default(),
            ix: self.books().add_pool(size),
            sharer,
            asked: Asked::default(),
            settings: Mutex::default(),
            welcome: watch::Sender::new(Welcome::default()),
            failing: Mutex::default(),
            crowded: AtomicBool::new(false),
            retrying: AtomicBool::new(false),
        });
        self.places.belongs_to(sharer, &pool);
        pools.push(Arc::clone(&pool));
        pool
    }

    /// Whether the gate is shut, perhaps not for everybody. One load, no lock.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// Shuts the gate for those in `scope`, until `bound` at the latest. `None`: it is shut already.
    pub fn shut(&self, bound: Option<Moment>, scope: &Scope) -> Option<Epoch> {
        let mut groups = self.groups();
        let mut books = self.books();
        if books.gate().is_shut() {
            return None;
        }
        self.earlier_holds().add(books.tally());
        let free = groups.free(scope.clone());
        let epoch = books.shut(bound, self.clock.now(), |group| free.contains(&group))?;
        self.shut.store(true, Ordering::Release);
        // Whoever stood in line for those who are held now leaves it.
        self.places.look();
        Some(epoch)
    }

    /// Opens the gate if it still is the shutting `epoch`. Returns whether it did.
    pub fn open(&self, epoch: Epoch) -> bool {
        let grants = {
            let mut books = self.books();
            if !matches!(books.gate(), Gate::Shut { epoch: current, .. } if current == epoch) {
                return false;
            }
            let grants = books.open(epoch, self.clock.now());
            self.shut.store(false, Ordering::Release);
            grants
        };
        grants.into_iter().for_each(deliver);
        self.news.notify_one();
        self.pools().iter().for_each(Pool::open_servers);
        true
    }

    /// One look at what the last shutting has done.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let books = self.books();
        let now = self.clock.now();
        let waiting_ms = books.held().map(|(_, since)| millis(now.since(since))).collect();
        Traffic { tally: books.tally().clone(), waiting_ms }
    }

    /// The gate, the open transactions and the number of held clients, without copying the tally.
    #[must_use]
    pub fn pulse(&self) -> (Gate, usize, u64) {
        let books = self.books();
        (books.gate(), books.running(), books.tally().waiting())
    }

    fn earlier_holds(&self) -> MutexGuard<'_, Earlier> {
        self.earlier.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All holds since the start, at one moment.
    #[must_use]
    pub fn holds(&self) -> Holds {
        let books = self.books();
        self.earlier_holds().and(books.tally())
    }

    /// Clients that are held, and since when.
    #[must_use]
    pub fn held(&self) -> Vec<(Arc<Client>, Moment)> {
        self.books().held().map(|(ticket, since)| (Arc::clone(&ticket.client), since)).collect()
    }

    /// A transaction has ended, and its server stays where it is.
    pub(super) fn finish(&self, group: GroupIx) {
        if self.books().finish(group) {
            self.news.notify_one();
        }
    }
}

impl Pool {
    /// Where its servers lead, as the configuration has it now.
    #[must_use]
    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.shape.load().target)
    }

    /// When its servers come back. A session keeps the mode that it began with.
    #[must_use]
    pub fn mode(&self) -> PoolMode {
        self.shape.load().mode
    }

    /// A client wants to begin a transaction.
    pub fn begin(self: &Arc<Self>, client: &Arc<Client>, need: Need, now: Moment) -> Begun {
        let database = &self.database;
        // Whether somebody waits at a shut gate, or for a server that may yet be opened.
        let (mut shut, mut full) = (false, true);
        let (begun, group) = {
            let (group, mut books) = database.group_and_books(client, true);
            let ticket = || Ticket { pool: Arc::clone(self), client: Arc::clone(client) };
            let begun = books.begin(self.ix, (group, need), now, ticket);
            if let Begin::Wait(id) = begun {
                // Under the lock: a grant cannot overtake it.
                client.seat.sit(id);
                client.waits(now);
                (shut, full) = (books.gate().is_shut(), books.is_full(self.ix, now));
            }
            (begun, group)
        };
        match begun {
            Begin::Now(Some(server)) => Begun::Now(Some(Lease::new(Arc::clone(self), group, server))),
            Begin::Now(None) => Begun::Now(None),
            Begin::Wait(id) => {
                // First of all: from here on nothing that it is told can be lost.
                let wait = Wait::new(Arc::clone(self), Arc::clone(client), (id, group));
                if shut {
                    database.news.notify_one();
                }
                if !full {
                    self.open_servers();
                    self.turn_away();
                }
                Begun::Wait(wait)
            }
        }
    }

    /// A server is there for use: it goes to whoever waits longest, or becomes idle.
    pub(super) fn put_back(&self, server: Rested, connected: bool) {
        let grant = self.database.books().put_back(self.ix, server, connected, self.database.clock.now());
        match grant {
            Some(grant) => deliver(grant),
            None => self.rests(),
        }
    }

    /// A server has become idle.
    fn rests(&self) {
        if self.asked.to_say() {
            self.database.places.look();
        }
    }

    /// Closes the idle server that has rested longest, if it was for so long, for somebody who shares a cap with this pool.
    pub(super) fn evict(&self, rested: Duration) -> bool {
        let now = self.database.clock.now();
        let ripe = |server: &Rested| now.since(server.server().used_at) >= rested;
        let spare = self.database.books().take_spare(self.ix, ripe);
        let evicted = spare.is_some();
        self.close(spare.into_iter().collect(), "evicted");
        evicted
    }

    /// The same at the end of a transaction, in one section.
    pub(super) fn finish_and_put_back(&self, group: GroupIx, server: Rested, now: Moment) {
        let (drained, grant) = {
            let mut books = self.database.books();
            let drained = books.finish(group);
            (drained, books.put_back(self.ix, server, false, now))
        };
        if drained {
            self.database.news.notify_one();
        }
        match grant {
            Some(grant) => deliver(grant),
            None => self.rests(),
        }
    }

    /// Takes back a leave to begin that was given and is not used, with the server that came with it.
    pub(super) fn undo(&self, group: GroupIx, lease: Option<Lease>) {
        match lease {
            Some(lease) => lease.return_unused(),
            None => self.database.finish(group),
        }
    }

    /// Counts of servers and of those who wait.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.database.books().counts(self.ix)
    }

    /// The idle servers: how to reach them, when connected, when used last.
    #[must_use]
    pub fn idle_servers(&self) -> Vec<(Arc<Link>, Moment, Moment)> {
        let describe = |rested: &Rested| {
            let server = rested.server();
            (Arc::clone(&server.link), server.connected_at, server.used_at)
        };
        self.database.books().idle(self.ix).map(describe).collect()
    }

    /// A number for a new server.
    pub(super) fn next_server(&self) -> ServerId {
        ServerId(self.database.last_server.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// What servers of this pool say of themselves, if any was ever opened.
    #[must_use]
    pub fn welcome(&self) -> Welcome {
        self.welcome.borrow().clone()
    }
}

/// Hands a grant to the client that waited. If that has gone, the next in line gets it.
pub(super) fn deliver(grant: Grant<Rested, Ticket>) {
    let mut next = Some(grant);
    while let Some(Grant { waiter, ticket: Ticket { pool, client }, group, server, stall }) = next.take() {
        if let Some(stall) = stall {
            pool.database.metrics.stall.record(stall);
            pool.database.news.notify_one();
        }
        if let Err(Word::Go { server, .. }) = client.seat.answer(waiter, Word::Go { server, stall }) {
            match server {
                Some(server) => next = Lease::new(pool, group, server).take_back(),
                None => pool.database.finish(group),
            }
        }
    }
}
