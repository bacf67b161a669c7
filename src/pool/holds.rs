//! What all shuttings of a gate have done to clients, for the metrics: the tally of the last one and the sum of those before.

use super::gate::Tally;
use crate::telemetry::metrics::Holds;

/// The sum of the shuttings that are over.
#[derive(Debug, Default)]
pub(super) struct Earlier(Holds);

impl Earlier {
    /// The gate is about to be shut again. Who still waits is held on, in the tally that begins: that is one hold.
    pub(super) fn add(&mut self, tally: &Tally) {
        let sum = self.and(tally);
        self.0 = Holds { begun: sum.begun - sum.now, now: 0, ..sum };
    }

    /// Those and the ones of the last shutting.
    pub(super) fn and(&self, tally: &Tally) -> Holds {
        let earlier = &self.0;
        Holds {
            begun: earlier.begun + tally.held,
            now: tally.waiting(),
            released: earlier.released + tally.released,
            cancelled: earlier.cancelled + tally.cancelled,
            left: earlier.left + tally.left,
            expired: earlier.expired + tally.expired,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_that_goes_on_behind_another_shutting_is_one() {
        let mut earlier = Earlier::default();
        earlier.add(&Tally { held: 5, released: 2, left: 1, ..Tally::default() });
        let all = earlier.and(&Tally { held: 2, cancelled: 1, ..Tally::default() });
        assert_eq!(all, Holds { begun: 5, now: 1, released: 2, cancelled: 1, left: 1, expired: 0 });
        assert_eq!(all.begun, all.now + all.released + all.cancelled + all.left + all.expired);
    }
}
