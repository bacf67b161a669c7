//! The way of the requests, from a client to its server.

use std::task::Context;
use std::time::Duration;

use super::super::state::State;
use super::super::translate::{Reading, Translate};
use super::heads::text_of;
use super::{Counts, End, Relay, write};
use crate::clients::Client;
use crate::clock::Clock;
use crate::ids::Tick;
use crate::server::conn::Server;
use crate::wire::frame::{BadLength, Header, Verdict};
use crate::wire::tags::{self, Meaning, client as from_client};

/// What a client has asked for before it said good-bye is finished if it takes no longer than this. Postgres would go on for
/// as long as it takes; a server of a pool does not work for nobody.
const LEAVING: Duration = Duration::from_secs(1);

impl Relay<'_> {
    /// Client to server.
    pub(super) fn requests(&mut self, cx: &mut Context<'_>, counts: &mut Counts) -> Result<bool, End> {
        let mut moved = false;
        let again = self.server.slots.replay.is_due();
        let ready = self.leaving.is_none() && !again && !self.input.has_pending() && !self.owes_reading();
        if ready && !self.input.unread().is_empty() {
            // What is in the buffer may have been stopped before; look again before more is read.
            moved |= self.walk_requests(counts)?;
        }
        if self.hears_client() {
            let room = self.input.room();
            match self.stream.read_into(cx, &mut self.input.buf, room) {
                Some(Ok(0)) | Some(Err(_)) => return Err(End::ClientGone),
                Some(Ok(n)) => {
                    moved = true;
                    counts.received += n as u64;
                    self.input.was_read(n, room);
                    self.walk_requests(counts)?;
                }
                None => {}
            }
        }
        let written = write(&mut self.server.stream, cx, self.input).map_err(|error| self.server_gone(error))?;
        Ok(moved || written)
    }

    /// Returns whether it has let anything through.
    fn walk_requests(&mut self, counts: &mut Counts) -> Result<bool, End> {
        let Server { progress, slots, client: owner, numbers, .. } = &mut *self.server;
        let (client, database, running) = (self.client, &self.pool.database, self.running);
        let (clock, requested, began) = (self.clock, (&mut *self.at, self.fresh), &mut self.began);
        let State { names, traces, catalog, wanted, settings, asks_sequences, drew, .. } = &mut *self.state;
        let (leaving, errand) = (&mut self.leaving, &mut false);
        let limit = self.statements;
        let before = self.input.unread().len();
        self.input.walk(|head, body, out| {
            check(head)?;
            let begins = tags::between_transactions(head.tag) == Meaning::Begin;
            if begins {
                if !running {
                    return Err(End::Wants);
                }
                if *began && progress.between_requests() && database.is_shut_for(client) {
                    return Ok(Verdict::Stop);
                }
            }
            if head.tag == from_client::TERMINATE {
                // What it has sent before is answered first, as Postgres would.
                leaving.get_or_insert_with(|| Box::pin(tokio::time::sleep(LEAVING)));
                return Ok(Verdict::Stop);
            }
            let text = text_of(head.tag, body);
            if text.is_some_and(<[u8]>::is_empty) && body.len() < head.body {
                return Ok(Verdict::Whole);
            }
            let first = progress.at_rest();
            let verdict = match limit {
                Some(limit) => {
                    let (leaves, statements) = (&mut traces.leaves, &mut counts.statements);
                    let client = client.id;
                    let fresh = *owner != Some(client);
                    let clean = owner.is_none() || (!fresh && *numbers == Some(client));
                    let mut translate = Translate {
                        names,
                        slots,
                        progress,
                        catalog,
                        reading: Reading(wanted, settings.as_deref()),
                        client,
                        limit,
                        leaves,
                        counts: statements,
                        fresh,
                        asks_sequences: *asks_sequences && !clean,
                        may_ask: clean || *drew,
                        errand,
                    };
                    translate.judge(head, body, out)
                }
                None => {
                    progress.sent(head.tag);
                    Verdict::Pass
                }
            };
            // Something of ours may have gone out before a message that stays.
            *began |= begins && !progress.at_rest();
            if !matches!(verdict, Verdict::Whole | Verdict::Stop) {
                note_request((first, text), client, (clock, requested.1, &mut *requested.0));
                if begins && *owner != Some(client.id) {
                    *numbers = owner.is_none().then_some(client.id);
                    *owner = Some(client.id);
                    *drew = false;
                }
            }
            Ok(verdict)
        })?;
        if *errand {
            return Err(End::Errand);
        }
        Ok(self.input.unread().len() != before)
    }
}

/// Postgres' own limits on what a client may send.
pub(in crate::session) fn check(head: Header) -> Result<(), End> {
    match tags::client_limit(head.tag) {
        None => Err(End::Violation(head.tag)),
        Some(limit) if head.body > limit => {
            let length = i32::try_from(head.body.saturating_add(4)).unwrap_or(i32::MAX);
            Err(End::Malformed(BadLength { tag: head.tag, length }))
        }
        Some(_) => Ok(()),
    }
}

/// Keeps what others may see of the client up to date. `first`: the server had nothing to do before.
/// `fresh`: `requested` is now.
fn note_request(
    (first, text): (bool, Option<&[u8]>),
    client: &Client,
    (clock, fresh, requested): (Clock, bool, &mut Tick),
) {
    if first || text.is_some() {
        let now = if fresh { *requested } else { clock.tick() };
        if first {
            *requested = now;
        }
        client.requests(text, now.moment());
    }
}
