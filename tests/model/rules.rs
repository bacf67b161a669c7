//! What must hold: at every state, over every edge, at every event that a machine is told, and at every end.
//!
//! Nothing here trusts the machine or the ledger: transactions, servers and held clients are counted at the
//! clients, commits at the change, the owner's words and the effects at the model of the driver.

use pglull::ids::Moment;
use pglull::pool::gate::Gate;
use pglull::pool::ledger::Need;
use pglull::window::event::{Effect, Event, Outcome, Reason, Verdict};
use pglull::window::machine::{Phase, Window, step};
use pglull::window::plan::{Form, Stragglers};

use crate::moves::{Model, must_turn_back, name_of};
use crate::world::{A, At, B, CLIENTS, Change, Crashed, Mirror, Win, World, gives_way};

type Check = Result<(), String>;

pub(crate) fn ensure(holds: bool, rule: &str) -> Check {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

/// No transaction begins between the shutting and the opening; what is over stays over.
pub(crate) fn edge(before: &World, after: &World) -> Check {
    if before.gate_epoch().is_some() && before.gate_epoch() == after.gate_epoch() {
        ensure(after.open_transactions() <= before.open_transactions(), "a transaction begins at a shut gate")?;
        let begun = |ix: &usize| !before.clients[*ix].open() && after.clients[*ix].open() && !after.is_free(*ix);
        ensure(!(0..CLIENTS).any(|ix| begun(&ix)), "a transaction begins at a shut gate")?;
    }
    for (old, new) in before.wins.iter().zip(&after.wins) {
        if let Some(Crashed::Settled { .. }) = old.crashed {
            let same = old.crashed == new.crashed && old.committed == new.committed;
            ensure(same, "what was settled is not what happened")?;
        }
        let (old, new) = (&old.window, &new.window);
        if let Phase::Closed { .. } = old.phase {
            ensure(old.phase == new.phase && old.times == new.times, "a closed window changes")?;
        }
    }
    Ok(())
}

/// One answer of a machine.
pub(crate) struct Told<'a> {
    pub(crate) old: &'a Window,
    pub(crate) event: &'a Event,
    pub(crate) effects: &'a [Effect],
}

pub(crate) fn told(model: &Model, world: &World, ix: usize, told: &Told<'_>) -> Check {
    let win = &world.wins[ix];
    let (old, new) = (&told.old.phase, &win.window.phase);
    if must_turn_back(old, told.event) || *told.event == Event::GateLost && *old != Phase::Preflight {
        ensure(!gives_way(new), "a window goes on although it was told to end")?;
    }
    if *told.event == Event::GateLost {
        ensure(!matches!(new, Phase::Healing { .. }), "a lost gate is waited for")?;
        model.saw(match old {
            Phase::Draining { .. } => "gate lost: draining",
            Phase::Holding => "gate lost: holding",
            Phase::Applying { .. } => "gate lost: applying",
            Phase::Aborting { .. } => "gate lost: aborting",
            Phase::Healing { .. } => "gate lost: healing",
            _ => "gate lost: later",
        });
    }
    ensure(
        !matches!(told.event, Event::Refused(_) | Event::Present(_)) || *old != Phase::Preflight || win.closed(),
        "a refused window goes on",
    )?;
    if win.closed() && old != new {
        let direct = matches!(old, Phase::Preflight | Phase::Recording);
        ensure(direct || matches!(old, Phase::Releasing { .. }), "a window closes with the gate shut")?;
        let opened = win.window.times.opened.unwrap_or_default();
        let grace = world.now.0 >= opened.0 + 5000;
        ensure(
            direct || grace || world.released(&Win { window: told.old.clone(), ..win.clone() }),
            "a window closes while clients are held",
        )?;
    }
    if *told.event == Event::NotRecorded("full".into()) {
        ensure(win.closed() && win.asked.shut == 0, "a window goes on without its record")?;
        model.saw("the record could not be written");
    }
    outcome_edge(model, world, ix, told)?;
    effects_edge(world, ix, told)
}

/// An outcome is chosen once, and refined at most from "unknown", by the verdict.
fn outcome_edge(model: &Model, world: &World, ix: usize, told: &Told<'_>) -> Check {
    let win = &world.wins[ix];
    let (old, new) = (told.old.phase.outcome(), win.window.phase.outcome());
    if let (Some(was), Some(is)) = (old, new)
        && was != is
    {
        let refined = matches!((was, told.event), (Outcome::Unknown(_), Event::ApplyEnded(_)));
        ensure(refined, "a second outcome")?;
        model.saw(match is {
            Outcome::Applied => "unknown, then applied",
            Outcome::Aborted(_) => "unknown, then aborted",
            _ => "unknown, then unknown",
        });
    }
    ensure(old.is_none() || new.is_some(), "an outcome is taken back")?;
    if let (Phase::Releasing { .. }, Event::ApplyEnded(verdict)) = (&told.old.phase, told.event) {
        let same = match (verdict, new) {
            (Verdict::Applied, Some(outcome)) => *outcome == Outcome::Applied,
            (Verdict::Failed { .. }, Some(outcome)) => matches!(outcome, Outcome::Aborted(_)),
            _ => true,
        };
        ensure(same, "a late verdict does not reach the receipt")?;
    }
    if old.is_none()
        && let Some(outcome @ Outcome::Aborted(Reason::DrainBound)) = new
    {
        let drained = model.plan.prompt && !win.drained && world.open_transactions() == 0 && world.shut_by(win);
        ensure(!drained, "the drain bound ends a window in which nothing runs")?;
        model.saw(name_of(outcome, win.window.form));
    }
    if let Some(outcome) = new {
        model.saw(name_of(outcome, win.window.form));
        if win.closed() && ix > 0 {
            model.saw("a second window ended");
        }
    }
    Ok(())
}

fn effects_edge(world: &World, ix: usize, told: &Told<'_>) -> Check {
    let win = &world.wins[ix];
    let (now, bounds) = (world.now, &win.window.bounds);
    let shut = win.window.times.shut.unwrap_or_default();
    let hold_until = bounds.hold.map(|hold| shut.plus(hold));
    for effect in told.effects {
        match effect {
            Effect::Shut { bound } => {
                // Of a pause or a rehearsal nothing is left to be decided.
                let needless = matches!(win.window.form, Form::Pause | Form::Drill | Form::Trial);
                let recorded = win.recorded || needless;
                ensure(recorded, "a gate is shut before the record is written")?;
                ensure(*bound == hold_until, "the watchdog's bound is not the hold bound")?;
            }
            Effect::StartApply { deadline } => {
                ensure(*deadline > now, "a change is asked for after its deadline")?;
                let by_apply = *deadline <= now.plus(bounds.apply);
                let by_hold = hold_until.is_none_or(|until| *deadline < until);
                ensure(by_apply && by_hold, "a change may outlast its bounds")?;
                let spoken = told.old.tenure_until.is_none_or(|until| now < until);
                ensure(spoken, "a change is asked for after the tenure")?;
            }
            Effect::Straggle(policy) => {
                let due = bounds.drain.is_some_and(|drain| now >= shut.plus(drain));
                let planned = *policy == bounds.stragglers && *policy != Stragglers::Abort;
                ensure(due && planned, "stragglers are dealt with against the plan")?;
            }
            Effect::Preflight | Effect::Record | Effect::StopApply | Effect::Heal | Effect::Open => {}
        }
    }
    let applied = *told.event == Event::ApplyEnded(Verdict::Applied);
    ensure(!applied || !win.unhealed, "a change that is known to be committed is not healed")
}

pub(crate) fn state(model: &Model, world: &World) -> Check {
    world.ledger.audit()?;
    books(world)?;
    let live = world.wins.iter().filter(|win| !win.over()).count();
    ensure(live <= 1, "two windows at once")?;
    let changing = world.wins.iter().filter(|win| win.changing()).count();
    ensure(changing <= 1, "two changes at once")?;
    gate(model, world)?;
    for win in world.wins.iter().filter(|win| win.crashed.is_some()) {
        let settled = !matches!(win.crashed, Some(Crashed::Settled { applied }) if applied != win.committed);
        ensure(settled, "what was settled is not what happened")?;
    }
    for win in world.wins.iter().filter(|win| win.crashed.is_none()) {
        phases(model, world, win)?;
        outcomes(win)?;
        deadlines(model, world, win)?;
    }
    Ok(())
}

/// The ledger's books are those of the clients.
fn books(world: &World) -> Check {
    ensure(world.open_transactions() == world.ledger.running(), "the ledger miscounts what runs")?;
    for pool in [A, B] {
        let counts = world.ledger.counts(pool);
        let mine = |client: &&crate::world::Client| client.pool == pool;
        let with_server = world.clients.iter().filter(mine).filter(|client| client.server).count();
        ensure(with_server == counts.lent, "the ledger miscounts lent servers")?;
        let limit = if pool == A { 1 } else { 2 };
        ensure(counts.idle + counts.lent + counts.connecting <= limit, "more servers than the limit")?;
        let waiting = |ix: &usize| world.clients[*ix].pool == pool && matches!(world.clients[*ix].at, At::Waiting(_));
        let queued: Vec<usize> = world.ledger.waiting(pool).copied().collect();
        let all = (0..world.clients.len()).filter(waiting).count();
        ensure(queued.len() == all && queued.iter().all(waiting), "the queue is not who waits")?;
    }
    let tally = world.ledger.tally();
    let counted = Mirror {
        held: tally.held,
        released: tally.released,
        cancelled: tally.cancelled,
        left: tally.left,
        expired: tally.expired,
    };
    ensure(counted == world.mirror, "held clients are miscounted")?;
    for (client, since) in world.ledger.held() {
        ensure(world.clients[*client].held == Some(since), "a held client is not held, or since another time")?;
    }
    let leaves = |client: &crate::world::Client| matches!(client.at, At::Waiting(_)) && client.need() == Need::Leave;
    let stuck = world.gate_epoch().is_none() && world.clients.iter().any(leaves);
    ensure(!stuck, "a session with a server waits at an open gate")
}

/// The gate is shut for a live window that wants it so, and never past its bound.
fn gate(model: &Model, world: &World) -> Check {
    let Gate::Shut { since, bound, .. } = world.ledger.gate() else {
        return Ok(());
    };
    let owner = world.wins.iter().find(|win| world.shut_by(win));
    let Some(win) = owner else {
        return Err("the gate is shut for nobody".into());
    };
    let wanted = win.window.phase.gate_shut() || win.pending.contains(&Effect::Open) || win.dead;
    ensure(wanted, "the gate is shut although no window wants it")?;
    let until = win.window.bounds.hold.map(|hold| win.window.times.shut.unwrap_or_default().plus(hold));
    ensure(bound == until, "the gate's bound is not the window's")?;
    let slack = since.max(until.unwrap_or(Moment(u64::MAX)));
    ensure(world.now <= slack, "the gate is shut past its bound")?;
    let held = world.clients.iter().any(|client| client.held.is_some());
    if held && win.dead {
        model.saw("clients are held by a dead driver");
    }
    Ok(())
}

fn phases(model: &Model, world: &World, win: &Win) -> Check {
    let phase = &win.window.phase;
    ensure(!(win.window.form == Form::Drill && *phase == Phase::Holding), "a drill holds longer than it must")?;
    let shut = world.shut_by(win);
    let quiet = matches!(phase, Phase::Holding | Phase::Applying { .. } | Phase::Healing { .. });
    ensure(!(quiet && shut) || world.ledger.running() == 0, "transactions are open while the window holds")?;
    let asked = win.pending.iter().any(|effect| matches!(effect, Effect::Shut { .. }));
    let shut_or_lost = shut || asked || win.gone || win.dead;
    ensure(!phase.gate_shut() || shut_or_lost, "a window believes in a gate that is open")?;
    let knows = win.gone && !win.lost && !win.dead;
    ensure(!knows || !gives_way(phase), "a window goes on at a lost gate")?;
    let asked = win.asked;
    ensure(asked.shut <= 1 && asked.start <= 1 && asked.stop <= asked.start, "an effect is asked for twice")?;
    ensure(asked.open <= asked.shut, "more openings than shuttings")?;
    let ended = phase.outcome().is_some();
    ensure(!ended || asked.open == asked.shut, "a window ends without its opening")?;
    ensure(!matches!(phase, Phase::Aborting { .. }) || asked.stop == 1, "a change is not told to stop")?;
    if win.changing() && !shut {
        let known = win.gone
            || win.dead
            || matches!(phase.outcome(), Some(Outcome::Unknown(_)))
            || matches!((phase, &win.verdict), (Phase::Closed { .. }, _));
        ensure(known, "a change runs at an open gate and nobody knows")?;
        model.saw("a change outlives the gate");
    }
    Ok(())
}

/// The receipt is the truth.
fn outcomes(win: &Win) -> Check {
    let Some(outcome) = win.window.phase.outcome() else {
        return Ok(());
    };
    let form = win.window.form;
    let to_start = win.pending.iter().any(|effect| matches!(effect, Effect::StartApply { .. }));
    let may_commit = win.changing() || to_start || win.change == Change::None && win.asked.start > 0 && !win.dead;
    match outcome {
        Outcome::Applied => {
            let true_word = match form {
                Form::Apply => win.committed,
                Form::Open => win.word,
                Form::Pause | Form::Drill | Form::Trial => false,
            };
            ensure(true_word, "applied, but nothing was")?;
            ensure(win.asked.heal > 0 && !win.unhealed, "applied, but not healed")
        }
        Outcome::Resumed => ensure(form == Form::Pause && win.word, "resumed without a word"),
        Outcome::Rehearsed => {
            ensure(matches!(form, Form::Drill | Form::Trial), "rehearsed, but it was meant")?;
            ensure(!win.committed && !may_commit, "rehearsed, but the change is committed, or may be")?;
            ensure((form == Form::Trial) == (win.asked.start > 0), "a drill starts a change, or a trial none")
        }
        Outcome::Present(_) => ensure(win.asked.shut == 0 && !may_commit, "applied before, and yet it held or began"),
        Outcome::Aborted(_) | Outcome::Refused(_) => {
            ensure(!win.committed, "aborted, but the change is committed")?;
            ensure(!may_commit, "aborted, but the change may still commit")?;
            ensure(!win.word, "aborted against the operator's word")
        }
        Outcome::Unknown(_) => {
            ensure(form.runs_sql() && win.asked.start > 0, "unknown, but nothing was started")?;
            ensure(win.asked.heal > 0, "a change that may be committed is not healed")
        }
    }
}

/// Deadlines are those moments, and only those, at which a tick changes something.
fn deadlines(model: &Model, world: &World, win: &Win) -> Check {
    let window = &win.window;
    let deadline = window.next_deadline();
    let mut effects = Vec::new();
    let due = deadline.is_some_and(|at| at <= world.now);
    let after = crate::mutant::step_with(model.mutant, window.clone(), Event::Tick, world.now, &mut effects);
    let changes = after != *window || !effects.is_empty();
    ensure(!due || changes, "a tick at the deadline changes nothing")?;
    let after = step(window.clone(), Event::Tick, world.now, &mut Vec::new());
    ensure(due || after == *window, "a tick before the deadline changes something")?;
    let endless = window.bounds.hold.is_none() && matches!(window.phase, Phase::Draining { .. } | Phase::Holding);
    ensure(deadline.is_some() || win.closed() || endless, "a phase without a deadline")?;
    ensure(deadline.is_none_or(|at| at.0 < 1 << 40), "a phase without a deadline")?;
    if model.plan.prompt
        && let Some(tenure) = window.bounds.tenure
    {
        let spoken = world.now <= win.spoke.plus(tenure);
        ensure(spoken || !gives_way(&window.phase), "a silent owner keeps the window")?;
    }
    let shut = window.times.shut.unwrap_or_default();
    let late = window.bounds.hold.is_some_and(|hold| world.now > shut.plus(hold));
    ensure(!(model.plan.prompt && window.phase.gate_shut() && late), "a hold outlasts its bound")
}

/// Where nothing can happen any more, everything is over.
pub(crate) fn end(world: &World) -> Check {
    ensure(world.gate_epoch().is_none(), "the gate stays shut")?;
    let waits = |client: &crate::world::Client| matches!(client.at, At::Waiting(_) | At::Granted);
    ensure(!world.clients.iter().any(waits), "a client waits for ever")?;
    ensure(world.ledger.held().next().is_none(), "a client is held for ever")?;
    let over = world.wins.iter().all(|win| win.dead || win.closed());
    ensure(over, "a window never ends")?;
    let settled = world.wins.iter().all(|win| win.crashed.is_none_or(|_| win.over()));
    ensure(settled, "what became of a change is never known")?;
    let tally = world.ledger.tally();
    let left = tally.released + tally.cancelled + tally.left + tally.expired;
    ensure(tally.held == left, "held clients are not conserved")
}
