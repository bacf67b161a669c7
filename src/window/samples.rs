//! How many clients a window held over time, in a bounded number of samples. Pure.

use super::receipt::Sample;

/// The most samples that are kept; then every second one is dropped, and from there on they are taken half as often.
const KEPT: usize = 240;

/// Takes samples.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Samples {
    taken: Vec<Sample>,
    /// The least time between two, in milliseconds.
    step_ms: u64,
}

impl Samples {
    /// Takes one, unless the last one was just taken. A change from or to nobody is never left out.
    pub fn take(&mut self, at_ms: u64, held: u64) {
        if let Some(last) = self.taken.last() {
            let turn = (last.held == 0) != (held == 0);
            if last.held == held || !turn && at_ms < last.at_ms.saturating_add(self.step_ms) {
                return;
            }
        }
        if self.taken.len() >= KEPT {
            let mut keep = false;
            self.taken.retain(|_| {
                keep = !keep;
                keep
            });
            self.step_ms = (self.step_ms * 2).max(1);
        }
        self.taken.push(Sample { at_ms, held });
    }

    /// Those that were taken.
    #[must_use]
    pub fn taken(&self) -> &[Sample] {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_as_they_are_and_many_are_thinned() {
        let mut samples = Samples::default();
        for (at, held) in [(0, 0), (5, 0), (6, 3), (6, 4), (9, 0)] {
            samples.take(at, held);
        }
        let pairs: Vec<_> = samples.taken().iter().map(|sample| (sample.at_ms, sample.held)).collect();
        assert_eq!(pairs, [(0, 0), (6, 3), (6, 4), (9, 0)]);
        for at in 10..1_000_000 {
            samples.take(at, 1 + at % 1000);
        }
        samples.take(1_000_000, 0);
        let taken = samples.taken();
        assert!((KEPT / 3..=KEPT).contains(&taken.len()), "{}", taken.len());
        assert!(taken.windows(2).all(|two| two[0].at_ms <= two[1].at_ms));
        assert_eq!(taken.last(), Some(&Sample { at_ms: 1_000_000, held: 0 }), "the end is there");
    }
}
