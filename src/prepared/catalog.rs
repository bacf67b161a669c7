//! Which statements are the same: equal text and equal parameter types, and equal settings by which Postgres reads the literals in
//! it, where there are any (they become constants when it is parsed, and stay what they are). One number for each, never used twice.
//!
//! Statements that no client has a name for stay known while there is room, so that an application that connects,
//! prepares and leaves finds them on the servers again. Room is counted in bytes, names included.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::hints::Leaves;

/// What an entry costs beside its text: itself, its places in the tables, a client's name for it.
const OVERHEAD: usize = 256;
/// How many entries are looked at for one that can go, each time that room is needed.
const LOOK: usize = 256;

/// A statement as Parse carries it.
#[derive(Debug)]
pub struct Statement {
    /// Its number; the name of ours is made from it.
    pub id: u64,
    /// What the text may leave behind on a server.
    pub leaves: Leaves,
    /// By which settings its literals are read, in one number; `None`: it reads the same under all.
    pub reading: Option<u64>,
    body: Box<[u8]>,
    generation: AtomicU32,
}

impl Statement {
    /// Text, closing zero, parameter types: a Parse behind the name.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Which preparation is good: an older one has been found to be stale.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// What it was prepared from has changed: every server has to prepare it anew.
    pub fn went_stale(&self, generation: u32) {
        let _ = self.generation.compare_exchange(
            generation,
            generation.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// Found by its text.
#[derive(Debug)]
struct Key(Arc<Statement>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0.body
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.body == other.0.body
    }
}

impl Eq for Key {}

/// All statements that are known. See the module's text.
#[derive(Debug)]
pub struct Catalog {
    limit: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Option<u64>, HashSet<Key>, foldhash::fast::RandomState>,
    /// The same, in the order in which they are looked at when room is needed.
    order: VecDeque<Arc<Statement>>,
    bytes: usize,
    last: u64,
}

/// References that the tables themselves hold.
const OWN: usize = 2;

impl Catalog {
    /// An empty one, for so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), inner: Mutex::default() }
    }

    /// Another number of bytes. What is known stays known until there is no room for something new.
    pub fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The statement with this body, its literals read by these settings. `None`: there is no room, because clients have names for
    /// all that are known.
    #[must_use]
    pub fn intern(&self, body: &[u8], reading: u64) -> Option<Arc<Statement>> {
        let text = super::string(body).unwrap_or(body);
        let reading = may_have_literals(text).then_some(reading);
        // Plain assignments inside: a panic elsewhere leaves nothing half done.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Key(statement)) = inner.known.get(&reading).and_then(|known| known.get(body)) {
            return Some(Arc::clone(statement));
        }
        let cost = cost(body);
        let limit = self.limit.load(Ordering::Relaxed);
        inner.make_room(limit.saturating_sub(cost));
        if inner.bytes + cost > limit {
            return None;
        }
        inner.last += 1;
        let statement = Arc::new(Statement {
            id: inner.last,
            leaves: Leaves::of_text(text),
            reading,
            body: body.into(),
            generation: AtomicU32::new(0),
        });
        inner.bytes += cost;
        inner.known.entry(reading).or_default().insert(Key(Arc::clone(&statement)));
        inner.order.push_back(Arc::clone(&statement));
        Some(statement)
    }

    /// How many are known, and the bytes that they take.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.order.len(), inner.bytes)
    }
}

impl Inner {
    fn make_room(&mut self, limit: usize) {
        for _ in 0..LOOK.min(self.order.len()) {
            if self.bytes <= limit {
                return;
            }
            let Some(statement) = self.order.pop_front() else { return };
            if Arc::strong_count(&statement) > OWN {
                self.order.push_back(statement);
            } else {
                if let Some(known) = self.known.get_mut(&statement.reading) {
                    known.remove(statement.body());
                    if known.is_empty() {
                        self.known.remove(&statement.reading);
                    }
                }
                self.bytes -= cost(statement.body());
            }
        }
    }
}

/// Whether a text may have a literal that settings say how to read: a quote of any kind, a backslash, or letters of an encoding.
fn may_have_literals(text: &[u8]) -> bool {
    // Without a way out: the compiler looks at many bytes side by side.
    let sign = |byte: &u8| matches!(byte, b'\'' | b'\\' | 0x80..);
    if text.iter().fold(false, |found, byte| found | sign(byte)) {
        return true;
    }
    // `$$` or `$tag$`; a parameter is a number.
    let mut dollars = text.iter().enumerate().filter(|(_, byte)| **byte == b'$');
    dollars.any(|(at, _)| text.get(at + 1).is_some_and(|next| !next.is_ascii_digit()))
}

const fn cost(body: &[u8]) -> usize {
    body.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bodies_are_one_statement() {
        let catalog = Catalog::new(1 << 20);
        let a = catalog.intern(b"select $1\0\0\0", 0).unwrap();
        let b = catalog.intern(b"select $1\0\0\x01\0\0\0\x17", 0).unwrap();
        assert_ne!(a.id, b.id, "other parameter types");
        assert_eq!(catalog.intern(b"select $1\0\0\0", 0).unwrap().id, a.id);
    }

    #[test]
    fn those_without_a_name_make_room_and_numbers_are_never_used_twice() {
        let catalog = Catalog::new(3 * (OVERHEAD + 1));
        let kept = catalog.intern(b"a", 0).unwrap();
        let gone = catalog.intern(b"b", 0).unwrap().id;
        for body in [b"c", b"d", b"e"] {
            assert!(catalog.intern(body, 0).is_some());
            assert!(catalog.size().1 <= 3 * (OVERHEAD + 1));
        }
        assert_eq!(catalog.intern(b"a", 0).unwrap().id, kept.id);
        assert_ne!(catalog.intern(b"b", 0).unwrap().id, gone);
    }

    #[test]
    fn a_full_catalog_says_so() {
        let catalog = Catalog::new(2 * (OVERHEAD + 1));
        let held = [catalog.intern(b"a", 0).unwrap(), catalog.intern(b"b", 0).unwrap()];
        assert!(catalog.intern(b"c", 0).is_none());
        drop(held);
        assert!(catalog.intern(b"c", 0).is_some());
        assert!(catalog.intern(&[0; 4096], 0).is_none(), "larger than all the room");
    }

    #[test]
    fn staleness_is_found_once() {
        let catalog = Catalog::new(1 << 20);
        let statement = catalog.intern(b"a", 0).unwrap();
        statement.went_stale(0);
        statement.went_stale(0);
        assert_eq!(statement.generation(), 1);
    }

    #[test]
    fn literals_are_read_by_settings() {
        let catalog = Catalog::new(4 * (OVERHEAD + 30));
        let id = |text: &[u8], reading| catalog.intern(text, reading).unwrap().id;
        for text in
            [&b"select '1/2/2024'::date"[..], b"select $a$x$a$", b"select $$x$$", b"select \"\xc3\xa9\"", b"e\\"]
        {
            assert_ne!(id(text, 1), id(text, 2), "{}", text.escape_ascii());
            assert_eq!(id(text, 2), id(text, 2), "{}", text.escape_ascii());
        }
        for text in [&b"select $1::date, $2"[..], b"select \"a\" + 7"] {
            assert_eq!(id(text, 1), id(text, 2), "{}", text.escape_ascii());
        }
    }
}
