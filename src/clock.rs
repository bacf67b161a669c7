//! The process's clock: tokio's monotonic time as [`Moment`]s, so that paused tests and wall-clock jumps are no matter.

use tokio::time::Instant;

use crate::ids::{Moment, millis};

/// Counts from when it was made. Copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The moment it is now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(millis(self.start.elapsed()))
    }

    /// The instant of a moment, for timers. Moments beyond a day are cut to one: a timer that far out is re-armed when it fires.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let latest = self.now().0.saturating_add(DAY_MS);
        self.start + std::time::Duration::from_millis(moment.0.min(latest))
    }
}
