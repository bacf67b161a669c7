//! What can happen next, and what it does: the moves of clients, pools, drivers, changes, operators and time.

use std::cell::RefCell;
use std::collections::BTreeSet;

use pglull::ids::Moment;
use pglull::pool::ledger::PoolIx;
use pglull::window::event::{Event, Outcome, Verdict};
use pglull::window::machine::Phase;
use pglull::window::plan::Form;

use crate::explore::Space;
use crate::mutant::Mutant;
use crate::rules;
use crate::world::{A, At, B, CLIENTS, Crashed, Plan, Win, World, gives_way};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Passed,
    Refused,
    Present,
    Recorded,
    NotRecorded,
    Drained,
    GateLost,
    Healed,
    Verdict,
    Released,
    Overheld,
    Unmoved,
    Tick,
    Close,
    Renew,
    Abort,
    OwnerGone,
    Shutdown,
}

/// One move. Numbers are those of windows, clients or pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Do {
    Time,
    Start,
    /// The process dies, and another one is there.
    Crash,
    /// The database is asked what became of a window's change, and its backend is ended first.
    Settle(usize),
    Perform(usize),
    Tell(usize, Word),
    Die(usize),
    Watchdog(usize),
    Commit(usize),
    RollBack(usize),
    /// The connection is lost around COMMIT, which arrived or did not.
    Lost(usize, bool),
    Begin(usize),
    Told(usize),
    End(usize),
    ServerLost(usize),
    Cancel(usize),
    Leave(usize),
    Expire(usize),
    Connect(usize),
    Connected(usize),
    ConnectFails(usize),
}

impl Do {
    /// Whether something goes wrong.
    const fn trouble(self) -> bool {
        matches!(
            self,
            Self::Tell(_, Word::Refused | Word::Present | Word::NotRecorded)
                | Self::Tell(_, Word::Abort | Word::OwnerGone | Word::Shutdown | Word::Renew)
                | Self::Die(_)
                | Self::Crash
                | Self::Lost(..)
                | Self::ServerLost(_)
                | Self::Cancel(_)
                | Self::Leave(_)
                | Self::ConnectFails(_)
        )
    }
}

/// The space of one plan, with or without a bug, and what was seen in it.
pub(crate) struct Model {
    pub(crate) plan: Plan,
    pub(crate) mutant: Mutant,
    pub(crate) seen: RefCell<BTreeSet<&'static str>>,
}

pub(crate) type Check = Result<(), String>;

impl Model {
    pub(crate) fn new(plan: Plan, mutant: Mutant) -> Self {
        Self { plan, mutant, seen: RefCell::default() }
    }

    pub(crate) fn saw(&self, what: &'static str) {
        self.seen.borrow_mut().insert(what);
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }
}

impl Space for Model {
    type State = World;
    type Move = Do;

    fn moves(&self, world: &World) -> Vec<Do> {
        let mut moves = Vec::new();
        if world.settled(&self.plan) {
            return moves;
        }
        let free = |win: &Win| {
            let recovering = win.crashed == Some(Crashed::Recovering) && self.is(Mutant::StartsWhileRecovering);
            (win.over() || recovering || self.is(Mutant::TwoWindows))
                && (recovering || !win.changing() || self.is(Mutant::NextBeforeVerdict) || self.is(Mutant::TwoWindows))
        };
        if world.wins.len() < self.plan.windows.len() && world.wins.iter().all(free) {
            moves.push(Do::Start);
        }
        // Preflight holds nobody: what clients do before the first window, they can do during it as well.
        if world.wins.is_empty() {
            return moves;
        }
        if self.plan.crash {
            moves.push(Do::Crash);
        }
        for (ix, win) in world.wins.iter().enumerate() {
            if win.crashed == Some(Crashed::Recovering) && !self.is(Mutant::NeverSettled) {
                moves.push(Do::Settle(ix));
            }
            self.moves_of_window(world, ix, win, &mut moves);
        }
        for ix in 0..CLIENTS {
            self.moves_of_client(world, ix, &mut moves);
        }
        for pool in [A, B] {
            if world.ledger.clone().start_connects(pool, world.now) > 0 {
                moves.push(Do::Connect(pool.0));
            }
            if world.ledger.counts(pool).connecting > 0 {
                moves.extend([Do::Connected(pool.0), Do::ConnectFails(pool.0)]);
            }
        }
        if self.next_moment(world).is_some() {
            moves.push(Do::Time);
        }
        moves.retain(|by| !by.trouble() || world.trouble > 0);
        moves
    }

    fn go(&self, before: &World, by: Do) -> Result<World, String> {
        let mut world = before.clone();
        world.trouble -= u8::from(by.trouble());
        match by {
            Do::Time => self.time(&mut world),
            Do::Start => {
                let ix = world.wins.len();
                let leaves_free = self.plan.leaves_free.get(ix).copied().unwrap_or_default();
                world.wins.push(Win::new(self.plan.windows[ix].clone(), leaves_free, world.now));
            }
            Do::Crash => self.crash(&mut world)?,
            Do::Settle(ix) => self.settle(&mut world, ix),
            Do::Perform(ix) => self.perform(&mut world, ix)?,
            Do::Tell(ix, word) => self.tell(&mut world, ix, word)?,
            Do::Die(ix) => {
                world.wins[ix].dead = true;
                world.wins[ix].pending.clear();
            }
            Do::Watchdog(ix) => self.watchdog(&mut world, ix)?,
            Do::Commit(ix) => self.change_ends(&mut world, ix, true, Some(Verdict::Applied)),
            Do::RollBack(ix) => {
                let trial = world.wins[ix].window.form == Form::Trial && !self.is(Mutant::CommitsAfterFailed);
                let verdict = if trial { Verdict::Rehearsed } else { failed() };
                self.change_ends(&mut world, ix, self.is(Mutant::CommitsAfterFailed), Some(verdict));
            }
            Do::Lost(ix, committed) => {
                self.change_ends(&mut world, ix, committed, Some(Verdict::Unknown("lost".into())));
            }
            Do::Connect(pool) => {
                world.ledger.start_connects(PoolIx(pool), world.now);
            }
            Do::Connected(pool) => {
                let grant = world.ledger.put_back(PoolIx(pool), (), true, world.now);
                self.granted(&mut world, grant.into_iter().collect())?;
                if self.is(Mutant::ConnectUncounted) {
                    let grant = world.ledger.put_back(PoolIx(pool), (), true, world.now);
                    self.granted(&mut world, grant.into_iter().collect())?;
                }
            }
            Do::ConnectFails(pool) => {
                world.ledger.connect_failed(PoolIx(pool), Moment(world.now.0 + 1000));
                self.saw("a connect failed");
            }
            Do::Begin(ix)
            | Do::Told(ix)
            | Do::End(ix)
            | Do::ServerLost(ix)
            | Do::Cancel(ix)
            | Do::Leave(ix)
            | Do::Expire(ix) => self.client(&mut world, ix, by)?,
        }
        rules::edge(before, &world)?;
        rules::state(self, &world)?;
        Ok(world)
    }

    fn end(&self, world: &World) -> Check {
        rules::end(world)
    }
}

/// Time jumps from one deadline to the next.
impl Model {
    fn next_moment(&self, world: &World) -> Option<Moment> {
        let now = world.now;
        let due = |win: &Win| {
            world.shut_by(win) && win.watch.is_some_and(|bound| bound.0 + u64::from(self.plan.prompt) <= now.0)
        };
        let fair = !self.is(Mutant::WatchdogDead);
        if fair && world.wins.iter().any(due) {
            return None;
        }
        let busy = world.wins.iter().any(|win| world.busy(win));
        if busy && (self.plan.prompt || world.trouble == 0) {
            return None;
        }
        let live = world.wins.iter().filter(|win| !win.dead);
        let of_windows = live.filter_map(|win| win.window.next_deadline());
        let late = |win: &&Win| world.shut_by(win) || self.plan.old_timers;
        let of_watchdogs =
            world.wins.iter().filter(late).filter_map(|win| Some(Moment(win.watch?.0 + u64::from(self.plan.prompt))));
        let of_pools = [A, B].into_iter().filter_map(|pool| world.ledger.retry_at(pool));
        let of_clients = (0..CLIENTS).filter_map(|ix| match world.clients[ix].at {
            At::Waiting(id)
                if world.gate_epoch().is_none() || world.is_free(ix) || self.is(Mutant::ExpiresWhileHeld) =>
            {
                Some(Moment(now.0 + self.patience_left(world, ix, id)?))
            }
            _ => None,
        });
        of_windows
            .chain(of_watchdogs)
            .chain(of_pools)
            .chain(of_clients)
            .filter(|at| *at > now && *at < Moment(1 << 40))
            .min()
    }

    fn time(&self, world: &mut World) {
        let late = world.wins.iter().any(|win| world.busy(win));
        if let Some(next) = self.next_moment(world) {
            world.now = next;
            world.trouble -= u8::from(late);
        }
        if late {
            self.saw("a driver was late");
        }
    }
}

pub(crate) fn failed() -> Verdict {
    Verdict::Failed { sqlstate: "55P03".into(), message: "lock".into() }
}

/// What a window's end is called among the things seen.
pub(crate) fn name_of(outcome: &Outcome, form: Form) -> &'static str {
    use pglull::window::event::Reason;
    match outcome {
        Outcome::Applied if form == Form::Apply => "applied: the change",
        Outcome::Applied => "applied: by word",
        Outcome::Resumed => "resumed",
        Outcome::Rehearsed if form == Form::Drill => "rehearsed: the drain",
        Outcome::Rehearsed => "rehearsed: the change",
        Outcome::Refused(_) => "refused",
        Outcome::Present(_) => "already applied",
        Outcome::Unknown(_) => "unknown",
        Outcome::Aborted(reason) => match reason {
            Reason::DrainBound => "aborted: drain bound",
            Reason::ApplyBound => "aborted: apply bound",
            Reason::HoldBound => "aborted: hold bound",
            Reason::TenureOver => "aborted: tenure",
            Reason::OwnerGone => "aborted: owner gone",
            Reason::Operator => "aborted: operator",
            Reason::TooManyHeld => "aborted: too many held",
            Reason::ApplyFailed { .. } => "aborted: the change failed",
            Reason::Shutdown => "aborted: shut-down",
            Reason::Watchdog => "aborted: watchdog",
            Reason::DriverDied => "aborted: driver died",
        },
    }
}

/// Whether the machine was told something that it must not shrug off.
pub(crate) fn must_turn_back(old: &Phase, event: &Event) -> bool {
    gives_way(old) && matches!(event, Event::Abort | Event::OwnerGone | Event::Shutdown | Event::Overheld)
        || matches!((old, event), (Phase::Draining { escalated: true, .. }, Event::Unmoved))
}
