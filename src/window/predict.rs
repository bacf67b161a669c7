//! How long clients would wait if a window began now. Pure; `rehearse` collects the figures.
//!
//! Simple on purpose, and told with its reasons: the drain lasts as long as the oldest open transaction has lasted so far
//! (what has lasted long lasts on), the mean transaction, or the median of the last drains, whichever is longest; the change
//! lasts as long as the same change has lasted before.

use std::time::Duration;

use super::plan::Bounds;
use super::preflight::{Line, Verdict, age};
use crate::ids::millis;

/// What is known of a database's traffic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Ages of the open transactions through us.
    pub open_ms: Vec<u64>,
    /// How long a transaction lasts on average, now.
    pub mean_us: u64,
    /// How many transactions begin in a second, now.
    pub per_second: u64,
    /// How many clients there are.
    pub clients: u64,
    /// How long the last drains took, the latest first.
    pub drains_ms: Vec<u64>,
    /// How long the same change took when it was last applied or rehearsed.
    pub apply_ms: Option<u64>,
}

/// What would happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prediction {
    /// How long the drain would take.
    pub drain_ms: u64,
    /// How long the change would take, if that is known.
    pub apply_ms: Option<u64>,
    /// The longest stall: both together.
    pub stall_ms: u64,
    /// How many clients would be held.
    pub held: u64,
}

/// So many of the last drains count.
const DRAINS: usize = 5;

/// Predicts. `apply` tells whether there is a change at all.
#[must_use]
pub fn predict(live: &Live, apply: bool) -> Prediction {
    let oldest = live.open_ms.iter().max().copied().unwrap_or(0);
    let mean = live.mean_us.div_ceil(1000);
    let drain_ms = oldest.max(mean).max(median(&live.drains_ms));
    let apply_ms = if apply { live.apply_ms } else { Some(0) };
    let stall_ms = drain_ms.saturating_add(apply_ms.unwrap_or(0));
    // Each client is held once.
    let held = (live.per_second.saturating_mul(stall_ms) / 1000).min(live.clients);
    Prediction { drain_ms, apply_ms, stall_ms, held }
}

fn median(drains_ms: &[u64]) -> u64 {
    let mut last: Vec<u64> = drains_ms.iter().take(DRAINS).copied().collect();
    last.sort_unstable();
    last.get(last.len() / 2).copied().unwrap_or(0)
}

impl Prediction {
    /// Whether a window would keep its bounds. A change of which nothing is known is taken to keep its own.
    #[must_use]
    pub fn fits(&self, bounds: &Bounds) -> bool {
        self.late(bounds).is_none()
    }

    /// The bound that would be broken first.
    fn late(&self, bounds: &Bounds) -> Option<&'static str> {
        let over = |ms: u64, bound: Option<Duration>| bound.is_some_and(|bound| ms > millis(bound));
        if over(self.drain_ms, bounds.drain) {
            Some("drain")
        } else if over(self.apply_ms.unwrap_or(0), Some(bounds.apply)) {
            Some("apply")
        } else {
            over(self.stall_ms, bounds.hold.map(|hold| hold.saturating_sub(bounds.reserve()))).then_some("hold")
        }
    }

    /// What an operator is told of it.
    #[must_use]
    pub fn lines(&self, live: &Live, bounds: &Bounds) -> [Line; 2] {
        let late = self.late(bounds);
        let verdict = |bad: bool| if bad { Verdict::Warn } else { Verdict::Ok };
        let bound = |bound: Option<Duration>| bound.map_or_else(|| "none".to_owned(), |bound| age(millis(bound)));
        let oldest =
            live.open_ms.iter().max().map_or_else(|| "none open".to_owned(), |ms| format!("oldest {}", age(*ms)));
        let drains = match live.drains_ms.len().min(DRAINS) {
            0 => "no drain before".to_owned(),
            count => format!("median of the last {count} drains {}", age(median(&live.drains_ms))),
        };
        let drain = format!(
            "about {} of {}: {} open transactions, {oldest}; mean {}.{:03} ms; {drains}",
            age(self.drain_ms),
            bound(bounds.drain),
            live.open_ms.len(),
            live.mean_us / 1000,
            live.mean_us % 1000,
        );
        let change = match self.apply_ms {
            Some(0) => "without a change".to_owned(),
            Some(ms) => format!("with {} for the change, as it took before", age(ms)),
            None => format!("and the change, of which nothing is known yet (at most {})", age(millis(bounds.apply))),
        };
        let stall = format!(
            "about {} of {}, {change}; about {} of {} clients held at {} transactions/s",
            age(self.stall_ms),
            bound(bounds.hold),
            self.held,
            live.clients,
            live.per_second,
        );
        let too_long = matches!(late, Some("apply" | "hold"));
        [
            Line::new("drain", verdict(late == Some("drain")), "predicted", drain),
            Line::new("stall", verdict(too_long), "predicted", stall),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::plan::Stragglers;

    fn bounds() -> Bounds {
        Bounds {
            drain: Some(Duration::from_secs(2)),
            apply: Duration::from_secs(4),
            hold: Some(Duration::from_secs(10)),
            tenure: None,
            stragglers: Stragglers::Abort,
            max_held: 10,
        }
    }

    #[test]
    fn the_longest_of_what_is_known_decides() {
        let live = Live { open_ms: vec![3, 40], mean_us: 1500, per_second: 2000, clients: 64, ..Live::default() };
        let quiet = Live::default();
        let seen = Live { drains_ms: vec![10, 500, 20, 90, 80, 9000], ..live.clone() };
        let known = Live { apply_ms: Some(300), ..live.clone() };
        for (live, apply, drain_ms, stall_ms, held) in [
            (&quiet, true, 0, 0, 0),
            (&live, false, 40, 40, 64),
            (&Live { open_ms: vec![], ..live.clone() }, true, 2, 2, 4),
            (&seen, true, 80, 80, 64),
            (&known, true, 40, 340, 64),
            (&known, false, 40, 40, 64),
        ] {
            let found = predict(live, apply);
            assert_eq!((found.drain_ms, found.stall_ms, found.held), (drain_ms, stall_ms, held), "{live:?}");
        }
    }

    #[test]
    fn it_fits_or_says_what_does_not() {
        for (open_ms, apply_ms, late) in
            [(2000, Some(4000), None), (2001, None, Some("drain")), (0, Some(4001), Some("apply")), (0, None, None)]
        {
            let live = Live { open_ms: vec![open_ms], apply_ms, ..Live::default() };
            let found = predict(&live, true);
            assert_eq!((found.late(&bounds()), found.fits(&bounds())), (late, late.is_none()), "{live:?}");
            let lines = found.lines(&live, &bounds());
            assert_eq!(lines.iter().any(|line| line.verdict == Verdict::Warn), late.is_some(), "{lines:?}");
        }
        let tight = Bounds { hold: Some(Duration::from_secs(5)), ..bounds() };
        let found = predict(&Live { open_ms: vec![1000], apply_ms: Some(3900), ..Live::default() }, true);
        assert_eq!(found.late(&tight), Some("hold"));
    }
}
