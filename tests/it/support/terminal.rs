//! `pglull` on a terminal, as a person sees it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::proxy::{Proxy, binary};
use super::wait::{eventually, secs, until};

/// Ends with the test, whatever becomes of it.
pub(crate) struct Kept(pub(crate) Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `pglull` with these arguments, told where this proxy's console is.
pub(crate) fn command(proxy: &Proxy, arguments: &[&str]) -> Command {
    let mut command = binary();
    let socket = proxy.console_dir().join(format!(".s.PGSQL.{}", proxy.port));
    command.args(arguments).env("PGLULL_ADMIN_SOCKET", socket).stdin(Stdio::null());
    command
}

/// `pglull` on a terminal of its own, 80x24.
pub(crate) struct Terminal {
    pub(crate) child: Kept,
    master: File,
    slave: OwnedFd,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    pub(crate) fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        command.env("TERM", "xterm").env_remove("COLUMNS").stdin(end()).stdout(end()).stderr(end());
        let child = Kept(command.spawn().unwrap());
        let master = File::from(pair.master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, filled) = (master.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                filled.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, master, slave: pair.slave, seen }
    }

    pub(crate) fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets what was there, and types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.seen.lock().unwrap().clear();
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn shows(&self, words: &str) {
        let mut last = String::new();
        let there = || {
            last = self.seen();
            last.contains(words)
        };
        eventually(&format!("it shows {words:?}"), secs(20), there);
    }

    /// Makes the terminal another size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = format!("rows {rows} cols {columns}");
        let status =
            Command::new("stty").args(size.split(' ')).stdin(Stdio::from(self.slave.try_clone().unwrap())).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn is_usual(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits for its end: the terminal is as it was.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        let status = until("it has ended", secs(20), || self.child.0.try_wait().unwrap());
        self.shows("\x1b[?1049l");
        self.shows("\x1b[?25h");
        assert!(self.is_usual(), "the terminal is left raw");
        status.code()
    }
}
