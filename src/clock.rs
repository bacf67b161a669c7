//! The process's clock: monotonic time as [`Moment`]s, so that jumps of the wall clock are no matter.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::ids::{Moment, Tick};

/// Counts from when it was made. Copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When it was made, for timers.
    start: Instant,
    /// The same as the kernel counts.
    zero: u64,
}

/// What the kernel's monotonic clock says, which is that of [`Instant`] too, in nanoseconds: a plain number is told apart from another
/// at a fraction of what it takes with two `Instant`s, and every transaction does so.
fn monotonic() -> u64 {
    // It fails for clocks that a kernel does not have: every one has this.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    now.as_secs().saturating_mul(1_000_000_000).saturating_add(now.subsec_nanos().into())
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        // In this order: a timer is due when the moment has come, or a little later, and never before.
        let zero = monotonic();
        Self { start: Instant::now(), zero }
    }

    /// The moment it is now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.tick().moment()
    }

    /// The same in nanoseconds.
    #[must_use]
    pub fn tick(&self) -> Tick {
        Tick(monotonic().saturating_sub(self.zero))
    }

    /// The instant of a reading, for timers.
    #[must_use]
    pub fn instant_of(&self, tick: Tick) -> Instant {
        self.start + Duration::from_nanos(tick.0)
    }

    /// The instant of a moment, for timers. Moments beyond a day are cut to one: a timer that far out is re-armed when it fires.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let latest = self.now().0.saturating_add(DAY_MS);
        self.start + Duration::from_millis(moment.0.min(latest))
    }
}

/// A wall-clock time as RFC 3339 in UTC, with milliseconds. For people and logs; nothing is decided by it.
#[must_use]
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second, ms) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01. Works in eras of 400 years that begin in March, so that the
/// leap day is the last of its year.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn it_goes_with_the_clock_of_timers() {
        let clock = Clock::start();
        let before = Instant::now();
        let read = clock.instant_of(clock.tick());
        let after = Instant::now();
        // Its start was read twice, one behind the other.
        let apart = Duration::from_secs(1);
        assert!(before <= read && read <= after + apart, "{before:?} {read:?} {after:?}");
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696, "2000-02-29T12:34:56.000Z"),
            (1_795_360_999, "2026-11-22T15:23:19.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
