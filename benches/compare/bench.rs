//! A run: its options, its targets, what it has measured so far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use crate::load::Mode;
use crate::process::{Cores, Site};
use crate::samples::Samples;
use crate::targets::{Kind, Target};
use crate::{Result, goals};

/// pglull beside PgBouncer, a blind forwarder and no proxy at all, in the same rounds.
#[derive(Parser, Clone, Debug)]
pub(crate) struct Options {
    /// Which figures; all if none is named.
    pub(crate) figures: Vec<String>,
    /// Rounds of each figure.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one measurement.
    #[arg(long)]
    secs: Option<f64>,
    /// Only these ways to send statements.
    #[arg(long)]
    mode: Vec<Mode>,
    /// Only these numbers of clients.
    #[arg(long)]
    clients: Vec<usize>,
    /// Only these targets: direct, floor, pgbouncer, pglull, or a name of --also.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// One more build of pglull as a target.
    #[arg(long, value_name = "NAME=PATH")]
    also: Vec<String>,
    /// The build that is judged; by default `cargo build --release` makes it.
    #[arg(long, value_name = "PATH")]
    pglull: Option<PathBuf>,
    /// Fewer and shorter rounds.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also write benches/results/<date>.md and .json.
    #[arg(long)]
    pub(crate) save: bool,
    /// What this process is in somebody else's run.
    #[arg(long, hide = true)]
    pub(crate) role: Option<String>,
    /// For a role: where the backend listens.
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) backend: u16,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn seconds(&self, usual: f64) -> Duration {
        Duration::from_secs_f64(self.secs.unwrap_or(usual))
    }

    pub(crate) fn modes(&self, all: &[Mode]) -> Vec<Mode> {
        all.iter().copied().filter(|mode| self.mode.is_empty() || self.mode.contains(mode)).collect()
    }

    pub(crate) fn clients(&self, usual: &[usize]) -> Vec<usize> {
        if self.clients.is_empty() { usual.to_vec() } else { self.clients.clone() }
    }
}

/// The rounds of one figure. Without a number from the user, a round for which no time is left is not begun.
pub(crate) struct Rounds {
    wanted: usize,
    done: usize,
    began: Instant,
    budget: f64,
}

impl Rounds {
    /// The number of the next round, from 0.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let used = self.began.elapsed().as_secs_f64();
        let fits = self.done == 0 || used + used / self.done as f64 <= self.budget;
        (self.done < self.wanted && fits).then(|| {
            self.done += 1;
            self.done - 1
        })
    }
}

/// A run.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) cores: Cores,
    pub(crate) site: Site,
    pub(crate) targets: Vec<Target>,
    pub(crate) samples: Samples,
    began: Instant,
}

impl Bench {
    pub(crate) fn prepare(options: Options) -> Result<Self> {
        let cores = Cores::find()?;
        let ours = options.pglull.clone().map_or_else(build, Ok)?;
        let site = Site::make()?;
        let mut targets = vec![
            Target { name: "direct".to_owned(), kind: Kind::Direct },
            Target { name: goals::FLOOR.to_owned(), kind: Kind::Floor },
        ];
        if let Some(program) = bouncer() {
            targets.push(Target { name: goals::BOUNCER.to_owned(), kind: Kind::Bouncer(program) });
        }
        targets.push(Target { name: goals::OURS.to_owned(), kind: Kind::Pglull(copy(&site, goals::OURS, &ours)?) });
        for also in &options.also {
            let (name, path) = also.split_once('=').ok_or("--also wants NAME=PATH")?;
            targets.push(Target { name: name.to_owned(), kind: Kind::Pglull(copy(&site, name, Path::new(path))?) });
        }
        if !options.targets.is_empty() {
            targets.retain(|target| options.targets.contains(&target.name));
        }
        Ok(Self { options, cores, site, targets, samples: Samples::default(), began: Instant::now() })
    }

    /// So many rounds, in at most so many seconds.
    pub(crate) fn rounds(&self, usual: usize, seconds: f64) -> Rounds {
        let budget = if self.options.rounds.is_some() { f64::INFINITY } else { seconds };
        Rounds { wanted: self.options.rounds.unwrap_or(usual), done: 0, began: Instant::now(), budget }
    }

    /// Tells whoever waits how far we are.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("{:5.0} s  {what}", self.began.elapsed().as_secs_f64());
    }
}

/// A copy in the run's folder, since who runs it may not be allowed into the folder of the original, and since the
/// original may be built anew meanwhile.
fn copy(site: &Site, name: &str, from: &Path) -> Result<PathBuf> {
    let to = site.dir.join(format!("program-{name}"));
    std::fs::copy(from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(to)
}

/// Builds the program as it is shipped. What Cargo builds beside a benchmark has the features of the tests in it.
fn build() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = std::process::Command::new(cargo)
        .args(["build", "--release", "--locked", "--bin", "pglull"])
        .current_dir(root)
        .status()?;
    if !done.success() {
        return Err("pglull cannot be built".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/pglull"))
}

/// Debian's PgBouncer, if it is there.
fn bouncer() -> Option<PathBuf> {
    let named = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from("/usr/sbin/pgbouncer"))).filter(|program| program.is_file())
}
