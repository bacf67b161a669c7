//! What one server has: prepared statements by their number, the unnamed one, and the notes on requests that are on
//! their way to it.
//!
//! Bounded: the statement that was not used for longest makes room. A statement counts as there when the server has said so;
//! one that is on its way is good in its own batch. What the server may still have and nobody wants is closed
//! with the next request that goes to it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::BytesMut;

use super::catalog::Statement;
use super::ending::Ending;
use super::hints::Hints;
use super::names::{Bound, Ticket, Unnamed as ClientsUnnamed};
use super::replay::Replay;
use super::unnamed::Unnamed;
use super::{Digest, Digesting};
use crate::wire::reply::Report;

/// The beginning of our names for statements; a number follows.
pub const PREFIX: &str = "pglull_";
/// A name of ours that no statement ever has.
pub const NOBODY: u64 = 0;

/// Writes our name for a statement, without the closing zero.
pub fn write_name(id: u64, out: &mut BytesMut) {
    // By hand: it is done for each use, and `write!` takes several times as long.
    let (mut digits, mut from, mut left) = ([0; 20], 20, id);
    while let Some(digit) = digits.get_mut(..from).and_then(<[u8]>::last_mut) {
        *digit = b'0' + (left % 10) as u8;
        (from, left) = (from - 1, left / 10);
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(PREFIX.as_bytes());
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// Whether a client's name would be taken for one of ours.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// How far something on the server is confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Sent in the batch with this number.
    Sent(u64),
    There,
}

/// What is known of a statement's shape on this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Nobody has asked.
    Unknown,
    /// We have asked.
    Asked,
    /// This.
    Known(Digest),
}

#[derive(Debug)]
struct Slot {
    /// What it is, for as long as anybody may ask for it.
    statement: Weak<Statement>,
    stage: Stage,
    /// In which batch it was sent.
    batch: u64,
    generation: u32,
    used: u64,
    shape: Shape,
}

/// Whether the server has a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No, or one that is stale.
    Absent,
    /// Yes, as far as this batch is concerned.
    Ready,
    /// It depends on the outcome of an earlier batch.
    Unsettled,
}

/// What we remember of a request that is on its way, in the order in which they were sent.
#[derive(Debug)]
pub enum Note {
    /// A client's Parse of a new name. True: it was sent on; false: the server has that statement and is not asked.
    Define(Arc<Bound>, Ticket, bool),
    /// A client's Parse of a name that it has in use: Postgres refuses it.
    Again(Arc<Bound>),
    /// A client's Close, kept from the server.
    Undefine(Arc<Bound>, Ticket),
    /// A client's Bind.
    Use(Arc<Bound>),
    /// A client's Describe; `None`: of the unnamed statement.
    Describe(Option<Arc<Bound>>, Digesting),
    /// A client's Describe of the portal that it has just bound.
    Columns(Arc<Bound>, Digesting),
    /// A client's Parse of the unnamed statement; `None`: too long to be remembered.
    Unnamed(Option<ClientsUnnamed>),
    /// A client's Close of the unnamed statement.
    CloseUnnamed,
    /// A client's simple query that ends an unnamed statement.
    Query,
    /// A Parse of ours.
    Prepare(u64),
    /// A Parse or Close of ours for the unnamed statement.
    PrepareUnnamed,
    /// A Close of ours.
    Forget(u64),
    /// A Describe of ours; `None`: of the unnamed statement.
    Shape(Option<u64>, Digesting),
    /// Something of ours that Postgres refuses: the client is told this instead.
    Fail(Box<Report>),
}

/// The portal that was bound last.
#[derive(Debug)]
pub struct Portal {
    /// Its name.
    pub name: Box<[u8]>,
    /// Its statement.
    pub bound: Arc<Bound>,
    /// What its client was told of the result, if it may rely on that: it does unless it asks again before it executes.
    pub relies: Option<Digest>,
}

/// By our number for a statement: nobody else chooses those, so the hash need not withstand anybody.
type ById<T> = std::collections::HashMap<u64, T, foldhash::fast::RandomState>;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Slots {
    slots: ById<Slot>,
    /// The unnamed statement.
    pub unnamed: Unnamed,
    /// What the server may have and nobody wants.
    unwanted: Vec<u64>,
    /// What it was told to forget, with the number of the batch.
    closing: ById<u64>,
    /// What is on its way.
    pub notes: VecDeque<Note>,
    /// What may end statements.
    pub ending: Ending,
    /// The portal that was bound last in this batch, if it is of a statement with a name.
    pub portal: Option<Portal>,
    /// What may have to be sent again.
    pub replay: Replay,
    /// Statements are on their way that a query needs, which waits for them; nothing of its client's stands before them in the batch.
    pub before_query: bool,
    /// The last batch in which a request has gone out whose text changes settings.
    sets: Option<u64>,
    /// Postgres has found a statement to be stale.
    pub found_stale: bool,
    /// The number of the batch that is being sent.
    pub batch: u64,
    tick: u64,
    /// Not all that the server has is known.
    doubtful: bool,
}

impl Slots {
    const fn stage(&self, stage: Stage) -> State {
        match stage {
            Stage::Sent(batch) if batch != self.batch => State::Unsettled,
            Stage::Sent(_) | Stage::There => State::Ready,
        }
    }

    /// Whether the server has the statement; it counts as used now.
    pub fn state(&mut self, statement: &Statement) -> State {
        let Some(slot) = self.slots.get_mut(&statement.id) else {
            // If that Close is skipped, the statement is still there.
            let earlier = self.closing.get(&statement.id).is_some_and(|batch| *batch != self.batch);
            return if earlier { State::Unsettled } else { State::Absent };
        };
        self.tick += 1;
        slot.used = self.tick;
        if slot.stage == Stage::There && slot.generation != statement.generation() {
            self.drop_slot(statement.id);
            return State::Absent;
        }
        let stage = slot.stage;
        self.stage(stage)
    }

    /// Whether the server has it, or will have it, and it is not stale.
    #[must_use]
    pub fn has(&self, statement: &Statement) -> bool {
        self.slots.get(&statement.id).is_some_and(|slot| slot.generation == statement.generation())
    }

    /// A request with these hints is sent.
    pub fn sends(&mut self, hints: Hints) {
        if hints.any_of(Hints::SAYS_SET.with(Hints::SETTINGS)) {
            self.sets = Some(self.batch);
        }
    }

    /// Whether one that changes settings is on its way, where so many batches are not answered to their ends.
    #[must_use]
    pub fn sets(&self, owed: usize) -> bool {
        self.sets.is_some_and(|batch| batch >= self.batch.saturating_sub(owed as u64))
    }

    /// Settings have changed by which literals are read, in the batch that is being answered, before which so many are not: what was
    /// prepared since it began was read by others than we thought.
    pub fn read_otherwise(&mut self, owed: usize) {
        let open = self.batch.saturating_sub(owed as u64);
        let doubtful = self.slots.iter().filter(|(_, slot)| slot.batch >= open).map(|(id, _)| *id).collect::<Vec<_>>();
        doubtful.into_iter().for_each(|id| self.drop_slot(id));
    }

    /// Whether the server has had it since before this batch.
    #[must_use]
    pub fn is_there(&self, statement: &Statement) -> bool {
        let slot = self.slots.get(&statement.id);
        slot.is_some_and(|slot| {
            slot.stage == Stage::There && slot.batch != self.batch && slot.generation == statement.generation()
        })
    }

    /// Nothing is on its way. `idle`: and no transaction is open.
    pub fn rests(&mut self, idle: bool) {
        self.replay.rests();
        self.ending.rests(idle);
    }

    /// A batch has been sent to its end.
    pub fn batch_ends(&mut self) {
        self.batch += 1;
        self.portal = None;
    }

    /// Gives a statement up; what the server has of it is to be closed.
    pub fn drop_slot(&mut self, id: u64) {
        if self.slots.remove(&id).is_some() {
            self.unwanted.push(id);
        }
    }

    /// A Parse for it has been sent.
    pub fn sent(&mut self, statement: &Arc<Statement>) {
        self.tick += 1;
        let slot = Slot {
            statement: Arc::downgrade(statement),
            stage: Stage::Sent(self.batch),
            batch: self.batch,
            generation: statement.generation(),
            used: self.tick,
            shape: Shape::Unknown,
        };
        self.slots.insert(statement.id, slot);
    }

    /// The next statement that the server is to be told to forget: unwanted, or in the way of a new one.
    pub fn next_unwanted(&mut self, limit: usize) -> Option<u64> {
        let id = match self.unwanted.pop() {
            Some(id) => id,
            None if self.slots.len() < limit.max(1) => return None,
            None => {
                // What is on its way in an earlier batch may or may not come to be.
                let known = self.slots.iter().filter(|(_, slot)| self.stage(slot.stage) == State::Ready);
                let id = *known.min_by_key(|(_, slot)| slot.used)?.0;
                self.slots.remove(&id);
                id
            }
        };
        self.closing.insert(id, self.batch);
        Some(id)
    }

    /// The server has confirmed a Parse.
    pub fn parsed(&mut self, id: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.stage = Stage::There;
        }
    }

    /// A Parse has failed or was skipped.
    pub fn not_parsed(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// A `DEALLOCATE` has ended it.
    pub fn ended(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// The server has confirmed a Close.
    pub fn closed(&mut self, id: u64) {
        self.closing.remove(&id);
    }

    /// The server has confirmed every Close.
    pub fn all_closed(&mut self) {
        self.closing.clear();
    }

    /// A Close was skipped, and with it whatever came behind it in its batch.
    pub fn not_closed(&mut self, id: u64) {
        self.closing.remove(&id);
        self.unwanted.push(id);
    }

    /// What is known of the shape; `None`: of the unnamed statement.
    #[must_use]
    pub fn shape(&self, id: Option<u64>) -> Shape {
        match id {
            Some(id) => self.slots.get(&id).map_or(Shape::Unknown, |slot| slot.shape),
            None => self.unnamed.shape(),
        }
    }

    /// We are about to ask for the shape.
    pub fn ask_shape(&mut self, id: Option<u64>) {
        match id {
            Some(_) => self.set_shape(id, Shape::Asked),
            None => self.unnamed.ask_shape(),
        }
    }

    /// The server has answered, or will not answer, a question for the shape.
    pub fn set_shape(&mut self, id: Option<u64>, shape: Shape) {
        match id {
            Some(id) => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.shape = match (slot.shape, shape) {
                        (Shape::Known(known), Shape::Known(told)) => Shape::Known(known.then(told)),
                        (_, shape) => shape,
                    };
                }
            }
            None => self.unnamed.set_shape(shape),
        }
    }

    /// The server has forgotten all that was confirmed.
    pub fn forget_all(&mut self) {
        self.slots.retain(|_, slot| slot.stage != Stage::There);
        self.unwanted.clear();
    }

    /// The statements that were used last, at most so many, the one that was used before all others first.
    #[must_use]
    pub fn hottest(&self, count: usize) -> Vec<Arc<Statement>> {
        let mut slots: Vec<&Slot> = self.slots.values().filter(|slot| slot.stage == Stage::There).collect();
        slots.sort_unstable_by_key(|slot| std::cmp::Reverse(slot.used));
        slots.truncate(count);
        slots.iter().rev().filter_map(|slot| slot.statement.upgrade()).collect()
    }

    /// The schema has changed: what the server has was made from an older one.
    pub fn schema_changed(&mut self) {
        let ids = self.slots.drain().map(|(id, _)| id);
        self.unwanted.extend(ids);
        self.unnamed.forget();
    }

    /// What the server has is not known any more: it has to forget all before anybody else uses it.
    pub fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Nobody waits for what is on its way any more.
    pub fn abandon(&mut self) {
        self.portal = None;
        self.replay.rests();
        self.doubtful |= !self.notes.is_empty();
        self.notes.clear();
        self.ending = Ending::default();
        self.before_query = false;
        self.unnamed.forget();
    }

    /// Whether it is not known what the server has.
    #[must_use]
    pub const fn doubtful(&self) -> bool {
        self.doubtful
    }

    /// The server has forgotten all, confirmed by itself while nothing was on its way.
    pub fn reset(&mut self) {
        self.slots.clear();
        self.unwanted.clear();
        self.closing.clear();
        self.notes.clear();
        self.portal = None;
        self.ending = Ending::default();
        self.replay.rests();
        self.unnamed.forget();
        self.doubtful = false;
    }

    /// How many statements the server has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Catalog;
    use super::*;

    fn statements(n: u8) -> Vec<Arc<Statement>> {
        let catalog = Catalog::new(1 << 20);
        (0..n).map(|i| catalog.intern(&[i], 0).unwrap()).collect()
    }

    #[test]
    fn a_name_is_the_prefix_and_the_number() {
        for id in [0, 7, 10, 4711, u64::MAX] {
            let mut out = BytesMut::new();
            write_name(id, &mut out);
            assert_eq!(out, format!("{PREFIX}{id}"));
            assert!(is_ours(&out));
        }
    }

    #[test]
    fn what_is_on_its_way_is_good_in_its_batch_only() {
        let (all, mut slots) = (statements(1), Slots::default());
        assert_eq!(slots.state(&all[0]), State::Absent);
        slots.sent(&all[0]);
        assert_eq!(slots.state(&all[0]), State::Ready);
        slots.batch += 1;
        assert_eq!(slots.state(&all[0]), State::Unsettled);
        slots.parsed(all[0].id);
        assert_eq!(slots.state(&all[0]), State::Ready);
    }

    #[test]
    fn the_longest_unused_makes_room_but_not_what_is_on_its_way() {
        let (all, mut slots) = (statements(4), Slots::default());
        for statement in &all[..2] {
            slots.sent(statement);
            slots.parsed(statement.id);
        }
        assert_eq!(slots.next_unwanted(3), None);
        slots.sent(&all[2]);
        assert_eq!(slots.state(&all[0]), State::Ready);
        assert_eq!(slots.next_unwanted(3), Some(all[1].id));
        assert_eq!(slots.next_unwanted(3), None);
        slots.sent(&all[3]);
        assert_eq!(slots.next_unwanted(3), Some(all[2].id), "of this batch, and used before the others");
        slots.batch += 1;
        assert_eq!(slots.state(&all[2]), State::Unsettled, "whether it is still there is not known");
        assert_eq!(slots.next_unwanted(2), Some(all[0].id));
        assert_eq!(slots.next_unwanted(1), None, "the other one is on its way");
        slots.not_closed(all[2].id);
        assert_eq!(slots.state(&all[2]), State::Absent);
        assert_eq!(slots.next_unwanted(9), Some(all[2].id));
    }

    #[test]
    fn a_stale_statement_is_closed_and_prepared_anew() {
        let (all, mut slots) = (statements(1), Slots::default());
        slots.sent(&all[0]);
        slots.parsed(all[0].id);
        all[0].went_stale(0);
        assert_eq!(slots.state(&all[0]), State::Absent);
        assert_eq!(slots.next_unwanted(9), Some(all[0].id));
        slots.sent(&all[0]);
        slots.parsed(all[0].id);
        assert_eq!(slots.state(&all[0]), State::Ready);
    }

    #[test]
    fn the_hottest_are_those_that_were_used_last_and_are_still_wanted() {
        let (all, mut slots) = (statements(4), Slots::default());
        for statement in &all {
            slots.sent(statement);
        }
        assert!(slots.hottest(9).is_empty(), "none is confirmed");
        all.iter().take(3).for_each(|statement| slots.parsed(statement.id));
        slots.state(&all[0]);
        let ids = |slots: &Slots, count| slots.hottest(count).iter().map(|hot| hot.id).collect::<Vec<_>>();
        assert_eq!(ids(&slots, 2), [all[2].id, all[0].id]);
        assert_eq!(ids(&slots, 9), [all[1].id, all[2].id, all[0].id]);
        drop(all);
        assert!(slots.hottest(9).is_empty(), "nobody can ask for them any more");
    }

    #[test]
    fn forgetting_all_spares_what_was_sent_behind_it() {
        let (all, mut slots) = (statements(2), Slots::default());
        slots.sent(&all[0]);
        slots.parsed(all[0].id);
        slots.sent(&all[1]);
        slots.forget_all();
        assert_eq!((slots.state(&all[0]), slots.state(&all[1])), (State::Absent, State::Ready));
    }

    #[test]
    fn names_of_ours_are_known() {
        for (name, ours) in [("pglull_12", true), ("pglull_", false), ("pglull_x", false), ("s1", false)] {
            assert_eq!(is_ours(name.as_bytes()), ours, "{name}");
        }
        let mut out = BytesMut::new();
        write_name(NOBODY, &mut out);
        assert!(is_ours(&out));
    }
}
