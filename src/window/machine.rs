//! The window itself: `step(window, event, now) -> window`, and the effects that it asks for.
//!
//! Deterministic and pure: no sockets, no clock, no tasks. The same function runs in production, in the exhaustive
//! exploration (`tests/model.rs`) and in the table tests. Every phase answers every event (there is no `_` arm over
//! events), every way out of a shut gate leads through `Releasing`, and every phase but `Closed` and an endless
//! `PAUSE` has a deadline, so that each window ends with exactly one outcome whatever has died.

#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use super::event::{Effect, Event, Outcome, Reason, Verdict};
use super::plan::{Bounds, Form, Stragglers};
use crate::ids::Moment;

/// How long a change that was told to stop may take to say how it ended.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long stragglers that were cancelled or cut may take to be gone.
const STRAGGLER_GRACE: Duration = Duration::from_secs(1);
/// How long the release of those held may take before the window is closed all the same; they are served on.
const RELEASE_GRACE: Duration = Duration::from_secs(5);
/// How long preflight may take.
const PREFLIGHT_BOUND: Duration = Duration::from_secs(10);

/// Where a window stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Checking that it is safe to start; nobody is held.
    Preflight,
    /// Its record is being written; nobody is held.
    Recording,
    /// The gate is shut; open transactions finish.
    Draining {
        /// The drain bound, or the end of the grace after it.
        deadline: Option<Moment>,
        /// Whether the stragglers have been dealt with.
        escalated: bool,
    },
    /// Nothing is open; the operator works by hand.
    Holding,
    /// The change runs.
    Applying {
        /// The latest moment for COMMIT.
        deadline: Moment,
    },
    /// The change was told to stop; its verdict decides.
    Aborting {
        /// Why.
        reason: Reason,
        /// When the gate opens without the verdict.
        deadline: Moment,
    },
    /// The change is committed; what it made stale is healed.
    Healing {
        /// When the gate opens all the same.
        deadline: Moment,
    },
    /// The gate is open; those held are served.
    Releasing {
        /// How it ends.
        outcome: Outcome,
        /// When it is closed all the same.
        deadline: Moment,
    },
    /// Over.
    Closed {
        /// How it ended.
        outcome: Outcome,
    },
}

impl Phase {
    /// The word for it in console and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Recording => "recording",
            Self::Draining { .. } => "draining",
            Self::Holding => "holding",
            Self::Applying { .. } => "applying",
            Self::Aborting { .. } => "aborting",
            Self::Healing { .. } => "healing",
            Self::Releasing { .. } => "releasing",
            Self::Closed { .. } => "closed",
        }
    }

    /// How it ends, once that is decided.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Releasing { outcome, .. } | Self::Closed { outcome } => Some(outcome),
            Self::Preflight
            | Self::Recording
            | Self::Draining { .. }
            | Self::Holding
            | Self::Applying { .. }
            | Self::Aborting { .. }
            | Self::Healing { .. } => None,
        }
    }

    /// Whether clients are kept from beginning transactions.
    #[must_use]
    pub const fn gate_shut(&self) -> bool {
        match self {
            Self::Draining { .. }
            | Self::Holding
            | Self::Applying { .. }
            | Self::Aborting { .. }
            | Self::Healing { .. } => true,
            Self::Preflight | Self::Recording | Self::Releasing { .. } | Self::Closed { .. } => false,
        }
    }
}

/// When each phase began; the receipt is made of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Times {
    pub started: Moment,
    pub shut: Option<Moment>,
    pub drained: Option<Moment>,
    pub apply_began: Option<Moment>,
    pub apply_ended: Option<Moment>,
    pub opened: Option<Moment>,
    pub closed: Option<Moment>,
}

/// A window: its plan, its phase, its clocks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    /// How it changes the schema.
    pub form: Form,
    /// Its bounds.
    pub bounds: Bounds,
    /// Where it stands.
    pub phase: Phase,
    /// When each phase began.
    pub times: Times,
    /// When the owner must have spoken again.
    pub tenure_until: Option<Moment>,
    /// Why the change was told to stop, where the gate did not wait for its answer.
    pub stopped: Option<Reason>,
}

impl Window {
    /// A window that begins now, and what it asks for first.
    #[must_use]
    pub fn begin(form: Form, bounds: Bounds, now: Moment) -> (Self, Effect) {
        let tenure_until = bounds.tenure.map(|tenure| now.plus(tenure));
        let times = Times { started: now, ..Times::default() };
        (Self { form, bounds, phase: Phase::Preflight, times, tenure_until, stopped: None }, Effect::Preflight)
    }

    /// When the gate must be open again.
    fn hold_until(&self) -> Option<Moment> {
        Some(self.times.shut?.plus(self.bounds.hold?))
    }

    /// When the way back must begin, so that the gate is open by `hold_until`.
    fn back_from(&self) -> Option<Moment> {
        let hold = self.bounds.hold?.saturating_sub(self.bounds.reserve());
        Some(self.times.shut?.plus(hold))
    }

    /// The next moment at which a [`Event::Tick`] will change something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let of_phase = match &self.phase {
            Phase::Preflight | Phase::Recording => Some(self.times.started.plus(PREFLIGHT_BOUND)),
            Phase::Draining { deadline, .. } => earliest(*deadline, self.back_from()),
            Phase::Holding => self.back_from(),
            Phase::Applying { deadline } => Some(*deadline),
            Phase::Aborting { deadline, .. } | Phase::Healing { deadline } | Phase::Releasing { deadline, .. } => {
                Some(*deadline)
            }
            Phase::Closed { .. } => None,
        };
        if self.tenure_counts() { earliest(of_phase, self.tenure_until) } else { of_phase }
    }

    /// Whether the owner's silence can still end the window: until its outcome is being settled.
    const fn tenure_counts(&self) -> bool {
        match self.phase {
            Phase::Preflight | Phase::Recording => true,
            Phase::Draining { .. } | Phase::Holding | Phase::Applying { .. } => true,
            Phase::Aborting { .. } | Phase::Healing { .. } | Phase::Releasing { .. } | Phase::Closed { .. } => false,
        }
    }

    /// Opens the gate with an outcome.
    fn release(mut self, outcome: Outcome, now: Moment, effects: &mut Vec<Effect>) -> Self {
        // What may be committed is healed like what is: nobody must run against what may be stale. By hand, part of the
        // work may have been done before it was given up.
        let by_hand = self.form == Form::Open && self.phase == Phase::Holding;
        if matches!(outcome, Outcome::Unknown(_)) || by_hand {
            effects.push(Effect::Heal);
        }
        effects.push(Effect::Open);
        self.times.opened = Some(now);
        self.phase = Phase::Releasing { outcome, deadline: now.plus(RELEASE_GRACE) };
        self
    }

    fn close(mut self, outcome: Outcome, now: Moment) -> Self {
        self.times.closed = Some(now);
        self.phase = Phase::Closed { outcome };
        self
    }

    /// The change is done: heal what it made stale.
    fn heal(mut self, now: Moment, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Heal);
        let grace = now.plus(STOP_GRACE);
        self.phase = Phase::Healing { deadline: earliest(Some(grace), self.hold_until()).unwrap_or(grace) };
        self
    }

    /// Gives up, from whatever phase: the old schema stands, or the change says otherwise.
    fn abort(mut self, reason: Reason, now: Moment, effects: &mut Vec<Effect>) -> Self {
        match self.phase {
            Phase::Preflight | Phase::Recording => self.close(Outcome::Aborted(reason), now),
            Phase::Draining { .. } | Phase::Holding => self.release(Outcome::Aborted(reason), now, effects),
            Phase::Applying { .. } => {
                effects.push(Effect::StopApply);
                let grace = now.plus(STOP_GRACE);
                let deadline = earliest(Some(grace), self.hold_until()).unwrap_or(grace).max(now);
                self.phase = Phase::Aborting { reason, deadline };
                self
            }
            // Already on the way back, or the change is committed and only the healing is left.
            Phase::Aborting { .. } | Phase::Healing { .. } | Phase::Releasing { .. } | Phase::Closed { .. } => self,
        }
    }
}

fn earliest(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

fn reached(deadline: Option<Moment>, now: Moment) -> bool {
    deadline.is_some_and(|deadline| now >= deadline)
}

/// One step. What is to be done is appended to `effects`; a stale or pointless event changes nothing.
#[must_use]
pub fn step(mut window: Window, event: Event, now: Moment, effects: &mut Vec<Effect>) -> Window {
    match event {
        Event::Passed => passed(window, now, effects),
        Event::Refused(why) if window.phase == Phase::Preflight => window.close(Outcome::Refused(why), now),
        Event::Present(what) if window.phase == Phase::Preflight => window.close(Outcome::Present(what), now),
        Event::Refused(_) | Event::Present(_) => window,
        Event::Recorded if window.phase == Phase::Recording => shut(window, now, effects),
        Event::NotRecorded(why) if window.phase == Phase::Recording => window.close(Outcome::Refused(why), now),
        Event::Recorded | Event::NotRecorded(_) => window,
        Event::Drained => drained(window, now, effects),
        Event::ApplyEnded(verdict) => apply_ended(window, verdict, now, effects),
        Event::Close => closed_by_operator(window, now, effects),
        Event::Abort => window.abort(Reason::Operator, now, effects),
        Event::OwnerGone => window.abort(Reason::OwnerGone, now, effects),
        Event::Shutdown => window.abort(Reason::Shutdown, now, effects),
        Event::Unmoved if matches!(window.phase, Phase::Draining { escalated: true, .. }) => {
            window.abort(Reason::DrainBound, now, effects)
        }
        Event::Unmoved => window,
        Event::Overheld => window.abort(Reason::TooManyHeld, now, effects),
        Event::Renew => {
            window.tenure_until = window.bounds.tenure.map(|tenure| now.plus(tenure));
            window
        }
        Event::Healed if matches!(window.phase, Phase::Healing { .. }) => {
            window.release(Outcome::Applied, now, effects)
        }
        Event::Healed => window,
        Event::Released => {
            if let Phase::Releasing { outcome, .. } = &window.phase {
                let outcome = outcome.clone();
                return window.close(outcome, now);
            }
            window
        }
        Event::GateLost => gate_lost(window, now, effects),
        Event::Tick => tick(window, now, effects),
    }
}

/// Nothing speaks against it. What a crash would leave to be decided is recorded first; a `PAUSE` leaves nothing.
fn passed(mut window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    if window.phase != Phase::Preflight {
        return window;
    }
    if matches!(window.form, Form::Pause | Form::Drill | Form::Trial) {
        return shut(window, now, effects);
    }
    effects.push(Effect::Record);
    window.phase = Phase::Recording;
    window
}

fn shut(mut window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    window.times.shut = Some(now);
    effects.push(Effect::Shut { bound: window.hold_until() });
    let deadline = window.bounds.drain.map(|drain| now.plus(drain));
    window.phase = Phase::Draining { deadline, escalated: false };
    window
}

fn drained(mut window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    if !matches!(window.phase, Phase::Draining { .. }) {
        return window;
    }
    // Late news: the owner or the hold bound has ended this already, and a change must not start that cannot end in time.
    if reached(window.tenure_until, now) || reached(window.back_from(), now) {
        return tick(window, now, effects);
    }
    window.times.drained = Some(now);
    match window.form {
        Form::Open | Form::Pause => window.phase = Phase::Holding,
        Form::Drill => return window.release(Outcome::Rehearsed, now, effects),
        Form::Apply | Form::Trial => {
            let bound = now.plus(window.bounds.apply);
            let deadline = earliest(Some(bound), window.back_from()).unwrap_or(bound);
            window.times.apply_began = Some(now);
            effects.push(Effect::StartApply { deadline });
            window.phase = Phase::Applying { deadline };
        }
    }
    window
}

fn apply_ended(mut window: Window, verdict: Verdict, now: Moment, effects: &mut Vec<Effect>) -> Window {
    let told = match &window.phase {
        Phase::Applying { .. } => None,
        Phase::Aborting { reason, .. } => Some(reason.clone()),
        // The gate did not wait for this verdict; the receipt still gets it.
        Phase::Releasing { outcome: Outcome::Unknown(_), deadline } => {
            window.times.apply_ended = Some(now);
            let outcome = match verdict {
                Verdict::Applied => {
                    // The healing at the release may have come before the commit.
                    effects.push(Effect::Heal);
                    Outcome::Applied
                }
                Verdict::Rehearsed => Outcome::Rehearsed,
                // That it failed is what it was told to do.
                Verdict::Failed { sqlstate, message } => {
                    let failed = || Reason::ApplyFailed { sqlstate, message };
                    Outcome::Aborted(window.stopped.clone().unwrap_or_else(failed))
                }
                Verdict::Unknown(why) => Outcome::Unknown(why),
            };
            window.phase = Phase::Releasing { outcome, deadline: *deadline };
            return window;
        }
        // Too late even for the receipt, which stays as it was handed out.
        Phase::Closed { outcome: Outcome::Unknown(_) } => {
            if verdict == Verdict::Applied {
                effects.push(Effect::Heal);
            }
            return window;
        }
        Phase::Preflight
        | Phase::Recording
        | Phase::Draining { .. }
        | Phase::Holding
        | Phase::Healing { .. }
        | Phase::Releasing { .. }
        | Phase::Closed { .. } => return window,
    };
    window.times.apply_ended = Some(now);
    match (verdict, told) {
        (Verdict::Applied, _) => window.heal(now, effects),
        (Verdict::Rehearsed, None) => window.release(Outcome::Rehearsed, now, effects),
        (Verdict::Rehearsed | Verdict::Failed { .. }, Some(reason)) => {
            window.release(Outcome::Aborted(reason), now, effects)
        }
        (Verdict::Failed { sqlstate, message }, None) => {
            window.release(Outcome::Aborted(Reason::ApplyFailed { sqlstate, message }), now, effects)
        }
        (Verdict::Unknown(why), _) => window.release(Outcome::Unknown(why), now, effects),
    }
}

fn closed_by_operator(window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    match (window.form, &window.phase) {
        (Form::Open, Phase::Holding) => window.heal(now, effects),
        (Form::Pause, Phase::Draining { .. } | Phase::Holding) => window.release(Outcome::Resumed, now, effects),
        (Form::Pause, Phase::Preflight | Phase::Recording) => window.close(Outcome::Resumed, now),
        // The SQL form closes itself; by hand, there is nothing to close before it holds.
        _ => window,
    }
}

/// The watchdog was faster than the driver: clients run already. What the change did is settled as ever.
fn gate_lost(mut window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    match window.phase {
        Phase::Draining { .. } | Phase::Holding => window.release(Outcome::Aborted(Reason::Watchdog), now, effects),
        Phase::Applying { .. } => {
            effects.push(Effect::StopApply);
            window.phase = Phase::Aborting { reason: Reason::Watchdog, deadline: now.plus(STOP_GRACE) };
            window
        }
        Phase::Healing { .. } => window.release(Outcome::Applied, now, effects),
        Phase::Preflight
        | Phase::Recording
        | Phase::Aborting { .. }
        | Phase::Releasing { .. }
        | Phase::Closed { .. } => window,
    }
}

fn tick(mut window: Window, now: Moment, effects: &mut Vec<Effect>) -> Window {
    let reached = |deadline| reached(deadline, now);
    if window.tenure_counts() && reached(window.tenure_until) {
        return window.abort(Reason::TenureOver, now, effects);
    }
    match window.phase.clone() {
        Phase::Preflight | Phase::Recording if reached(Some(window.times.started.plus(PREFLIGHT_BOUND))) => {
            window.close(Outcome::Refused("preflight did not end in time".to_owned()), now)
        }
        Phase::Draining { .. } | Phase::Holding if reached(window.back_from()) => {
            window.abort(Reason::HoldBound, now, effects)
        }
        Phase::Draining { deadline, escalated } if reached(deadline) => {
            if escalated || window.bounds.stragglers == Stragglers::Abort {
                return window.abort(Reason::DrainBound, now, effects);
            }
            effects.push(Effect::Straggle(window.bounds.stragglers));
            window.phase = Phase::Draining { deadline: Some(now.plus(STRAGGLER_GRACE)), escalated: true };
            window
        }
        Phase::Applying { deadline } if reached(Some(deadline)) => {
            let reason = if reached(window.back_from()) { Reason::HoldBound } else { Reason::ApplyBound };
            window.abort(reason, now, effects)
        }
        Phase::Aborting { reason, deadline } if reached(Some(deadline)) => {
            let why = format!("{reason}; the change was told to stop and has not answered yet");
            window.stopped = Some(reason);
            window.release(Outcome::Unknown(why), now, effects)
        }
        Phase::Healing { deadline } if reached(Some(deadline)) => window.release(Outcome::Applied, now, effects),
        Phase::Releasing { outcome, deadline } if reached(Some(deadline)) => window.close(outcome, now),
        Phase::Preflight
        | Phase::Recording
        | Phase::Draining { .. }
        | Phase::Holding
        | Phase::Applying { .. }
        | Phase::Aborting { .. }
        | Phase::Healing { .. }
        | Phase::Releasing { .. }
        | Phase::Closed { .. } => window,
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
