//! More worker threads must not make a transaction dearer; and how many system calls one takes.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

use crate::Result;
use crate::bench::Bench;
use crate::load::{Mode, Run, run};
use crate::samples::Key;
use crate::targets::{Kind, Live, Setup, start};

pub(crate) const NAME: &str = "scaling";
pub(crate) const CALLS_NAME: &str = "calls";
const CPU: &str = "CPU us/tx";
const TPS: &str = "TPS";
pub(crate) const GROWTH: &str = "CPU us/tx, this many workers / one worker";
pub(crate) const CALLS: &str = "system calls/tx";

const MODES: [Mode; 2] = [Mode::Simple, Mode::Prepared];

fn plan(proxy: &Live, mode: Mode, clients: usize, span: Duration) -> Run {
    let warm = Duration::from_millis(200);
    Run { port: proxy.port, talk: mode.talk(), clients, warm, span, pid: proxy.pid() }
}

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let options = bench.options.clone();
    let (_backend, port) = bench.site.start_role("null", None)?;
    let mut workers = vec![1, 2];
    workers.extend((bench.cores.count > 2).then_some(bench.cores.count));
    let mut live = Vec::new();
    for target in bench.targets.iter().filter(|target| matches!(target.kind, Kind::Pglull(_))) {
        for workers in &workers {
            let pglull_lines = vec![format!("worker_threads = {workers}")];
            let setup = Setup { backend: port, pglull_lines, ..Setup::default() };
            live.push((*workers, start(&bench.site, target, &setup).await?));
        }
    }
    let span = options.seconds(if options.quick { 0.5 } else { 1.0 });
    let mut rounds = bench.rounds(if options.quick { 2 } else { 5 }, if options.quick { 15.0 } else { 60.0 });
    while let Some(round) = rounds.next() {
        for mode in options.modes(&MODES) {
            let mut alone = f64::NAN;
            for (workers, proxy) in &live {
                let cell =
                    format!("{}, 64 clients, {workers} worker{}", mode.name(), if *workers == 1 { "" } else { "s" });
                let key = |metric| Key { figure: NAME, cell: cell.clone(), metric };
                match run(&plan(proxy, mode, 64, span)).await {
                    Ok(seen) => {
                        if *workers == 1 {
                            alone = seen.cpu_us();
                        } else {
                            bench.samples.add(&key(GROWTH), &proxy.name, round, seen.cpu_us() / alone);
                        }
                        bench.samples.add(&key(CPU), &proxy.name, round, seen.cpu_us());
                        bench.samples.add(&key(TPS), &proxy.name, round, seen.tps());
                    }
                    Err(error) => bench.samples.fail(&key(CPU), &proxy.name, &error.to_string()),
                }
            }
        }
        bench.say(&format!("scaling: round {} done", round + 1));
    }
    Ok(())
}

/// System calls for each transaction, as strace counts them; it slows everything, so only the counts mean something.
pub(crate) async fn calls(bench: &mut Bench) -> Result<()> {
    let (_backend, port) = bench.site.start_role("null", None)?;
    let setup = Setup { backend: port, ..Setup::default() };
    for target in bench.targets.clone().iter().filter(|target| target.kind != Kind::Direct) {
        let live = start(&bench.site, target, &setup).await?;
        for mode in bench.options.modes(&MODES) {
            for clients in bench.options.clients(&[16, 64]) {
                let key =
                    Key { figure: CALLS_NAME, cell: format!("{}, {clients} clients", mode.name()), metric: CALLS };
                match count_calls(bench, &live, mode, clients).await {
                    Ok(calls) => bench.samples.add(&key, &live.name, 0, calls),
                    Err(error) => bench.samples.fail(&key, &live.name, &error.to_string()),
                }
            }
        }
    }
    bench.say("calls: done");
    Ok(())
}

async fn count_calls(bench: &Bench, live: &Live, mode: Mode, clients: usize) -> Result<f64> {
    let pid = live.pid().ok_or("no process")?;
    let file = bench.site.dir.join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(&file);
    let mut tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // It says nothing when it is attached.
    sleep(Duration::from_millis(300)).await;
    let seen = run(&plan(live, mode, clients, Duration::from_secs(1))).await;
    kill(Pid::from_raw(i32::try_from(tracer.id())?), Signal::SIGINT)?;
    tracer.wait()?;
    let table = std::fs::read_to_string(file)?;
    let total = table.lines().find(|line| line.trim_end().ends_with(" total")).ok_or("strace counted nothing")?;
    // Share, seconds, microseconds a call (not in every version), calls, perhaps errors, the word.
    let numbers: Vec<&str> = total.split_whitespace().collect();
    let whole = numbers.iter().skip(2).find_map(|word| word.parse::<f64>().ok().filter(|count| *count > 1000.0));
    Ok(whole.ok_or("strace counted too little")? / seen?.in_all as f64)
}
