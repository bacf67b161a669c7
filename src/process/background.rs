//! `-d`: the program in the background.
//!
//! It does not fork: it starts itself once more, and the new process makes itself the leader of a session of its own
//! before it has threads. The first process stays until the second serves, so that whatever goes wrong at the start is
//! seen where it was typed; PgBouncer says it in its log only.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

/// In the environment of the process in the background.
const MARK: &str = "PGLULL_IN_BACKGROUND";
/// What it says when it serves.
const READY: &[u8] = b"ready\n";

/// Whether this is the process in the background.
#[must_use]
pub fn is_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the program once more, with the same arguments, and waits until it serves. Returns whether it does; what it
/// said otherwise has been shown.
///
/// # Errors
/// If it could not be started.
pub fn start() -> io::Result<bool> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        // The name decides which command line it has.
        std::os::unix::process::CommandExt::arg0(&mut command, name);
    }
    command.args(arguments).env(MARK, "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // Ends when the process has closed it: it serves, or it has ended.
        let mut limited = stdout.take(64);
        limited.read_to_end(&mut said)?;
    }
    let ready = said == READY;
    if !ready {
        child.wait()?;
    }
    Ok(ready)
}

/// Leaves the terminal's session. For the process in the background, before it has threads.
///
/// # Errors
/// The kernel's.
pub fn detach() -> io::Result<()> {
    setsid()?;
    Ok(())
}

/// Tells the process in the foreground that this one serves, and gives up standard output and error.
///
/// # Errors
/// The kernel's.
pub fn serving() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stderr(&null)?;
    let mut out = io::stdout();
    // Whoever waits may have gone.
    let _ = out.write_all(READY).and_then(|()| out.flush());
    dup2_stdout(&null)?;
    Ok(())
}
