//! What a window costs those who are held: how long after the last transaction the proxy says so, how long after the
//! release everybody is served, and what another database notices of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::bench::Bench;
use crate::console::Console;
use crate::hist::Histogram;
use crate::load::{Client, Mode, Run, run};
use crate::samples::Key;
use crate::targets::{Live, Setup, Target, start};
use crate::{Result, postgres};

pub(crate) const NAME: &str = "window";
pub(crate) const DRAIN: &str = "drain lag ms";
pub(crate) const FIRST: &str = "worst first reply after release, ms";
pub(crate) const TO_FLOOR: &str = "worst first reply / (held / steady TPS)";
pub(crate) const TO_RUSH: &str = "worst first reply / the same crowd without a hold";
pub(crate) const STALL: &str = "worst stall beyond the hold, ms";
pub(crate) const OTHER: &str = "p99 of another database, released / steady";
const OTHER_MS: &str = "p99 of another database, released, ms";
const STEADY: &str = "steady TPS";

/// Those who work all the time; everybody else sends one statement while all are held.
const WORKERS: usize = 64;
/// Clients of the other database, and what they think between two statements.
const NEIGHBOURS: usize = 8;
const THINK: Duration = Duration::from_millis(1);
/// What arrives late in a hold has this long to arrive.
const SETTLE: Duration = Duration::from_millis(300);
/// Fewer answers of another database have no p99.
const ENOUGH: u64 = 50;

/// When a statement was sent and when its answer had come.
type Served = (Instant, Instant);

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let options = bench.options.clone();
    let cluster = postgres::start(&[])?;
    let setup = Setup { backend: cluster.port(), ..Setup::default() };
    let mut live = Vec::new();
    for target in bench.targets.iter().filter(|target| target.pools()) {
        live.push((target.clone(), start(&bench.site, target, &setup).await?));
    }
    let mut rounds = bench.rounds(if options.quick { 2 } else { 5 }, if options.quick { 40.0 } else { 180.0 });
    while let Some(round) = rounds.next() {
        for held in options.clients(if options.quick { &[64, 1000] } else { &[64, 1000, 5000] }) {
            for (target, proxy) in &live {
                let cell = format!("{held} held");
                let key = |metric| Key { figure: NAME, cell: cell.clone(), metric };
                match once(target, proxy, held).await {
                    Ok(figures) => {
                        for (metric, value) in figures {
                            bench.samples.add(&key(metric), &proxy.name, round, value);
                        }
                    }
                    Err(error) => bench.samples.fail(&key(FIRST), &proxy.name, &error.to_string()),
                }
            }
        }
        bench.say(&format!("window: round {} done", round + 1));
    }
    Ok(())
}

async fn once(target: &Target, proxy: &Live, held: usize) -> Result<Vec<(&'static str, f64)>> {
    let stop = Arc::new(AtomicBool::new(false));
    let neighbours = neighbours(proxy.port, &stop).await?;
    let steady = Run {
        port: proxy.port,
        talk: Mode::Simple.talk(),
        clients: WORKERS,
        warm: Duration::from_millis(200),
        span: Duration::from_millis(800),
        pid: None,
    };
    let began = Instant::now();
    let steady = run(&steady).await?;
    let worked_until = Instant::now();

    let mut sleepers = Vec::new();
    for _ in WORKERS..held {
        sleepers.push(Client::log_in(proxy.port, "bench").await?);
    }
    // Twice: what a first statement costs is no part of it.
    let (sleepers, _) = rush(sleepers).await?;
    let (sleepers, unheld) = rush(sleepers).await?;
    let workers = workers(proxy.port, held.min(WORKERS), &stop).await?;
    let mut console = Console::open(target, proxy.port).await?;
    sleep(Duration::from_millis(300)).await;
    console.hold().await?;
    let told = Instant::now();
    let mut woken = JoinSet::new();
    for mut client in sleepers {
        woken.spawn(async move {
            let sent = Instant::now();
            client.ask(&Mode::Simple.talk().request, 1).await.map(|()| (sent, Instant::now()))
        });
    }
    sleep(SETTLE).await;
    let released = Instant::now();
    console.release().await?;
    let mut seen = Vec::new();
    while let Some(one) = woken.join_next().await {
        seen.push(vec![one??]);
    }
    // Those who work are served among the others; a moment more for the last of them.
    sleep(SETTLE).await;
    stop.store(true, Ordering::Relaxed);
    seen.extend(collect(workers).await?);
    let neighbours = collect(neighbours).await?;
    judge(&seen, (told, released), held as f64 / steady.tps()).map(|mut figures| {
        let until = released + Duration::from_secs_f64(figures[1].1 / 1e3);
        figures.push((STEADY, steady.tps()));
        if held > WORKERS {
            figures.push((TO_RUSH, figures[1].1 / (unheld.as_secs_f64() * 1e3)));
        }
        figures.extend(other(&neighbours, (began, worked_until), (released, until)));
        figures
    })
}

/// How long it takes until all have an answer that ask at once, at an open gate.
async fn rush(sleepers: Vec<Client>) -> Result<(Vec<Client>, Duration)> {
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for mut client in sleepers {
        asking.spawn(async move { client.ask(&Mode::Simple.talk().request, 1).await.map(|()| client) });
    }
    let mut answered = Vec::new();
    while let Some(client) = asking.join_next().await {
        answered.push(client??);
    }
    Ok((answered, began.elapsed()))
}

/// The figures of one hold; `least` is the time in seconds that serving everybody takes at full speed.
fn judge(seen: &[Vec<Served>], (told, released): (Instant, Instant), least: f64) -> Result<Vec<(&'static str, f64)>> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let all = || seen.iter().flatten();
    let last = all().filter(|(_, done)| *done < told).map(|(_, done)| *done).max();
    let served = seen.iter().filter_map(|one| one.iter().find(|(_, done)| *done >= released));
    let first: Vec<Duration> = served.map(|(_, done)| *done - released).collect();
    if first.len() < seen.len() {
        return Err(format!("{} were never served", seen.len() - first.len()).into());
    }
    let first = ms(first.into_iter().max().unwrap_or_default());
    let crossing = all().filter(|(sent, done)| *sent < told && *done >= released);
    let stall = crossing.map(|(sent, done)| (*done - *sent).saturating_sub(released - told)).max().unwrap_or_default();
    let mut figures = vec![(TO_FLOOR, first / (least * 1e3)), (FIRST, first), (STALL, ms(stall))];
    figures.extend(last.map(|last| (DRAIN, ms(told.saturating_duration_since(last)))));
    Ok(figures)
}

/// The p99 of the other database in the second span, and as a part of what it is in spans as long as that within the first: the
/// fewer answers, the higher it is. A proxy that is slow all the time has a small part, so both are looked at.
fn other(seen: &[Vec<Served>], steady: (Instant, Instant), released: (Instant, Instant)) -> Vec<(&'static str, f64)> {
    let p99 = |from: Instant, until: Instant| {
        let mut latency = Histogram::default();
        let overlaps = seen.iter().flatten().filter(|(sent, done)| *done >= from && *sent <= until);
        overlaps.for_each(|(sent, done)| latency.add(*done - *sent));
        (latency.total() >= ENOUGH).then(|| latency.quantile_ms(0.99))
    };
    let long = released.1 - released.0;
    let spans = ((steady.1 - steady.0).as_secs_f64() / long.as_secs_f64()).max(1.0) as u32;
    let mut usual: Vec<f64> = (0..spans)
        .filter_map(|span| p99(steady.0 + long * span, (steady.0 + long * (span + 1)).min(steady.1)))
        .collect();
    usual.sort_by(f64::total_cmp);
    let Some(now) = p99(released.0, released.1) else { return Vec::new() };
    let part = usual.get(usual.len() / 2).map(|usual| (OTHER, now / usual));
    part.into_iter().chain([(OTHER_MS, now)]).collect()
}

type Crowd = JoinSet<Result<Vec<Served>>>;

async fn workers(port: u16, count: usize, stop: &Arc<AtomicBool>) -> Result<Crowd> {
    crowd(port, "bench", count, None, stop).await
}

async fn neighbours(port: u16, stop: &Arc<AtomicBool>) -> Result<Crowd> {
    crowd(port, "other", NEIGHBOURS, Some(THINK), stop).await
}

async fn crowd(
    port: u16,
    database: &str,
    count: usize,
    think: Option<Duration>,
    stop: &Arc<AtomicBool>,
) -> Result<Crowd> {
    let mut crowd = JoinSet::new();
    for _ in 0..count {
        let (mut client, stop) = (Client::log_in(port, database).await?, Arc::clone(stop));
        crowd.spawn(async move {
            let (request, mut seen) = (Mode::Simple.talk().request, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let sent = Instant::now();
                client.ask(&request, 1).await?;
                seen.push((sent, Instant::now()));
                if let Some(think) = think {
                    sleep(think).await;
                }
            }
            Ok(seen)
        });
    }
    Ok(crowd)
}

async fn collect(mut crowd: Crowd) -> Result<Vec<Vec<Served>>> {
    let mut seen = Vec::new();
    while let Some(one) = crowd.join_next().await {
        seen.push(one??);
    }
    Ok(seen)
}
