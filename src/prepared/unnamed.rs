//! The unnamed statement of one server: whose it is, and what is on its way to change it.
//!
//! Each change is answered, refused or skipped in the order in which it was sent, so a queue tells at every moment what
//! the server has and what it will have.

use std::collections::VecDeque;

use super::slots::{Shape, State};
use crate::ids::SessionId;

/// One client's unnamed statement.
#[derive(Debug)]
struct Statement {
    client: SessionId,
    /// Of all that the client has had; its [`Names`](super::names::Names) count them.
    version: u64,
    shape: Shape,
    /// The client has sent it to another server; here it was put by us.
    ours: bool,
    refers: Option<Box<Refers>>,
}

/// What the text does with other prepared statements.
#[derive(Debug)]
pub struct Refers {
    /// The name in it, as the client knows it, and the number of ours that stands there on this server; `None`: the name itself.
    pub name: Option<(Box<[u8]>, Option<u64>)>,
    /// It may end statements: the one that it names, or all.
    pub ends: bool,
}

#[derive(Debug)]
struct Change {
    batch: u64,
    /// `None`: a simple query, which leaves none.
    to: Option<Statement>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Unnamed {
    settled: Option<Statement>,
    moving: VecDeque<Change>,
}

impl Unnamed {
    /// Whether it is, for the batch with this number, this version of this client's.
    #[must_use]
    pub fn state(&self, client: SessionId, version: u64, batch: u64) -> State {
        if !self.last().is_some_and(|last| last.client == client && last.version == version) {
            return State::Absent;
        }
        match self.moving.back() {
            Some(change) if change.batch != batch => State::Unsettled,
            _ => State::Ready,
        }
    }

    /// What it will be, as far as is known.
    fn last(&self) -> Option<&Statement> {
        self.moving.back().map_or(self.settled.as_ref(), |change| change.to.as_ref())
    }

    fn last_mut(&mut self) -> Option<&mut Statement> {
        match self.moving.back_mut() {
            Some(change) => change.to.as_mut(),
            None => self.settled.as_mut(),
        }
    }

    /// Whether a change is on its way.
    #[must_use]
    pub fn moves(&self) -> bool {
        !self.moving.is_empty()
    }

    /// Whether it was put there by us, in a client's name.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.last().is_some_and(|last| last.ours)
    }

    /// What its text does with other statements, if anything.
    #[must_use]
    pub fn refers(&self) -> Option<&Refers> {
        self.last().and_then(|last| last.refers.as_deref())
    }

    /// What is known of its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.last().map_or(Shape::Unknown, |last| last.shape)
    }

    /// We are about to ask for its shape.
    pub fn ask_shape(&mut self) {
        if let Some(last) = self.last_mut() {
            last.shape = Shape::Asked;
        }
    }

    /// The server has answered, or will not answer, a question for the shape.
    pub fn set_shape(&mut self, shape: Shape) {
        if let Some(settled) = &mut self.settled {
            settled.shape = shape;
        }
    }

    /// A change has been sent in this batch that makes it this client's. `ours`: the client has sent it to another server.
    pub fn sent(&mut self, (client, version): (SessionId, u64), ours: bool, batch: u64) {
        let to = Some(Statement { client, version, shape: Shape::Unknown, ours, refers: None });
        self.moving.push_back(Change { batch, to });
    }

    /// What was sent last does this with other statements.
    pub fn sent_text(&mut self, refers: Option<Box<Refers>>) {
        if let Some(last) = refers.as_ref().and(self.last_mut()) {
            last.refers = refers;
        }
    }

    /// A simple query has been sent, which ends it. `noted`: its answer will be told.
    pub fn sent_query(&mut self, noted: bool, batch: u64) {
        if noted {
            self.moving.push_back(Change { batch, to: None });
        } else {
            self.settled = None;
        }
    }

    /// The server has dealt with the next change.
    pub fn done(&mut self) {
        self.settled = self.moving.pop_front().and_then(|change| change.to);
    }

    /// The server has skipped the next change. What the client had before it stays, and counts as the version that the change would
    /// have made; if what is here is an older one still, it stays that.
    pub fn skipped(&mut self) {
        let skipped = self.moving.pop_front().and_then(|change| change.to);
        if let (Some(settled), Some(skipped)) = (&mut self.settled, skipped)
            && settled.client == skipped.client
            && settled.version + 1 == skipped.version
        {
            settled.version = skipped.version;
        }
    }

    /// The server has refused or skipped what we have sent in a client's name.
    pub fn lost(&mut self) {
        self.moving.pop_front();
        self.settled = None;
    }

    /// The server has it no more, and nothing is on its way.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    fn settled(client: SessionId, version: u64) -> Unnamed {
        let mut unnamed = Unnamed::default();
        unnamed.sent((client, version), false, 0);
        unnamed.done();
        unnamed
    }

    #[test]
    fn it_is_one_clients() {
        let unnamed = settled(ONE, 7);
        assert_eq!(unnamed.state(ONE, 7, 1), State::Ready);
        assert_eq!(unnamed.state(ONE, 8, 1), State::Absent);
        assert_eq!(unnamed.state(TWO, 7, 1), State::Absent);
    }

    #[test]
    fn what_is_on_its_way_is_good_in_its_batch_only() {
        let mut unnamed = settled(ONE, 1);
        unnamed.sent((ONE, 2), false, 5);
        assert_eq!((unnamed.state(ONE, 2, 5), unnamed.state(ONE, 2, 6)), (State::Ready, State::Unsettled));
    }

    #[test]
    fn a_skipped_change_leaves_the_one_before() {
        let mut unnamed = settled(ONE, 1);
        unnamed.sent((ONE, 2), false, 1);
        unnamed.sent_query(true, 1);
        unnamed.skipped();
        assert!(unnamed.moves());
        unnamed.skipped();
        assert_eq!((unnamed.state(ONE, 2, 2), unnamed.moves()), (State::Ready, false));
    }

    #[test]
    fn a_query_that_is_skipped_behind_a_parse_that_is_not_leaves_that() {
        let mut unnamed = Unnamed::default();
        unnamed.sent((ONE, 1), false, 1);
        unnamed.sent_query(true, 1);
        unnamed.done();
        unnamed.skipped();
        assert_eq!(unnamed.state(ONE, 1, 2), State::Ready);
    }

    #[test]
    fn one_of_ours_that_is_lost_does_not_take_a_later_one_with_it() {
        let mut unnamed = settled(TWO, 1);
        unnamed.sent((ONE, 1), true, 1);
        unnamed.sent((ONE, 2), false, 2);
        unnamed.lost();
        assert_eq!(unnamed.state(ONE, 2, 2), State::Ready);
        unnamed.skipped();
        assert_eq!(unnamed.state(ONE, 2, 3), State::Absent, "what was before is not known");
    }

    #[test]
    fn an_older_one_stays_the_older_one() {
        // The client's second was sent to another server.
        let mut unnamed = settled(ONE, 1);
        unnamed.sent_query(true, 1);
        unnamed.skipped();
        assert_eq!(unnamed.state(ONE, 2, 2), State::Absent);
        unnamed.sent((ONE, 3), false, 2);
        unnamed.skipped();
        assert_eq!(unnamed.state(ONE, 3, 3), State::Absent);
    }
}
