//! For how long a client waits for a server and behind a gate, as the configuration says: asked for by every transaction that has
//! to wait, so the answer is kept for as long as the configuration is the same.

use std::num::NonZero;
use std::time::Duration;

use super::front::Front;
use crate::clients::Client;
use crate::ids::millis;

/// What was found in one edition of the configuration. Small, as every client has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    edition: Option<u32>,
    /// In milliseconds.
    limit: Option<NonZero<u32>>,
    notify: Option<NonZero<u32>>,
    /// Some clients are not to be held.
    pub(super) some_fail_fast: bool,
}

impl Patience {
    /// What holds for this client now.
    pub(super) fn of(&mut self, client: &Client, front: &Front) -> Self {
        let edition = front.running.edition();
        if self.edition != Some(edition) {
            let config = front.config();
            let limits = config.client_limits(&client.database, &client.user);
            *self = Self {
                edition: Some(edition),
                limit: limits.query_wait_timeout.map(rounded),
                notify: limits.query_wait_notify.map(rounded),
                some_fail_fast: !config.window.fail_fast.is_nobody(),
            };
        }
        *self
    }

    /// `query_wait_timeout`.
    pub(super) fn limit(self) -> Option<Duration> {
        self.limit.map(duration)
    }

    /// `query_wait_notify`.
    pub(super) fn notify(self) -> Option<Duration> {
        self.notify.map(duration)
    }
}

fn rounded(time: Duration) -> NonZero<u32> {
    NonZero::new(u32::try_from(millis(time)).unwrap_or(u32::MAX)).unwrap_or(NonZero::<u32>::MIN)
}

fn duration(milliseconds: NonZero<u32>) -> Duration {
    Duration::from_millis(u64::from(milliseconds.get()))
}
