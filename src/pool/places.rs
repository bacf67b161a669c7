//! The shell around [`caps`](super::caps): a place for each server, and the task that passes places on.
//!
//! Locks are taken one at a time, and servers are closed outside of them: closing one gives its place back, from wherever
//! that happens. What follows from it is the keeper's business alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::caps::{CapIx, Caps, Press, SharerIx, TURN};
use super::database::Pool;
use crate::clock::Clock;
use crate::config::PoolLimits;
use crate::ids::Moment;

/// The keeper looks at least so often while somebody stands in line: a server may be lent for long.
const LOOK: Duration = Duration::from_secs(1);

/// All places. See the module's text.
#[derive(Debug)]
pub(super) struct Places {
    clock: Clock,
    books: Mutex<Books>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Books {
    caps: Caps,
    /// By number; `None` while one is being made.
    pools: Vec<Option<Weak<Pool>>>,
    of_database: BTreeMap<String, CapIx>,
    of_user: BTreeMap<String, CapIx>,
}

/// The place of one server; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    pool: SharerIx,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.books().caps.give_back(self.pool);
        self.places.news.notify_one();
    }
}

/// What a pool is asked on behalf of those in line, who share a cap with it.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicU8);

const NOTHING: u8 = 0;
/// Say when a server becomes idle.
const SAY: u8 = 1;
/// Close the next one that comes back.
const YIELD: u8 = 2;

impl Asked {
    /// Whether somebody wants to hear of an idle server. One load.
    pub(super) fn to_say(&self) -> bool {
        self.0.load(Ordering::Acquire) != NOTHING
    }

    /// Whether the server that has just come back is to be closed. True once for each time that it was asked.
    pub(super) fn to_yield(&self) -> bool {
        self.0.load(Ordering::Acquire) == YIELD
            && self.0.compare_exchange(YIELD, SAY, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn set(&self, asked: u8) {
        self.0.store(asked, Ordering::Release);
    }
}

impl Places {
    /// No caps, no pools; and the task that passes places on, for as long as the process lives.
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        let places = Arc::new(Self { clock, books: Mutex::default(), news: Notify::new() });
        tokio::spawn(keep(Arc::clone(&places)));
        places
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each write is one call of a structure without I/O: a panic elsewhere leaves nothing half done.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pool in, under the caps of its database and of its role.
    pub(super) fn enter(&self, database: &str, role: &str, limits: &PoolLimits) -> SharerIx {
        let mut books = self.books();
        let Books { caps, pools, of_database, of_user } = &mut *books;
        // Databases that the entry `*` makes come and go: what is left of them is used again.
        let dead = |number: &usize| {
            pools.get(*number).is_some_and(|pool| pool.as_ref().is_some_and(|p| p.strong_count() == 0))
        };
        let free = (0..pools.len()).find(|number| dead(number) && caps.used(SharerIx(*number)) == 0);
        let own = [cap_of(of_database, database, caps, pools), cap_of(of_user, role, caps, pools)];
        limit(caps, own, limits);
        match free {
            Some(number) => {
                caps.reuse(SharerIx(number), own);
                if let Some(slot) = pools.get_mut(number) {
                    *slot = None;
                }
                SharerIx(number)
            }
            None => {
                pools.push(None);
                caps.add_pool(own)
            }
        }
    }

    /// Who the pool is whose number this is.
    pub(super) fn belongs_to(&self, number: SharerIx, pool: &Arc<Pool>) {
        if let Some(slot) = self.books().pools.get_mut(number.0) {
            *slot = Some(Arc::downgrade(pool));
        }
    }

    /// Follows a configuration.
    pub(super) fn follow(&self, database: &str, role: &str, limits: &PoolLimits) {
        let mut books = self.books();
        if let (Some(of_database), Some(of_user)) = (books.of_database.get(database), books.of_user.get(role)) {
            let own = [*of_database, *of_user];
            limit(&mut books.caps, own, limits);
        }
        drop(books);
        self.news.notify_one();
    }

    /// A place, if there is one now.
    pub(super) fn take(self: &Arc<Self>, pool: SharerIx) -> Option<Place> {
        let now = self.clock.now();
        let (taken, line) = {
            let mut books = self.books();
            (books.caps.take(pool, now), !books.caps.line().is_empty())
        };
        if line {
            // One more who may have to give it up.
            self.news.notify_one();
        }
        taken.then(|| Place { places: Arc::clone(self), pool })
    }

    /// Stands in line for one.
    pub(super) fn ask(&self, pool: SharerIx) {
        self.books().caps.ask(pool);
        self.news.notify_one();
    }

    /// An idle server may be of use to somebody in line.
    pub(super) fn look(&self) {
        self.news.notify_one();
    }

    /// Gives out what is free. Returns what stands against those who are left in line.
    fn give_out(self: &Arc<Self>) -> Vec<Press> {
        let line = self.books().caps.line();
        for number in line {
            if !self.pool(number).is_some_and(|pool| pool.is_short()) {
                self.books().caps.leave(number);
            }
        }
        loop {
            let next = {
                let mut books = self.books();
                let Some(next) = books.caps.next(self.clock.now()) else {
                    return books.caps.presses(self.clock.now());
                };
                next
            };
            // Whoever needs it no more gives it back by that.
            let place = Place { places: Arc::clone(self), pool: next };
            if let Some(pool) = self.pool(next) {
                pool.connect_with(place);
            }
        }
    }

    fn pool(&self, number: SharerIx) -> Option<Arc<Pool>> {
        self.books().pools.get(number.0)?.as_ref()?.upgrade()
    }

    /// Does what one round can do. Returns when the next is due at the latest; `None`: at the next news.
    fn round(self: &Arc<Self>, asked: &mut BTreeSet<SharerIx>) -> Option<Moment> {
        let presses = self.give_out();
        let pool_of = |number: &SharerIx| self.pool(*number);
        let before = std::mem::take(asked);
        let mut again = (!presses.is_empty()).then(|| self.clock.now().plus(LOOK));
        for press in &presses {
            again = again.min(press.again.or(again));
            for number in &press.holders {
                if let Some(pool) = pool_of(number) {
                    pool.asked.set(SAY);
                    asked.insert(*number);
                }
            }
        }
        for number in before.difference(asked) {
            if let Some(pool) = pool_of(number) {
                pool.asked.set(NOTHING);
            }
        }
        // After they were asked: a server that becomes idle from here on is reported.
        let patience = |press: &Press| if press.patient { TURN } else { Duration::ZERO };
        for press in &presses {
            let evicted = press.holders.iter().filter_map(pool_of).any(|pool| pool.evict(patience(press)));
            if press.patient && !evicted {
                again = again.min(Some(self.clock.now().plus(TURN)));
            }
            if let Some(pool) = press.yields.as_ref().filter(|_| !evicted).and_then(pool_of) {
                pool.asked.set(YIELD);
            }
        }
        again
    }
}

/// The cap of a name; for a new name that of one whose pools are all gone, if there is such a one.
fn cap_of(known: &mut BTreeMap<String, CapIx>, name: &str, caps: &mut Caps, pools: &[Option<Weak<Pool>>]) -> CapIx {
    if let Some(cap) = known.get(name) {
        return *cap;
    }
    let alive = |number: &SharerIx| {
        let pool = pools.get(number.0).and_then(Option::as_ref);
        pool.is_none_or(|pool| pool.strong_count() > 0)
    };
    let gone = known.iter().find(|(_, cap)| caps.is_unused(**cap) && !caps.sharers(**cap).any(|one| alive(&one)));
    let cap = match gone.map(|(name, cap)| (name.clone(), *cap)) {
        Some((name, cap)) => {
            known.remove(&name);
            cap
        }
        None => caps.add_cap(None),
    };
    known.insert(name.to_owned(), cap);
    cap
}

fn limit(caps: &mut Caps, [database, user]: [CapIx; 2], limits: &PoolLimits) {
    caps.limit(database, limits.database_servers);
    caps.limit(user, limits.user_servers);
}

/// Passes places on.
async fn keep(places: Arc<Places>) {
    let mut asked = BTreeSet::new();
    loop {
        let again = places.round(&mut asked).map_or(LOOK * 60, |at| at.since(places.clock.now()));
        let _ = tokio::time::timeout(again.max(Duration::from_millis(1)), places.news.notified()).await;
    }
}
