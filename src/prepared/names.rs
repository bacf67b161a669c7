//! The statement names that a client has given, as Postgres would see them at this point of the client's stream.
//!
//! What is confirmed holds for good; what is on its way holds in its own batch: an error there would skip it, and
//! then a later batch must find what was before.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::{Arc, Mutex, PoisonError};

use super::Digest;
use super::catalog::Statement;
use super::hints::Leaves;

/// Postgres looks statements up by so many bytes of their names (`NAMEDATALEN` - 1; `prepared_queries` in `prepare.c`).
const NAME_MAX: usize = 63;

/// A name and the statement that it stands for.
#[derive(Debug)]
pub struct Bound {
    /// As the client wrote it, cut as Postgres would.
    pub name: Box<[u8]>,
    /// The statement.
    pub statement: Arc<Statement>,
    told: Mutex<Option<Digest>>,
}

impl Bound {
    /// What the client was last told of the statement's shape, or of a portal of it, if it asked.
    #[must_use]
    pub fn told(&self) -> Option<Digest> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the client has been told.
    pub fn tell(&self, digest: Digest) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Some(told.map_or(digest, |told| told.then(digest)));
    }
}

/// The unnamed statement of a client.
#[derive(Debug)]
pub struct Unnamed {
    /// A Parse behind the name. Shared: most clients send the same one again and again.
    pub body: Arc<[u8]>,
    /// What it may leave on a server.
    pub leaves: Leaves,
    /// What the client was last told of its shape.
    pub told: Option<Digest>,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing that the client has given in the protocol.
    Unknown,
    /// This.
    Known(Arc<Bound>),
    /// It depends on the outcome of a batch that is on its way: ask again when that is answered.
    Unsettled,
}

#[derive(Debug, Default)]
struct Entry {
    settled: Option<Arc<Bound>>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    batch: u64,
    ticket: Ticket,
    bound: Option<Arc<Bound>>,
}

/// A change that is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

/// All names of a client. See the module's text.
#[derive(Debug, Default)]
pub struct Names {
    /// In order, not hashed: most clients have a few, no choice of names is a bad one, and it takes less room.
    named: BTreeMap<Box<[u8]>, Entry>,
    /// The unnamed statement, as far as it is confirmed.
    pub unnamed: Option<Unnamed>,
    /// Counts the changes of the unnamed statement: on a server it is this client's if the number is the same.
    pub version: u64,
    /// What the statements may leave that stand under their own names on the client's server.
    pub loose: Leaves,
    last: u64,
}

impl Names {
    /// What `name` stands for in the batch with this number.
    #[must_use]
    pub fn find(&self, name: &[u8], batch: u64) -> Found {
        let Some(entry) = self.named.get(cut(name)) else { return Found::Unknown };
        let bound = match &entry.pending {
            Some(pending) if pending.batch == batch => &pending.bound,
            Some(_) => return Found::Unsettled,
            None => &entry.settled,
        };
        bound.as_ref().map_or(Found::Unknown, |bound| Found::Known(Arc::clone(bound)))
    }

    /// What stands behind the empty name in a Parse, to be kept: if that is what is kept already, no second time.
    #[must_use]
    pub fn shared(&self, body: &[u8]) -> Arc<[u8]> {
        let known = self.unnamed.as_ref().map(|unnamed| &unnamed.body);
        known.filter(|known| ***known == *body).map_or_else(|| body.into(), Arc::clone)
    }

    /// A Parse of `name` is on its way.
    pub fn define(&mut self, name: &[u8], statement: Arc<Statement>, batch: u64) -> (Arc<Bound>, Ticket) {
        let bound = Arc::new(Bound { name: cut(name).into(), statement, told: Mutex::default() });
        let ticket = self.change(name, batch, Some(Arc::clone(&bound)));
        (bound, ticket)
    }

    /// From here on the name stands for another preparation of the same text.
    pub fn rebind(&mut self, bound: &Arc<Bound>, statement: Arc<Statement>) -> Arc<Bound> {
        let new = Bound { name: bound.name.clone(), statement, told: Mutex::new(bound.told()) };
        let new = Arc::new(new);
        if let Some(entry) = self.named.get_mut(&bound.name) {
            let places = [Some(&mut entry.settled), entry.pending.as_mut().map(|pending| &mut pending.bound)];
            for place in places.into_iter().flatten().flatten().filter(|place| Arc::ptr_eq(place, bound)) {
                *place = Arc::clone(&new);
            }
        }
        new
    }

    /// A Close of `name` is on its way.
    pub fn undefine(&mut self, name: &[u8], batch: u64) -> Ticket {
        self.change(name, batch, None)
    }

    /// A number that none of its changes has.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn change(&mut self, name: &[u8], batch: u64, bound: Option<Arc<Bound>>) -> Ticket {
        let ticket = Ticket(self.next_number());
        let entry = self.named.entry(cut(name).into()).or_default();
        entry.pending = Some(Pending { batch, ticket, bound });
        ticket
    }

    /// A change was confirmed: `name` stands for `bound`, or for nothing.
    pub fn confirm(&mut self, name: &[u8], ticket: Ticket, bound: Option<Arc<Bound>>) {
        self.settle(name, ticket, Some(bound));
    }

    /// A change did not happen.
    pub fn void(&mut self, name: &[u8], ticket: Ticket) {
        self.settle(name, ticket, None);
    }

    fn settle(&mut self, name: &[u8], ticket: Ticket, outcome: Option<Option<Arc<Bound>>>) {
        let MapEntry::Occupied(mut place) = self.named.entry(cut(name).into()) else { return };
        let entry = place.get_mut();
        if let Some(bound) = outcome {
            entry.settled = bound;
        }
        if entry.pending.as_ref().is_some_and(|pending| pending.ticket == ticket) {
            entry.pending = None;
        }
        if entry.settled.is_none() && entry.pending.is_none() {
            place.remove();
        }
    }

    /// A `DEALLOCATE` has ended what this name stands for.
    pub fn forget(&mut self, name: &[u8]) {
        self.named.remove(cut(name));
    }

    /// `DEALLOCATE ALL` or `DISCARD ALL` has gone through: what is confirmed is gone, what is on its way stands behind it.
    pub fn forget_all(&mut self) {
        self.named.retain(|_, entry| {
            entry.settled = None;
            entry.pending.is_some()
        });
    }

    /// All names, and what they stand for; `None` while that depends on a batch that is on its way.
    #[must_use]
    pub fn settled(&self) -> Option<Vec<&Arc<Bound>>> {
        self.named.values().map(|entry| entry.settled.as_ref().filter(|_| entry.pending.is_none())).collect()
    }

    /// A name that the client has given to another process of ours, and what it was told there of its shape.
    pub fn restore(&mut self, name: &[u8], statement: Arc<Statement>, told: Option<Digest>) {
        let bound = Bound { name: cut(name).into(), statement, told: Mutex::new(told) };
        let entry = Entry { settled: Some(Arc::new(bound)), pending: None };
        self.named.insert(cut(name).into(), entry);
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Catalog;
    use super::*;

    fn id(found: &Found) -> Option<u64> {
        match found {
            Found::Known(bound) => Some(bound.statement.id),
            Found::Unknown => None,
            Found::Unsettled => Some(0),
        }
    }

    #[test]
    fn a_name_is_good_in_its_batch_at_once_and_later_when_confirmed() {
        let (catalog, mut names) = (Catalog::new(1 << 20), Names::default());
        let statement = catalog.intern(b"one", 0).unwrap();
        let (bound, ticket) = names.define(b"s", Arc::clone(&statement), 1);
        assert_eq!(id(&names.find(b"s", 1)), Some(1));
        assert!(matches!(names.find(b"s", 2), Found::Unsettled));
        names.confirm(b"s", ticket, Some(bound));
        assert_eq!(id(&names.find(b"s", 2)), Some(1));
        // A Close that is skipped leaves the name as it was.
        let ticket = names.undefine(b"s", 3);
        assert!(matches!(names.find(b"s", 3), Found::Unknown));
        assert!(matches!(names.find(b"s", 4), Found::Unsettled));
        names.void(b"s", ticket);
        assert_eq!(id(&names.find(b"s", 4)), Some(1));
        let ticket = names.undefine(b"s", 5);
        names.confirm(b"s", ticket, None);
        assert!(names.is_empty());
    }

    #[test]
    fn a_later_change_outlives_the_failure_of_an_earlier_one() {
        let (catalog, mut names) = (Catalog::new(1 << 20), Names::default());
        let (_, first) = names.define(b"s", catalog.intern(b"one", 0).unwrap(), 1);
        let (bound, second) = names.define(b"s", catalog.intern(b"two", 0).unwrap(), 2);
        names.void(b"s", first);
        assert_eq!(id(&names.find(b"s", 2)), Some(2));
        names.confirm(b"s", second, Some(bound));
        assert_eq!(id(&names.find(b"s", 9)), Some(2));
    }

    #[test]
    fn forgetting_all_spares_what_is_on_its_way() {
        let (catalog, mut names) = (Catalog::new(1 << 20), Names::default());
        let (bound, ticket) = names.define(b"old", catalog.intern(b"one", 0).unwrap(), 1);
        names.confirm(b"old", ticket, Some(bound));
        let (bound, ticket) = names.define(b"new", catalog.intern(b"two", 0).unwrap(), 2);
        names.forget_all();
        assert!(matches!(names.find(b"old", 2), Found::Unknown));
        names.confirm(b"new", ticket, Some(bound));
        assert_eq!(id(&names.find(b"new", 3)), Some(2));
        let ticket = names.undefine(b"new", 3);
        names.confirm(b"new", ticket, None);
        assert!(names.is_empty());
    }

    #[test]
    fn names_are_cut_as_postgres_cuts_them() {
        let (catalog, mut names) = (Catalog::new(1 << 20), Names::default());
        let long = [b'x'; 80];
        let (bound, ticket) = names.define(&long, catalog.intern(b"one", 0).unwrap(), 1);
        names.confirm(&long, ticket, Some(bound));
        assert_eq!(id(&names.find(&long[..63], 2)), Some(1));
        assert!(matches!(names.find(&long[..62], 2), Found::Unknown));
    }
}
