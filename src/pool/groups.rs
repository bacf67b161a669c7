//! Which clients a shut gate keeps: those of some users and applications, or all.

use std::collections::HashMap;

use super::ledger::{GroupIx, Ledger};
use crate::config::is_like;

/// So many groups are told apart; while in all of them somebody runs or waits, whoever comes belongs to the others, whom every
/// shut gate keeps.
pub(super) const GROUPS_MAX: usize = 1000;
const _: () = assert!(GROUPS_MAX <= GroupIx::MOST, "each has a number");

/// Who is kept. Pure. An empty list is everybody; `*` in a name stands for anything.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope {
    /// The users that clients have logged in as.
    pub users: Vec<String>,
    /// What the applications call themselves.
    pub applications: Vec<String>,
}

impl Scope {
    /// Whether somebody is kept.
    #[must_use]
    pub fn has(&self, user: &str, application: &str) -> bool {
        let in_list = |list: &[String], name| list.is_empty() || list.iter().any(|pattern| is_like(pattern, name));
        in_list(&self.users, user) && in_list(&self.applications, application)
    }
}

/// For the log and the receipt.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.users.join(", "), self.applications.join(", ")) {
            (users, _) if self.applications.is_empty() && users.is_empty() => f.write_str("all clients"),
            (users, _) if self.applications.is_empty() => write!(f, "users {users}"),
            (users, applications) if users.is_empty() => write!(f, "applications {applications}"),
            (users, applications) => write!(f, "users {users} with applications {applications}"),
        }
    }
}

/// The numbers of the groups, and who the shut gate keeps.
#[derive(Debug, Default)]
pub(super) struct Groups {
    known: HashMap<(String, String), GroupIx>,
    /// So often nobody looks for groups that can be forgotten: there were none just now.
    pass: usize,
    /// Of the last shutting.
    scope: Scope,
}

impl Groups {
    /// The group of this user and application.
    pub(super) fn of<S, T>(&mut self, user: &str, application: String, ledger: &mut Ledger<S, T>) -> GroupIx {
        let names = (user.to_owned(), application);
        if let Some(group) = self.known.get(&names) {
            return *group;
        }
        if self.known.len() >= GROUPS_MAX {
            if self.pass > 0 {
                self.pass -= 1;
                return GroupIx::OTHERS;
            }
            if self.is_full(ledger) {
                self.pass = GROUPS_MAX;
                return GroupIx::OTHERS;
            }
        }
        let free = !self.scope.has(user, &names.1);
        *self.known.entry(names).or_insert_with(|| ledger.add_group(free))
    }

    /// Whether there is no number for one more, though all are forgotten that can be.
    pub(super) fn is_full<S, T>(&mut self, ledger: &mut Ledger<S, T>) -> bool {
        if self.known.len() >= GROUPS_MAX {
            ledger.forget_groups();
            self.known.retain(|_, group| ledger.knows(*group));
            self.pass = 0;
        }
        self.known.len() >= GROUPS_MAX
    }

    /// The gate is to be shut for these: which groups it leaves free.
    pub(super) fn free(&mut self, scope: Scope) -> Vec<GroupIx> {
        self.scope = scope;
        self.pass = 0;
        let free = |(user, application): &(String, String)| !self.scope.has(user, application);
        self.known.iter().filter(|(names, _)| free(names)).map(|(_, group)| *group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Begin, Need, Size};
    use super::*;
    use crate::ids::Moment;

    fn scope(users: &[&str], applications: &[&str]) -> Scope {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scope { users: list(users), applications: list(applications) }
    }

    #[test]
    fn who_is_kept() {
        for (users, applications, user, application, kept) in [
            (&[][..], &[][..], "a", "x", true),
            (&["a"], &[], "a", "x", true),
            (&["a"], &[], "b", "x", false),
            (&["a", "b*"], &[], "bc", "", true),
            (&[], &["web*"], "a", "web 7", true),
            (&[], &["web*"], "a", "job", false),
            (&["a"], &["*7*"], "a", "web 7", true),
            (&["a"], &["*7*"], "b", "web 7", false),
        ] {
            let scope = scope(users, applications);
            assert_eq!(scope.has(user, application), kept, "{scope:?} {user} {application}");
        }
        for (users, applications, text) in [
            (&[][..], &[][..], "all clients"),
            (&["a", "b"], &[], "users a, b"),
            (&[], &["web*"], "applications web*"),
            (&["a"], &["x"], "users a with applications x"),
        ] {
            assert_eq!(scope(users, applications).to_string(), text);
        }
    }

    #[test]
    fn groups_have_numbers_and_the_scope_of_the_shutting() {
        let (mut groups, mut ledger) = (Groups::default(), Ledger::<u8, u8>::default());
        let of = |groups: &mut Groups, ledger: &mut _, user: &str| groups.of(user, "x".to_owned(), ledger);
        let (a, b) = (of(&mut groups, &mut ledger, "a"), of(&mut groups, &mut ledger, "b"));
        assert_eq!((a, b), (GroupIx(1), GroupIx(2)));
        assert_eq!(of(&mut groups, &mut ledger, "a"), a);
        let free = groups.free(scope(&["a"], &[]));
        assert_eq!(free, [b]);
        ledger.shut(None, Moment(0), |group| free.contains(&group)).unwrap();
        let c = of(&mut groups, &mut ledger, "c");
        assert_eq!(
            [a, b, c].map(|group| ledger.is_shut_for(group)),
            [true, false, false],
            "one that comes behind the gate"
        );
    }

    /// Names come and go. A number that somebody may still have never stands for another name.
    #[test]
    fn groups_are_forgotten_in_which_nobody_runs_or_waits() {
        let (mut groups, mut ledger) = (Groups::default(), Ledger::<u8, u8>::default());
        let pool = ledger.add_pool(Size::new(1, 0));
        let mut of = |ledger: &mut Ledger<u8, u8>, name: &str| groups.of("a", name.to_owned(), ledger);
        let leave = |ledger: &mut Ledger<u8, u8>, group, need| ledger.begin(pool, (group, need), Moment(0), || 0);
        let (runs, waits, rests) = (of(&mut ledger, "runs"), of(&mut ledger, "waits"), of(&mut ledger, "rests"));
        assert_eq!(leave(&mut ledger, runs, Need::Leave), Begin::Now(None));
        assert!(matches!(leave(&mut ledger, waits, Need::Server), Begin::Wait(_)));
        let mut seen = std::collections::BTreeSet::from([runs, waits, rests]);
        for n in 0..3 * GROUPS_MAX {
            let group = of(&mut ledger, &n.to_string());
            assert!(group != GroupIx::OTHERS && seen.insert(group), "{n}");
        }
        assert!(ledger.knows(runs) && ledger.knows(waits) && !ledger.knows(rests));
        assert_eq!([of(&mut ledger, "runs"), of(&mut ledger, "waits")], [runs, waits]);
        ledger.shut(None, Moment(0), |_| true).unwrap();
        assert!(ledger.is_shut_for(rests), "the number says nothing any more");
        assert!(ledger.is_shut_for(GroupIx(u32::MAX)) && !ledger.knows(GroupIx(u32::MAX)));
    }

    #[test]
    fn while_all_are_needed_one_more_is_one_of_the_others() {
        let (mut groups, mut ledger) = (Groups::default(), Ledger::<u8, u8>::default());
        let pool = ledger.add_pool(Size::new(1, 0));
        for n in 0..GROUPS_MAX {
            let group = groups.of("a", n.to_string(), &mut ledger);
            ledger.begin(pool, (group, Need::Leave), Moment(0), || 0);
        }
        let late = |groups: &mut Groups, ledger: &mut _| groups.of("a", "late".to_owned(), ledger);
        assert_eq!(late(&mut groups, &mut ledger), GroupIx::OTHERS);
        assert!(groups.is_full(&mut ledger));
        ledger.finish(GroupIx(1));
        assert!(!groups.is_full(&mut ledger));
        assert_ne!(late(&mut groups, &mut ledger), GroupIx::OTHERS);
        assert_eq!(late(&mut groups, &mut ledger), late(&mut groups, &mut ledger));
    }
}
