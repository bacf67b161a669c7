//! What a client relies on when it executes: the description that it got with an earlier portal of the same statement.
//!
//! Some drivers (pgjdbc) ask for it once and go by it from then on, as they may: on a direct connection Postgres refuses a plan
//! whose result has changed. Others (libpq and what is built on it) ask each time, behind Bind, and need not be told. So the
//! question is put off to what comes behind Bind, unless Bind itself asks for formats column by column.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::messages::{changed, result_formats};
use super::{Ready, Translate};
use crate::prepared::catalog::Statement;
use crate::prepared::names::Bound;
use crate::prepared::slots::{Note, Portal, Shape};
use crate::prepared::{Digest, Digesting, string};
use crate::wire::frame::{Header, Verdict};
use crate::wire::tags::client;

/// What a Bind of a statement that is on the server relies on.
pub(super) enum Relies {
    /// Nothing, or what is known to be so.
    Nothing,
    /// This, already.
    Now(Digest),
    /// This, unless a Describe follows.
    Later(Digest),
    /// It cannot be told before all of it is there.
    More,
}

impl Translate<'_> {
    /// `rest`: the body of the Bind behind both names, so many bytes of `length` as have arrived.
    pub(super) fn relies(&self, bound: &Bound, rest: &[u8], length: usize) -> Relies {
        let Some(told) = bound.told() else { return Relies::Nothing };
        match self.slots.shape(Some(bound.statement.id)) {
            Shape::Known(there) if told.holds(there) == Some(true) => Relies::Nothing,
            _ if told.is_of_statement() => Relies::Now(told),
            _ if rest.len() < length && length <= super::FRONT_MAX => Relies::More,
            _ if result_formats(rest).is_some_and(|formats| formats <= 1) => Relies::Later(told),
            _ => Relies::Now(told),
        }
    }

    /// The client asks what a portal gives.
    pub(super) fn describe_portal(&mut self, name: &[u8]) -> Verdict {
        let portal = self.slots.portal.as_mut().filter(|portal| *portal.name == *name);
        let bound = portal.map(|portal| {
            portal.relies = None;
            Arc::clone(&portal.bound)
        });
        let is_news = |bound: &Arc<Bound>| match (bound.told(), self.slots.shape(Some(bound.statement.id))) {
            (Some(told), Shape::Known(there)) => told.holds(there) != Some(true),
            _ => true,
        };
        match bound.filter(is_news) {
            Some(bound) => self.pass_noted(client::DESCRIBE, Note::Columns(bound, Digesting::default())),
            None => self.progress.sent(client::DESCRIBE),
        }
        Verdict::Pass
    }

    pub(super) fn execute(&mut self, head: Header, body: &[u8], out: &mut BytesMut) -> Verdict {
        let name = match string(body) {
            Some(name) => name,
            None if body.len() < head.body => return Verdict::Whole,
            None => return self.pass(head.tag),
        };
        let portal = self.slots.portal.as_ref().filter(|portal| *portal.name == *name);
        let relies = portal.and_then(|portal| Some((portal.bound.statement.id, portal.relies?)));
        let Some((id, told)) = relies else {
            self.slots.ending.executes(name, self.slots.batch);
            return self.pass(head.tag);
        };
        match self.shape(Some(id), Some(told), out) {
            Ready::Wait => Verdict::Stop,
            Ready::Changed => self.fail(changed(), out),
            Ready::Yes => self.pass(head.tag),
        }
    }

    /// The same as [`shape`](Self::shape) for a statement that may be stale: to ask for its result would be refused then, and end the
    /// client's transaction; and who is right where the two differ is not known. So it is prepared anew with the question.
    pub(super) fn shape_anew(&mut self, statement: &Arc<Statement>, told: Digest, out: &mut BytesMut) -> Ready {
        let good = match self.slots.shape(Some(statement.id)) {
            Shape::Known(there) => told.holds(there) == Some(true),
            Shape::Asked => true,
            Shape::Unknown => false,
        };
        if !good && self.slots.is_there(statement) {
            self.slots.drop_slot(statement.id);
            if !matches!(self.ready(statement, out), Ready::Yes) {
                return Ready::Wait;
            }
        }
        self.shape(Some(statement.id), Some(told), out)
    }

    /// Another portal takes this name, or none.
    pub(super) fn forget_portal(&mut self, name: &[u8]) {
        self.slots.portal.take_if(|known| *known.name == *name);
        self.slots.ending.forget_portal(name);
    }

    /// A Bind of a statement with a name has been sent.
    pub(super) fn binds(&mut self, name: &[u8], bound: &Arc<Bound>, relies: Option<Digest>) {
        self.slots.portal = Some(Portal { name: name.into(), bound: Arc::clone(bound), relies });
    }
}
