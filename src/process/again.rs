//! The program once more, from the file where it is now: another version may have been put there.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Linux writes behind the name of a program whose file has been replaced (`proc(5)`).
const GONE: &[u8] = b" (deleted)";

/// This program with these arguments of its own, as a command. What systemd has said to this process alone is left out.
///
/// # Errors
/// If the program's file cannot be told.
pub fn again() -> io::Result<Command> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new(program(&name, std::env::current_exe)?);
    command.arg0(name).args(arguments);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// The path that it was started by, if that leads somewhere: behind a symbolic link there may be a new version, and the old
/// file may have been renamed. Else what the kernel says.
fn program(name: &OsString, exe: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<PathBuf> {
    // A bare name was looked for elsewhere; any other path is meant from here, for we never leave the folder.
    let path = Path::new(name);
    if path.components().count() > 1 && path.is_file() {
        return Ok(name.into());
    }
    let exe = exe()?.into_os_string().into_vec();
    Ok(OsString::from_vec(exe.strip_suffix(GONE).unwrap_or(&exe).to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_there_now() {
        let exe = |path: &str| program(&"pglull".into(), || Ok(path.into())).unwrap();
        assert_eq!(exe("/usr/bin/pglull"), Path::new("/usr/bin/pglull"));
        assert_eq!(exe("/usr/bin/pglull (deleted)"), Path::new("/usr/bin/pglull"));
        assert_eq!(program(&"/bin/sh".into(), || Ok("/other".into())).unwrap(), Path::new("/bin/sh"));
        assert_eq!(program(&"./Cargo.toml".into(), || Ok("/other".into())).unwrap(), Path::new("./Cargo.toml"));
        assert_eq!(program(&"Cargo.toml".into(), || Ok("/other".into())).unwrap(), Path::new("/other"));
        assert_eq!(program(&"/no/such".into(), || Ok("/other".into())).unwrap(), Path::new("/other"));
    }
}
