//! Waiting for a good moment: when to look again, when to try and how hard, when to give up. Pure.
//!
//! A try is a real window; the first ones have a small drain bound (a canary), so that a bad guess costs the clients little.
//! Each try that fails doubles the bound, up to the operator's, and the pause before the next one.

use std::time::Duration;

use super::event::{Outcome, Reason};
use super::plan::Bounds;
use crate::ids::Moment;

/// The pause between two looks, and after the first try that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The canary is this part of the drain bound, and not shorter than the next.
const CANARY: u32 = 8;
const CANARY_MIN: Duration = Duration::from_millis(50);

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Look again after this.
    Wait(Duration),
    /// Begin a window with this drain bound.
    Try(Duration),
    /// The time is over.
    GiveUp,
}

/// What a look has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// Whether preflight has something against a start.
    pub refused: bool,
    /// Whether the predicted stall keeps the bounds.
    pub fits: bool,
    /// How long it is until windows may start.
    pub hours_until: Duration,
}

/// A wait for a good moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    until: Moment,
    drain: Duration,
    tries: u32,
    not_before: Moment,
}

impl Waiting {
    /// It begins now and ends after `within`.
    #[must_use]
    pub fn begin(bounds: &Bounds, within: Duration, now: Moment) -> Self {
        let drain = bounds.drain.unwrap_or(Duration::MAX);
        Self { until: now.plus(within), drain, tries: 0, not_before: now }
    }

    /// How many tries have failed.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// What is to be done, with what was seen now.
    #[must_use]
    pub fn next(&self, sight: Sight, now: Moment) -> Next {
        if now >= self.until || now.plus(sight.hours_until) >= self.until && !sight.hours_until.is_zero() {
            return Next::GiveUp;
        }
        let left = self.until.since(now);
        let pause = self.not_before.since(now).max(sight.hours_until);
        if !pause.is_zero() {
            return Next::Wait(pause.min(left));
        }
        if sight.refused || !sight.fits {
            return Next::Wait(PAUSE.min(left));
        }
        let canary = (self.drain / CANARY).max(CANARY_MIN).min(self.drain);
        Next::Try(canary.saturating_mul(2_u32.saturating_pow(self.tries)).min(self.drain))
    }

    /// A try has failed, for a reason that time may mend.
    pub fn failed(&mut self, now: Moment) {
        let pause = PAUSE.saturating_mul(2_u32.saturating_pow(self.tries)).min(PAUSE_MAX);
        self.not_before = now.plus(pause);
        self.tries += 1;
    }
}

/// Whether time may mend what has ended a window. `waited`: the change had to wait for somebody beside us.
#[must_use]
pub fn may_mend(outcome: &Outcome, waited: bool) -> bool {
    match outcome {
        Outcome::Refused(_) => true,
        Outcome::Aborted(reason) => match reason {
            Reason::DrainBound | Reason::HoldBound | Reason::TooManyHeld => true,
            // 55P03: lock_timeout.
            Reason::ApplyFailed { sqlstate, .. } => sqlstate == "55P03" || waited && sqlstate == "57014",
            Reason::ApplyBound => waited,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::plan::Stragglers;

    const GOOD: Sight = Sight { refused: false, fits: true, hours_until: Duration::ZERO };

    fn waiting() -> Waiting {
        let bounds = Bounds {
            drain: Some(Duration::from_secs(2)),
            apply: Duration::from_secs(4),
            hold: Some(Duration::from_secs(10)),
            tenure: None,
            stragglers: Stragglers::Abort,
            max_held: 10,
        };
        Waiting::begin(&bounds, Duration::from_secs(60), Moment(0))
    }

    #[test]
    fn a_canary_first_then_more_with_longer_pauses() {
        let mut waiting = waiting();
        let (mut now, mut seen) = (0, Vec::new());
        while let next @ (Next::Try(_) | Next::Wait(_)) = waiting.next(GOOD, Moment(now)) {
            match next {
                Next::Wait(pause) => now += u64::try_from(pause.as_millis()).unwrap(),
                Next::Try(drain) => {
                    seen.push((now, drain.as_millis()));
                    waiting.failed(Moment(now));
                }
                Next::GiveUp => {}
            }
        }
        assert_eq!(
            seen,
            [(0, 250), (1000, 500), (3000, 1000), (7000, 2000), (15_000, 2000), (31_000, 2000)],
            "bounded, and spaced ever wider"
        );
        assert_eq!((now, waiting.tries()), (60_000, 6));
    }

    #[test]
    fn nothing_is_tried_at_a_bad_moment() {
        let hours = |seconds| Sight { hours_until: Duration::from_secs(seconds), ..GOOD };
        for (sight, now, expected) in [
            (Sight { refused: true, ..GOOD }, 0, Next::Wait(PAUSE)),
            (Sight { fits: false, ..GOOD }, 0, Next::Wait(PAUSE)),
            (Sight { fits: false, ..GOOD }, 59_900, Next::Wait(Duration::from_millis(100))),
            (GOOD, 60_000, Next::GiveUp),
            (hours(30), 0, Next::Wait(Duration::from_secs(30))),
            (hours(60), 0, Next::GiveUp),
        ] {
            assert_eq!(waiting().next(sight, Moment(now)), expected, "{sight:?} {now}");
        }
    }

    #[test]
    fn what_time_may_mend() {
        let failed = |sqlstate: &str| {
            Outcome::Aborted(Reason::ApplyFailed { sqlstate: sqlstate.into(), message: String::new() })
        };
        for (outcome, waited, expected) in [
            (Outcome::Refused("sessions".into()), false, true),
            (Outcome::Aborted(Reason::DrainBound), false, true),
            (Outcome::Aborted(Reason::ApplyBound), false, false),
            (Outcome::Aborted(Reason::ApplyBound), true, true),
            (failed("55P03"), false, true),
            (failed("57014"), false, false),
            (failed("42601"), true, false),
            (Outcome::Aborted(Reason::Operator), true, false),
            (Outcome::Applied, false, false),
            (Outcome::Unknown(String::new()), true, false),
        ] {
            assert_eq!(may_mend(&outcome, waited), expected, "{outcome:?} {waited}");
        }
    }
}
