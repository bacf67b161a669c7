//! By which settings literals are read: Postgres makes constants of them when it parses a statement.

use bytes::BytesMut;

use super::Translate;
use crate::prepared::names::Found;
use crate::server::parameters::{self, Parameters};
use crate::server::residue::{self, Settings};

/// The settings of a client; by which of them literals are read is seldom asked.
#[derive(Clone, Copy)]
pub(in crate::session) struct Reading<'a>(
    pub(in crate::session) &'a Parameters,
    pub(in crate::session) Option<&'a Settings>,
);

impl Reading<'_> {
    pub(super) fn now(self) -> u64 {
        residue::reading(self.0, self.1)
    }
}

impl Translate<'_> {
    /// By which settings the server will read what is sent now. Where they are about to change, by which nobody else's are.
    pub(super) fn reading_there(&mut self) -> u64 {
        if self.slots.sets(self.progress.batches_owed()) {
            parameters::unlike_any((self.client.0, self.names.next_number()))
        } else {
            self.reading.now()
        }
    }

    /// What a name stands for where it is to be used. Where the server does not have it, and the client's settings are others than
    /// when it was prepared, that is another statement: it is prepared by what they are now, as Postgres does when it has to do it anew.
    pub(super) fn find(&mut self, name: &[u8], out: &mut BytesMut) -> Found {
        let found = self.look_up(name, out);
        let Found::Known(bound) = &found else { return found };
        let statement = &bound.statement;
        if statement.reading.is_none_or(|reading| self.slots.has(statement) || reading == self.reading.now()) {
            return found;
        }
        match self.catalog.intern(statement.body(), self.reading.now()) {
            Some(statement) => Found::Known(self.names.rebind(bound, statement)),
            // There is no room: wait for some, as if for an answer, would be for ever; Postgres says that it is not there.
            None => Found::Unknown,
        }
    }
}
