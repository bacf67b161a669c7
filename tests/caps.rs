//! Explores every order of events over the production caps and ledgers: pools of two databases and two users, under a
//! cap of a database and one of a user, with a gate that is shut and opened, a reserve, and servers that get lost.
//!
//! The first test visits all states: no cap is ever exceeded, places and servers are conserved, and whatever happens,
//! everybody who waits is served in the end. The second seeds bugs, one at a time, and demands that each is found.

#[path = "model/explore.rs"]
mod explore;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use explore::{Space, TOO_MANY, explore};
use pglull::ids::{Epoch, Moment, WaiterId};
use pglull::pool::caps::{Caps, SharerIx, TURN};
use pglull::pool::gate::{Gate, Why};
use pglull::pool::ledger::{Begin, Grant, GroupIx, Ledger, Need, PoolIx, Size};

macro_rules! mutants {
    ($($name:ident),+ $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        enum Mutant { Real, $($name),+ }
        const MUTANTS: &[Mutant] = &[$(Mutant::$name),+];
    };
}

mutants! {
    // The caps.
    TakenAnyhow, PlaceLeaked, PlaceTwice, NobodyYields, NeverEvicts, LineForgotten, TurnsIgnored, GrantUncounted,
    // The ledger, and how the shell uses it.
    DeniedStaysBooked, ReserveAtOnce, ReserveUnbounded, EvictsBehindTheGate, LostPlaceKept,
}

/// What is explored.
#[derive(Clone, Debug)]
struct Plan {
    name: &'static str,
    /// The caps of database 0, database 1, user 0, user 1.
    caps: [Option<usize>; 4],
    /// Each pool: its database, its user, its size.
    pools: &'static [(usize, usize, usize)],
    reserve: usize,
    /// Each client: its pool, and how many transactions it begins.
    clients: &'static [(usize, u8)],
    trouble: u8,
    /// Whether the gate of database 0 is shut and opened once.
    gate: bool,
}

const AFTER: Duration = Duration::from_secs(1);

fn plans() -> Vec<Plan> {
    let plan = |name, caps, pools, clients| Plan { name, caps, pools, reserve: 0, clients, trouble: 1, gate: false };
    let one = [Some(1), None, None, None];
    let two = [Some(2), None, None, None];
    vec![
        plan("two users, one place", one, &[(0, 0, 2), (0, 1, 2)], &[(0, 1), (0, 1), (1, 2)]),
        plan("two users, two places", two, &[(0, 0, 2), (0, 1, 2)], &[(0, 2), (0, 2), (1, 2)]),
        plan("one user in two databases", [None, None, Some(1), None], &[(0, 0, 2), (1, 0, 2)], &[(0, 2), (1, 2)]),
        plan(
            "a database's and a user's cap",
            [Some(1), None, Some(1), None],
            &[(0, 0, 1), (0, 1, 1), (1, 0, 1)],
            &[(0, 1), (1, 1), (2, 1)],
        ),
        Plan { gate: true, ..plan("a gate", one, &[(0, 0, 1), (0, 1, 1)], &[(0, 2), (1, 2)]) },
        Plan {
            gate: true,
            ..plan("a gate of one of two", [None, None, Some(1), None], &[(0, 0, 2), (1, 0, 2)], &[(0, 2), (1, 2)])
        },
        Plan {
            reserve: 1,
            trouble: 0,
            ..plan("a reserve", [Some(3), None, None, None], &[(0, 0, 1), (0, 1, 1)], &[(0, 1), (0, 1), (0, 1), (1, 1)])
        },
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Idle,
    Waiting(WaiterId),
    Running,
    Gone,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Client {
    pool: usize,
    begins: u8,
    at: At,
    /// When its waiting for a server began to count.
    clock: Moment,
}

/// What a pool's shell knows besides its ledger.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Shell {
    /// Connects under way; each has a place.
    attempts: usize,
    /// Somebody in line asks for the next server that comes back.
    yields: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    now: Moment,
    caps: Caps,
    ledgers: [Ledger<(), usize>; 2],
    shells: Vec<Shell>,
    clients: Vec<Client>,
    /// The keeper has been told to look.
    told: bool,
    again: Option<Moment>,
    trouble: u8,
    shuts: u8,
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Do {
    Time,
    Keep,
    Begin(usize),
    End(usize),
    Lost(usize),
    Leave(usize),
    Connected(usize),
    Failed(usize),
    Shut,
    Open,
}

struct Model {
    plan: Plan,
    mutant: Mutant,
    seen: RefCell<BTreeSet<&'static str>>,
}

type Check = Result<(), String>;

fn ensure(holds: bool, rule: &str) -> Check {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

impl Model {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    fn saw(&self, what: &'static str) {
        self.seen.borrow_mut().insert(what);
    }

    /// The ledger of a pool, and its number there.
    fn books(&self, pool: usize) -> (usize, PoolIx) {
        let database = self.plan.pools[pool].0;
        (database, PoolIx(self.plan.pools[..pool].iter().filter(|other| other.0 == database).count()))
    }

    fn start(&self) -> World {
        let mut caps = Caps::default();
        let all = self.plan.caps.map(|limit| caps.add_cap(limit));
        let mut ledgers = [Ledger::default(), Ledger::default()];
        for (database, user, size) in self.plan.pools {
            caps.add_pool([all[*database], all[2 + user]]);
            let reserve = self.plan.reserve + usize::from(self.is(Mutant::ReserveUnbounded) && self.plan.reserve > 0);
            let after = if self.is(Mutant::ReserveAtOnce) { Duration::ZERO } else { AFTER };
            let size = Size { reserve, reserve_after: Some(after), ..Size::new(*size, 0) };
            ledgers[*database].add_pool(size);
        }
        let client =
            |(pool, begins): &(usize, u8)| Client { pool: *pool, begins: *begins, at: At::Idle, clock: Moment(0) };
        World {
            now: Moment(0),
            caps,
            ledgers,
            shells: vec![Shell::default(); self.plan.pools.len()],
            clients: self.plan.clients.iter().map(client).collect(),
            told: false,
            again: None,
            trouble: self.plan.trouble,
            shuts: u8::from(self.plan.gate),
            epoch: None,
        }
    }

    /// `Pool::open_servers`.
    fn open_servers(&self, world: &mut World, pool: usize) {
        let (database, ix) = self.books(pool);
        let count = world.ledgers[database].start_connects(ix, world.now);
        for started in 0..count {
            if !world.caps.take(SharerIx(pool), world.now) && !self.is(Mutant::TakenAnyhow) {
                if !self.is(Mutant::DeniedStaysBooked) {
                    world.ledgers[database].connects_denied(ix, count - started);
                }
                if world.ledgers[database].is_short(ix, world.now) {
                    self.saw("a pool stands in line");
                    if !self.is(Mutant::LineForgotten) {
                        world.caps.ask(SharerIx(pool));
                        world.told = true;
                    }
                }
                return;
            }
            world.shells[pool].attempts += 1;
            world.told |= !world.caps.line().is_empty();
        }
    }

    /// The drop of a place.
    fn give_back(&self, world: &mut World, pool: usize) {
        if !self.is(Mutant::PlaceLeaked) {
            world.caps.give_back(SharerIx(pool));
        }
        if self.is(Mutant::PlaceTwice) && world.caps.used(SharerIx(pool)) > 0 {
            world.caps.give_back(SharerIx(pool));
        }
        world.told = true;
    }

    /// `Places::round`.
    fn keep(&self, world: &mut World) -> Check {
        world.told = false;
        for number in world.caps.line() {
            let (database, ix) = self.books(number.0);
            if !world.ledgers[database].is_short(ix, world.now) {
                world.caps.leave(number);
                self.saw("a pool leaves the line: nobody waits any more");
            }
        }
        while let Some(next) = world.caps.next(world.now) {
            let (database, ix) = self.books(next.0);
            if world.ledgers[database].start_connect(ix, world.now) {
                world.shells[next.0].attempts += 1;
                if world.ledgers[database].is_short(ix, world.now) {
                    world.caps.ask(next);
                }
            } else {
                self.give_back(world, next.0);
            }
            if self.is(Mutant::GrantUncounted) {
                world.caps.give_back(next);
            }
        }
        let presses = world.caps.presses(world.now);
        world.shells.iter_mut().for_each(|shell| shell.yields = false);
        world.again = None;
        for press in presses {
            world.again = [world.again, press.again].into_iter().flatten().min();
            let mut evicted = false;
            for holder in press.holders.iter().filter(|_| !self.is(Mutant::NeverEvicts)) {
                evicted = evicted || self.evict(world, holder.0)?;
            }
            if let Some(pool) = press.yields.filter(|_| !evicted && !self.is(Mutant::NobodyYields)) {
                world.shells[pool.0].yields = true;
            }
            if self.is(Mutant::TurnsIgnored) {
                world.again = None;
            }
        }
        Ok(())
    }

    fn evict(&self, world: &mut World, pool: usize) -> Result<bool, String> {
        let (database, ix) = self.books(pool);
        let ledger = &mut world.ledgers[database];
        let counts = ledger.counts(ix);
        let spare = if self.is(Mutant::EvictsBehindTheGate) {
            let mut first = true;
            ledger.take_idle(ix, |()| std::mem::take(&mut first)).pop()
        } else {
            ledger.take_spare(ix, |()| true)
        };
        if spare.is_some() {
            ensure(counts.idle > counts.waiting + counts.held, "a server is evicted that somebody waits for")?;
            self.give_back(world, pool);
            self.saw("an idle server is evicted");
        }
        Ok(spare.is_some())
    }

    fn granted(&self, world: &mut World, grants: Vec<Grant<(), usize>>) -> Check {
        for grant in grants {
            ensure(grant.server.is_some(), "a grant without a server")?;
            let client = &mut world.clients[grant.ticket];
            ensure(matches!(client.at, At::Waiting(_)), "a grant for a client that does not wait")?;
            client.at = At::Running;
        }
        Ok(())
    }

    /// A server that is lent comes back: to the pool, or closed for somebody in line.
    fn comes_back(&self, world: &mut World, pool: usize) -> Check {
        let (database, ix) = self.books(pool);
        let due = world.caps.presses(world.now).iter().any(|press| press.yields == Some(SharerIx(pool)));
        let spare = (0..self.plan.pools.len())
            .any(|other| world.ledgers[self.books(other).0].counts(self.books(other).1).idle > 0);
        ensure(
            world.told || !due || spare || world.shells[pool].yields,
            "a server is due to another pool and goes on here",
        )?;
        if std::mem::take(&mut world.shells[pool].yields) {
            self.saw("a server is given up for somebody in line");
            world.ledgers[database].lost(ix);
            self.give_back(world, pool);
            self.open_servers(world, pool);
            return Ok(());
        }
        let grant = world.ledgers[database].put_back(ix, (), false, world.now);
        world.told |= grant.is_none() && !world.caps.line().is_empty();
        self.granted(world, grant.into_iter().collect())
    }

    fn client(&self, world: &mut World, who: usize, by: Do) -> Check {
        let pool = world.clients[who].pool;
        let (database, ix) = self.books(pool);
        let (ledger, client) = (&mut world.ledgers[database], &mut world.clients[who]);
        match (by, client.at) {
            (Do::Begin(_), _) => {
                client.begins -= 1;
                match ledger.begin(ix, (GroupIx::OTHERS, Need::Server), world.now, || who) {
                    Begin::Now(_) => client.at = At::Running,
                    Begin::Wait(id) => {
                        (client.at, client.clock) = (At::Waiting(id), world.now);
                        self.open_servers(world, pool);
                    }
                }
            }
            (Do::Leave(_), At::Waiting(id)) => {
                client.at = At::Gone;
                ensure(ledger.leave(ix, id, Why::Left) == Some(who), "the queue did not know its waiter")?;
            }
            (Do::Lost(_), _) => {
                client.at = At::Gone;
                ledger.finish(GroupIx::OTHERS);
                ledger.lost(ix);
                if !self.is(Mutant::LostPlaceKept) {
                    self.give_back(world, pool);
                }
                self.open_servers(world, pool);
            }
            _ => {
                client.at = At::Idle;
                ledger.finish(GroupIx::OTHERS);
                self.comes_back(world, pool)?;
            }
        }
        Ok(())
    }

    fn rules(&self, world: &World) -> Check {
        let turns = world.caps.presses(world.now).iter().any(|press| press.again.is_some());
        ensure(world.told || !turns || world.again.is_some(), "nobody looks again when it is another pool's turn")?;
        world.ledgers.iter().try_for_each(|ledger| ledger.audit().map_err(str::to_owned))?;
        let is_shut = |pool: &SharerIx| world.ledgers[self.books(pool.0).0].gate() != Gate::Open;
        ensure(world.told || !world.caps.line().iter().any(is_shut), "a pool stands in line for those who are held")?;
        let mut servers = Vec::new();
        for pool in 0..self.plan.pools.len() {
            let (database, ix) = self.books(pool);
            let counts = world.ledgers[database].counts(ix);
            ensure(counts.connecting == world.shells[pool].attempts, "a connect is booked that is not under way")?;
            let all = counts.idle + counts.lent + counts.connecting;
            ensure(world.caps.used(SharerIx(pool)) == all, "places are not servers")?;
            let most = self.plan.pools[pool].2;
            // Whoever has waited for so long may have been served since.
            let late = self.plan.reserve > 0 && world.now.0 >= 1000;
            ensure(
                all <= most + if late { self.plan.reserve } else { 0 },
                "the reserve is used too early, or exceeded",
            )?;
            if all > most {
                self.saw("the reserve is used");
            }
            servers.push(all);
        }
        for (cap, limit) in self.plan.caps.iter().enumerate() {
            let under = |(database, user, _): &(usize, usize, usize)| *database == cap || 2 + user == cap;
            let used: usize =
                self.plan.pools.iter().zip(&servers).filter(|(pool, _)| under(pool)).map(|(_, n)| n).sum();
            ensure(limit.is_none_or(|limit| used <= limit), "more servers than a cap")?;
        }
        Ok(())
    }

    fn next_moment(&self, world: &World) -> Option<Moment> {
        let retries = (0..self.plan.pools.len()).filter_map(|pool| {
            let (database, ix) = self.books(pool);
            world.ledgers[database].retry_at(ix)
        });
        let reserve =
            world.clients.iter().filter(|client| self.plan.reserve > 0 && matches!(client.at, At::Waiting(_)));
        let reserve = reserve.map(|client| client.clock.plus(AFTER));
        retries.chain(world.again).chain(reserve).filter(|at| *at > world.now).min()
    }
}

impl Space for Model {
    type State = World;
    type Move = Do;

    fn moves(&self, world: &World) -> Vec<Do> {
        let mut moves = Vec::new();
        if world.told {
            moves.push(Do::Keep);
        }
        for (who, client) in world.clients.iter().enumerate() {
            match client.at {
                At::Idle if client.begins > 0 => moves.push(Do::Begin(who)),
                At::Waiting(_) => moves.push(Do::Leave(who)),
                At::Running => moves.extend([Do::End(who), Do::Lost(who)]),
                At::Idle | At::Gone => {}
            }
        }
        for (pool, shell) in world.shells.iter().enumerate() {
            if shell.attempts > 0 {
                moves.extend([Do::Connected(pool), Do::Failed(pool)]);
            }
        }
        if world.shuts > 0 {
            moves.push(Do::Shut);
        }
        if world.epoch.is_some() {
            moves.push(Do::Open);
        }
        // What is due is done before time passes.
        if !world.told && self.next_moment(world).is_some() {
            moves.push(Do::Time);
        }
        moves.retain(|by| world.trouble > 0 || !matches!(by, Do::Leave(_) | Do::Lost(_) | Do::Failed(_)));
        moves
    }

    fn go(&self, before: &World, by: Do) -> Result<World, String> {
        let mut world = before.clone();
        world.trouble -= u8::from(matches!(by, Do::Leave(_) | Do::Lost(_) | Do::Failed(_)));
        match by {
            Do::Time => {
                world.now = self.next_moment(&world).unwrap_or(world.now);
                world.told |= world.again.is_some_and(|again| again <= world.now);
                // The upkeep, and the timers of pauses.
                (0..self.plan.pools.len()).for_each(|pool| self.open_servers(&mut world, pool));
            }
            Do::Keep => self.keep(&mut world)?,
            Do::Begin(who) | Do::End(who) | Do::Lost(who) | Do::Leave(who) => self.client(&mut world, who, by)?,
            Do::Connected(pool) => {
                let (database, ix) = self.books(pool);
                world.shells[pool].attempts -= 1;
                let grant = world.ledgers[database].put_back(ix, (), true, world.now);
                world.told |= grant.is_none() && !world.caps.line().is_empty();
                self.granted(&mut world, grant.into_iter().collect())?;
                self.open_servers(&mut world, pool);
            }
            Do::Failed(pool) => {
                let (database, ix) = self.books(pool);
                world.shells[pool].attempts -= 1;
                let retry_at = Moment(world.now.0 + 100);
                world.ledgers[database].connect_failed(ix, retry_at);
                self.give_back(&mut world, pool);
                self.saw("a connect failed");
            }
            Do::Shut => {
                world.shuts -= 1;
                world.told = true;
                world.epoch = world.ledgers[0].shut(None, world.now, |_| false);
            }
            Do::Open => {
                if let Some(epoch) = world.epoch.take() {
                    let grants = world.ledgers[0].open(epoch, world.now);
                    self.granted(&mut world, grants)?;
                    (0..self.plan.pools.len()).for_each(|pool| self.open_servers(&mut world, pool));
                }
            }
        }
        self.rules(&world)?;
        Ok(world)
    }

    fn end(&self, world: &World) -> Check {
        let waits = world.clients.iter().any(|client| matches!(client.at, At::Waiting(_)));
        ensure(!waits, "a client waits for ever")?;
        ensure(world.ledgers.iter().all(|ledger| ledger.gate() == Gate::Open), "the gate stays shut")?;
        ensure(world.caps.line().is_empty(), "a pool stands in line for ever")
    }
}

/// More states than any plan has.
const MOST: usize = 400_000;
/// A seeded bug is looked for in so many states of each plan, then in more.
const MOST_FOR_A_BUG: [usize; 2] = [2_000, 30_000];

/// Each of these happens on some path, so the rules are not true of nothing.
const SOMETIMES: &[&str] = &[
    "a pool stands in line",
    "a pool leaves the line: nobody waits any more",
    "an idle server is evicted",
    "a server is given up for somebody in line",
    "a connect failed",
    "the reserve is used",
];

fn run(
    plan: Plan,
    mutant: Mutant,
    most: usize,
) -> (Result<explore::Size, explore::Broken<Do>>, BTreeSet<&'static str>) {
    let model = Model { plan, mutant, seen: RefCell::default() };
    let found = explore(&model, model.start(), most);
    (found, model.seen.into_inner())
}

#[test]
fn every_order_of_events_keeps_the_caps_and_starves_nobody() {
    assert_eq!(TURN, Duration::from_millis(100));
    let mut seen = BTreeSet::new();
    for plan in plans() {
        let name = plan.name;
        let (found, saw) = run(plan, Mutant::Real, MOST);
        let size = found.unwrap_or_else(|broken| panic!("{name}: {broken:#?}"));
        println!("{name}: {} states, {} edges, {} ends", size.states, size.edges, size.ends);
        seen.extend(saw);
    }
    let never: Vec<_> = SOMETIMES.iter().filter(|what| !seen.contains(*what)).collect();
    assert!(never.is_empty(), "never happens: {never:?}");
}

#[test]
fn every_seeded_bug_is_found() {
    let found = |mutant: Mutant, most: usize| {
        plans().into_iter().find_map(|plan| {
            let name = plan.name;
            let broken = run(plan, mutant, most).0.err()?;
            (broken.rule != TOO_MANY).then_some((name, broken))
        })
    };
    let mut survivors = Vec::new();
    for mutant in MUTANTS {
        match MOST_FOR_A_BUG.iter().find_map(|most| found(*mutant, *most)) {
            Some((plan, broken)) => println!("{mutant:?}: {} ({plan}, {} moves)", broken.rule, broken.trace.len()),
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}
