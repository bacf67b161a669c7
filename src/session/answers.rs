//! A server's answers as its client has to get them, where prepared statements are concerned: what answers a request of
//! ours is kept back, what the server was not asked is answered in its place, and what Postgres has confirmed or refused is
//! noted.
//!
//! Pure, the counterpart of [`translate`](super::translate): between the two stands the queue of notes, one for each request
//! that matters, in the order in which they were sent.

use bytes::{BufMut, BytesMut};

use crate::prepared::names::Names;
use crate::prepared::slots::{self, Note, Shape, Slots};
use crate::server::progress::{Heard, Progress};
use crate::wire::frame::{Header, Verdict};
use crate::wire::reply::{Routine, Severity};
use crate::wire::tags::server;

/// Everything that an answer is judged by. See the module's text.
pub(super) struct Answers<'a> {
    pub(super) names: &'a mut Names,
    pub(super) slots: &'a mut Slots,
}

impl Answers<'_> {
    /// Gives the answers that are not the server's to give and whose place has come.
    #[inline]
    pub(super) fn own(&mut self, progress: &mut Progress, out: &mut BytesMut) {
        if progress.owes_own() {
            self.give(progress, out);
        }
    }

    fn give(&mut self, progress: &mut Progress, out: &mut BytesMut) {
        while progress.next_is_own() {
            match self.slots.notes.pop_front() {
                Some(Note::Define(bound, ticket, _)) => {
                    let name = bound.name.clone();
                    self.names.confirm(&name, ticket, Some(bound));
                    out.put_slice(&[server::PARSE_COMPLETE, 0, 0, 0, 4]);
                }
                Some(Note::Undefine(bound, ticket)) => {
                    self.names.confirm(&bound.name, ticket, None);
                    out.put_slice(&[server::CLOSE_COMPLETE, 0, 0, 0, 4]);
                }
                _ => self.slots.doubt(),
            }
        }
    }

    /// The message that `heard` is about, with its whole body where [`looks_at`] says so.
    pub(super) fn judge(&mut self, heard: Heard, (head, body): (Header, &[u8]), out: &mut BytesMut) -> Verdict {
        match heard {
            Heard::Plain => Verdict::Pass,
            Heard::Noted(last) => self.answered(last, (head.tag, body), out),
            Heard::Failed(notes, first) => self.failed((notes, first), (head, body), out),
        }
    }

    fn answered(&mut self, last: bool, (tag, body): (u8, &[u8]), out: &mut BytesMut) -> Verdict {
        if !last {
            return match self.slots.notes.front_mut() {
                Some(Note::Shape(_, digesting)) => {
                    digesting.parameters(body);
                    Verdict::Drop
                }
                Some(Note::Describe(bound, digesting)) => {
                    digesting.parameters(body);
                    let later = bound.is_some() && self.slots.replay.holds(tag, body);
                    if later { Verdict::Drop } else { Verdict::Pass }
                }
                _ => Verdict::Pass,
            };
        }
        self.completed((tag == server::ROW_DESCRIPTION).then_some(body), out)
    }

    /// The request in front has been answered to its end; `columns` is the body of a RowDescription.
    fn completed(&mut self, columns: Option<&[u8]>, out: &mut BytesMut) -> Verdict {
        match self.slots.notes.pop_front() {
            Some(Note::Define(bound, ticket, _)) => {
                self.slots.parsed(bound.statement.id);
                let name = bound.name.clone();
                self.names.confirm(&name, ticket, Some(bound));
                Verdict::Pass
            }
            Some(Note::Describe(bound, mut digesting)) => {
                if bound.is_some() {
                    out.put_slice(&self.slots.replay.taken());
                }
                digesting.columns(columns);
                let digest = digesting.digest();
                self.slots.set_shape(bound.as_ref().map(|bound| bound.statement.id), Shape::Known(digest));
                match (bound, &mut self.names.unnamed) {
                    (Some(bound), _) => bound.tell(digest),
                    (None, Some(unnamed)) => unnamed.told = Some(digest),
                    (None, None) => {}
                }
                Verdict::Pass
            }
            Some(Note::Unnamed(unnamed)) => {
                self.names.unnamed = unnamed;
                self.slots.unnamed.done();
                Verdict::Pass
            }
            Some(note @ (Note::CloseUnnamed | Note::Query)) => {
                self.names.unnamed = None;
                self.slots.unnamed.done();
                // What another server has of it is of no use any more. (A Close has counted when it was sent, and so has what was sent
                // behind a query.)
                let last = !self.slots.unnamed.moves();
                self.names.version += u64::from(last && matches!(note, Note::Query));
                Verdict::Pass
            }
            Some(Note::Prepare(id)) => {
                self.slots.parsed(id);
                Verdict::Drop
            }
            Some(Note::PrepareUnnamed) => {
                self.slots.unnamed.done();
                Verdict::Drop
            }
            Some(Note::Forget(id)) => {
                self.slots.closed(id);
                Verdict::Drop
            }
            Some(Note::Shape(id, mut digesting)) => {
                digesting.columns(columns);
                self.slots.set_shape(id, Shape::Known(digesting.digest()));
                Verdict::Drop
            }
            Some(Note::Use(_)) => {
                let _ = self.slots.replay.taken();
                Verdict::Pass
            }
            Some(Note::Columns(bound, mut digesting)) => {
                digesting.columns(columns);
                let digest = digesting.digest();
                self.slots.set_shape(Some(bound.statement.id), Shape::Known(digest));
                bound.tell(digest);
                Verdict::Pass
            }
            // Postgres has accepted what it should have refused.
            Some(Note::Again(_) | Note::Undefine(..) | Note::Fail(_)) | None => {
                self.slots.doubt();
                Verdict::Pass
            }
        }
    }

    /// A command that ends prepared statements has gone through.
    pub(super) fn command(&mut self, tag: &[u8]) {
        match tag.strip_suffix(&[0]).unwrap_or(tag) {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                self.names.forget_all();
                self.slots.forget_all();
            }
            b"DEALLOCATE" => {
                if let Some(ends) = self.slots.ending.ended() {
                    self.names.forget(&ends.name);
                    self.slots.ended(ends.id);
                }
            }
            _ => {}
        }
    }

    /// Whether the end of a batch is kept from the client, which will get the answers to the same batch sent again.
    pub(super) fn keeps(&self, tag: u8) -> bool {
        tag == server::READY_FOR_QUERY && self.slots.replay.is_due()
    }

    /// A batch is answered, and so many are not: what of it has not been deallocated by now will not be.
    pub(super) fn batch_ends(&mut self, owed: usize) {
        self.slots.ending.answered(self.slots.batch.saturating_sub(owed as u64));
    }

    fn failed(&mut self, (notes, first): (usize, bool), (head, body): (Header, &[u8]), out: &mut BytesMut) -> Verdict {
        let (mut verdict, mut said) = (Verdict::Pass, BytesMut::new());
        for n in 0..notes {
            let Some(note) = self.slots.notes.pop_front() else { break };
            if n == 0 && first {
                verdict = self.refused(&note, (head, body), &mut said);
            }
            self.void(note, n == 0 && first);
        }
        out.put_slice(&self.slots.replay.taken());
        out.put_slice(&said);
        verdict
    }

    /// What becomes of an error that answers a noted request: our names in it become the client's.
    fn refused(&mut self, note: &Note, (head, body): (Header, &[u8]), out: &mut BytesMut) -> Verdict {
        let bound = match note {
            Note::Fail(report) => {
                report.write(Severity::Error, out);
                return Verdict::Drop;
            }
            Note::Define(bound, ..) | Note::Again(bound) | Note::Use(bound) | Note::Describe(Some(bound), _) => bound,
            _ => return Verdict::Pass,
        };
        match field(body, b'C') {
            // The server does not have what it should: somebody has ended it behind our back.
            Some(b"26000") => {
                self.slots.not_parsed(bound.statement.id);
                self.slots.doubt();
            }
            // The plan's result has changed: others that use it are spared the error.
            Some(b"0A000") if field(body, b'R') == Some(Routine::RevalidateCachedQuery.as_str().as_bytes()) => {
                bound.statement.went_stale(bound.statement.generation());
                self.slots.found_stale = true;
                if self.slots.replay.refused() {
                    return Verdict::Drop;
                }
            }
            _ => {}
        }
        let mut ours = BytesMut::new();
        slots::write_name(bound.statement.id, &mut ours);
        match replace(body, &ours, &bound.name) {
            Some(body) => {
                out.put_u8(head.tag);
                out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
                out.put_slice(&body);
                Verdict::Drop
            }
            None => Verdict::Pass,
        }
    }

    /// Takes back what a request would have done. `failed`: it was tried; otherwise it was skipped, unread.
    fn void(&mut self, note: Note, failed: bool) {
        match note {
            Note::Define(bound, ticket, sent) => {
                self.names.void(&bound.name, ticket);
                if sent {
                    self.slots.not_parsed(bound.statement.id);
                }
            }
            Note::Undefine(bound, ticket) => self.names.void(&bound.name, ticket),
            Note::Unnamed(_) | Note::CloseUnnamed => {
                // Postgres ends the unnamed statement before it looks at the new one (`exec_parse_message`).
                if failed {
                    self.names.unnamed = None;
                    self.slots.unnamed.done();
                } else {
                    self.slots.unnamed.skipped();
                }
            }
            Note::PrepareUnnamed => self.slots.unnamed.lost(),
            Note::Query => self.slots.unnamed.skipped(),
            Note::Prepare(id) => self.slots.not_parsed(id),
            Note::Forget(id) => self.slots.not_closed(id),
            Note::Shape(id, _) => self.slots.set_shape(id, Shape::Unknown),
            Note::Again(_) | Note::Use(_) | Note::Describe(..) | Note::Columns(..) | Note::Fail(_) => {}
        }
    }
}

/// Whether the body of an answer must be there whole to be judged: `noted` says that it belongs to a noted request.
pub(super) const fn looks_at(tag: u8, noted: bool) -> bool {
    noted
        && matches!(
            tag,
            server::ERROR | server::PARAMETER_DESCRIPTION | server::ROW_DESCRIPTION | server::COMMAND_COMPLETE
        )
}

/// A field of an ErrorResponse.
fn field(body: &[u8], kind: u8) -> Option<&[u8]> {
    body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(&[kind]))
}

/// The body with `theirs` in the place of the first `ours` that stands in quotes; `None` if there is none.
fn replace(body: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let quoted = [b"\"", ours, b"\""].concat();
    let at = body.windows(quoted.len()).position(|window| window == quoted)?;
    Some([body.get(..at + 1)?, theirs, body.get(at + quoted.len() - 1..)?].concat())
}
