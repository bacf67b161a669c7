//! pgbench on a real Postgres, which shares the cores with load and proxy: what an installation sees.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pglull::demo::cluster::Cluster;

use crate::bench::Bench;
use crate::load::Mode;
use crate::process::cpu_ns;
use crate::samples::Key;
use crate::targets::{Live, Setup, start};
use crate::{Result, postgres};

pub(crate) const NAME: &str = "real";
pub(crate) const CPU: &str = "CPU us/tx";
pub(crate) const TPS: &str = "TPS";
const MEAN: &str = "mean ms";
const P99: &str = "p99 ms";

/// Name, options of pgbench, numbers of clients.
const LOADS: [(&str, &[&str], &[usize]); 2] = [("-S", &["-S"], &[1, 16, 64, 256]), ("TPC-B", &[], &[16, 64])];
const MODES: [Mode; 3] = [Mode::Simple, Mode::Extended, Mode::Prepared];

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let options = bench.options.clone();
    let cluster = postgres::start(&[])?;
    let setup = Setup { backend: cluster.port(), ..Setup::default() };
    let mut live = Vec::new();
    // A forwarder is no pooler: with 256 clients it would need 256 servers.
    for target in bench.targets.iter().filter(|target| target.name != crate::goals::FLOOR) {
        live.push(start(&bench.site, target, &setup).await?);
    }
    let span = options.seconds(1.0).max(Duration::from_secs(1));
    let mut rounds = bench.rounds(if options.quick { 2 } else { 5 }, if options.quick { 70.0 } else { 780.0 });
    while let Some(round) = rounds.next() {
        for (load, arguments, clients) in LOADS {
            if options.quick && load != "-S" {
                continue;
            }
            for mode in options.modes(&MODES) {
                for clients in options.clients(if options.quick { &[16] } else { clients }) {
                    let cell = format!("{load} {}, {clients} clients", mode.name());
                    let arguments: Vec<String> = [&["-M", mode.name(), "-c", &clients.to_string()], arguments]
                        .concat()
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    for proxy in &live {
                        one(bench, &cluster, proxy, (&cell, round), (&arguments, span));
                    }
                }
            }
        }
        bench.say(&format!("real: round {} done", round + 1));
    }
    Ok(())
}

fn one(bench: &mut Bench, cluster: &Cluster, proxy: &Live, at: (&str, usize), load: (&[String], Duration)) {
    let (cell, round) = at;
    let key = |metric| Key { figure: NAME, cell: cell.to_owned(), metric };
    match pgbench(&bench.site.dir, cluster, proxy, load) {
        Ok(seen) => {
            for (metric, value) in seen {
                if metric != CPU || proxy.pid().is_some() {
                    bench.samples.add(&key(metric), &proxy.name, round, value);
                }
            }
        }
        Err(error) => bench.samples.fail(&key(CPU), &proxy.name, &error.to_string()),
    }
}

fn pgbench(
    dir: &Path,
    cluster: &Cluster,
    proxy: &Live,
    (arguments, span): (&[String], Duration),
) -> Result<[(&'static str, f64); 4]> {
    let mut command = cluster.tool("pgbench")?;
    let prefix = dir.join("pgbench");
    command.env("PGPORT", proxy.port.to_string()).args(["-n", "-j", "1", "-T", &span.as_secs().to_string()]);
    command.args(["-l", "--sampling-rate=0.2", "--log-prefix"]).arg(&prefix).args(arguments).arg("bench");
    // Should we end, so does it: at its next transaction, when the proxy has gone.
    command.stdin(Stdio::null());
    let cpu = || proxy.pid().map_or(Ok(0), cpu_ns);
    let before = cpu()?;
    let told = postgres::finished(command);
    let used = cpu()? - before;
    let latencies = latencies(dir);
    let told = told.map_err(|error| first_error(&error.to_string()))?;
    let after = |word: &str| told.lines().find_map(|line| line.strip_prefix(word)?.split_whitespace().next());
    let number = |word: &str| after(word).and_then(|text| text.split('/').next()?.parse::<f64>().ok());
    let transactions = number("number of transactions actually processed:").filter(|count| *count > 0.0);
    let transactions = transactions.ok_or("no transaction")?;
    if number("number of failed transactions:").is_some_and(|failed| failed > 0.0) {
        return Err("failed transactions".into());
    }
    let mut latencies = latencies?;
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    Ok([
        (CPU, used as f64 / 1e3 / transactions),
        (TPS, number("tps =").unwrap_or(f64::NAN)),
        (MEAN, number("latency average =").unwrap_or(f64::NAN)),
        (P99, p99 / 1e3),
    ])
}

/// What went wrong first, without who says so.
fn first_error(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("ERROR") || line.contains("error")).unwrap_or("failed");
    line.rsplit("ERROR:").next().unwrap_or(line).trim().to_owned()
}

/// Reads and removes the logs of pgbench: in the third column are microseconds.
fn latencies(dir: &Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgbench.")) {
            let text = fs::read_to_string(&path)?;
            all.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
            fs::remove_file(path)?;
        }
    }
    Ok(all)
}
