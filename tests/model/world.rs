//! The world that is explored: one database with two pools and three clients, and up to two windows.
//!
//! The ledger and each window are the production values. Around them stand plain models of the parts that have
//! sockets and tasks: sessions, the pools' connects, each window's driver, its change, the watchdog, the operators.

use std::collections::VecDeque;
use std::time::Duration;

use pglull::ids::{Epoch, Moment, WaiterId};
use pglull::pool::gate::Gate;
use pglull::pool::ledger::{Begin, GroupIx, Ledger, Need, PoolIx, Size};
use pglull::window::event::{Effect, Verdict};
use pglull::window::machine::{Phase, Window};
use pglull::window::plan::{Bounds, Form};

use crate::moves::Word;

/// Pool `A` has one server and two clients in transaction mode; `B` has two and one client in session mode.
pub(crate) const A: PoolIx = PoolIx(0);
pub(crate) const B: PoolIx = PoolIx(1);
pub(crate) const CLIENTS: usize = 3;
/// The second client is of another user than the others.
pub(crate) const SECOND: GroupIx = GroupIx(1);

/// What is explored, and what is left out to keep it small.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// The windows that operators start one after another.
    pub(crate) windows: Vec<(Form, Bounds)>,
    /// A prompt driver does what is due before time passes; another one may be late, or die.
    pub(crate) prompt: bool,
    /// How many things may go wrong on one path, of whatever kind.
    pub(crate) trouble: u8,
    /// What operators may say, and those who are behind them.
    pub(crate) words: &'static [Word],
    /// How many transactions each client begins.
    pub(crate) begins: [u8; CLIENTS],
    /// Clients' patience for a server.
    pub(crate) patience: Option<Duration>,
    /// Whether the watchdog's timers go on after the gate that they were set for is open.
    pub(crate) old_timers: bool,
    /// Whether each window leaves the second client free.
    pub(crate) leaves_free: &'static [bool],
    /// Whether the process may die; the next one settles what it has left.
    pub(crate) crash: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum At {
    Idle,
    Waiting(WaiterId),
    /// Granted, and not told yet.
    Granted,
    Running,
    Gone,
}

/// A session, as it knows itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Client {
    pub(crate) pool: PoolIx,
    pub(crate) group: GroupIx,
    pub(crate) at: At,
    pub(crate) begins: u8,
    /// Session mode: keeps its server between transactions.
    pub(crate) keeps: bool,
    pub(crate) server: bool,
    /// Since when the gate keeps it.
    pub(crate) held: Option<Moment>,
    /// When its waiting for a server began to count.
    pub(crate) clock: Moment,
}

impl Client {
    pub(crate) const fn need(&self) -> Need {
        if self.server { Need::Leave } else { Need::Server }
    }

    /// Whether its transaction is open, as Postgres would see it or is about to.
    pub(crate) const fn open(&self) -> bool {
        matches!(self.at, At::Granted | At::Running)
    }
}

/// The task that runs the change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Change {
    None,
    Running,
    Stopping,
    Over,
}

/// How often each effect was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) shut: u8,
    pub(crate) open: u8,
    pub(crate) start: u8,
    pub(crate) stop: u8,
    pub(crate) heal: u8,
}

/// What the next process makes of a window that its process has left open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Crashed {
    /// There is no record of it.
    Unknown,
    /// The database is being asked.
    Recovering,
    /// It has said whether the change is committed.
    Settled { applied: bool },
}

/// One window with its driver, its change and its watchdog's timer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Win {
    pub(crate) window: Window,
    /// Effects that the driver has not performed yet, in their order.
    pub(crate) pending: VecDeque<Effect>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) watch: Option<Moment>,
    /// Answers on their way to the machine.
    pub(crate) preflight: bool,
    pub(crate) record: bool,
    pub(crate) drained: bool,
    pub(crate) lost: bool,
    pub(crate) unmoved: bool,
    pub(crate) heal: bool,
    pub(crate) verdict: Option<Verdict>,
    /// The gate was opened by the watchdog, or could not be shut.
    pub(crate) gone: bool,
    pub(crate) dead: bool,
    /// It leaves the clients of the second group free.
    pub(crate) leaves_free: bool,
    pub(crate) crashed: Option<Crashed>,
    pub(crate) change: Change,
    /// What really happened in the database.
    pub(crate) committed: bool,
    /// Committed, and no healing has been asked for since.
    pub(crate) unhealed: bool,
    /// The record of the window is on the disk.
    pub(crate) recorded: bool,
    /// The operator's word was taken.
    pub(crate) word: bool,
    pub(crate) spoke: Moment,
    pub(crate) asked: Asked,
}

impl Win {
    pub(crate) fn new((form, bounds): (Form, Bounds), leaves_free: bool, now: Moment) -> Self {
        let (window, effect) = Window::begin(form, bounds, now);
        Self {
            window,
            pending: VecDeque::from([effect]),
            epoch: None,
            watch: None,
            preflight: false,
            record: false,
            recorded: false,
            drained: false,
            lost: false,
            unmoved: false,
            heal: false,
            verdict: None,
            gone: false,
            dead: false,
            leaves_free,
            crashed: None,
            change: Change::None,
            committed: false,
            unhealed: false,
            word: false,
            spoke: now,
            asked: Asked::default(),
        }
    }

    pub(crate) const fn closed(&self) -> bool {
        matches!(self.window.phase, Phase::Closed { .. })
    }

    /// Whether another may begin, as far as its phase is concerned.
    pub(crate) const fn over(&self) -> bool {
        match self.crashed {
            None => self.closed(),
            Some(crashed) => !matches!(crashed, Crashed::Recovering),
        }
    }

    pub(crate) const fn changing(&self) -> bool {
        matches!(self.change, Change::Running | Change::Stopping)
    }

    pub(crate) fn due(&self, now: Moment) -> bool {
        !self.dead && self.window.next_deadline().is_some_and(|at| at <= now)
    }
}

/// The books that the clients would keep of what a shutting did to them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) held: u64,
    pub(crate) released: u64,
    pub(crate) cancelled: u64,
    pub(crate) left: u64,
    pub(crate) expired: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) ledger: Ledger<(), usize>,
    pub(crate) clients: [Client; CLIENTS],
    pub(crate) wins: Vec<Win>,
    pub(crate) mirror: Mirror,
    pub(crate) trouble: u8,
}

impl World {
    /// One idle server in `A`; `B` has none, and its client keeps one already.
    pub(crate) fn start(plan: &Plan) -> Self {
        let now = Moment(0);
        let mut ledger = ledger(now);
        let begun = ledger.begin(B, (GroupIx::OTHERS, Need::Server), now, || 2);
        assert_eq!(begun, Begin::Now(Some(())));
        ledger.finish(GroupIx::OTHERS);
        let client = |ix: usize| Client {
            pool: if ix < 2 { A } else { B },
            group: if ix == 1 { SECOND } else { GroupIx::OTHERS },
            at: At::Idle,
            begins: plan.begins[ix],
            keeps: ix == 2,
            server: ix == 2,
            held: None,
            clock: now,
        };
        Self {
            now,
            ledger,
            clients: [client(0), client(1), client(2)],
            wins: Vec::new(),
            mirror: Mirror::default(),
            trouble: plan.trouble,
        }
    }

    /// Another process is there: nobody is connected but who was at rest and comes back, no gate is shut, and of windows
    /// only what was recorded is known.
    pub(crate) fn crash(&mut self) {
        self.ledger = ledger(self.now);
        self.mirror = Mirror::default();
        for client in &mut self.clients {
            let returns = client.at == At::Idle && !client.keeps;
            (client.at, client.server, client.held) = (if returns { At::Idle } else { At::Gone }, false, None);
        }
        // Their numbers begin anew.
        self.wins.iter_mut().for_each(|win| (win.epoch, win.watch) = (None, None));
        for win in self.wins.iter_mut().filter(|win| !win.over() || win.changing() && win.crashed.is_none()) {
            let (window, recorded) = (win.window.clone(), win.recorded);
            let crashed = if recorded { Crashed::Recovering } else { Crashed::Unknown };
            let fresh = Self::forgotten(win);
            *win = Win { window, recorded, crashed: Some(crashed), dead: true, ..fresh };
        }
    }

    /// What is true of a window whoever knows of it.
    fn forgotten(win: &Win) -> Win {
        let fresh = Win::new((win.window.form, win.window.bounds.clone()), win.leaves_free, win.window.times.started);
        let pending = VecDeque::new();
        Win { pending, change: win.change, committed: win.committed, word: win.word, asked: win.asked, ..fresh }
    }

    /// Transactions that are really open, of those whom a shut gate would keep.
    pub(crate) fn open_transactions(&self) -> usize {
        (0..CLIENTS).filter(|ix| self.clients[*ix].open() && !self.is_free(*ix)).count()
    }

    /// Whether the gate is shut, but not for this client.
    pub(crate) fn is_free(&self, ix: usize) -> bool {
        let leaves_free = self.wins.iter().any(|win| self.shut_by(win) && win.leaves_free);
        leaves_free && self.clients[ix].group == SECOND
    }

    pub(crate) const fn gate_epoch(&self) -> Option<Epoch> {
        match self.ledger.gate() {
            Gate::Open => None,
            Gate::Shut { epoch, .. } => Some(epoch),
        }
    }

    /// Whether the gate is shut on behalf of this window.
    pub(crate) fn shut_by(&self, win: &Win) -> bool {
        win.epoch.is_some() && win.epoch == self.gate_epoch()
    }

    /// Whether the driver has something to do right now.
    pub(crate) fn busy(&self, win: &Win) -> bool {
        !win.dead
            && (!win.pending.is_empty()
                || win.drained
                || win.lost
                || win.unmoved
                || win.verdict.is_some()
                || win.due(self.now)
                || self.released(win)
                || self.overheld(win))
    }

    /// The gate is open and nobody is held any more.
    pub(crate) fn released(&self, win: &Win) -> bool {
        matches!(win.window.phase, Phase::Releasing { .. })
            && !win.pending.contains(&Effect::Open)
            && self.ledger.held().next().is_none()
    }

    /// More are held than this window, which can still give way, may hold.
    pub(crate) fn overheld(&self, win: &Win) -> bool {
        let held = self.ledger.held().count() as u64;
        self.shut_by(win) && gives_way(&win.window.phase) && held > win.window.bounds.max_held
    }

    /// Every window is over and nobody waits for anything.
    pub(crate) fn settled(&self, plan: &Plan) -> bool {
        let over = |win: &Win| {
            let silent = win.dead || win.closed() && win.pending.is_empty() && win.verdict.is_none();
            let silent = silent && win.crashed.is_none_or(|_| win.over());
            silent && win.watch.is_none() && !win.changing()
        };
        let at_rest = |client: &Client| !matches!(client.at, At::Waiting(_) | At::Granted);
        self.wins.len() == plan.windows.len()
            && self.gate_epoch().is_none()
            && self.wins.iter().all(over)
            && self.clients.iter().all(at_rest)
    }
}

/// One idle server in each pool.
fn ledger(now: Moment) -> Ledger<(), usize> {
    let mut ledger = Ledger::default();
    assert_eq!((ledger.add_pool(Size::new(1, 0)), ledger.add_pool(Size::new(2, 0))), (A, B));
    assert_eq!(ledger.add_group(false), SECOND);
    for pool in [A, B] {
        ledger.want_server(pool);
        assert_eq!(ledger.start_connects(pool, now), 1);
        assert_eq!(ledger.put_back(pool, (), true, now), None);
    }
    ledger
}

/// Phases that the operator, the owner's death, a shut-down and the bounds can still turn back.
pub(crate) const fn gives_way(phase: &Phase) -> bool {
    matches!(phase, Phase::Preflight | Phase::Draining { .. } | Phase::Holding | Phase::Applying { .. })
}
