//! Which clients a shut gate keeps: those of some users and applications, or all.

use std::collections::HashMap;

use super::ledger::GroupIx;
use crate::config::is_like;

/// So many groups are told apart; whoever comes later belongs to the others, whom every shut gate keeps.
const GROUPS_MAX: usize = 1000;

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
    /// Of the last shutting.
    scope: Scope,
}

impl Groups {
    /// The group of this user and application. `add` makes one that is free of the gate, or not.
    pub(super) fn of(&mut self, user: &str, application: String, add: impl FnOnce(bool) -> GroupIx) -> GroupIx {
        let full = self.known.len() >= GROUPS_MAX;
        let free = !self.scope.has(user, &application);
        match self.known.get(&(user.to_owned(), application.clone())) {
            Some(group) => *group,
            None if full => GroupIx::OTHERS,
            None => *self.known.entry((user.to_owned(), application)).or_insert_with(|| add(free)),
        }
    }

    /// The gate is to be shut for these: which groups it leaves free.
    pub(super) fn free(&mut self, scope: Scope) -> Vec<GroupIx> {
        self.scope = scope;
        let free = |(user, application): &(String, String)| !self.scope.has(user, application);
        self.known.iter().filter(|(names, _)| free(names)).map(|(_, group)| *group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut groups = Groups::default();
        let mut made = Vec::new();
        let mut of = |groups: &mut Groups, user: &str, application: &str| {
            let next = GroupIx(u32::try_from(made.len()).unwrap() + 1);
            groups.of(user, application.to_owned(), |free| {
                made.push(free);
                next
            })
        };
        let (a, b) = (of(&mut groups, "a", "x"), of(&mut groups, "b", "x"));
        assert_eq!((a, b), (GroupIx(1), GroupIx(2)));
        assert_eq!(of(&mut groups, "a", "x"), a);
        assert_eq!(groups.free(scope(&["a"], &[])), [b]);
        of(&mut groups, "c", "x");
        assert_eq!(made, [false, false, true], "one that comes while the gate is shut");
        let mut groups = Groups::default();
        for n in 0..u32::try_from(GROUPS_MAX).unwrap() + 5 {
            groups.of("a", n.to_string(), |_| GroupIx(n + 1));
        }
        assert_eq!(groups.of("a", "late".to_owned(), |_| GroupIx(9999)), GroupIx::OTHERS);
    }
}
