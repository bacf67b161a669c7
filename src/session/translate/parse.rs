//! A client's Parse: of its unnamed statement, or of one that it gives a name.

use bytes::BytesMut;

use super::super::messages::{full, of_body, write_parse_front, write_unnamed};
use super::{FRONT_MAX, NAMES_MAX, Ready, STATEMENT_MAX, Translate};
use crate::prepared::hints::{Hints, Leaves};
use crate::prepared::names::{Found, Unnamed};
use crate::prepared::slots::{Note, State};
use crate::prepared::string;
use crate::server::progress::Status;
use crate::wire::frame::{HEADER, Header, Verdict};
use crate::wire::tags::client;

impl Translate<'_> {
    pub(super) fn parse(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let complete = body.len() == head.body;
        let Some(name) = string(body) else {
            return if complete || body.len() > FRONT_MAX { self.pass(head.tag) } else { Verdict::Whole };
        };
        if !complete && head.body <= STATEMENT_MAX {
            return Verdict::Whole;
        }
        let rest = body.get(name.len() + 1..).unwrap_or_default();
        if name.is_empty() {
            let leaves = if complete { of_body(rest) } else { Leaves::anything() };
            if self.is_foreign(leaves.hints) {
                return Verdict::Stop;
            }
            let text = if complete { string(rest).unwrap_or_default() } else { b"" };
            let mut renamed = None;
            if leaves.hints.any_of(Hints::NAMES) {
                renamed = self.rename(text, out);
                if renamed.is_none() {
                    return Verdict::Stop;
                }
            }
            self.leaves.add(&leaves);
            self.slots.sends(leaves.hints);
            let unnamed = complete.then(|| Unnamed { body: self.names.shared(rest), leaves, told: None });
            self.counts.client_parses += 1;
            self.counts.server_parses += 1;
            self.names.version += 1;
            self.slots.unnamed.sent((self.client, self.names.version), false, self.slots.batch);
            self.pass_noted(head.tag, Note::Unnamed(unnamed));
            let Some(renamed) = renamed else { return Verdict::Pass };
            let verdict = if renamed.text.is_empty() {
                Verdict::Pass
            } else {
                write_unnamed(rest, &renamed.text, out);
                Verdict::Without(HEADER + head.body)
            };
            self.slots.unnamed.sent_text(renamed.refers());
            return verdict;
        }
        if !complete || self.limit == 0 {
            // It stays under its own name, on this server only.
            let mut leaves = if complete { of_body(rest) } else { Leaves::anything() };
            leaves.hints = leaves.hints.with(Hints::PREPARED);
            self.leaves.add(&leaves);
            self.names.loose.add(&leaves);
            self.counts.client_parses += 1;
            self.counts.server_parses += 1;
            return self.pass(head.tag);
        }
        self.parse_named(name, rest, out)
    }

    fn parse_named(&mut self, name: &[u8], rest: &[u8], out: &mut BytesMut) -> Verdict {
        let front = HEADER + name.len() + 1;
        let statement = match self.look_up(name, out) {
            Found::Unsettled => return Verdict::Stop,
            // Postgres says what is wrong first: the text, or that the name is in use.
            Found::Known(bound) => {
                if !matches!(self.ready(&bound.statement, out), Ready::Yes) {
                    return Verdict::Stop;
                }
                self.counts.client_parses += 1;
                write_parse_front(bound.statement.id, rest.len(), out);
                self.pass_noted(client::PARSE, Note::Again(bound));
                return Verdict::Without(front);
            }
            Found::Unknown if self.names.len() >= NAMES_MAX => return self.fail(full(), out),
            Found::Unknown => match self.catalog.intern(rest, self.reading_there()) {
                Some(statement) if self.is_foreign(statement.leaves.hints) => return Verdict::Stop,
                Some(statement) => statement,
                None => return self.fail(full(), out),
            },
        };
        let known = match self.slots.state(&statement) {
            State::Unsettled => return Verdict::Stop,
            // In an aborted transaction Postgres would refuse it; it has to say so itself.
            State::Ready if !self.progress.earlier_answered() => return Verdict::Stop,
            State::Ready if self.progress.status() == Status::Failed => {
                self.slots.drop_slot(statement.id);
                false
            }
            State::Ready => true,
            State::Absent => false,
        };
        self.counts.client_parses += 1;
        if !known {
            self.make_room(out);
            write_parse_front(statement.id, rest.len(), out);
            self.counts.server_parses += 1;
            self.slots.sent(&statement);
        }
        let (bound, ticket) = self.names.define(name, statement, self.slots.batch);
        let note = Note::Define(bound, ticket, !known);
        if known {
            self.progress.owe_own();
            self.slots.notes.push_back(note);
            return Verdict::Drop;
        }
        self.pass_noted(client::PARSE, note);
        Verdict::Without(front)
    }
}
