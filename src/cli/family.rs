//! A command and everything that it starts, as one: a family. It is over when the last of them is gone.
//!
//! The command leads a process group of its own, so that a Ctrl-C on the terminal is ours to pass on. Whoever leaves the
//! group, or is left behind by its parent, becomes our child (Linux: we are their subreaper) and is still found. Where
//! there are no subreapers, the family is the group. If we are killed, a guard ends the group.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How the command itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal; `None` is one without a name.
    Signal(Option<Signal>),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(Some(signal)) => write!(f, "was ended by {signal}"),
            Self::Signal(None) => f.write_str("was ended by a signal"),
        }
    }
}

/// A command that runs, with all that it has started.
#[derive(Debug)]
pub(super) struct Family {
    leader: Pid,
    end: Option<End>,
    gone: bool,
    guard: Option<Child>,
}

/// Waits for the end of its input, which is ours, and ends the group unless a word was said before.
const GUARD: &str = r#"trap '' INT TERM HUP
read -r word
[ "$word" = done ] && exit
kill -s TERM -- "-$1"
sleep 1
kill -s KILL -- "-$1""#;

impl Family {
    /// Starts the command. There must be no other children of this process: each child is reaped here.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let _ = nix::sys::prctl::set_child_subreaper(true);
        let child = command.process_group(0).spawn()?;
        let leader = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "pglull-guard", &leader.to_string()]).process_group(0);
        let guard = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
        Ok(Self { leader, end: None, gone: false, guard })
    }

    /// Takes note of those that have ended. Whether all are gone.
    pub(super) fn look(&mut self) -> bool {
        while !self.gone {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => self.end = Some(End::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    self.end = Some(End::Signal(Some(signal)));
                }
                Ok(WaitStatus::StillAlive) => {
                    if self.end.is_some() && self.others().is_empty() {
                        // Nobody but the guard; whether that is so is seen when it is gone.
                        self.dismiss();
                    }
                    break;
                }
                Ok(WaitStatus::Exited(pid, _)) if self.guards(pid.as_raw()) => self.guard = None,
                // EINVAL: one was ended by a signal that has no name here.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(_) => {
                    self.gone = killpg(self.leader, None) == Err(Errno::ESRCH);
                    break;
                }
            }
        }
        self.gone
    }

    /// How the command itself ended; `None` while it runs. What it has started may still be there.
    pub(super) fn end(&self) -> Option<End> {
        self.end.or_else(|| self.gone.then_some(End::Signal(None)))
    }

    /// Sends a signal to all of them. Those who are gone do not mind.
    pub(super) fn tell(&self, signal: Signal) {
        if self.gone {
            return;
        }
        let all = self.others();
        // The group at once, so that none slips away by forking. Its number is somebody else's once it is empty.
        if self.end.is_none() || all.iter().any(|process| process.group == self.leader.as_raw()) {
            let _ = killpg(self.leader, signal);
        }
        for process in all.iter().filter(|process| process.group != self.leader.as_raw()) {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    }

    /// Our descendants without the guard.
    fn others(&self) -> Vec<Process> {
        let mut all = descendants(Pid::this().as_raw(), &processes());
        all.retain(|process| !self.guards(process.pid));
        all
    }

    fn guards(&self, pid: i32) -> bool {
        self.guard.as_ref().is_some_and(|guard| i32::try_from(guard.id()) == Ok(pid))
    }

    /// Lets the guard end. It stays known until it is reaped.
    fn dismiss(&mut self) {
        if let Some(mut input) = self.guard.as_mut().and_then(|guard| guard.stdin.take()) {
            let _ = input.write_all(b"done\n");
        }
    }
}

/// A process, as `/proc/PID/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
}

/// All processes that are not dead; none where there is no `/proc`.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(|pid| process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// `pid (name) state parent group ..`; the name may hold anything.
fn process(stat: &str) -> Option<Process> {
    let pid = stat.split(' ').next()?.parse().ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    alive.then_some(Process { pid, parent, group })
}

/// Those whose line of parents leads to `root`.
fn descendants(root: i32, all: &[Process]) -> Vec<Process> {
    let (mut found, mut parents): (Vec<Process>, Vec<i32>) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent && process.pid != parent) {
            if !found.contains(child) {
                found.push(*child);
                parents.push(child.pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read() {
        let expect = Process { pid: 7, parent: 1, group: 5 };
        assert_eq!(process("7 (a) b) (c) S 1 5 5 0 -1 4194560 0"), Some(expect));
        for (text, why) in [("7 (a) Z 1 5 5", "dead"), ("", "empty"), ("7 (a) S 1", "cut off"), ("x (a) S 1 5", "odd")]
        {
            assert_eq!(process(text), None, "{why}");
        }
    }

    #[test]
    fn a_family_is_all_who_come_from_it() {
        let all = [(2, 1, 2), (3, 2, 2), (4, 3, 4), (5, 1, 5), (6, 5, 5)];
        let all = all.map(|(pid, parent, group)| Process { pid, parent, group });
        let pids = |root| descendants(root, &all).iter().map(|process| process.pid).collect::<Vec<_>>();
        assert_eq!(pids(2), [3, 4]);
        assert_eq!(pids(5), [6]);
        assert_eq!(pids(6), [0; 0]);
        // A line of parents that bites its tail, as one that changes while it is read may look.
        let ring = [Process { pid: 8, parent: 9, group: 8 }, Process { pid: 9, parent: 8, group: 8 }];
        assert_eq!(descendants(8, &ring).len(), 2);
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(End::Code(3).to_string(), "ended with exit code 3");
        assert_eq!(End::Signal(Some(Signal::SIGKILL)).to_string(), "was ended by SIGKILL");
    }
}
