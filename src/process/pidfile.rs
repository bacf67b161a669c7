//! The file that holds the process id, as PgBouncer keeps it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The file, for as long as the process lives: dropping it removes the file, if it is still ours.
#[derive(Debug)]
pub struct Pidfile(PathBuf);

/// Sees to it that nobody uses the file: one that a dead process has left is removed.
///
/// # Errors
/// If its process lives, or if that cannot be told.
pub fn check(path: &Path) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|error| named(&error, "cannot read pidfile", path))?,
    };
    let used = match text.trim().parse::<i32>() {
        // In a container every start has the same number.
        Ok(pid) if i64::from(pid) == i64::from(std::process::id()) => false,
        Ok(pid) if pid > 0 => kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) && !has_ended(pid),
        _ => true,
    };
    if used {
        let remedy = "end it; if that is another program, remove the file";
        let text =
            format!("pidfile '{}' exists, another instance running? (pid {}: {remedy})", path.display(), text.trim());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    tracing::info!(pidfile = %path.display(), "stale pidfile, removing");
    fs::remove_file(path).map_err(|error| named(&error, "cannot remove stale pidfile", path))
}

/// A process that has ended and that nobody has waited for yet still has its number (`proc(5)`: state Z or X).
fn has_ended(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_start().starts_with(['Z', 'X']))
}

impl Pidfile {
    /// Writes this process into the file.
    ///
    /// # Errors
    /// As [`check`], and the kernel's.
    pub fn take(path: &Path) -> io::Result<Self> {
        check(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let written = options.open(path).and_then(|mut file| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| named(&error, "cannot write pidfile", path))?;
        Ok(Self(path.to_owned()))
    }
}

impl Pidfile {
    /// The file of a process that this one takes over from; it is that one's until it is [replaced](replace).
    #[must_use]
    pub fn inherit(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

/// Puts a process into the file, whatever it holds: readers see the old number or the new one.
///
/// # Errors
/// The kernel's.
pub fn replace(path: &Path, pid: u32) -> io::Result<()> {
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let replaced = fs::write(&fresh, format!("{pid}\n")).and_then(|()| fs::rename(&fresh, path));
    replaced.map_err(|error| named(&error, "cannot write pidfile", path))
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let ours = fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} '{}': {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        {
            let _mine = Pidfile::take(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        }
        assert!(!path.exists());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        let error = Pidfile::take(&path).unwrap_err().to_string();
        assert!(error.contains("exists, another instance running?"), "{error}");
        child.kill().unwrap();
        // Ended, and not waited for.
        let pid = i32::try_from(child.id()).unwrap();
        assert!((0..1_000_000).any(|_| has_ended(pid)));
        drop(Pidfile::take(&path).unwrap());
        child.wait().unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        drop(Pidfile::take(&path).unwrap());
        for odd in ["", "0", "-1", "many"] {
            fs::write(&path, odd).unwrap();
            assert!(check(&path).is_err(), "{odd:?}");
        }
        assert!(check(&dir.path().join("none/at/all")).is_ok());
    }
}
