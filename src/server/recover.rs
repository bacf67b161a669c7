//! Making a server clean that a client has left behind: in mid-transaction, or with state of its own.
//!
//! Whatever does not end in a [`Boundary`](super::progress::Boundary) within its bound ends in a closed connection.

use std::sync::Arc;
use std::time::Duration;

use super::cancel;
use super::conn::{Failure, Rested, Server};
use super::residue;
use crate::wire::tags::{client, server as tags};

/// How long a server may take to become clean before it is closed instead.
pub const BOUND: Duration = Duration::from_secs(5);

/// How long it may be silent before it is asked again to stop.
const AGAIN: Duration = Duration::from_millis(500);

/// The same when it has just ended something with an error: what was sent behind that runs by now.
const NEXT: Duration = Duration::from_millis(10);

/// Brings a server whose client has gone back to a boundary: ends what was begun, cancels what runs, rolls back.
/// `half_sent` says that part of a client's message has reached it: nothing can be appended then.
///
/// # Errors
/// Why it has to be closed. **Not cancel-safe.**
pub async fn recover(mut server: Box<Server>, half_sent: bool) -> Result<Rested, Failure> {
    server.slots.abandon();
    let end = async {
        let busy = !server.progress.at_rest();
        // The cancel goes out even if the connection is then closed: otherwise Postgres would run on for nobody.
        let cancelled = if busy { cancel::send(&server.link, BOUND).await } else { Ok(()) };
        // Also at rest: the message may be one that asks nothing (CopyData, Flush), and would swallow what follows.
        if half_sent {
            return Err(Failure::Protocol("the client left in the middle of a message".to_owned()));
        }
        cancelled?;
        if busy {
            drain(&mut server).await?;
        }
        server.skip_message().await?;
        if server.in_transaction() {
            server.query(b"ROLLBACK", |_| {}).await?;
        }
        Ok(())
    };
    tokio::time::timeout(BOUND, end).await.unwrap_or(Err(Failure::Late(BOUND)))?;
    rested(server)
}

/// Sends what makes the server answer to the end, and reads that.
async fn drain(server: &mut Server) -> Result<(), Failure> {
    server.skip_message().await?;
    if server.progress.in_copy() {
        server.send(client::COPY_FAIL, b"client disconnected\0").await?;
    }
    if server.progress.is_unsynced() {
        // What the client has not ended with a Sync is not to be committed by ours: a statement that nobody has fails it.
        server.send(client::DESCRIBE, b"Spglull_0\0").await?;
    }
    server.send(client::SYNC, b"").await?;
    let link = Arc::clone(&server.link);
    let mut patience = AGAIN;
    while !server.progress.at_rest() {
        match tokio::time::timeout(patience, server.next()).await {
            Ok(message) => patience = if message?.0 == tags::ERROR { NEXT } else { patience },
            // The cancel may have come before the request that it was meant for.
            Err(_) => {
                cancel::send(&link, BOUND).await?;
                patience = AGAIN;
            }
        }
    }
    Ok(())
}

/// Runs the reset query on a server that has state of a client's.
///
/// # Errors
/// Why it has to be closed. **Not cancel-safe.**
pub async fn reset(mut server: Box<Server>, query: &[u8]) -> Result<Rested, Failure> {
    let all = !query.is_empty() && run(&mut server, query).await?;
    if std::mem::take(&mut server.leftovers) && !all {
        run(&mut server, b"DISCARD ALL").await?;
    }
    if server.slots.doubtful() {
        server.query_within(b"DEALLOCATE ALL", BOUND).await?;
        server.slots.reset();
    }
    server.dirty = false;
    server.notifications.clear();
    rested(server)
}

/// Runs a reset query and takes down what it has done. Returns whether it has discarded all.
async fn run(server: &mut Server, query: &[u8]) -> Result<bool, Failure> {
    let answer = server.query_within(query, BOUND).await?;
    let did = |tag: &str| answer.tags.iter().any(|done| done == tag);
    let all = did("DISCARD ALL");
    if all || did("DEALLOCATE ALL") {
        server.slots.reset();
    }
    if all {
        server.settings = None;
    }
    if all || did("RESET") {
        residue::stripped(server);
    }
    residue::clear(server).await?;
    Ok(all)
}

fn rested(server: Box<Server>) -> Result<Rested, Failure> {
    match server.boundary().filter(|_| !server.progress.may_say_more()) {
        Some(proof) => Ok(Rested::new(server, proof)),
        None => Err(Failure::Protocol("the server did not become clean".to_owned())),
    }
}
