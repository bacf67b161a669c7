//! The ceiling: a backend that answers at once, so the proxy, alone on its core, is what limits.

use std::time::Duration;

use crate::Result;
use crate::bench::Bench;
use crate::load::{Mode, Run, run};
use crate::samples::Key;
use crate::targets::{Setup, start};

pub(crate) const NAME: &str = "null";
pub(crate) const CPU: &str = "CPU us/tx";
const TPS: &str = "TPS";
/// Below 90, the load's core was the one that limited, and a transaction is dearer: each wakes the proxy.
const BUSY: &str = "proxy busy, % of its core";
const MEAN: &str = "mean ms";
const P99: &str = "p99 ms";

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let options = bench.options.clone();
    bench.cores.stay_on(Some(bench.cores.load))?;
    let (_backend, port) = bench.site.start_role("null", None)?;
    bench.cores.stay_on(Some(bench.cores.proxy))?;
    let setup = Setup { backend: port, ..Setup::default() };
    let mut live = Vec::new();
    for target in &bench.targets {
        live.push(start(&bench.site, target, &setup).await?);
    }
    bench.cores.stay_on(Some(bench.cores.load))?;
    let span = options.seconds(if options.quick { 0.5 } else { 1.2 });
    let mut rounds = bench.rounds(if options.quick { 2 } else { 5 }, if options.quick { 60.0 } else { 260.0 });
    while let Some(round) = rounds.next() {
        for mode in options.modes(&Mode::ALL) {
            for clients in options.clients(&[1, 64]) {
                let cell = format!("{}, {clients} client{}", mode.name(), if clients == 1 { "" } else { "s" });
                for target in &live {
                    let plan = Run {
                        port: target.port,
                        talk: mode.talk(),
                        clients,
                        warm: Duration::from_millis(200),
                        span,
                        pid: target.pid(),
                    };
                    let seen = run(&plan).await;
                    let key = |metric| Key { figure: NAME, cell: cell.clone(), metric };
                    match seen {
                        Ok(seen) => {
                            if target.pid().is_some() {
                                bench.samples.add(&key(CPU), &target.name, round, seen.cpu_us());
                                bench.samples.add(&key(BUSY), &target.name, round, seen.busy());
                            }
                            bench.samples.add(&key(TPS), &target.name, round, seen.tps());
                            bench.samples.add(&key(MEAN), &target.name, round, seen.latency.mean_ms());
                            bench.samples.add(&key(P99), &target.name, round, seen.latency.quantile_ms(0.99));
                        }
                        Err(error) => bench.samples.fail(&key(CPU), &target.name, &error.to_string()),
                    }
                }
            }
        }
        bench.say(&format!("null: round {} done", round + 1));
    }
    bench.cores.stay_on(None)
}
