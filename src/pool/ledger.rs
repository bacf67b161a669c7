//! Who has which server, who waits, and whether a transaction may begin: the books of one database.
//!
//! A pure structure behind one lock. The gate is part of it, so shutting and admitting are decided in the same
//! place: once [`Ledger::shut`] has returned, no transaction begins until [`Ledger::open`], and
//! [`Ledger::running`] only falls. It knows no sockets, tasks or clocks; servers (`S`) and the tickets of those who
//! wait (`T`) are values that it keeps and hands over, which is why the exploration in `tests/model.rs` can run it too.
//!
//! Invariants: servers lent + idle + connecting never grow beyond a pool's limit (and its reserve, while somebody has
//! waited for too long); while the gate is open nobody waits
//! beside an idle server; every held client leaves exactly once, in one of the ways that [`Tally`] counts.

mod connects;
mod groups;

use std::collections::VecDeque;
use std::time::Duration;

use super::gate::{Gate, Tally, Why};
use crate::ids::{Epoch, Moment, WaiterId};
use groups::Group;
pub use groups::GroupIx;

/// The number of a pool in its database's ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolIx(pub usize);

/// What a client that wants to begin a transaction asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Need {
    /// A server, and the gate's leave.
    Server,
    /// The gate's leave only: the client keeps a server of its own (session mode).
    Leave,
}

/// How big a pool may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Size {
    /// The most servers.
    pub limit: usize,
    /// The fewest that are kept open.
    pub minimum: usize,
    /// How many more there may be while somebody has waited for `reserve_after`.
    pub reserve: usize,
    /// `None`: the reserve is not used.
    pub reserve_after: Option<Duration>,
    /// Lend the one that has rested longest, not the one that was used last.
    pub round_robin: bool,
}

impl Size {
    /// A pool of at most `limit` and at least `minimum` servers, without a reserve.
    #[must_use]
    pub const fn new(limit: usize, minimum: usize) -> Self {
        Self { limit, minimum, reserve: 0, reserve_after: None, round_robin: false }
    }

    const fn most(self) -> usize {
        self.limit.saturating_add(self.reserve)
    }
}

/// The answer to [`Ledger::begin`].
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<S> {
    /// Go: the transaction counts as running from now on. With the server, if one was needed.
    Now(Option<S>),
    /// Wait for a [`Grant`] under this number.
    Wait(WaiterId),
}

/// A client that waited may begin now; its transaction counts as running from here on.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant<S, T> {
    /// Under what number it waited.
    pub waiter: WaiterId,
    /// What the client left when it began to wait.
    pub ticket: T,
    /// What its transaction counts as.
    pub group: GroupIx,
    /// Its server, if it needed one.
    pub server: Option<S>,
    /// How long the gate kept it, if it did.
    pub stall: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Waiter<T> {
    id: WaiterId,
    group: GroupIx,
    need: Need,
    since: Moment,
    /// When the gate began to keep it; stays set until it leaves the queue.
    held: Option<Moment>,
    /// When its waiting for a server began to count: the start, or the gate's last opening.
    clock: Moment,
    ticket: T,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pool<S, T> {
    size: Size,
    /// In the order in which they came back.
    idle: VecDeque<S>,
    lent: usize,
    connecting: usize,
    /// No connect is started before this.
    retry_at: Moment,
    /// Somebody needs a connection although nobody waits for a server: a log-in that lacks the welcome.
    wanted: bool,
    queue: VecDeque<Waiter<T>>,
}

impl<S, T> Pool<S, T> {
    fn servers(&self) -> usize {
        self.idle.len() + self.lent + self.connecting
    }

    fn take_rested(&mut self) -> Option<S> {
        if self.size.round_robin { self.idle.pop_front() } else { self.idle.pop_back() }
    }

    /// Those who wait for a server, in order.
    fn in_need(&self) -> impl Iterator<Item = &Waiter<T>> {
        self.queue.iter().filter(|waiter| waiter.need == Need::Server)
    }

    /// The most servers right now: more than usual while somebody has waited for too long at an open gate.
    fn limit(&self, shut: bool, now: Moment) -> usize {
        let Size { limit, reserve, reserve_after, .. } = self.size;
        let late = |after| self.in_need().next().is_some_and(|waiter| now.since(waiter.clock) >= after);
        let reserve = if !shut && reserve > 0 && reserve_after.is_some_and(late) { reserve } else { 0 };
        limit.saturating_add(reserve)
    }
}

/// Counts of one pool, for the console and the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub limit: usize,
    pub minimum: usize,
    pub idle: usize,
    pub lent: usize,
    pub connecting: usize,
    pub waiting: usize,
    pub held: usize,
    /// When the longest waiter that is not held began to wait.
    pub oldest: Option<Moment>,
}

/// The books of one database. See the module's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ledger<S, T> {
    gate: Gate,
    pools: Vec<Pool<S, T>>,
    groups: Vec<Group>,
    /// Places in that list which belong to nobody.
    vacant: Vec<u32>,
    /// Those that the gate waits for when it is shut.
    running: usize,
    last_waiter: u64,
    last_epoch: u64,
    tally: Tally,
}

impl<S, T> Default for Ledger<S, T> {
    fn default() -> Self {
        Self {
            gate: Gate::Open,
            pools: Vec::new(),
            groups: vec![Group::default()],
            vacant: Vec::new(),
            running: 0,
            last_waiter: 0,
            last_epoch: 0,
            tally: Tally::default(),
        }
    }
}

impl<S, T> Ledger<S, T> {
    /// Adds a pool; it is born behind the gate as that stands.
    pub fn add_pool(&mut self, size: Size) -> PoolIx {
        self.pools.push(Pool {
            size: Size { limit: size.limit.max(1), ..size },
            idle: VecDeque::new(),
            lent: 0,
            connecting: 0,
            retry_at: Moment(0),
            wanted: false,
            queue: VecDeque::new(),
        });
        PoolIx(self.pools.len() - 1)
    }

    /// Gives a pool another size. It does not shrink by itself: see [`surplus`](Self::surplus).
    pub fn resize(&mut self, pool: PoolIx, size: Size) {
        self.pool(pool).size = Size { limit: size.limit.max(1), ..size };
    }

    /// By how many servers a pool is above its limit; only a [`resize`](Self::resize) can bring it there.
    #[must_use]
    pub fn surplus(&self, pool: PoolIx) -> usize {
        self.pools.get(pool.0).map_or(0, |books| books.servers().saturating_sub(books.size.most()))
    }

    fn pool(&mut self, pool: PoolIx) -> &mut Pool<S, T> {
        #[expect(clippy::indexing_slicing, reason = "a PoolIx comes from add_pool and pools are never removed")]
        &mut self.pools[pool.0]
    }

    /// The gate as it stands.
    #[must_use]
    pub const fn gate(&self) -> Gate {
        self.gate
    }

    /// Transactions of clients that are open on this database through us; while the gate is shut, of those that it keeps.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    /// What the last shutting did to clients.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A client wants to begin a transaction. `ticket` is only made if it has to wait.
    pub fn begin(
        &mut self,
        pool: PoolIx,
        (group, need): (GroupIx, Need),
        now: Moment,
        ticket: impl FnOnce() -> T,
    ) -> Begin<S> {
        let shut = self.is_shut_for(group);
        if !shut {
            match need {
                Need::Leave => {
                    self.runs(group);
                    return Begin::Now(None);
                }
                Need::Server => {
                    let books = self.pool(pool);
                    if let Some(server) = books.take_rested() {
                        books.lent += 1;
                        self.runs(group);
                        return Begin::Now(Some(server));
                    }
                }
            }
        }
        let held = shut.then_some(now);
        if held.is_some() {
            self.tally.hold();
        }
        self.last_waiter += 1;
        let id = WaiterId(self.last_waiter);
        self.pool(pool).queue.push_back(Waiter { id, group, need, since: now, held, clock: now, ticket: ticket() });
        Begin::Wait(id)
    }

    /// A running transaction has ended. Returns true if that was the last one a shut gate was waiting for.
    pub fn finish(&mut self, group: GroupIx) -> bool {
        let group = self.group(group);
        debug_assert!(group.running > 0, "a transaction ended that never began");
        group.running = group.running.saturating_sub(1);
        if group.free {
            return false;
        }
        self.running = self.running.saturating_sub(1);
        self.running == 0 && self.gate.is_shut()
    }

    /// A lent server, or one just connected (`connected` true), is there for use.
    pub fn put_back(&mut self, pool: PoolIx, server: S, connected: bool, now: Moment) -> Option<Grant<S, T>> {
        let books = self.pool(pool);
        if connected {
            books.connecting = books.connecting.saturating_sub(1);
            books.retry_at = Moment(0);
            books.wanted = false;
        } else {
            debug_assert!(books.lent > 0, "a server came back that was not lent");
            books.lent = books.lent.saturating_sub(1);
        }
        books.idle.push_back(server);
        self.grant_next(pool, now)
    }

    /// A lent server is gone.
    pub fn lost(&mut self, pool: PoolIx) {
        let books = self.pool(pool);
        debug_assert!(books.lent > 0, "a server was lost that was not lent");
        books.lent = books.lent.saturating_sub(1);
    }

    /// Takes out the idle server that has rested longest, if it is `ripe`, unless somebody in this pool waits for it behind
    /// the gate.
    pub fn take_spare(&mut self, pool: PoolIx, ripe: impl FnOnce(&S) -> bool) -> Option<S> {
        let books = self.pool(pool);
        let spoken_for = books.in_need().take(books.idle.len()).count();
        let spare = books.idle.len() > spoken_for && books.idle.front().is_some_and(ripe);
        if spare { books.idle.pop_front() } else { None }
    }

    /// Takes idle servers that are `wanted` out to be worked on; they count as lent.
    pub fn lend_idle(&mut self, pool: PoolIx, wanted: impl FnMut(&mut S) -> bool) -> Vec<S> {
        let taken = self.take_idle(pool, wanted);
        self.pool(pool).lent += taken.len();
        taken
    }

    /// Takes idle servers out for which `leave` says so. The caller closes them.
    pub fn take_idle(&mut self, pool: PoolIx, mut leave: impl FnMut(&mut S) -> bool) -> Vec<S> {
        let books = self.pool(pool);
        let mut taken = Vec::new();
        for mut server in std::mem::take(&mut books.idle) {
            if leave(&mut server) {
                taken.push(server);
            } else {
                books.idle.push_back(server);
            }
        }
        taken
    }

    /// The waiter does not wait any more. Returns its ticket, or `None` if it was not in the queue: then it has
    /// been granted, and the grant is on its way.
    pub fn leave(&mut self, pool: PoolIx, waiter: WaiterId, why: Why) -> Option<T> {
        let queue = &mut self.pool(pool).queue;
        let at = queue.binary_search_by_key(&waiter, |w| w.id).ok()?;
        let waiter = queue.remove(at)?;
        if waiter.held.is_some() {
            self.tally.end(why, None);
        }
        Some(waiter.ticket)
    }

    /// Servers of this pool cannot be had: takes everybody out who waits for one, if there is no server at all and
    /// the gate is open. Those who are held go on being held.
    pub fn turn_away(&mut self, pool: PoolIx) -> Vec<(WaiterId, T)> {
        if self.gate.is_shut() || self.pool(pool).servers() > 0 {
            return Vec::new();
        }
        let queue = std::mem::take(&mut self.pool(pool).queue);
        let held = queue.iter().filter(|waiter| waiter.held.is_some()).count();
        (0..held).for_each(|_| self.tally.end(Why::Expired, None));
        queue.into_iter().map(|waiter| (waiter.id, waiter.ticket)).collect()
    }

    /// How much of `limit` a waiter has left to wait for a server; time behind a shut gate does not count.
    /// `None`: it is not waiting any more. While it is held, all of the limit is left.
    pub fn wait_left(&mut self, pool: PoolIx, waiter: WaiterId, limit: Duration, now: Moment) -> Option<Duration> {
        let shut = self.gate.is_shut();
        let queue = &self.pool(pool).queue;
        let waiter = queue.get(queue.binary_search_by_key(&waiter, |w| w.id).ok()?)?;
        Some(if shut && waiter.held.is_some() { limit } else { limit.saturating_sub(now.since(waiter.clock)) })
    }

    /// Shuts the gate, until `bound` at the latest, but not for groups that are `free`. Everybody else who waits is held from
    /// now on. Returns the number of this shutting; `None` if the gate is shut already.
    pub fn shut(&mut self, bound: Option<Moment>, now: Moment, free: impl Fn(GroupIx) -> bool) -> Option<Epoch> {
        if self.gate.is_shut() {
            return None;
        }
        for (ix, group) in (0..).zip(&mut self.groups).skip(1) {
            group.free = free(GroupIx::new(ix, group.turn));
        }
        self.running = self.groups.iter().filter(|group| !group.free).map(|group| group.running).sum();
        self.last_epoch += 1;
        let epoch = Epoch(self.last_epoch);
        self.gate = Gate::Shut { epoch, since: now, bound };
        self.tally = Tally::default();
        for waiter in self.pools.iter_mut().flat_map(|pool| &mut pool.queue) {
            let free = self.groups.get(waiter.group.at()).is_some_and(|group| group.free);
            waiter.held = (!free).then_some(now);
            if !free {
                self.tally.hold();
            }
        }
        Some(epoch)
    }

    /// Opens the gate if it is still the shutting `epoch`; an older number has no effect. Those who can be served at
    /// once are granted, in arrival order; the others follow as servers come back.
    pub fn open(&mut self, epoch: Epoch, now: Moment) -> Vec<Grant<S, T>> {
        if !matches!(self.gate, Gate::Shut { epoch: current, .. } if current == epoch) {
            return Vec::new();
        }
        self.gate = Gate::Open;
        self.groups.iter_mut().for_each(|group| group.free = false);
        self.running = self.groups.iter().map(|group| group.running).sum();
        let mut grants = Vec::new();
        for ix in (0..self.pools.len()).map(PoolIx) {
            for waiter in self.pool(ix).queue.iter_mut().filter(|waiter| waiter.held.is_some()) {
                waiter.clock = now;
            }
            self.grant_leaves(ix, now, &mut grants);
            while let Some(grant) = self.grant_next(ix, now) {
                grants.push(grant);
            }
        }
        grants
    }

    /// Session-mode clients have their servers already: they only waited for the gate.
    fn grant_leaves(&mut self, pool: PoolIx, now: Moment, grants: &mut Vec<Grant<S, T>>) {
        let queue = std::mem::take(&mut self.pool(pool).queue);
        for waiter in queue {
            match waiter.need {
                Need::Leave => grants.push(self.grant(waiter, None, now)),
                Need::Server => self.pool(pool).queue.push_back(waiter),
            }
        }
    }

    fn grant_next(&mut self, pool: PoolIx, now: Moment) -> Option<Grant<S, T>> {
        let shut = self.gate.is_shut();
        let books = self.pool(pool);
        if books.idle.is_empty() {
            return None;
        }
        // At a shut gate only those wait in the queue for a server who are free.
        let next = books.queue.iter().position(|waiter| !shut || waiter.held.is_none())?;
        let waiter = books.queue.remove(next)?;
        let server = books.take_rested();
        books.lent += 1;
        Some(self.grant(waiter, server, now))
    }

    fn grant(&mut self, waiter: Waiter<T>, server: Option<S>, now: Moment) -> Grant<S, T> {
        self.runs(waiter.group);
        let stall = waiter.held.map(|held| now.since(held));
        if stall.is_some() {
            self.tally.end(Why::Released, stall);
        }
        Grant { waiter: waiter.id, ticket: waiter.ticket, group: waiter.group, server, stall }
    }

    /// Counts of a pool.
    #[must_use]
    pub fn counts(&self, pool: PoolIx) -> Counts {
        let Some(books) = self.pools.get(pool.0) else {
            return Counts::default();
        };
        let held = books.queue.iter().filter(|waiter| waiter.held.is_some()).count();
        Counts {
            limit: books.size.limit,
            minimum: books.size.minimum,
            idle: books.idle.len(),
            lent: books.lent,
            connecting: books.connecting,
            waiting: books.queue.len() - held,
            held,
            oldest: books.queue.iter().find(|waiter| waiter.held.is_none()).map(|waiter| waiter.since),
        }
    }

    /// Those who are held: their tickets, and since when.
    pub fn held(&self) -> impl Iterator<Item = (&T, Moment)> {
        self.pools.iter().flat_map(|pool| &pool.queue).filter_map(|waiter| Some((&waiter.ticket, waiter.held?)))
    }

    /// The idle servers of a pool.
    pub fn idle(&self, pool: PoolIx) -> impl Iterator<Item = &S> {
        self.pools.get(pool.0).into_iter().flat_map(|pool| &pool.idle)
    }

    /// Tickets of all that wait in a pool, in order.
    pub fn waiting(&self, pool: PoolIx) -> impl Iterator<Item = &T> {
        self.pools.get(pool.0).into_iter().flat_map(|pool| &pool.queue).map(|waiter| &waiter.ticket)
    }

    /// Checks the invariants that hold between any two calls; the exploration calls this at every state.
    ///
    /// # Errors
    /// Which one is broken.
    pub fn audit(&self) -> Result<(), &'static str> {
        for pool in &self.pools {
            if pool.servers() > pool.size.limit.saturating_add(pool.size.reserve) {
                return Err("more servers than the limit");
            }
            let waits_for_server = pool.in_need().next().is_some();
            if !self.gate.is_shut() && waits_for_server && !pool.idle.is_empty() {
                return Err("somebody waits beside an idle server");
            }
            if !self.gate.is_shut() && pool.queue.iter().any(|waiter| waiter.need == Need::Leave) {
                return Err("somebody waits at an open gate");
            }
            if pool.queue.iter().any(|waiter| self.is_shut_for(waiter.group) && waiter.held.is_none()) {
                return Err("somebody waits at a shut gate and is not held");
            }
            let free = |waiter: &Waiter<T>| !self.is_shut_for(waiter.group) && waiter.need == Need::Server;
            if !pool.idle.is_empty() && pool.queue.iter().any(free) {
                return Err("somebody whom the gate leaves free waits beside an idle server");
            }
        }
        let counted = |group: &&Group| !group.free;
        if self.running != self.groups.iter().filter(counted).map(|group| group.running).sum::<usize>() {
            return Err("running transactions are miscounted");
        }
        if !self.gate.is_shut() && self.groups.iter().any(|group| group.free) {
            return Err("a group is free of a gate that is open");
        }
        let held = self.held().count();
        if u64::try_from(held) != Ok(self.tally.waiting()) {
            return Err("held clients are not conserved");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
