//! Texts that name or end statements of the protocol: `DEALLOCATE name`, `EXECUTE name`, `DISCARD ALL` and their like. The only
//! place where a text is changed.

use bytes::{BufMut, BytesMut};

use super::{Ready, Translate};
use crate::prepared::ending::{Ended, Ends};
use crate::prepared::names::Found;
use crate::prepared::slots;
use crate::prepared::unnamed::Refers;
use crate::prepared::uses::{Named, Uses};
use crate::wire::frame::{HEADER, Header, Verdict};
use crate::wire::tags::client;

/// A text as it goes to a server.
#[derive(Default)]
pub(super) struct Renamed {
    /// The text with our names where it names statements of the protocol; empty if it does not.
    pub(super) text: BytesMut,
    /// What it names.
    named: Vec<(Named, StandIn)>,
    ends: bool,
}

/// The number of ours that is written in the place of a name; `None`: the name itself.
type StandIn = Option<u64>;

/// Statements without a text, as Parse carries them: one for each number of spaces.
const EMPTY: &[u8] = b"               \0\0\0";

/// One of them, which can always be prepared.
fn empty(number: usize) -> Option<&'static [u8]> {
    EMPTY.get(EMPTY.len().checked_sub(3 + number)?..)
}

impl Renamed {
    /// What is to be known of it as the unnamed statement.
    pub(super) fn refers(self) -> Option<Box<Refers>> {
        let name = self.named.into_iter().next().map(|(named, id)| (named.name.into(), id));
        (name.is_some() || self.ends).then(|| Box::new(Refers { name, ends: self.ends }))
    }
}

impl Translate<'_> {
    /// What a name of the client's stands for. While something is on its way that may end it, that is not known before the
    /// server has answered.
    pub(super) fn look_up(&mut self, name: &[u8], out: &mut BytesMut) -> Found {
        if self.slots.ending.lurks(self.progress.all_answered()) {
            self.hurry(out);
            return Found::Unsettled;
        }
        self.names.find(name, self.slots.batch)
    }

    /// Somebody waits for the answers to what has been sent, and there may be no Sync behind it.
    pub(super) fn hurry(&mut self, out: &mut BytesMut) {
        if self.progress.hurries() {
            out.put_slice(&[client::FLUSH, 0, 0, 0, 4]);
        }
    }

    /// A text that [may name statements](crate::prepared::hints::Hints::NAMES), with our names in it. `None`: ask again later. Boxed, as it is seldom: it would
    /// be moved and dropped with every other text.
    pub(super) fn rename(&mut self, text: &[u8], out: &mut BytesMut) -> Option<Box<Renamed>> {
        let mut renamed = Box::<Renamed>::default();
        let uses = Uses::of(text);
        renamed.ends = uses.ends;
        let mut from = 0;
        for named in uses.named {
            let earlier = || renamed.named.iter().map(|(earlier, _)| earlier).filter(|earlier| earlier.ends);
            let id = if earlier().any(|earlier| earlier.name == named.name) {
                None
            } else {
                let ends = named.ends.then(|| earlier().count());
                self.stand_in(&named.name, ends, out)?
            };
            if let Some(id) = id {
                renamed.text.put_slice(text.get(from..named.place.start).unwrap_or_default());
                slots::write_name(id, &mut renamed.text);
                from = named.place.end;
            }
            renamed.named.push((named, id));
        }
        if from > 0 {
            renamed.text.put_slice(text.get(from..).unwrap_or_default());
        }
        Some(renamed)
    }

    /// The same for a query. What it names has to be there before it is sent: behind a Parse that fails it would be skipped, and
    /// no Sync follows.
    pub(super) fn rename_query(&mut self, text: &[u8], out: &mut BytesMut) -> Option<Box<Renamed>> {
        let waits = self.slots.before_query;
        if waits && !self.progress.all_answered() {
            return None;
        }
        let (alone, before) = (waits || !self.progress.is_unsynced(), out.len());
        let renamed = self.rename(text, out);
        if out.len() == before {
            self.slots.before_query = waits && renamed.is_none();
            return renamed;
        }
        self.slots.before_query = alone;
        out.put_slice(&[client::FLUSH, 0, 0, 0, 4]);
        None
    }

    /// The server has refused what a query needs, and skips all up to a Sync: it gets one in the place of the query.
    pub(super) fn end_in_its_place(&mut self, head: Header, out: &mut BytesMut) -> Verdict {
        out.put_slice(&[client::SYNC, 0, 0, 0, 4]);
        self.progress.sent(client::SYNC);
        self.slots.batch_ends();
        Verdict::Without(HEADER + head.body)
    }

    /// What to write for a name, and it is on the server. `ends`: in a `DEALLOCATE`, behind so many in its text. `None`: ask again
    /// later.
    fn stand_in(&mut self, name: &[u8], ends: Option<usize>, out: &mut BytesMut) -> Option<StandIn> {
        match self.look_up(name, out) {
            Found::Unsettled => None,
            // Another client's, perhaps, under our name for it.
            Found::Unknown if slots::is_ours(name) => Some(Some(slots::NOBODY)),
            Found::Unknown => Some(None),
            Found::Known(bound) => {
                // What is not here need not be possible to prepare any more, only to end: in its place ends one that always is.
                let absent = ends.filter(|_| !self.slots.has(&bound.statement));
                let empty = absent.and_then(empty).and_then(|body| self.catalog.intern(body, 0));
                let statement = empty.as_ref().unwrap_or(&bound.statement);
                matches!(self.ready(statement, out), Ready::Yes).then_some(Some(statement.id))
            }
        }
    }

    /// Whether what the unnamed statement on the server names is still what the client means. `None`: ask again later.
    pub(super) fn still_refers(&mut self, out: &mut BytesMut) -> Option<bool> {
        let refers = self.slots.unnamed.refers().and_then(|refers| Some((refers.name.clone()?, refers.ends)));
        let Some(((name, id), ends)) = refers else { return Some(true) };
        Some(self.stand_in(&name, ends.then_some(0), out)? == id)
    }

    /// A query with this text is sent; what goes out of it.
    pub(super) fn queries(&mut self, renamed: Renamed) -> BytesMut {
        if renamed.ends {
            let ends = renamed.named.into_iter().filter(|(named, _)| named.ends);
            let ended = ends.map(|(named, id)| id.map(|id| Ends { name: named.name.into(), id }));
            self.slots.ending.queries(ended, self.slots.batch);
        }
        renamed.text
    }

    /// A portal of the unnamed statement has been bound.
    pub(super) fn binds_unnamed(&mut self, portal: &[u8]) {
        let Some(refers) = self.slots.unnamed.refers().filter(|refers| refers.ends) else { return };
        let names = refers.name.as_ref().map(|(name, id)| id.map(|id| Ends { name: name.clone(), id }));
        self.binds_end(portal, names);
    }

    /// The same for a statement with a name. Its text is not changed, so what it names is not one of the protocol's.
    pub(super) fn binds_text(&mut self, portal: &[u8], text: &[u8]) {
        let uses = Uses::of(text);
        if uses.ends {
            self.binds_end(portal, uses.named.first().map(|_| None));
        }
    }

    fn binds_end(&mut self, portal: &[u8], names: Option<Ended>) {
        if !self.slots.ending.bound(portal, names) {
            self.slots.doubt();
        }
    }
}
