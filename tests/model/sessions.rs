//! Moves of clients and of their servers.

use pglull::ids::WaiterId;
use pglull::pool::gate::Why;
use pglull::pool::ledger::{Begin, Grant, Need};

use crate::moves::{Check, Do, Model};
use crate::mutant::Mutant;
use crate::rules;
use crate::world::{At, CLIENTS, World};

/// Clients and their servers.
impl Model {
    pub(crate) fn moves_of_client(&self, world: &World, ix: usize, moves: &mut Vec<Do>) {
        let client = &world.clients[ix];
        match client.at {
            At::Idle => {
                if client.begins > 0 {
                    moves.push(Do::Begin(ix));
                }
                if client.server {
                    moves.push(Do::Leave(ix));
                }
            }
            At::Waiting(id) => {
                moves.extend([Do::Cancel(ix), Do::Leave(ix)]);
                if self.patience_left(world, ix, id).is_some_and(|left| left == 0) {
                    moves.push(Do::Expire(ix));
                }
            }
            At::Granted => moves.extend([Do::Told(ix), Do::Leave(ix)]),
            At::Running => moves.extend([Do::End(ix), Do::ServerLost(ix), Do::Leave(ix)]),
            At::Gone => {}
        }
    }

    /// Milliseconds; asked of the ledger.
    pub(crate) fn patience_left(&self, world: &World, ix: usize, id: WaiterId) -> Option<u64> {
        let client = &world.clients[ix];
        let patience = self.plan.patience?;
        let left = if self.is(Mutant::ExpiresWhileHeld) {
            patience.saturating_sub(world.now.since(client.clock))
        } else {
            world.ledger.clone().wait_left(client.pool, id, patience, world.now)?
        };
        u64::try_from(left.as_millis()).ok()
    }

    pub(crate) fn client(&self, world: &mut World, ix: usize, by: Do) -> Check {
        match by {
            Do::Begin(_) => self.begin(world, ix)?,
            Do::Told(_) => world.clients[ix].at = At::Running,
            Do::End(_) => {
                self.finish(world, ix);
                world.clients[ix].at = At::Idle;
                if !world.clients[ix].keeps {
                    self.put_back(world, ix)?;
                }
            }
            Do::ServerLost(_) => {
                self.finish(world, ix);
                self.drop_server(world, ix);
                world.clients[ix].at = At::Gone;
            }
            Do::Cancel(_) => {
                self.leave_queue(world, ix, Why::Cancelled)?;
                world.clients[ix].at = At::Idle;
            }
            Do::Expire(_) => {
                let client = &world.clients[ix];
                let patience = self.plan.patience.unwrap_or_default();
                let waited = world.now.since(client.clock);
                rules::ensure(
                    (world.gate_epoch().is_none() || world.is_free(ix)) && waited >= patience,
                    "a client's patience ran out behind a shut gate",
                )?;
                self.leave_queue(world, ix, Why::Expired)?;
                world.clients[ix].at = At::Gone;
            }
            _ => match world.clients[ix].at {
                At::Waiting(_) => {
                    self.leave_queue(world, ix, Why::Left)?;
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                }
                At::Idle => {
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                }
                // Granted, and nothing was sent yet: the server is clean.
                At::Granted => {
                    self.finish(world, ix);
                    world.clients[ix].at = At::Gone;
                    self.put_back(world, ix)?;
                    self.saw("a client left while its grant was on the way");
                }
                At::Running | At::Gone => {
                    self.finish(world, ix);
                    world.clients[ix].at = At::Gone;
                    self.drop_server(world, ix);
                }
            },
        }
        Ok(())
    }

    pub(crate) fn begin(&self, world: &mut World, ix: usize) -> Check {
        let (now, free) = (world.now, world.is_free(ix));
        let shut = world.gate_epoch().is_some() && !free;
        let client = &mut world.clients[ix];
        client.begins -= 1;
        if self.is(Mutant::BeginsAtShutGate) && shut && client.need() == Need::Leave {
            client.at = At::Running;
            return Ok(());
        }
        match world.ledger.begin(client.pool, (client.group, client.need()), now, || ix) {
            Begin::Now(server) => {
                rules::ensure(!shut, "a transaction begins at a shut gate")?;
                rules::ensure(server.is_some() != client.server, "a server too many or too few")?;
                client.server = true;
                client.at = At::Running;
                if free {
                    self.saw("a free client begins at a shut gate");
                }
            }
            Begin::Wait(id) => {
                client.at = At::Waiting(id);
                client.clock = now;
                client.held = shut.then_some(now);
                world.mirror.held += u64::from(shut);
                if shut && client.keeps {
                    self.saw("a session-mode client is held");
                }
                if free {
                    self.saw("a free client waits at a shut gate");
                }
            }
        }
        Ok(())
    }

    /// The transaction of this client is over; it may be the last that the drain has waited for.
    pub(crate) fn finish(&self, world: &mut World, ix: usize) {
        let group = world.clients[ix].group;
        let told = !self.is(Mutant::FinishForgotten) && world.ledger.finish(group);
        let same = |other: usize| other != ix && world.clients[other].group == group && world.clients[other].open();
        if self.is(Mutant::FinishTwice) && (0..CLIENTS).any(same) {
            world.ledger.finish(group);
        }
        let free_open = (0..CLIENTS).any(|other| other != ix && world.is_free(other) && world.clients[other].open());
        let told = told && !(self.is(Mutant::DrainWaitsForFree) && free_open);
        let epoch = world.gate_epoch();
        if told && let Some(win) = world.wins.iter_mut().find(|win| win.epoch.is_some() && win.epoch == epoch) {
            win.drained = true;
        }
    }

    pub(crate) fn put_back(&self, world: &mut World, ix: usize) -> Check {
        let client = &mut world.clients[ix];
        if !std::mem::take(&mut client.server) || self.is(Mutant::ServerLeaked) {
            return Ok(());
        }
        let grant = world.ledger.put_back(client.pool, (), false, world.now);
        self.granted(world, grant.into_iter().collect())
    }

    pub(crate) fn drop_server(&self, world: &mut World, ix: usize) {
        let client = &mut world.clients[ix];
        if std::mem::take(&mut client.server) {
            world.ledger.lost(client.pool);
            self.saw("a server was lost");
        }
    }

    pub(crate) fn leave_queue(&self, world: &mut World, ix: usize, why: Why) -> Check {
        let client = &mut world.clients[ix];
        let At::Waiting(id) = client.at else {
            return Err("a client leaves a queue that it is not in".into());
        };
        let held = client.held.take().is_some();
        if !self.is(Mutant::LeaverKept) {
            let why = if self.is(Mutant::CancelledIsLeft) { Why::Left } else { why };
            let ticket = world.ledger.leave(client.pool, id, why);
            rules::ensure(ticket == Some(ix), "the queue did not know its waiter")?;
        }
        let (count, saw) = match why {
            Why::Released => (&mut world.mirror.released, "released"),
            Why::Cancelled => (&mut world.mirror.cancelled, "a held client cancelled"),
            Why::Left => (&mut world.mirror.left, "a held client left"),
            Why::Expired => (&mut world.mirror.expired, "a client that had been held expired"),
        };
        if held {
            *count += 1;
            self.saw(saw);
        }
        Ok(())
    }

    /// Grants reach their clients.
    pub(crate) fn granted(&self, world: &mut World, grants: Vec<Grant<(), usize>>) -> Check {
        for mut grant in grants {
            if self.is(Mutant::LastInFirstOut) {
                let pool = world.clients[grant.ticket].pool;
                let queued = world.ledger.waiting(pool).last();
                grant.ticket = queued.copied().unwrap_or(grant.ticket);
            }
            let client = &world.clients[grant.ticket];
            let (pool, need) = (client.pool, client.need());
            let At::Waiting(id) = client.at else {
                return Err("a grant for a client that does not wait".into());
            };
            if self.is(Mutant::StallForgotten) {
                grant.stall = None;
            }
            // At a shut gate those whom it leaves free overtake those whom it keeps.
            let shut = world.gate_epoch().is_some();
            let earlier = |other: &World| {
                other.clients.iter().any(|c| {
                    let queued = matches!(c.at, At::Waiting(other) if other < id) && !(shut && c.held.is_some());
                    queued && c.pool == pool && c.need() == Need::Server
                })
            };
            rules::ensure(need == Need::Leave || !earlier(world), "a grant out of turn")?;
            let client = &mut world.clients[grant.ticket];
            let stall = client.held.take().map(|held| world.now.since(held));
            rules::ensure(grant.stall == stall, "a grant with the wrong stall")?;
            rules::ensure(grant.server.is_some() != client.server, "a server too many or too few")?;
            client.at = At::Granted;
            client.server = true;
            if stall.is_some() {
                world.mirror.released += 1;
                self.saw("a held client was released");
            }
        }
        Ok(())
    }
}
