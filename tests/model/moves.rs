//! What can happen next, and what it does: the moves of clients, pools, drivers, changes, operators and time.

use std::cell::RefCell;
use std::collections::BTreeSet;

use pglull::ids::{Epoch, Moment, WaiterId};
use pglull::pool::gate::Why;
use pglull::pool::ledger::{Begin, Grant, Need, PoolIx};
use pglull::window::event::{Effect, Event, Outcome, Verdict};
use pglull::window::machine::Phase;
use pglull::window::plan::{Form, Stragglers};

use crate::explore::Space;
use crate::mutant::{Mutant, step_with};
use crate::rules;
use crate::world::{A, At, B, CLIENTS, Change, Mirror, Plan, Win, World, gives_way};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Passed,
    Refused,
    Drained,
    GateLost,
    Healed,
    Verdict,
    Released,
    Overheld,
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
            Self::Tell(
                _,
                Word::Refused | Word::Abort | Word::OwnerGone | Word::Shutdown | Word::Renew
            ) | Self::Die(_)
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

type Check = Result<(), String>;

impl Model {
    pub(crate) fn new(plan: Plan, mutant: Mutant) -> Self {
        Self {
            plan,
            mutant,
            seen: RefCell::default(),
        }
    }

    pub(crate) fn saw(&self, what: &'static str) {
        self.seen.borrow_mut().insert(what);
    }

    fn is(&self, mutant: Mutant) -> bool {
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
            (win.closed() || self.is(Mutant::TwoWindows))
                && (!win.changing()
                    || self.is(Mutant::NextBeforeVerdict)
                    || self.is(Mutant::TwoWindows))
        };
        if world.wins.len() < self.plan.windows.len() && world.wins.iter().all(free) {
            moves.push(Do::Start);
        }
        // Preflight holds nobody: what clients do before the first window, they can do during it as well.
        if world.wins.is_empty() {
            return moves;
        }
        for (ix, win) in world.wins.iter().enumerate() {
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
                let (form, bounds) = self.plan.windows[world.wins.len()].clone();
                world.wins.push(Win::new(form, bounds, world.now));
            }
            Do::Perform(ix) => self.perform(&mut world, ix)?,
            Do::Tell(ix, word) => self.tell(&mut world, ix, word)?,
            Do::Die(ix) => {
                world.wins[ix].dead = true;
                world.wins[ix].pending.clear();
            }
            Do::Watchdog(ix) => self.watchdog(&mut world, ix)?,
            Do::Commit(ix) => self.change_ends(&mut world, ix, true, Some(Verdict::Applied)),
            Do::RollBack(ix) => {
                self.change_ends(
                    &mut world,
                    ix,
                    self.is(Mutant::CommitsAfterFailed),
                    Some(failed()),
                );
            }
            Do::Lost(ix, committed) => {
                self.change_ends(
                    &mut world,
                    ix,
                    committed,
                    Some(Verdict::Unknown("lost".into())),
                );
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
                world
                    .ledger
                    .connect_failed(PoolIx(pool), Moment(world.now.0 + 1000));
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

/// Windows: their drivers, changes, watchdogs, operators.
impl Model {
    fn moves_of_window(&self, world: &World, ix: usize, win: &Win, moves: &mut Vec<Do>) {
        if win.changing() {
            moves.extend([
                Do::Commit(ix),
                Do::RollBack(ix),
                Do::Lost(ix, true),
                Do::Lost(ix, false),
            ]);
        }
        if win
            .watch
            .is_some_and(|bound| bound.0 + u64::from(self.plan.prompt) <= world.now.0)
            && !self.is(Mutant::WatchdogDead)
        {
            moves.push(Do::Watchdog(ix));
        }
        if win.dead {
            return;
        }
        if !win.pending.is_empty() {
            moves.push(Do::Perform(ix));
        }
        let words = [
            (win.preflight, Word::Passed),
            (win.preflight, Word::Refused),
            (win.drained, Word::Drained),
            (win.lost, Word::GateLost),
            (win.heal, Word::Healed),
            (win.verdict.is_some(), Word::Verdict),
            (world.released(win), Word::Released),
            (world.overheld(win), Word::Overheld),
            (win.due(world.now), Word::Tick),
            (win.window.form != Form::Apply && !win.word, Word::Close),
            (self.may_say(win, Word::Renew), Word::Renew),
            (self.may_say(win, Word::Abort), Word::Abort),
            (self.may_say(win, Word::OwnerGone), Word::OwnerGone),
            (self.may_say(win, Word::Shutdown), Word::Shutdown),
        ];
        moves.extend(
            words
                .into_iter()
                .filter(|(can, _)| *can)
                .map(|(_, word)| Do::Tell(ix, word)),
        );
        if !self.plan.prompt && !win.closed() {
            moves.push(Do::Die(ix));
        }
    }

    /// A `PAUSE` has no owner, and only who opened a window by hand renews it; an abort is tried even when it is late.
    fn may_say(&self, win: &Win, word: Word) -> bool {
        let fits = match word {
            Word::Renew => win.window.form == Form::Open,
            Word::OwnerGone => win.window.form != Form::Pause,
            _ => true,
        };
        self.plan.words.contains(&word) && fits && (!win.closed() || word == Word::Abort)
    }

    fn tell(&self, world: &mut World, ix: usize, word: Word) -> Check {
        let now = world.now;
        let win = &mut world.wins[ix];
        let event = match word {
            Word::Passed | Word::Refused => {
                win.preflight = false;
                if word == Word::Passed {
                    Event::Passed
                } else {
                    Event::Refused("no".into())
                }
            }
            Word::Drained => {
                win.drained = false;
                Event::Drained
            }
            Word::GateLost => {
                win.lost = false;
                Event::GateLost
            }
            Word::Healed => {
                win.heal = false;
                Event::Healed
            }
            Word::Verdict => Event::ApplyEnded(win.verdict.take().ok_or("no verdict")?),
            Word::Released => Event::Released,
            Word::Overheld => Event::Overheld,
            Word::Tick => Event::Tick,
            Word::Close => Event::Close,
            Word::Renew => Event::Renew,
            Word::Abort => Event::Abort,
            Word::OwnerGone => Event::OwnerGone,
            Word::Shutdown => Event::Shutdown,
        };
        let old = win.window.clone();
        let mut effects = Vec::new();
        win.window = step_with(self.mutant, old.clone(), event.clone(), now, &mut effects);
        if self.is(Mutant::StraggleAtOnce)
            && matches!(win.window.phase, Phase::Draining { .. })
            && word == Word::Passed
        {
            effects.push(Effect::Straggle(win.window.bounds.stragglers));
        }
        if word == Word::Renew {
            win.spoke = now;
        }
        let counts = !matches!(old.phase, Phase::Closed { .. } | Phase::Releasing { .. });
        win.word |= word == Word::Close && counts && old.phase != win.window.phase;
        for effect in &effects {
            match effect {
                Effect::Shut { .. } => win.asked.shut += 1,
                Effect::Open => win.asked.open += 1,
                Effect::StartApply { .. } => win.asked.start += 1,
                Effect::StopApply => win.asked.stop += 1,
                Effect::Heal => {
                    win.asked.heal += 1;
                    win.unhealed = false;
                }
                Effect::Preflight | Effect::Straggle(_) => {}
            }
        }
        win.pending.extend(effects.iter().cloned());
        rules::told(
            self,
            world,
            ix,
            &rules::Told {
                old: &old,
                event: &event,
                effects: &effects,
            },
        )
    }

    fn perform(&self, world: &mut World, ix: usize) -> Check {
        let now = world.now;
        let mine = world.shut_by(&world.wins[ix]);
        let running = world.ledger.running();
        let Some(effect) = world.wins[ix].pending.pop_front() else {
            return Ok(());
        };
        match effect {
            Effect::Preflight => world.wins[ix].preflight = true,
            Effect::Shut { bound } => self.shut(world, ix, bound),
            Effect::Straggle(policy) => {
                if mine || self.is(Mutant::StragglesAtLostGate) {
                    self.straggle(world, ix, policy)?;
                }
            }
            Effect::StartApply { deadline } => {
                let win = &mut world.wins[ix];
                if mine && now < deadline || self.is(Mutant::StartsAtLostGate) {
                    rules::ensure(
                        mine && running == 0,
                        "a change starts beside open transactions",
                    )?;
                    win.change = Change::Running;
                } else {
                    win.change = Change::Over;
                    win.verdict = Some(failed());
                    self.saw("a change did not start: too late");
                }
            }
            Effect::StopApply => {
                let win = &mut world.wins[ix];
                if win.change == Change::Running {
                    win.change = Change::Stopping;
                    if self.is(Mutant::StopMeansRolledBack) {
                        win.verdict = Some(failed());
                    }
                }
            }
            Effect::Heal => world.wins[ix].heal = true,
            Effect::Open => {
                let epoch = match self.mutant {
                    Mutant::StaleEpochOpens => world.gate_epoch(),
                    _ => world.wins[ix].epoch,
                };
                if !self.plan.old_timers {
                    world.wins[ix].watch = None;
                }
                if let Some(epoch) = epoch {
                    self.open(world, ix, epoch)?;
                }
            }
        }
        Ok(())
    }

    fn shut(&self, world: &mut World, ix: usize, bound: Option<Moment>) {
        let now = world.now;
        let Some(epoch) = world.ledger.shut(bound, now) else {
            // The window before has not let go of the gate: this one must not believe that the gate is its own.
            world.wins[ix].gone = true;
            world.wins[ix].lost = !self.is(Mutant::ShutRefusalIgnored);
            world.wins[ix].drained = self.is(Mutant::ShutRefusalIgnored);
            self.saw("the gate was shut already");
            return;
        };
        world.mirror = Mirror::default();
        for client in &mut world.clients {
            if matches!(client.at, At::Waiting(_)) {
                client.held = Some(now);
                world.mirror.held += 1;
                self.saw("a waiter is held by the shutting");
            }
        }
        let win = &mut world.wins[ix];
        win.epoch = Some(epoch);
        win.watch = bound;
        win.drained = world.ledger.running() == 0 && !self.is(Mutant::DrainedUnsaid)
            || self.is(Mutant::DrainedEarly);
    }

    fn open(&self, world: &mut World, by: usize, epoch: Epoch) -> Check {
        let before = world.ledger.clone();
        let own = world.gate_epoch() == Some(epoch);
        let mut grants = world.ledger.open(epoch, world.now);
        if !own {
            self.saw("a stale open");
            rules::ensure(
                grants.is_empty() && before == world.ledger,
                "a stale open has an effect",
            )?;
        }
        rules::ensure(
            !own || world.wins[by].epoch == Some(epoch),
            "a window opens another one's gate",
        )?;
        if own {
            for client in &mut world.clients {
                client.clock = client.clock.max(world.now);
            }
        }
        if self.is(Mutant::GrantLost) && !grants.is_empty() {
            grants.remove(0);
        }
        if self.is(Mutant::GrantTwice) {
            let twice = grants.first().map(|grant| Grant {
                ticket: grant.ticket,
                server: None,
                stall: grant.stall,
            });
            grants.extend(twice);
        }
        self.granted(world, grants)
    }

    fn watchdog(&self, world: &mut World, ix: usize) -> Check {
        let own = world.shut_by(&world.wins[ix]);
        let win = &mut world.wins[ix];
        win.watch = None;
        let Some(epoch) = win.epoch else {
            return Ok(());
        };
        if own {
            rules::ensure(
                !self.plan.prompt,
                "the watchdog had to open the gate of a prompt driver",
            )?;
            (win.gone, win.lost) = (true, true);
            self.saw(if win.dead {
                "the watchdog outlived the driver"
            } else {
                "the watchdog opened the gate"
            });
        }
        self.open(world, ix, epoch)
    }

    /// Only `terminate` ends transactions by itself; after a cancel it is up to the client.
    fn straggle(&self, world: &mut World, ix: usize, policy: Stragglers) -> Check {
        let running = |client: &usize| world.clients[*client].at == At::Running;
        let stragglers: Vec<usize> = (0..CLIENTS).filter(running).collect();
        if policy == Stragglers::Terminate {
            let allowed = world.wins[ix].window.bounds.stragglers == Stragglers::Terminate;
            let mine = world.shut_by(&world.wins[ix]);
            for client in stragglers {
                rules::ensure(
                    allowed && mine,
                    "a client is cut that the plan does not cut",
                )?;
                self.finish(world);
                self.drop_server(world, client);
                world.clients[client].at = At::Gone;
                self.saw("a straggler was cut");
            }
        }
        Ok(())
    }

    fn change_ends(&self, world: &mut World, ix: usize, committed: bool, verdict: Option<Verdict>) {
        let win = &mut world.wins[ix];
        if win.change == Change::Stopping && committed {
            self.saw("a commit won the race against its stop");
        }
        win.change = Change::Over;
        win.committed |= committed;
        win.unhealed |= committed;
        win.verdict = verdict;
    }
}

fn failed() -> Verdict {
    Verdict::Failed {
        sqlstate: "55P03".into(),
        message: "lock".into(),
    }
}

/// Clients and their servers.
impl Model {
    fn moves_of_client(&self, world: &World, ix: usize, moves: &mut Vec<Do>) {
        let client = &world.clients[ix];
        match client.at {
            At::Idle => {
                if client.begins > 0 {
                    moves.push(Do::Begin(ix));
                }
                if client.server {
                    moves.push(Do::Leave(ix));
                }
            }
            At::Waiting(id) => {
                moves.extend([Do::Cancel(ix), Do::Leave(ix)]);
                if self
                    .patience_left(world, ix, id)
                    .is_some_and(|left| left == 0)
                {
                    moves.push(Do::Expire(ix));
                }
            }
            At::Granted => moves.extend([Do::Told(ix), Do::Leave(ix)]),
            At::Running => moves.extend([Do::End(ix), Do::ServerLost(ix), Do::Leave(ix)]),
            At::Gone => {}
        }
    }

    /// Milliseconds; asked of the ledger.
    fn patience_left(&self, world: &World, ix: usize, id: WaiterId) -> Option<u64> {
        let client = &world.clients[ix];
        let patience = self.plan.patience?;
        let left = if self.is(Mutant::ExpiresWhileHeld) {
            patience.saturating_sub(world.now.since(client.clock))
        } else {
            world
                .ledger
                .clone()
                .wait_left(client.pool, id, patience, world.now)?
        };
        u64::try_from(left.as_millis()).ok()
    }

    fn client(&self, world: &mut World, ix: usize, by: Do) -> Check {
        match by {
            Do::Begin(_) => self.begin(world, ix)?,
            Do::Told(_) => world.clients[ix].at = At::Running,
            Do::End(_) => {
                self.finish(world);
                world.clients[ix].at = At::Idle;
                if !world.clients[ix].keeps {
                    self.put_back(world, ix)?;
                }
            }
            Do::ServerLost(_) => {
                self.finish(world);
                self.drop_server(world, ix);
                world.clients[ix].at = At::Gone;
            }
            Do::Cancel(_) => {
                self.leave_queue(world, ix, Why::Cancelled)?;
                world.clients[ix].at = At::Idle;
            }
            Do::Expire(_) => {
                let client = &world.clients[ix];
                let patience = self.plan.patience.unwrap_or_default();
                let waited = world.now.since(client.clock);
                rules::ensure(
                    world.gate_epoch().is_none() && waited >= patience,
                    "a client's patience ran out behind a shut gate",
                )?;
                self.leave_queue(world, ix, Why::Expired)?;
                world.clients[ix].at = At::Gone;
            }
            _ => match world.clients[ix].at {
                At::Waiting(_) => {
                    self.leave_queue(world, ix, Why::Left)?;
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                }
                At::Idle => {
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                }
                // Granted, and nothing was sent yet: the server is clean.
                At::Granted => {
                    self.finish(world);
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                    self.saw("a client left while its grant was on the way");
                }
                At::Running | At::Gone => {
                    self.finish(world);
                    world.clients[ix].at = At::Gone;
                    self.drop_server(world, ix);
                }
            },
        }
        Ok(())
    }

    fn begin(&self, world: &mut World, ix: usize) -> Check {
        let (now, shut) = (world.now, world.gate_epoch().is_some());
        let client = &mut world.clients[ix];
        client.begins -= 1;
        if self.is(Mutant::BeginsAtShutGate) && shut && client.need() == Need::Leave {
            client.at = At::Running;
            return Ok(());
        }
        match world.ledger.begin(client.pool, client.need(), now, || ix) {
            Begin::Now(server) => {
                rules::ensure(!shut, "a transaction begins at a shut gate")?;
                rules::ensure(
                    server.is_some() != client.server,
                    "a server too many or too few",
                )?;
                client.server = true;
                client.at = At::Running;
            }
            Begin::Wait(id) => {
                client.at = At::Waiting(id);
                client.clock = now;
                client.held = shut.then_some(now);
                world.mirror.held += u64::from(shut);
                if shut && client.keeps {
                    self.saw("a session-mode client is held");
                }
            }
        }
        Ok(())
    }

    fn finish(&self, world: &mut World) {
        let told = !self.is(Mutant::FinishForgotten) && world.ledger.finish();
        if self.is(Mutant::FinishTwice) && world.ledger.running() > 0 {
            world.ledger.finish();
        }
        let epoch = world.gate_epoch();
        if told
            && let Some(win) = world
                .wins
                .iter_mut()
                .find(|win| win.epoch.is_some() && win.epoch == epoch)
        {
            win.drained = true;
        }
    }

    fn put_back(&self, world: &mut World, ix: usize) -> Check {
        let client = &mut world.clients[ix];
        if !std::mem::take(&mut client.server) || self.is(Mutant::ServerLeaked) {
            return Ok(());
        }
        let grant = world.ledger.put_back(client.pool, (), false, world.now);
        self.granted(world, grant.into_iter().collect())
    }

    fn drop_server(&self, world: &mut World, ix: usize) {
        let client = &mut world.clients[ix];
        if std::mem::take(&mut client.server) {
            world.ledger.lost(client.pool);
            self.saw("a server was lost");
        }
    }

    fn leave_queue(&self, world: &mut World, ix: usize, why: Why) -> Check {
        let client = &mut world.clients[ix];
        let At::Waiting(id) = client.at else {
            return Err("a client leaves a queue that it is not in".into());
        };
        let held = client.held.take().is_some();
        if !self.is(Mutant::LeaverKept) {
            let why = if self.is(Mutant::CancelledIsLeft) {
                Why::Left
            } else {
                why
            };
            let ticket = world.ledger.leave(client.pool, id, why);
            rules::ensure(ticket == Some(ix), "the queue did not know its waiter")?;
        }
        let (count, saw) = match why {
            Why::Released => (&mut world.mirror.released, "released"),
            Why::Cancelled => (&mut world.mirror.cancelled, "a held client cancelled"),
            Why::Left => (&mut world.mirror.left, "a held client left"),
            Why::Expired => (
                &mut world.mirror.expired,
                "a client that had been held expired",
            ),
        };
        if held {
            *count += 1;
            self.saw(saw);
        }
        Ok(())
    }

    /// Grants reach their clients.
    fn granted(&self, world: &mut World, grants: Vec<Grant<(), usize>>) -> Check {
        for mut grant in grants {
            if self.is(Mutant::LastInFirstOut) {
                let pool = world.clients[grant.ticket].pool;
                let queued = world.ledger.waiting(pool).last();
                grant.ticket = queued.copied().unwrap_or(grant.ticket);
            }
            let client = &world.clients[grant.ticket];
            let (pool, need) = (client.pool, client.need());
            let At::Waiting(id) = client.at else {
                return Err("a grant for a client that does not wait".into());
            };
            if self.is(Mutant::StallForgotten) {
                grant.stall = None;
            }
            let earlier = |other: &World| {
                other.clients.iter().any(|c| {
                    matches!(c.at, At::Waiting(other) if other < id)
                        && c.pool == pool
                        && c.need() == Need::Server
                })
            };
            rules::ensure(
                need == Need::Leave || !earlier(world),
                "a grant out of turn",
            )?;
            let client = &mut world.clients[grant.ticket];
            let stall = client.held.take().map(|held| world.now.since(held));
            rules::ensure(grant.stall == stall, "a grant with the wrong stall")?;
            rules::ensure(
                grant.server.is_some() != client.server,
                "a server too many or too few",
            )?;
            client.at = At::Granted;
            client.server = true;
            if stall.is_some() {
                world.mirror.released += 1;
                self.saw("a held client was released");
            }
        }
        Ok(())
    }
}

/// Time jumps from one deadline to the next.
impl Model {
    fn next_moment(&self, world: &World) -> Option<Moment> {
        let now = world.now;
        let due = |win: &Win| {
            world.shut_by(win)
                && win
                    .watch
                    .is_some_and(|bound| bound.0 + u64::from(self.plan.prompt) <= now.0)
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
        let of_watchdogs = world
            .wins
            .iter()
            .filter(late)
            .filter_map(|win| Some(Moment(win.watch?.0 + u64::from(self.plan.prompt))));
        let of_pools = [A, B]
            .into_iter()
            .filter_map(|pool| world.ledger.retry_at(pool));
        let of_clients = (0..CLIENTS).filter_map(|ix| match world.clients[ix].at {
            At::Waiting(id)
                if world.gate_epoch().is_none() || self.is(Mutant::ExpiresWhileHeld) =>
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

/// What a window's end is called among the things seen.
pub(crate) fn name_of(outcome: &Outcome, form: Form) -> &'static str {
    use pglull::window::event::Reason;
    match outcome {
        Outcome::Applied if form == Form::Apply => "applied: the change",
        Outcome::Applied => "applied: by word",
        Outcome::Resumed => "resumed",
        Outcome::Refused(_) => "refused",
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
        },
    }
}

/// Whether the machine was told something that it must not shrug off.
pub(crate) fn must_turn_back(old: &Phase, event: &Event) -> bool {
    gives_way(old)
        && matches!(
            event,
            Event::Abort | Event::OwnerGone | Event::Shutdown | Event::Overheld
        )
}
