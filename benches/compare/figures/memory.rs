//! What clients that do nothing take of a proxy's memory: after their log-in, after they ran a query, and what is left
//! when they have gone.

use std::time::Duration;

use tokio::time::sleep;

use crate::bench::Bench;
use crate::load::{Client, Mode};
use crate::process::rss_kib;
use crate::samples::Key;
use crate::stream::Tls;
use crate::targets::{Kind, Live, Setup, start};
use crate::{Error, Result};

pub(crate) const NAME: &str = "memory";
pub(crate) const EACH: &str = "KiB per client";
pub(crate) const WHOLE: &str = "RSS MiB";

/// What a proxy may still do when its clients have come, or gone.
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let tls = Tls::make(&bench.site)?;
    let (_backend, port) = bench.site.start_role("null", None)?;
    let counts = bench.options.clients(if bench.options.quick { &[1000] } else { &[1000, 10_000] });
    let setup = Setup { backend: port, lines: tls.lines(), idle: true, ..Setup::default() };
    let mut rounds =
        bench.rounds(if bench.options.quick { 1 } else { 2 }, if bench.options.quick { 30.0 } else { 240.0 });
    while let Some(round) = rounds.next() {
        for sealed in [false, true] {
            for target in bench.targets.clone() {
                if target.kind == Kind::Direct || (sealed && target.kind == Kind::Floor) {
                    continue;
                }
                // Anew each time: what was here before must not be reused.
                let live = start(&bench.site, &target, &setup).await?;
                if let Err(error) = one(bench, &live, sealed.then_some(&tls), &counts, round).await {
                    let key = Key { figure: NAME, cell: format!("{}1000 idle", prefix(sealed)), metric: EACH };
                    bench.samples.fail(&key, &target.name, &error.to_string());
                }
            }
        }
        bench.say(&format!("memory: round {} done", round + 1));
    }
    Ok(())
}

const fn prefix(sealed: bool) -> &'static str {
    if sealed { "TLS, " } else { "" }
}

async fn one(bench: &mut Bench, live: &Live, tls: Option<&Tls>, counts: &[usize], round: usize) -> Result<()> {
    let pid = live.pid().ok_or("no process")?;
    let prefix = prefix(tls.is_some());
    sleep(SETTLE).await;
    let rest = rss_kib(pid)?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut note = |metric, cell: String, value| {
        bench.samples.add(&Key { figure: NAME, cell: format!("{prefix}{cell}"), metric }, &live.name, round, value);
    };
    note(WHOLE, "at rest".to_owned(), mib(rest));
    let mut clients: Vec<Client> = Vec::new();
    let request = Mode::Simple.talk().request;
    for count in counts {
        while clients.len() < *count {
            clients.push(Client::enter(live.port, "bench", tls).await?);
        }
        sleep(SETTLE).await;
        let each = |kib: u64| kib.saturating_sub(rest) as f64 / *count as f64;
        note(EACH, format!("{count} idle"), each(rss_kib(pid)?));
        for client in &mut clients {
            client.ask(&request, 1).await?;
        }
        sleep(SETTLE).await;
        note(EACH, format!("{count} idle after a query"), each(rss_kib(pid)?));
    }
    let most = clients.len();
    drop(clients);
    sleep(2 * SETTLE).await;
    note(WHOLE, format!("after {most} have left"), mib(rss_kib(pid)?));
    Ok::<(), Error>(())
}
