//! A breadth-first explorer: every order of every move from one start, each distinct state once.
//!
//! States are told apart by a 128-bit fingerprint, so that a million of them fit in little memory. Since every
//! plan is bounded, the graph must be free of cycles; then each path, without any assumption of fairness, ends in a
//! state without moves, and those are all checked. The first broken rule is returned with the shortest way to it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};

/// What is explored.
pub(crate) trait Space {
    type State: Clone + Eq + Hash;
    type Move: Copy + Debug;

    fn moves(&self, state: &Self::State) -> Vec<Self::Move>;
    /// The next state, or the rule that this move breaks.
    fn go(&self, state: &Self::State, by: Self::Move) -> Result<Self::State, String>;
    /// Checks a state that has no moves.
    fn end(&self, state: &Self::State) -> Result<(), String>;
}

/// Not a broken rule: the space is larger than was allowed.
pub(crate) const TOO_MANY: &str = "too many states";

/// How much was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    pub(crate) states: usize,
    pub(crate) edges: usize,
    pub(crate) ends: usize,
}

/// A broken rule, and the shortest way to break it.
#[derive(Debug)]
pub(crate) struct Broken<M> {
    pub(crate) rule: String,
    pub(crate) trace: Vec<M>,
}

/// Visits everything that can be reached from `start`, up to `most` states.
pub(crate) fn explore<S: Space>(space: &S, start: S::State, most: usize) -> Result<Size, Broken<S::Move>> {
    let mut known = HashMap::from([(fingerprint(&start), 0_usize)]);
    let mut came: Vec<Option<(usize, S::Move)>> = vec![None];
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut frontier = VecDeque::from([(0_usize, start)]);
    let mut ends = 0;
    while let Some((at, state)) = frontier.pop_front() {
        let mut left = 0;
        for by in space.moves(&state) {
            let next = space.go(&state, by).map_err(|rule| Broken { rule, trace: way(&came, at, Some(by)) })?;
            if next == state {
                continue;
            }
            left += 1;
            let to = *known.entry(fingerprint(&next)).or_insert_with(|| {
                came.push(Some((at, by)));
                frontier.push_back((came.len() - 1, next));
                came.len() - 1
            });
            edges.push((at, to));
        }
        if left == 0 {
            ends += 1;
            space.end(&state).map_err(|rule| Broken { rule, trace: way(&came, at, None) })?;
        }
        if came.len() > most {
            return Err(Broken { rule: TOO_MANY.to_owned(), trace: Vec::new() });
        }
    }
    if let Some(at) = on_a_cycle(came.len(), &edges) {
        return Err(Broken { rule: "something goes on for ever".to_owned(), trace: way(&came, at, None) });
    }
    Ok(Size { states: came.len(), edges: edges.len(), ends })
}

/// The moves that led to state `at`.
fn way<M: Copy>(came: &[Option<(usize, M)>], mut at: usize, last: Option<M>) -> Vec<M> {
    let mut trace: Vec<M> = last.into_iter().collect();
    while let Some((from, by)) = came[at] {
        trace.push(by);
        at = from;
    }
    trace.reverse();
    trace
}

/// Peels off states that nothing leads to any more; what cannot be peeled lies on or behind a cycle.
fn on_a_cycle(states: usize, edges: &[(usize, usize)]) -> Option<usize> {
    let mut incoming = vec![0_usize; states];
    let mut first = vec![0_usize; states + 1];
    for (from, to) in edges {
        incoming[*to] += 1;
        first[from + 1] += 1;
    }
    for at in 0..states {
        first[at + 1] += first[at];
    }
    // Edges were recorded in the order of their sources' visits, which is the order of their numbers.
    let mut free: Vec<usize> = (0..states).filter(|at| incoming[*at] == 0).collect();
    while let Some(at) = free.pop() {
        for (_, to) in &edges[first[at]..first[at + 1]] {
            incoming[*to] -= 1;
            if incoming[*to] == 0 {
                free.push(*to);
            }
        }
    }
    incoming.iter().position(|count| *count > 0)
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut mixer = Mixer(0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f);
    state.hash(&mut mixer);
    u128::from(mixer.0) << 64 | u128::from(mixer.1)
}

/// Two independent multiply-rotate lanes: quick without optimisation, and wide enough to tell states apart.
struct Mixer(u64, u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 ^= self.0 >> 32;
        self.1 = (self.1.rotate_left(29) ^ value ^ 0x5bd1_e995).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.1 ^= self.1 >> 29;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}
