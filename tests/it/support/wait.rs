//! Waiting for what must come, instead of sleeping and hoping.

use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Waits until `check` gives a value; fails the test at the deadline.
pub(crate) fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(STEP);
    }
}

/// Waits until `check` is true; fails the test at the deadline.
pub(crate) fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    until(what, limit, || check().then_some(()));
}

/// The running time of a load: lets it run, for tests whose subject is "for a while, under load".
pub(crate) fn let_run(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}
