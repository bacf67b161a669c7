//! Texts that name a statement of the protocol: `DEALLOCATE name`, `EXECUTE name`. The only place where a text is changed.

use bytes::{BufMut, BytesMut};

use super::{Ready, Translate};
use crate::prepared::hints::{Hints, named_statements};
use crate::prepared::names::Found;
use crate::prepared::slots;

impl Translate<'_> {
    /// The text with our names where it names statements of the protocol; empty if it does not. `None`: ask again later.
    pub(super) fn rename(&mut self, hints: Hints, text: &[u8], out: &mut BytesMut) -> Option<BytesMut> {
        if !hints.any_of(Hints::NAMES) {
            return Some(BytesMut::new());
        }
        let mut found = Vec::new();
        for named in named_statements(text) {
            match self.names.find(&named.name, self.slots.batch) {
                Found::Unsettled => return None,
                // Another client's, perhaps, under our name for it.
                Found::Unknown if slots::is_ours(&named.name) => found.push((named, Some(None))),
                Found::Unknown => found.push((named, None)),
                Found::Known(bound) => {
                    if !matches!(self.ready(&bound.statement, out), Ready::Yes) {
                        return None;
                    }
                    found.push((named, Some(Some(bound))));
                }
            }
        }
        let (mut renamed, mut from) = (BytesMut::new(), 0);
        for (named, bound) in found {
            if let Some(bound) = &bound {
                renamed.put_slice(text.get(from..named.place.start).unwrap_or_default());
                let id = bound.as_ref().map_or(slots::NOBODY, |bound| bound.statement.id);
                slots::write_name(id, &mut renamed);
                from = named.place.end;
            }
            if named.ends {
                let ended = bound.flatten().map(|bound| {
                    self.slots.deallocating(bound.statement.id);
                    let ticket = self.names.undefine(&named.name, self.slots.batch);
                    (bound, ticket)
                });
                self.slots.deallocates.push_back((self.slots.batch, ended));
            }
        }
        if from > 0 {
            renamed.put_slice(text.get(from..).unwrap_or_default());
        }
        Some(renamed)
    }
}
