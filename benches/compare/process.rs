//! Other processes: where they run, what they have used, and that they end with us.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, Uid, User};

use crate::Result;

/// Ends what it was told of, and removes the folder, once the pipe that only we hold has ended: whatever ends us.
/// In a process group of its own, so that Ctrl-C does not end it before us.
const GUARD: &str = r#"
trap '' INT TERM HUP
pids=
while read -r word pid; do
    case $word in
        began) pids="$pids $pid" ;;
        ended) rest=; for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done; pids=$rest ;;
    esac
done
[ -z "$pids" ] || kill -KILL $pids 2>/dev/null
rm -rf "$1"
"#;

/// The cores that we may run on.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    all: CpuSet,
    /// Where the load and the backend run.
    pub(crate) load: usize,
    /// Where the proxy runs.
    pub(crate) proxy: usize,
    /// How many there are.
    pub(crate) count: usize,
}

impl Cores {
    pub(crate) fn find() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let ours: Vec<usize> = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or(false)).collect();
        let (Some(load), Some(proxy)) = (ours.first(), ours.last()) else { return Err("no core to run on".into()) };
        Ok(Self { all, load: *load, proxy: *proxy, count: ours.len() })
    }

    /// Runs this thread, and what it starts from now on, on one core, or on all for `None`.
    pub(crate) fn stay_on(&self, core: Option<usize>) -> Result<()> {
        let mut set = self.all;
        if let Some(core) = core {
            set = CpuSet::new();
            set.set(core)?;
        }
        Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
    }
}

/// The folder of a run and the guard over it and over every process of the run.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    guard: Arc<Mutex<Child>>,
    /// Who runs what must not run as root.
    owner: Option<(u32, u32)>,
}

impl Site {
    pub(crate) fn make() -> Result<Self> {
        let owner = if Uid::effective().is_root() {
            let nobody = User::from_name("nobody")?.ok_or("there is no user nobody to run the proxies as")?;
            Some((nobody.uid.as_raw(), nobody.gid.as_raw()))
        } else {
            None
        };
        let dir = tempfile::Builder::new().prefix("pglull-bench-").tempdir()?.keep();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "bench-guard"]).arg(&dir).current_dir("/").process_group(0);
        let guard = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let site = Self { dir, guard: Arc::new(Mutex::new(guard)), owner };
        site.give(&site.dir)?;
        Ok(site)
    }

    /// Makes a file or folder the owner's.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Writes a file that the owner alone may read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Starts a process as the owner; its output goes to `NAME.log`.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> Result<Running> {
        let log = self.dir.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).current_dir(&self.dir);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        Ok(self.watch(command.spawn()?, log))
    }

    /// Starts this program in another role as ourselves; it says on which port it listens.
    pub(crate) fn start_role(&self, role: &str, argument: Option<u16>) -> Result<(Running, u16)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", role]).args(argument.map(|port| format!("--backend={port}")));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().ok_or("a role has no output")?;
        let running = self.watch(child, PathBuf::new());
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        Ok((running, line.trim().parse()?))
    }

    fn watch(&self, child: Child, log: PathBuf) -> Running {
        tell(&self.guard, "began", child.id());
        Running { child, log, guard: Arc::clone(&self.guard) }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

fn tell(guard: &Mutex<Child>, word: &str, pid: u32) {
    let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipe) = guard.stdin.as_mut() {
        let _ = writeln!(pipe, "{word} {pid}");
    }
}

/// A process that ends when this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    log: PathBuf,
    guard: Arc<Mutex<Child>>,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it has said.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        tell(&self.guard, "ended", self.child.id());
    }
}

/// User and system time of a process with all threads that it has or had, in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    let used = clock_gettime(clock)?;
    Ok(u64::try_from(used.tv_sec())? * 1_000_000_000 + u64::try_from(used.tv_nsec())?)
}

/// What a process has in memory, in KiB: resident, shared pages and all.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
