//! A log line that something outside can cause as often as it likes, and that is written seldom all the same.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// Lets one through in a minute, and counts the others.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Whether the line is to be written now; with how many have been left out since the last one.
    pub fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_minute_and_the_others_are_counted() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let turns = [0, 1, 59, 60, 119, 300, 301].map(|at| seldom.turn_at(start + Duration::from_secs(at)));
        assert_eq!(turns, [Some(0), None, None, Some(2), None, Some(1), None]);
    }
}
