//! The unnamed statement of a client, put where it is needed.

use bytes::{BufMut, BytesMut};

use super::super::messages::{changed, write_head, write_target};
use super::{Ready, Translate};
use crate::prepared::slots::{Note, State};
use crate::wire::frame::Verdict;
use crate::wire::tags::client;

impl Translate<'_> {
    /// Sees to it that the unnamed statement on the server is this client's.
    pub(super) fn use_unnamed(&mut self, check: bool, out: &mut BytesMut) -> Verdict {
        let hints = self.names.unnamed.as_ref().map(|unnamed| unnamed.leaves.hints).unwrap_or_default();
        if self.is_foreign(hints) {
            return Verdict::Stop;
        }
        match self.slots.unnamed.state(self.client, self.names.version, self.slots.batch) {
            State::Unsettled => return Verdict::Stop,
            State::Ready => {}
            State::Absent if self.slots.unnamed.moves() => return Verdict::Stop,
            State::Absent => {
                self.slots.unnamed.sent((self.client, self.names.version), true, self.slots.batch);
                let tag = match &self.names.unnamed {
                    Some(unnamed) => {
                        write_head(client::PARSE, 1 + unnamed.body.len(), out);
                        out.put_u8(0);
                        out.put_slice(&unnamed.body);
                        self.counts.server_parses += 1;
                        client::PARSE
                    }
                    None => {
                        write_target(client::CLOSE, None, out);
                        client::CLOSE
                    }
                };
                self.pass_noted(tag, Note::PrepareUnnamed);
            }
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
}
