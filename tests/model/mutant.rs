//! Seeded bugs. Each must be found by the explorer, or the explorer proves nothing.
//!
//! Those in the machine are made by changing what goes into or comes out of the production `step`; those in the
//! ledger by changing a call or its answer; the others break the parts around them (see `moves.rs`).

use pglull::ids::Moment;
use pglull::window::event::{Effect, Event, Outcome, Reason, Verdict};
use pglull::window::machine::{Phase, Window, step};
use pglull::window::plan::{Form, Stragglers};

macro_rules! mutants {
    ($($name:ident),+ $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Mutant { Real, $($name),+ }
        pub(crate) const MUTANTS: &[Mutant] = &[$(Mutant::$name),+];
    };
}

mutants! {
    // The machine.
    OpenDropped, OpenTwice, ShutTwice, ShutWithoutBound, BoundFromTheDrain, TenureIgnored, DrainBoundIgnored,
    FailedIsApplied, AppliedIsFailed, UnknownIsFailed, LateVerdictLost, StopSkipped, HealSkipped,
    AbortCutsHealing, AbortSkipsOpen, AbortIgnored, OwnerGoneIgnored, ShutdownIgnored, OverheldIgnored, UnmovedIgnored,
    GateLostIgnored, ClosedAgain, ApplyUnbounded, CancelIsTerminate, StraggleAtOnce, RefusedIgnored,
    PresentIsPassed, NotRecordedIsRecorded, NotRecordedIgnored, RecordSkipped,
    PauseIsApplied, DrillIsApplied, DrillHolds, RehearsedIsApplied, TrialCommits, AbortingWaits, CloseWhileDraining,
    // The ledger.
    BeginsAtShutGate, GrantLost, GrantTwice, StallForgotten, FinishForgotten, FinishTwice, ServerLeaked,
    ConnectUncounted, LeaverKept, LastInFirstOut, CancelledIsLeft, ExpiresWhileHeld,
    // The driver, the change, the watchdog, the registry.
    StaleEpochOpens, DrainedEarly, DrainedUnsaid, ReleasedEarly, StartsAtLostGate, StragglesAtLostGate,
    StopMeansRolledBack, CommitsAfterFailed, WatchdogDead, TwoWindows, NextBeforeVerdict, ShutRefusalIgnored,
    CutsInVain,
    // Scopes.
    FreeIsHeld, HeldIsFree, DrainWaitsForFree, CutsTheFree,
    // The next process.
    StartsWhileRecovering, NeverSettled, SettledIsAborted, BackendSpared,
}

/// The production step, or one with a bug.
pub(crate) fn step_with(
    mutant: Mutant,
    window: Window,
    event: Event,
    now: Moment,
    effects: &mut Vec<Effect>,
) -> Window {
    let before = window.clone();
    let Some(event) = event_with(mutant, &window, event) else {
        return window;
    };
    let mut after = step(window, event.clone(), now, effects);
    match mutant {
        Mutant::OpenDropped => effects.retain(|effect| *effect != Effect::Open),
        Mutant::StopSkipped => effects.retain(|effect| *effect != Effect::StopApply),
        Mutant::HealSkipped => effects.retain(|effect| *effect != Effect::Heal),
        Mutant::OpenTwice if effects.contains(&Effect::Open) => effects.push(Effect::Open),
        Mutant::ShutTwice => {
            if let Some(at) = effects.iter().position(|e| matches!(e, Effect::Shut { .. })) {
                effects.push(effects[at].clone());
            }
        }
        Mutant::RecordSkipped if after.phase == Phase::Recording => {
            effects.clear();
            after = step(after, Event::Recorded, now, effects);
        }
        Mutant::TenureIgnored => after.tenure_until = None,
        Mutant::AbortCutsHealing => {
            if matches!((&before.phase, &event), (Phase::Healing { .. }, Event::Abort)) {
                effects.push(Effect::Open);
                after.phase = Phase::Releasing { outcome: Outcome::Aborted(Reason::Operator), deadline: now };
            }
        }
        Mutant::AbortSkipsOpen => {
            if let (Phase::Draining { .. }, Phase::Releasing { outcome, .. }) = (&before.phase, &after.phase) {
                effects.clear();
                after.phase = Phase::Closed { outcome: outcome.clone() };
            }
        }
        Mutant::ClosedAgain => {
            if let (Phase::Closed { .. }, Event::Abort) = (&before.phase, &event) {
                after.phase = Phase::Closed { outcome: Outcome::Aborted(Reason::Operator) };
            }
        }
        Mutant::AbortingWaits => {
            if let Phase::Aborting { deadline, .. } = &mut after.phase {
                *deadline = Moment(u64::MAX);
            }
        }
        Mutant::PauseIsApplied => {
            if let Phase::Releasing { outcome: outcome @ Outcome::Resumed, .. } = &mut after.phase {
                *outcome = Outcome::Applied;
            }
        }
        Mutant::DrillIsApplied => {
            if let Phase::Releasing { outcome: outcome @ Outcome::Rehearsed, .. } = &mut after.phase {
                *outcome = Outcome::Applied;
            }
        }
        Mutant::DrillHolds if before.form == Form::Drill && event == Event::Drained => {
            after.phase = Phase::Holding;
            effects.clear();
        }
        _ => {}
    }
    for effect in effects {
        effect_with(mutant, effect, now);
    }
    after
}

fn event_with(mutant: Mutant, window: &Window, event: Event) -> Option<Event> {
    let draining = matches!(window.phase, Phase::Draining { .. });
    let releasing = matches!(window.phase, Phase::Releasing { .. });
    let failed = || Verdict::Failed { sqlstate: "55P03".into(), message: "lock".into() };
    Some(match (mutant, event) {
        (Mutant::DrainBoundIgnored, Event::Tick) if draining => return None,
        (Mutant::AbortIgnored, Event::Abort)
        | (Mutant::OwnerGoneIgnored, Event::OwnerGone)
        | (Mutant::ShutdownIgnored, Event::Shutdown)
        | (Mutant::OverheldIgnored, Event::Overheld)
        | (Mutant::UnmovedIgnored, Event::Unmoved)
        | (Mutant::GateLostIgnored, Event::GateLost)
        | (Mutant::RefusedIgnored, Event::Refused(_)) => return None,
        (Mutant::LateVerdictLost, Event::ApplyEnded(_)) if releasing => return None,
        (Mutant::FailedIsApplied, Event::ApplyEnded(Verdict::Failed { .. })) => Event::ApplyEnded(Verdict::Applied),
        (Mutant::RehearsedIsApplied, Event::ApplyEnded(Verdict::Rehearsed)) => Event::ApplyEnded(Verdict::Applied),
        (Mutant::AppliedIsFailed, Event::ApplyEnded(Verdict::Applied))
        | (Mutant::UnknownIsFailed, Event::ApplyEnded(Verdict::Unknown(_))) => Event::ApplyEnded(failed()),
        (Mutant::NotRecordedIgnored, Event::NotRecorded(_)) => return None,
        (Mutant::NotRecordedIsRecorded, Event::NotRecorded(_)) => Event::Recorded,
        (Mutant::PresentIsPassed, Event::Present(_)) => Event::Passed,
        (Mutant::CloseWhileDraining, Event::Close) if draining && window.form == Form::Open => Event::Drained,
        (_, event) => event,
    })
}

fn effect_with(mutant: Mutant, effect: &mut Effect, now: Moment) {
    match (mutant, effect) {
        (Mutant::ShutWithoutBound, Effect::Shut { bound }) => *bound = None,
        (Mutant::BoundFromTheDrain, Effect::Shut { bound: Some(bound) }) => bound.0 += 2000,
        (Mutant::ApplyUnbounded, Effect::StartApply { deadline }) => deadline.0 = now.0 + 3_600_000,
        (Mutant::CancelIsTerminate, Effect::Straggle(policy)) => *policy = Stragglers::Terminate,
        _ => {}
    }
}
