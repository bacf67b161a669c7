//! 100 MB through one connection: a result, COPY out and COPY in.

use tokio::time::{Instant, timeout};

use crate::bench::Bench;
use crate::load::Client;
use crate::process::cpu_ns;
use crate::samples::Key;
use crate::stream::Tls;
use crate::targets::{Kind, Live, Setup, start};
use crate::wire::message;
use crate::{Result, postgres};

pub(crate) const NAME: &str = "bulk";
pub(crate) const CPU: &str = "CPU-s/GB";
pub(crate) const SPEED: &str = "MB/s";

const ROWS: usize = 100_000;
const ROW: usize = 1000;
/// For one transfer.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

const WAYS: [(&str, &str); 3] = [
    ("select", "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
    ("COPY OUT", "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"),
    // In one transaction with TRUNCATE nothing of it is kept twice.
    ("COPY IN", "COPY bulk FROM STDIN"),
];

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let tls = Tls::make(&bench.site)?;
    let cluster = postgres::start(&[])?;
    let mut create = cluster.tool("psql")?;
    create.args(["-Xqc", "CREATE UNLOGGED TABLE bulk(line text)", "bench"]);
    postgres::finished(create)?;
    let setup = Setup { backend: cluster.port(), lines: tls.lines(), ..Setup::default() };
    let mut live = Vec::new();
    for target in &bench.targets {
        live.push((target.clone(), start(&bench.site, target, &setup).await?));
    }
    let data = rows();
    let mut rounds =
        bench.rounds(if bench.options.quick { 2 } else { 5 }, if bench.options.quick { 25.0 } else { 120.0 });
    while let Some(round) = rounds.next() {
        for sealed in [false, true] {
            for (way, statement) in WAYS {
                let cell = if sealed { format!("{way}, TLS") } else { way.to_owned() };
                for (target, proxy) in live.iter().filter(|(target, _)| !sealed || target.pools()) {
                    let key = |metric| Key { figure: NAME, cell: cell.clone(), metric };
                    let moved = transfer(proxy, sealed.then_some(&tls), statement, &data);
                    match timeout(LIMIT, moved).await.unwrap_or_else(|_| Err("not done in time".into())) {
                        Ok((cpu, speed)) => {
                            if target.kind != Kind::Direct {
                                bench.samples.add(&key(CPU), &proxy.name, round, cpu);
                            }
                            bench.samples.add(&key(SPEED), &proxy.name, round, speed);
                        }
                        Err(error) => bench.samples.fail(&key(CPU), &proxy.name, &error.to_string()),
                    }
                }
            }
        }
        bench.say(&format!("bulk: round {} done", round + 1));
    }
    Ok(())
}

/// All rows as CopyData, a row each as libpq's `\copy` sends them, and the end.
fn rows() -> Vec<u8> {
    let mut out = Vec::with_capacity(ROWS * (ROW + 6) + 5);
    let mut line = vec![b'x'; ROW];
    line.push(b'\n');
    for _ in 0..ROWS {
        message(&mut out, b'd', |out| out.extend_from_slice(&line));
    }
    message(&mut out, b'c', |_| ());
    out
}

/// Seconds of the proxy for a gigabyte, and megabytes in a second.
async fn transfer(proxy: &Live, tls: Option<&Tls>, statement: &str, data: &[u8]) -> Result<(f64, f64)> {
    let mut client = Client::enter(proxy.port, "bench", tls).await?;
    let mut buf = vec![0; 256 << 10];
    client.bulk("TRUNCATE bulk", &[], &mut buf).await?;
    let cpu = || proxy.pid().map_or(Ok(0), cpu_ns);
    let (before, began) = (cpu()?, Instant::now());
    client.bulk(statement, data, &mut buf).await?;
    let (seconds, used) = (began.elapsed().as_secs_f64(), cpu()? - before);
    client.leave().await?;
    let bytes = (ROWS * ROW) as f64;
    Ok((used as f64 / bytes, bytes / 1e6 / seconds))
}
