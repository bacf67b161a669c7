//! What may end a client's statements on one server, `DEALLOCATE` and `DISCARD`, from when it is sent until it is answered.
//!
//! Postgres ends them when it runs such a text, and for good, whatever becomes of the transaction. Until it is known
//! whether it has, nobody knows what a name stands for, or what the server has.

use std::collections::VecDeque;

/// What a `DEALLOCATE name` ends, if it is a statement of the protocol.
pub type Ended = Option<Ends>;

/// A statement of the protocol that ends.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The client's name for it.
    pub name: Box<[u8]>,
    /// The number of ours that stands in the text.
    pub id: u64,
}

/// So many portals are remembered.
const PORTALS_MAX: usize = 16;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Ending {
    /// One has been sent to be run, and not everything was answered since.
    lurks: bool,
    /// The portals of such texts, by their names, and what a `DEALLOCATE name` among them ends.
    portals: Vec<(Box<[u8]>, Option<Ended>)>,
    /// The `DEALLOCATE name`s that run, with the numbers of their batches.
    running: VecDeque<(u64, Ended)>,
}

impl Ending {
    /// Whether names have to wait for it. `all_answered`: nothing is on its way.
    pub fn lurks(&mut self, all_answered: bool) -> bool {
        self.lurks &= !all_answered;
        self.lurks
    }

    /// A portal of such a text has been bound; `names`: it is a `DEALLOCATE name`, of this statement. False: there are too many of
    /// them to be told apart.
    #[must_use]
    pub fn bound(&mut self, portal: &[u8], names: Option<Ended>) -> bool {
        let room = self.portals.len() < PORTALS_MAX;
        if room {
            self.portals.push((portal.into(), names));
        }
        room
    }

    /// Another portal takes this name, or none.
    pub fn forget_portal(&mut self, portal: &[u8]) {
        if !self.portals.is_empty() {
            self.portals.retain(|(known, _)| **known != *portal);
        }
    }

    /// A portal is executed in the batch with this number.
    pub fn executes(&mut self, portal: &[u8], batch: u64) {
        if self.portals.is_empty() {
            return;
        }
        let Some((_, names)) = self.portals.iter().find(|(known, _)| **known == *portal) else { return };
        self.running.extend(names.clone().map(|ended| (batch, ended)));
        self.lurks = true;
    }

    /// A query is sent that has these `DEALLOCATE name`s in it, and perhaps others.
    pub fn queries(&mut self, all: impl Iterator<Item = Ended>, batch: u64) {
        self.running.extend(all.map(|ended| (batch, ended)));
        self.lurks = true;
    }

    /// A `DEALLOCATE name` has gone through: the statement that it has ended.
    pub fn ended(&mut self) -> Ended {
        self.running.pop_front().and_then(|(_, ended)| ended)
    }

    /// All batches before this one are answered: what of them has not been ended by now will not be.
    pub fn answered(&mut self, batch: u64) {
        while self.running.pop_front_if(|(running, _)| *running < batch).is_some() {}
    }

    /// Nothing is on its way. `idle`: and no transaction is open, which portals do not outlive.
    pub fn rests(&mut self, idle: bool) {
        self.lurks = false;
        if idle && !self.portals.is_empty() {
            self.portals.clear();
        }
    }
}
