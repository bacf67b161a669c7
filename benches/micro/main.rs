//! What the parts cost by the clock: `cargo bench --bench micro -- --quick`, or `make bench-micro`. Names pick some, as always
//! with Criterion, which also says what has changed since the last time.

#[path = "../compare/backend.rs"]
mod backend;
#[expect(dead_code, reason = "the comparison uses the rest of it")]
#[path = "../compare/wire.rs"]
mod wire;
#[expect(dead_code, reason = "the count of allocations uses the rest of it")]
#[path = "../work/mod.rs"]
mod work;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use criterion::Criterion;
use tokio::time::Instant;
use work::machines::{admit, all, books};
use work::rig::{Rig, Talk};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    for (name, mut work) in all() {
        criterion.bench_function(&format!("{name} x100"), |bencher| bencher.iter(&mut work));
    }
    for threads in [1, 2, 4] {
        let name = format!("ledger, {threads} threads");
        criterion.bench_function(&name, |bencher| bencher.iter_custom(|times| contend(threads, times)));
    }
    for (name, talk) in [("simple", Talk::simple()), ("extended", Talk::extended()), ("prepared", Talk::prepared())] {
        for (crowd, of) in [((1, 1), ""), ((4, 1), ", four clients on one server")] {
            let mut rig = Rig::start(crowd, &talk, Arc::new(|step: &mut dyn FnMut()| step()))?;
            let mut failed = None;
            criterion.bench_function(&format!("round trip {name}{of}"), |bencher| {
                bencher.iter(|| failed = failed.take().or(rig.run(1).err()));
            });
            failed.map_or(Ok(()), Err)?;
        }
    }
    criterion.final_summary();
    Ok(())
}

/// How long so many threads take, each for so many transactions in the same books.
fn contend(threads: u32, times: u64) -> Duration {
    let (ledger, pool) = books(20);
    let ledger = Mutex::new(ledger);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..times {
                    admit(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner), pool);
                }
            });
        }
    });
    began.elapsed()
}
