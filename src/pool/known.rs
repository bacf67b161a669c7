//! As whom a gate knows a client: under what number it begins, and whether the gate is shut for that one.

use std::sync::{MutexGuard, PoisonError};

use super::database::{Books, Database};
use super::groups::Groups;
use super::ledger::GroupIx;
use crate::clients::Client;

impl Database {
    /// Whether the gate is shut for this client; for the relay, which then stops between requests. No lock where it is open.
    #[must_use]
    pub fn is_shut_for(&self, client: &Client) -> bool {
        self.is_shut() && {
            let (group, books) = self.group_and_books(client, false);
            books.is_shut_for(group)
        }
    }

    /// Whether this client has an open transaction, and the gate, if it is shut, waits for its end; for others to look at. A client
    /// of a database of the same name that the configuration had before, whose groups have other numbers, is on its way out.
    #[must_use]
    pub fn waits_for(&self, client: &Client) -> bool {
        let waits = |group| !self.is_shut() || self.books().is_shut_for(GroupIx(group));
        client.runs_as().is_some_and(waits)
    }

    /// The group that a shut gate knows a client of this database by, and the books, before it can be forgotten there. `anew`:
    /// the client, which neither runs nor waits, does not stay one of the others if there are numbers again.
    pub(super) fn group_and_books(&self, client: &Client, anew: bool) -> (GroupIx, MutexGuard<'_, Books>) {
        let (group, books) = (GroupIx(client.group()), self.books());
        if books.knows(group) && !(anew && group == GroupIx::OTHERS) {
            return (group, books);
        }
        drop(books);
        let mut groups = self.groups();
        let mut books = self.books();
        let group = groups.of(&client.user, client.application_name(), &mut books);
        client.set_group(group.0);
        (group, books)
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many users and applications are at work at once that a shut gate cannot tell them all apart.
    #[must_use]
    pub fn is_beyond_names(&self) -> bool {
        self.groups().is_full(&mut self.books())
    }
}
