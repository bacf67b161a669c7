//! What a log-in costs a proxy, by the way in which clients prove who they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::bench::Bench;
use crate::load::Client;
use crate::process::cpu_ns;
use crate::samples::Key;
use crate::stream::Tls;
use crate::targets::{Auth, Live, Setup, start};

pub(crate) const NAME: &str = "logins";
pub(crate) const CPU: &str = "CPU us/log-in";
const RATE: &str = "log-ins/s";

/// How many log in at the same time.
const CALLERS: usize = 4;

const WAYS: [(&str, Auth, bool); 4] = [
    ("trust", Auth::Trust, false),
    ("SCRAM, stored secret", Auth::Stored, false),
    ("SCRAM, plain password", Auth::Plain, false),
    ("SCRAM, stored secret, TLS", Auth::Stored, true),
];

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let tls = Arc::new(Tls::make(&bench.site)?);
    bench.cores.stay_on(Some(bench.cores.load))?;
    let (_backend, port) = bench.site.start_role("null", None)?;
    bench.cores.stay_on(Some(bench.cores.proxy))?;
    let mut live = Vec::new();
    for (way, auth, sealed) in WAYS {
        let setup = Setup { backend: port, lines: tls.lines(), auth, ..Setup::default() };
        for target in bench.targets.iter().filter(|target| target.pools()) {
            live.push((way, sealed, start(&bench.site, target, &setup).await));
        }
    }
    bench.cores.stay_on(Some(bench.cores.load))?;
    let span = bench.options.seconds(if bench.options.quick { 0.5 } else { 1.0 });
    let mut rounds =
        bench.rounds(if bench.options.quick { 2 } else { 5 }, if bench.options.quick { 25.0 } else { 90.0 });
    while let Some(round) = rounds.next() {
        for (way, sealed, proxy) in &live {
            let key = |metric| Key { figure: NAME, cell: (*way).to_owned(), metric };
            let proxy = match proxy {
                Ok(proxy) => proxy,
                Err(error) => {
                    bench.say(&format!("logins: {way}: {error}"));
                    continue;
                }
            };
            match come_and_go(proxy, sealed.then(|| Arc::clone(&tls)), span).await {
                Ok((cpu, rate)) => {
                    bench.samples.add(&key(CPU), &proxy.name, round, cpu);
                    bench.samples.add(&key(RATE), &proxy.name, round, rate);
                }
                Err(error) => bench.samples.fail(&key(CPU), &proxy.name, &error.to_string()),
            }
        }
        bench.say(&format!("logins: round {} done", round + 1));
    }
    bench.cores.stay_on(None)
}

/// Microseconds of the proxy for each log-in, and log-ins in a second.
async fn come_and_go(proxy: &Live, tls: Option<Arc<Tls>>, span: std::time::Duration) -> Result<(f64, f64)> {
    let pid = proxy.pid().ok_or("no process")?;
    let (port, over) = (proxy.port, Arc::new(AtomicBool::new(false)));
    let (before, began) = (cpu_ns(pid)?, Instant::now());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (tls, over) = (tls.clone(), Arc::clone(&over));
        callers.spawn(async move {
            let mut count = 0_u64;
            while !over.load(Ordering::Relaxed) {
                Client::enter(port, "bench", tls.as_deref()).await?.leave().await?;
                count += 1;
            }
            Ok::<u64, crate::Error>(count)
        });
    }
    sleep(span).await;
    over.store(true, Ordering::Relaxed);
    let mut count = 0;
    while let Some(caller) = callers.join_next().await {
        count += caller??;
    }
    let used = cpu_ns(pid)? - before;
    Ok((used as f64 / 1e3 / count as f64, count as f64 / began.elapsed().as_secs_f64()))
}
