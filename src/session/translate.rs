//! A client's requests as its server has to get them, where prepared statements are concerned.
//!
//! Pure: it is given what has arrived of a message and says what goes out instead. Names become ours, a statement that
//! the server lacks is prepared before it is used, one that it has is not prepared again. Nothing is moved and no Sync
//! is added (but to end a batch that Postgres has refused: [`replay`](crate::prepared::replay)); where what to do depends on an answer that is on its way, the message waits for it. What a client is
//! told is Postgres' own: an error that only we know of is caused on the server too, so that its transaction fails as
//! the client's does.

mod parse;
mod portal;
mod reading;
mod rename;
mod unnamed;

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use self::portal::Relies;
pub(super) use self::reading::Reading;
use super::messages::{
    Target, changed, is_large_object, target, write_bind_front, write_head, write_parse_front, write_target,
};
use crate::ids::SessionId;
use crate::prepared::catalog::{Catalog, Statement};
use crate::prepared::hints::{Hints, Leaves};
use crate::prepared::names::{Found, Names};
use crate::prepared::slots::{self, Note, Shape, Slots, State};
use crate::prepared::{Digest, Digesting, string};
use crate::server::progress::{Progress, Status};
use crate::wire::frame::{HEADER, Header, Verdict};
use crate::wire::reply::Report;
use crate::wire::tags::client;

/// The longest statement that is remembered. A longer one that has a name keeps its client on its server.
pub(super) const STATEMENT_MAX: usize = 1 << 20;
/// Names and the like are looked for in so many bytes at the front of a message; behind that Postgres is left to judge.
const FRONT_MAX: usize = 60_000;

/// The most names that a client may have given at a time.
const NAMES_MAX: usize = 1 << 17;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) client_parses: u64,
    pub(super) server_parses: u64,
    pub(super) binds: u64,
}

/// Everything that a request is judged by. See the module's text.
pub(super) struct Translate<'a> {
    pub(super) names: &'a mut Names,
    pub(super) slots: &'a mut Slots,
    pub(super) progress: &'a mut Progress,
    pub(super) catalog: &'a Catalog,
    /// By which settings the client's literals are read.
    pub(super) reading: Reading<'a>,
    pub(super) client: SessionId,
    /// The most statements on one server.
    pub(super) limit: usize,
    pub(super) leaves: &'a mut Leaves,
    pub(super) counts: &'a mut Counts,
    /// Nothing of this client's was sent to this server since another client had it.
    pub(super) fresh: bool,
    /// The client has asked for the last values of sequences before, and here others may have left some.
    pub(super) asks_sequences: bool,
    /// No number of another client's can be here, or one of its own may be.
    pub(super) may_ask: bool,
    /// Set where the server first has to forget what such a client may have left.
    pub(super) errand: &'a mut bool,
}

/// Whether what a request refers to is on the server.
enum Ready {
    Yes,
    /// Ask again after the next answer.
    Wait,
    /// It is, and its shape is not the one that the client was told.
    Changed,
}

impl Translate<'_> {
    /// Judges the message; what goes out before it is written to `out`.
    pub(super) fn judge(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        if self.progress.at_rest() {
            self.slots.rests(self.progress.status() == Status::Idle);
        }
        let verdict = self.judge_one(head, body, out);
        if !matches!(verdict, Verdict::Whole | Verdict::Stop) {
            self.slots.replay.sent(head, body);
        }
        verdict
    }

    fn judge_one(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        if self.progress.owes_much() {
            if self.progress.listens() {
                self.hurry(out);
            }
            return Verdict::Stop;
        }
        if !self.progress.listens() {
            if head.tag == client::QUERY && std::mem::take(&mut self.slots.before_query) {
                // What was sent for it was refused, and that is its answer.
                return self.end_in_its_place(head, out);
            }
            self.progress.sent(head.tag);
            if head.tag == client::SYNC {
                self.slots.batch_ends();
            }
            return Verdict::Pass;
        }
        match head.tag {
            client::PARSE => self.parse(head, body, out),
            client::BIND => self.bind(head, body, out),
            client::DESCRIBE => self.describe(head, body, out),
            client::CLOSE => self.close(head, body, out),
            client::QUERY => self.query(head, body, out),
            client::SYNC | client::FUNCTION_CALL => {
                if head.tag == client::FUNCTION_CALL && !is_large_object(body) {
                    self.leaves.add(&Leaves::anything());
                }
                self.progress.sent(head.tag);
                self.slots.batch_ends();
                Verdict::Pass
            }
            client::EXECUTE => self.execute(head, body, out),
            tag => self.pass(tag),
        }
    }

    fn pass(&mut self, tag: u8) -> Verdict {
        self.progress.sent(tag);
        Verdict::Pass
    }

    fn pass_noted(&mut self, tag: u8, note: Note) {
        self.progress.sent_noted(tag);
        self.slots.notes.push_back(note);
    }

    fn bind(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let portal = string(body);
        let name = portal.and_then(|portal| string(body.get(portal.len() + 1..)?));
        let (Some(portal), Some(name)) = (portal, name) else {
            let hopeless = body.len() == head.body || body.len() > FRONT_MAX;
            return if hopeless { self.pass(head.tag) } else { Verdict::Whole };
        };
        // Whatever it was of before: it is what comes now.
        self.forget_portal(portal);
        if name.is_empty() {
            let verdict = self.use_unnamed(true, out);
            if verdict == Verdict::Pass {
                self.counts.binds += 1;
                self.progress.sent(head.tag);
                self.binds_unnamed(portal);
            }
            return verdict;
        }
        let front = HEADER + portal.len() + 1 + name.len() + 1;
        let bound = match self.find(name, out) {
            Found::Unsettled => return Verdict::Stop,
            Found::Unknown if slots::is_ours(name) => {
                self.counts.binds += 1;
                write_bind_front((head, slots::NOBODY), portal, HEADER + head.body - front, out);
                self.progress.sent(head.tag);
                return Verdict::Without(front);
            }
            Found::Unknown => {
                self.leaves.add(&self.names.loose);
                return self.pass(head.tag);
            }
            Found::Known(bound) => bound,
        };
        if self.is_foreign(bound.statement.leaves.hints) {
            return Verdict::Stop;
        }
        if !matches!(self.ready(&bound.statement, out), Ready::Yes) {
            return Verdict::Stop;
        }
        let rest = body.get(front - HEADER..).unwrap_or_default();
        let later = match self.relies(&bound, rest, HEADER + head.body - front) {
            Relies::Nothing => None,
            Relies::Later(told) => Some(told),
            Relies::More => return Verdict::Whole,
            Relies::Now(told) => match self.shape_anew(&bound.statement, told, out) {
                Ready::Wait => return Verdict::Stop,
                Ready::Changed => return self.fail(changed(), out),
                Ready::Yes => None,
            },
        };
        self.uses(&bound.statement);
        self.leaves.add(&bound.statement.leaves);
        self.slots.sends(bound.statement.leaves.hints);
        if bound.statement.leaves.hints.any_of(Hints::NAMES) {
            self.binds_text(portal, string(bound.statement.body()).unwrap_or_default());
        }
        self.counts.binds += 1;
        write_bind_front((head, bound.statement.id), portal, HEADER + head.body - front, out);
        self.binds(portal, &bound, later);
        self.pass_noted(head.tag, Note::Use(bound));
        Verdict::Without(front)
    }

    /// A use of the statement is sent, perhaps to be sent again if it turns out to be stale. Inside a transaction block it cannot be:
    /// the block has failed then.
    fn uses(&mut self, statement: &Statement) {
        let alone = self.progress.earlier_answered() && self.progress.status() == Status::Idle;
        if alone && self.slots.is_there(statement) {
            self.slots.replay.uses();
        }
    }

    fn describe(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let name = match target(head, body) {
            Target::Statement(name) => name,
            Target::Portal(name) => return self.describe_portal(name),
            Target::Other => return self.pass(head.tag),
            Target::More => return Verdict::Whole,
        };
        if name.is_empty() {
            let verdict = self.use_unnamed(false, out);
            if verdict == Verdict::Pass {
                self.pass_noted(head.tag, Note::Describe(None, Digesting::default()));
            }
            return verdict;
        }
        let (id, note) = match self.find(name, out) {
            Found::Unsettled => return Verdict::Stop,
            Found::Unknown if slots::is_ours(name) => (slots::NOBODY, None),
            Found::Unknown => return self.pass(head.tag),
            Found::Known(bound) if self.is_foreign(bound.statement.leaves.hints) => return Verdict::Stop,
            Found::Known(bound) => {
                if !matches!(self.ready(&bound.statement, out), Ready::Yes) {
                    return Verdict::Stop;
                }
                self.uses(&bound.statement);
                (bound.statement.id, Some(Note::Describe(Some(bound), Digesting::default())))
            }
        };
        write_target(client::DESCRIBE, Some(id), out);
        match note {
            Some(note) => self.pass_noted(head.tag, note),
            None => self.progress.sent(head.tag),
        }
        Verdict::Without(HEADER + head.body)
    }

    fn close(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let name = match target(head, body) {
            Target::Statement(name) => name,
            Target::Portal(portal) => {
                self.forget_portal(portal);
                return self.pass(head.tag);
            }
            Target::Other => return self.pass(head.tag),
            Target::More => return Verdict::Whole,
        };
        if name.is_empty() {
            self.names.version += 1;
            self.slots.unnamed.sent((self.client, self.names.version), false, self.slots.batch);
            self.pass_noted(head.tag, Note::CloseUnnamed);
            return Verdict::Pass;
        }
        match self.look_up(name, out) {
            Found::Unsettled => Verdict::Stop,
            Found::Unknown if slots::is_ours(name) => {
                write_target(client::CLOSE, Some(slots::NOBODY), out);
                self.progress.sent(head.tag);
                Verdict::Without(HEADER + head.body)
            }
            Found::Unknown => self.pass(head.tag),
            // The server keeps it, for others and for later.
            Found::Known(bound) => {
                let ticket = self.names.undefine(name, self.slots.batch);
                self.progress.owe_own();
                self.slots.notes.push_back(Note::Undefine(bound, ticket));
                Verdict::Drop
            }
        }
    }

    fn query(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let complete = body.len() == head.body;
        if !complete && head.body <= FRONT_MAX {
            return Verdict::Whole;
        }
        let leaves = if complete { Leaves::of_text(body) } else { Leaves::anything() };
        if self.is_foreign(leaves.hints) {
            return Verdict::Stop;
        }
        let mut renamed = None;
        if leaves.hints.any_of(Hints::NAMES) {
            let Some(named) = self.rename_query(body, out) else { return Verdict::Stop };
            renamed = Some(self.queries(*named)).filter(|text| !text.is_empty());
        }
        if !complete {
            // It may do anything.
            self.slots.ending.queries(std::iter::empty(), self.slots.batch);
        }
        self.leaves.add(&leaves);
        self.slots.sends(leaves.hints);
        let ends_unnamed = self.names.unnamed.is_some() || self.slots.unnamed.moves();
        if ends_unnamed {
            self.pass_noted(head.tag, Note::Query);
        } else {
            self.progress.sent(head.tag);
        }
        self.slots.unnamed.sent_query(ends_unnamed, self.slots.batch);
        self.slots.batch_ends();
        let Some(text) = renamed else { return Verdict::Pass };
        write_head(client::QUERY, text.len(), out);
        out.put_slice(&text);
        Verdict::Without(HEADER + head.body)
    }

    /// Whether it asks for what another client may have left in this session, before this one can have left any itself: the
    /// server has to forget that first, or the answers before have to be there.
    fn is_foreign(&mut self, hints: Hints) -> bool {
        let asks = hints.any_of(Hints::SEQUENCES);
        let foreign = (self.fresh && (self.asks_sequences || asks)) || (asks && !self.may_ask);
        if !foreign || self.progress.is_unsynced() || self.progress.status() == Status::Failed {
            return false;
        }
        *self.errand |= self.progress.at_rest();
        true
    }

    /// Sees to it that the server has a statement.
    fn ready(&mut self, statement: &Arc<Statement>, out: &mut BytesMut) -> Ready {
        match self.slots.state(statement) {
            State::Unsettled => return Ready::Wait,
            State::Ready => {}
            State::Absent => {
                self.make_room(out);
                write_parse_front(statement.id, statement.body().len(), out);
                out.put_slice(statement.body());
                self.counts.server_parses += 1;
                self.slots.sent(statement);
                self.pass_noted(client::PARSE, Note::Prepare(statement.id));
            }
        }
        Ready::Yes
    }

    /// Compares the shape of what is on the server with what the client was told.
    fn shape(&mut self, id: Option<u64>, told: Option<Digest>, out: &mut BytesMut) -> Ready {
        let Some(told) = told else { return Ready::Yes };
        if self.progress.earlier_answered() && self.progress.status() == Status::Failed {
            // Postgres refuses it for that.
            return Ready::Yes;
        }
        let known = match self.slots.shape(id) {
            Shape::Known(there) => told.holds(there),
            Shape::Asked => return Ready::Wait,
            Shape::Unknown => None,
        };
        match known {
            Some(true) => Ready::Yes,
            Some(false) => Ready::Changed,
            None => {
                write_target(client::DESCRIBE, id, out);
                self.slots.ask_shape(id);
                self.pass_noted(client::DESCRIBE, Note::Shape(id, Digesting::default()));
                out.put_slice(&[client::FLUSH, 0, 0, 0, 4]);
                self.progress.sent(client::FLUSH);
                Ready::Wait
            }
        }
    }

    /// Makes the server forget what is in the way.
    fn make_room(&mut self, out: &mut BytesMut) {
        while let Some(id) = self.slots.next_unwanted(self.limit) {
            write_target(client::CLOSE, Some(id), out);
            self.pass_noted(client::CLOSE, Note::Forget(id));
        }
    }

    /// Sends something that the server refuses in the message's place.
    fn fail(&mut self, report: Report, out: &mut BytesMut) -> Verdict {
        write_target(client::DESCRIBE, Some(slots::NOBODY), out);
        self.pass_noted(client::DESCRIBE, Note::Fail(Box::new(report)));
        Verdict::Drop
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
