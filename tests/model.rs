//! Explores every order of events over the production window machine, ledger and gate.
//!
//! The first test visits all states of all plans, checks every rule there, and that each interesting thing happens on
//! some path. The second seeds bugs, one at a time, and demands that each is found.

#[path = "model/crash.rs"]
mod crash;
#[path = "model/explore.rs"]
mod explore;
#[path = "model/moves.rs"]
mod moves;
#[path = "model/mutant.rs"]
mod mutant;
#[path = "model/plans.rs"]
mod plans;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/sessions.rs"]
mod sessions;
#[path = "model/windows.rs"]
mod windows;
#[path = "model/world.rs"]
mod world;

use std::collections::BTreeSet;

use explore::{Broken, Size, TOO_MANY, explore};
use moves::{Do, Model};
use mutant::{MUTANTS, Mutant};
use plans::plans;
use world::{Plan, World};

/// More states than any plan has; a plan that grows past this is a mistake.
const MOST: usize = 500_000;
/// A seeded bug is looked for in so many states of each plan, then in more.
const MOST_FOR_A_BUG: [usize; 3] = [3_000, 20_000, 100_000];

/// Each of these happens on some path, so the rules are not true of nothing.
const SOMETIMES: &[&str] = &[
    "a change did not start: too late",
    "a change outlives the gate",
    "a change outlives its process",
    "a client left while its grant was on the way",
    "a client that had been held expired",
    "a commit won the race against its stop",
    "a connect failed",
    "a crash before the record",
    "a driver was late",
    "a free client begins at a shut gate",
    "a free client waits at a shut gate",
    "a held client cancelled",
    "a held client left",
    "a held client was released",
    "a second window ended",
    "a server was lost",
    "a session-mode client is held",
    "a stale open",
    "a straggler was cut",
    "a waiter is held by the shutting",
    "a waiter is left free by the shutting",
    "aborted: apply bound",
    "aborted: drain bound",
    "aborted: hold bound",
    "aborted: operator",
    "aborted: owner gone",
    "aborted: shut-down",
    "aborted: tenure",
    "aborted: the change failed",
    "aborted: too many held",
    "aborted: watchdog",
    "already applied",
    "applied: by word",
    "applied: the change",
    "clients are held by a dead driver",
    "gate lost: aborting",
    "gate lost: applying",
    "gate lost: draining",
    "gate lost: healing",
    "gate lost: holding",
    "recovered: aborted",
    "recovered: applied",
    "refused",
    "rehearsed: the change",
    "rehearsed: the drain",
    "resumed",
    "stragglers are left that nobody may cut",
    "the gate was shut already",
    "the record could not be written",
    "the watchdog opened the gate",
    "the watchdog outlived the driver",
    "unknown",
    "unknown, then aborted",
    "unknown, then applied",
];

fn run(plan: Plan, mutant: Mutant, most: usize) -> (Result<Size, Broken<Do>>, BTreeSet<&'static str>) {
    let start = World::start(&plan);
    let model = Model::new(plan, mutant);
    let found = explore(&model, start, most);
    (found, model.seen.into_inner())
}

#[test]
fn every_order_of_events_keeps_every_promise() {
    let (mut seen, mut states) = (BTreeSet::new(), 0);
    for plan in plans() {
        let name = plan.name;
        let (found, saw) = run(plan, Mutant::Real, MOST);
        let size = found.unwrap_or_else(|broken| panic!("{name}: {broken:#?}"));
        println!("{name}: {} states, {} edges, {} ends", size.states, size.edges, size.ends);
        states += size.states;
        seen.extend(saw);
    }
    println!("{states} states");
    let never: Vec<_> = SOMETIMES.iter().filter(|what| !seen.contains(*what)).collect();
    assert!(never.is_empty(), "never happens: {never:?}");
}

#[test]
fn every_seeded_bug_is_found() {
    let mut survivors = Vec::new();
    // The smaller ones first: most bugs show everywhere.
    let mut plans = plans();
    plans.sort_by_key(|plan| plan.begins.iter().sum::<u8>() + plan.trouble + 2 * u8::from(!plan.prompt));
    for mutant in MUTANTS {
        let look = |most: &usize| {
            plans.iter().cloned().find_map(|plan| {
                let name = plan.name;
                let broken = run(plan, *mutant, *most).0.err()?;
                (broken.rule != TOO_MANY).then_some((name, broken))
            })
        };
        let found = MOST_FOR_A_BUG.iter().find_map(look);
        match found {
            Some((plan, broken)) => {
                println!("{mutant:?}: {} ({plan}, {} moves)", broken.rule, broken.trace.len());
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}

/// With a change table and without, with a Postgres that notices a dead process and with one that does not.
fn crashes(bug: crash::Bug) -> Result<Size, Broken<crash::Do>> {
    let mut all = Size::default();
    for (table, notices) in [(true, true), (true, false), (false, true), (false, false)] {
        let size = explore(&crash::Crashes { table, notices, bug }, crash::Crashes::start(), MOST)?;
        (all.states, all.edges, all.ends) = (all.states + size.states, all.edges + size.edges, all.ends + size.ends);
    }
    Ok(all)
}

#[test]
fn a_crash_at_any_point_is_settled_rightly() {
    let size = crashes(crash::Bug::None).unwrap_or_else(|broken| panic!("{broken:#?}"));
    println!("crashes: {} states, {} edges, {} ends", size.states, size.edges, size.ends);
}

#[test]
fn every_bug_of_the_settling_is_found() {
    let found = |bug: &crash::Bug| crashes(*bug).err().inspect(|broken| println!("{bug:?}: {}", broken.rule)).is_some();
    let survivors: Vec<_> = crash::BUGS.into_iter().filter(|bug| !found(bug)).collect();
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}
