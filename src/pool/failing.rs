//! How long servers of a pool cannot be had: a short outage is waited for, a long one is told. Pure.

use std::time::Duration;

use crate::ids::Moment;

/// The pause after the first failure; doubled with each further one up to `server_login_retry`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause where Postgres has refused us by name: somebody may be mending it right now.
const HOPELESS_PAUSE: Duration = Duration::from_secs(1);

/// A connect that has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    /// When it was begun.
    pub(super) began: Moment,
    /// When it failed.
    pub(super) failed: Moment,
    /// Whether Postgres would refuse another one alike.
    pub(super) hopeless: bool,
    /// Whether the pool has servers all the same: what is refused to one more of them is no outage.
    pub(super) has_servers: bool,
}

/// The failures since the last success, as far as they belong together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Failing {
    count: u32,
    /// When the first of them was without which the pool had no server.
    since: Option<Moment>,
    /// Whoever waits is told.
    given_up: bool,
    /// When the next attempt may be made.
    retry_at: Moment,
}

impl Failing {
    /// Notes a failure. Returns when the next attempt may be made, with a fifth more or less by `jitter` (0 to 1) so that pools
    /// do not march in step, and whether those who wait are to be told.
    pub(super) fn failed(&mut self, attempt: Attempt, retry: Duration, jitter: f64) -> (Moment, bool) {
        // For so long nobody has needed a server: what was then says nothing of now, unless it was known for an outage.
        if !self.given_up && attempt.began.since(self.retry_at) >= retry {
            *self = Self::default();
        }
        if attempt.has_servers {
            (self.since, self.given_up) = (None, false);
        } else {
            let since = *self.since.get_or_insert(attempt.failed);
            self.given_up |= attempt.failed.since(since) >= retry;
        }
        let longest = if attempt.hopeless { retry.min(HOPELESS_PAUSE) } else { retry };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count.min(16)).min(longest);
        self.count = self.count.saturating_add(1);
        self.retry_at = attempt.failed.plus(pause.mul_f64(0.8 + 0.4 * jitter));
        (self.retry_at, self.given_up || attempt.hopeless)
    }

    /// What was refused before may be granted now: pauses are short again.
    pub(super) const fn hopes(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(3);

    /// Fails in no time, with a pause that is not spread.
    fn fails(failing: &mut Failing, at: u64, has_servers: bool) -> (u64, bool) {
        let attempt = Attempt { began: Moment(at), failed: Moment(at), hopeless: false, has_servers };
        let (retry_at, told) = failing.failed(attempt, RETRY, 0.5);
        (retry_at.0 - at, told)
    }

    #[test]
    fn a_long_outage_is_told_and_goes_on_being_one() {
        let mut failing = Failing::default();
        for (at, pause, told) in [
            (1000, 100, false),
            (1100, 200, false),
            (1300, 400, false),
            (1700, 800, false),
            (2500, 1600, false),
            (4100, 3000, true),
            (7100, 3000, true),
            // Nobody has asked for an hour, and nothing says that it is over.
            (3_607_100, 3000, true),
        ] {
            assert_eq!(fails(&mut failing, at, false), (pause, told), "at {at}");
        }
        failing.hopes();
        assert_eq!(fails(&mut failing, 3_610_100, false), (100, true));
    }

    #[test]
    fn a_failure_of_long_ago_says_nothing() {
        let mut failing = Failing::default();
        for (at, pause) in [(1000, 100), (1100, 200), (3999, 400), (7399, 100), (7499, 200)] {
            assert_eq!(fails(&mut failing, at, false), (pause, false), "at {at}");
        }
    }

    /// Postgres allows fewer servers than the pool: pauses grow, and the outage that comes later begins when it does.
    #[test]
    fn one_more_that_is_refused_is_no_outage() {
        let mut failing = Failing::default();
        for at in (1000..60_000).step_by(1000) {
            assert!(!fails(&mut failing, at, true).1, "at {at}");
        }
        assert_eq!(fails(&mut failing, 60_000, false), (3000, false));
        assert_eq!(fails(&mut failing, 62_999, false), (3000, false));
        assert_eq!(fails(&mut failing, 63_000, false), (3000, true));
        assert_eq!(fails(&mut failing, 64_000, true), (3000, false));
    }

    #[test]
    fn a_refusal_by_name_is_told_at_once_and_tried_again_soon() {
        let mut failing = Failing::default();
        for (at, retry_at) in [(0, 100), (100, 300), (300, 700), (700, 1500), (1500, 2500), (2500, 3500)] {
            let attempt = Attempt { began: Moment(at), failed: Moment(at), hopeless: true, has_servers: true };
            assert_eq!(failing.failed(attempt, RETRY, 0.5), (Moment(retry_at), true));
        }
        let attempt = Attempt { began: Moment(0), failed: Moment(0), hopeless: true, has_servers: true };
        let (least, most) =
            (Failing::default().failed(attempt, RETRY, 0.0), Failing::default().failed(attempt, RETRY, 1.0));
        assert_eq!((least.0, most.0), (Moment(80), Moment(120)));
    }
}
