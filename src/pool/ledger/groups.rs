//! Clients that a shut gate treats alike, and which of them it leaves free.

use super::Ledger;

/// Clients that a shut gate treats alike, by their number: those of one user and application.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupIx(pub u32);

impl GroupIx {
    /// Everybody who is in no other; no gate leaves them free.
    pub const OTHERS: Self = Self(0);

    pub(super) const fn at(self) -> usize {
        self.0 as usize
    }
}

/// How many transactions of a group run, and whether it is free to begin others although the gate is shut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Group {
    pub(super) running: usize,
    pub(super) free: bool,
}

impl<S, T> Ledger<S, T> {
    /// Adds a group. `free`: the gate, if it is shut now, is not shut for it.
    pub fn add_group(&mut self, free: bool) -> GroupIx {
        self.groups.push(Group { running: 0, free: free && self.gate.is_shut() });
        GroupIx(u32::try_from(self.groups.len() - 1).unwrap_or_default())
    }

    pub(super) fn group(&mut self, group: GroupIx) -> &mut Group {
        #[expect(clippy::indexing_slicing, reason = "a GroupIx comes from add_group and groups are never removed")]
        &mut self.groups[group.at()]
    }

    /// Whether the gate keeps clients of this group from beginning.
    #[must_use]
    pub fn is_shut_for(&self, group: GroupIx) -> bool {
        self.gate.is_shut() && !self.groups.get(group.at()).is_some_and(|group| group.free)
    }

    pub(super) fn runs(&mut self, group: GroupIx) {
        let group = self.group(group);
        group.running += 1;
        self.running += usize::from(!group.free);
    }
}
