//! The unnamed statement of a client, put where it is needed.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::messages::{changed, write_target, write_unnamed};
use super::{Ready, Translate};
use crate::prepared::hints::Hints;
use crate::prepared::slots::{Note, State};
use crate::prepared::string;
use crate::wire::frame::Verdict;
use crate::wire::tags::client;

impl Translate<'_> {
    /// Sees to it that the unnamed statement on the server is this client's.
    pub(super) fn use_unnamed(&mut self, check: bool, out: &mut BytesMut) -> Verdict {
        let hints = self.names.unnamed.as_ref().map(|unnamed| unnamed.leaves.hints).unwrap_or_default();
        if self.is_foreign(hints) {
            return Verdict::Stop;
        }
        let mut state = self.slots.unnamed.state(self.client, self.names.version, self.slots.batch);
        if state == State::Ready && self.slots.unnamed.refers().is_some() {
            match self.still_refers(out) {
                Some(true) => {}
                Some(false) if !self.slots.unnamed.moves() => state = State::Absent,
                // It is known to be the client's when the server has it.
                Some(false) => {
                    self.hurry(out);
                    return Verdict::Stop;
                }
                None => return Verdict::Stop,
            }
        }
        match state {
            State::Unsettled => return Verdict::Stop,
            State::Ready => {}
            State::Absent if self.slots.unnamed.moves() => return Verdict::Stop,
            State::Absent if !self.prepare_unnamed(out) => return Verdict::Stop,
            State::Absent => {}
        }
        let unnamed = self.names.unnamed.as_ref();
        if let Some(unnamed) = unnamed {
            self.leaves.add(&unnamed.leaves);
            self.slots.sends(unnamed.leaves.hints);
        }
        // What the client has sent here itself Postgres watches over.
        let told = unnamed.filter(|_| check && self.slots.unnamed.is_ours()).and_then(|unnamed| unnamed.told);
        match self.shape(None, told, out) {
            Ready::Yes => Verdict::Pass,
            Ready::Wait => Verdict::Stop,
            Ready::Changed => self.fail(changed(), out),
        }
    }
    /// Gives the server what the client has. False: ask again later.
    fn prepare_unnamed(&mut self, out: &mut BytesMut) -> bool {
        let known = self.names.unnamed.as_ref().map(|unnamed| (unnamed.leaves.hints, Arc::clone(&unnamed.body)));
        let (tag, refers) = match known {
            Some((hints, body)) => {
                let mut renamed = None;
                if hints.any_of(Hints::NAMES) {
                    renamed = self.rename(string(&body).unwrap_or_default(), out);
                    if renamed.is_none() {
                        return false;
                    }
                }
                write_unnamed(&body, renamed.as_ref().map_or(&[][..], |renamed| &renamed.text), out);
                self.counts.server_parses += 1;
                (client::PARSE, renamed.and_then(|renamed| renamed.refers()))
            }
            None => {
                write_target(client::CLOSE, None, out);
                (client::CLOSE, None)
            }
        };
        self.slots.unnamed.sent((self.client, self.names.version), true, self.slots.batch);
        self.slots.unnamed.sent_text(refers);
        self.pass_noted(tag, Note::PrepareUnnamed);
        true
    }
}
