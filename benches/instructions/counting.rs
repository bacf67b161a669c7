//! Runs each piece of work in a process of its own under callgrind, which counts while one function of ours runs.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Result;
use crate::work::machines;
use crate::work::rig::{Rig, Talk};

/// What makes this program one that is counted.
pub(crate) const ROLE: &str = "--role";

/// Before it is counted: whatever grows has grown.
const WARM: usize = 100;
/// Calls or transactions that are counted.
const COUNTED: usize = 100;

/// Four clients on one server.
const QUEUE: (usize, usize) = (4, 1);

/// Names, and how many clients and servers talk how.
fn relays() -> [(&'static str, (usize, usize), Talk); 7] {
    [
        ("relay simple", (1, 1), Talk::simple()),
        ("relay extended", (1, 1), Talk::extended()),
        ("relay prepared", (1, 1), Talk::prepared()),
        ("relay simple, in block", (1, 1), Talk::simple().in_block()),
        ("relay prepared, in block", (1, 1), Talk::prepared().in_block()),
        ("relay simple, queue", QUEUE, Talk::simple()),
        ("relay prepared, queue", QUEUE, Talk::prepared()),
    ]
}

/// Callgrind counts from the entry of this function to its end, by its name.
#[inline(never)]
fn counted_step(step: &mut dyn FnMut()) {
    step();
    // Not the last call: it must not become a jump out of here.
    black_box(());
}

/// Is the process that is counted.
pub(crate) fn play(name: &str) -> Result<()> {
    if let Some((_, mut work)) = machines::all().into_iter().find(|(known, _)| *known == name) {
        (0..WARM).for_each(|_| work());
        (0..COUNTED).for_each(|_| counted_step(&mut work));
        return Ok(());
    }
    let relay = relays().into_iter().find(|(known, ..)| *known == name);
    let (_, crowd, talk) = relay.ok_or_else(|| format!("nothing is called {name}"))?;
    let on = Arc::new(AtomicBool::new(false));
    let counting = Arc::clone(&on);
    let probe = Arc::new(
        move |step: &mut dyn FnMut()| {
            if counting.load(Ordering::Relaxed) { counted_step(step) } else { step() }
        },
    );
    let mut rig = Rig::start(crowd, &talk, probe)?;
    rig.run(WARM)?;
    on.store(true, Ordering::Relaxed);
    rig.run(COUNTED)
}

/// Whether there is a valgrind.
pub(crate) fn is_possible() -> bool {
    let asked = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Counts everything: instructions for each call of a machine, and for each transaction of a relay.
pub(crate) fn count_all() -> Result<Vec<(String, u64)>> {
    let machines = machines::all().into_iter().map(|(name, _)| (name, 1));
    let relays = relays().into_iter().map(|(name, (clients, _), _)| (name, clients));
    let names: Vec<_> = machines.chain(relays).collect();
    let mut counts = Vec::new();
    // As many at once as there are cores on a small machine.
    for pair in names.chunks(2) {
        let started: Vec<_> =
            pair.iter().map(|(name, clients)| Ok((*name, *clients, start(name)?))).collect::<Result<_>>()?;
        for (name, clients, process) in started {
            let output = process.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
            let collected = collected.filter(|count| *count > 0 && output.status.success());
            let collected = collected.ok_or_else(|| format!("{name} was not counted: {said}"))?;
            counts.push((name.to_owned(), collected / (COUNTED * clients) as u64));
        }
    }
    Ok(counts)
}

fn start(name: &str) -> Result<std::process::Child> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_step*")
        .arg(std::env::current_exe()?)
        .args([ROLE, name])
        // Which memcpy is taken must not depend on the processor.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX512VL,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load,-RTM")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    valgrind.spawn().map_err(|error| format!("cannot run valgrind: {error}").into())
}
