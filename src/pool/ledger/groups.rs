//! Clients that a shut gate treats alike, and which of them it leaves free.

use super::Ledger;

/// Clients that a shut gate treats alike, by their number: those of one user and application. Groups are forgotten, and their
/// places given to others; a number tells the turn too, so none ever stands for two groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupIx(pub u32);

/// So many bits of a number are the place, the others the turn.
const PLACE_BITS: u32 = 10;
/// A place has so many turns; whoever has the last one keeps it.
const LAST_TURN: u32 = u32::MAX >> PLACE_BITS;

impl GroupIx {
    /// Everybody who is in no other; no gate leaves them free.
    pub const OTHERS: Self = Self(0);
    /// There may be so many groups besides.
    pub const MOST: usize = (1 << PLACE_BITS) - 2;

    pub(super) const fn new(place: u32, turn: u32) -> Self {
        Self(turn << PLACE_BITS | place)
    }

    pub(super) const fn at(self) -> usize {
        (self.0 & ((1 << PLACE_BITS) - 1)) as usize
    }

    const fn turn(self) -> u32 {
        self.0 >> PLACE_BITS
    }
}

/// How many transactions of a group run, and whether it is free to begin others although the gate is shut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Group {
    pub(super) running: usize,
    pub(super) turn: u32,
    pub(super) free: bool,
}

impl<S, T> Ledger<S, T> {
    /// Adds a group, [`MOST`](GroupIx::MOST) at most. `free`: the gate, if it is shut now, is not shut for it.
    pub fn add_group(&mut self, free: bool) -> GroupIx {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.groups.push(Group::default());
            u32::try_from(self.groups.len() - 1).unwrap_or_default()
        });
        let free = free && self.gate.is_shut();
        let group = GroupIx::new(place, self.groups.get(place as usize).map_or(0, |group| group.turn));
        self.group(group).free = free;
        group
    }

    /// Forgets the groups in which nobody runs or waits: their numbers are [known](Self::knows) no more.
    pub fn forget_groups(&mut self) {
        let mut needed = vec![false; self.groups.len()];
        for waiter in self.pools.iter().flat_map(|pool| &pool.queue) {
            if let Some(needed) = needed.get_mut(waiter.group.at()) {
                *needed = true;
            }
        }
        self.vacant.clear();
        for ((place, group), needed) in (0..).zip(&mut self.groups).zip(needed).skip(1) {
            if group.running == 0 && !needed && group.turn < LAST_TURN {
                *group = Group { turn: group.turn + 1, ..Group::default() };
                self.vacant.push(place);
            }
        }
    }

    /// Whether this is the number of a group. That of one in which somebody runs or waits is.
    #[must_use]
    pub fn knows(&self, group: GroupIx) -> bool {
        self.groups.get(group.at()).is_some_and(|known| known.turn == group.turn())
    }

    pub(super) fn group(&mut self, group: GroupIx) -> &mut Group {
        debug_assert!(self.knows(group), "the number of a group that is forgotten");
        #[expect(clippy::indexing_slicing, reason = "a GroupIx comes from add_group and places are never removed")]
        &mut self.groups[group.at()]
    }

    /// Whether the gate keeps clients of this group from beginning.
    #[must_use]
    pub fn is_shut_for(&self, group: GroupIx) -> bool {
        let free = |known: &Group| known.free && known.turn == group.turn();
        self.gate.is_shut() && !self.groups.get(group.at()).is_some_and(free)
    }

    pub(super) fn runs(&mut self, group: GroupIx) {
        let group = self.group(group);
        group.running += 1;
        self.running += usize::from(!group.free);
    }
}
