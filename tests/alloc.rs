//! What the relay's way asks of the allocator, counted: the real session and pool between a client and a server that answers
//! at once, on one thread. In a binary of its own, for it has an allocator that counts.

#![expect(clippy::unwrap_used, reason = "what cannot be measured is a failed test")]

#[path = "../benches/compare/backend.rs"]
mod backend;
#[path = "../benches/work/rig.rs"]
mod rig;
#[expect(dead_code, reason = "the comparison uses the rest of it")]
#[path = "../benches/compare/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rig::{Rig, Talk};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Enough that whatever grows has grown: buffers, queues, tables.
const WARM: usize = 100;
const ROUNDS: usize = 1000;

/// How many allocations all sessions together ask for, for each request of a client.
fn allocations((clients, servers): (usize, usize), talk: &Talk) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    let probe = Arc::new(move |step: &mut dyn FnMut()| {
        seen.fetch_add(allocation_counter::measure(step).count_total, Ordering::Relaxed);
    });
    let mut rig = Rig::start((clients, servers), talk, probe).unwrap();
    rig.run(WARM).unwrap();
    let before = count.load(Ordering::Relaxed);
    assert!(before > 0, "it counts");
    rig.run(ROUNDS).unwrap();
    let asked = count.load(Ordering::Relaxed) - before;
    asked as f64 / (ROUNDS * clients) as f64
}

fn assert_at_most(bound: u64, crowd: (usize, usize), talk: &Talk) {
    let asked = allocations(crowd, talk);
    assert!(asked <= bound as f64, "{asked} allocations for each request, at most {bound}");
}

#[test]
fn a_request_within_a_transaction_asks_for_no_memory() {
    for talk in [Talk::simple(), Talk::extended(), Talk::prepared()] {
        assert_at_most(0, (1, 1), &talk.in_block());
    }
}

/// An idle client keeps neither a buffer nor the future of a transaction: these are the two. A request that is rewritten, as
/// one of a prepared statement is, needs a second buffer.
#[test]
fn a_transaction_asks_for_its_future_and_its_buffers_only() {
    assert_at_most(2, (1, 1), &Talk::simple());
    assert_at_most(2, (1, 1), &Talk::extended());
    assert_at_most(3, (1, 1), &Talk::prepared());
}

/// Four clients on one server: three out of four transactions wait in the queue, where nothing is made for one waiting.
#[test]
fn a_transaction_that_waits_for_a_server_asks_for_no_more() {
    assert_at_most(2, (4, 1), &Talk::simple());
    assert_at_most(3, (4, 1), &Talk::prepared());
}
