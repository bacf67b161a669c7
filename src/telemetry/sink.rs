//! Where log lines go: standard error, a file, or both. The file is opened anew by a reload, so that it can be rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// What is needed to write one.
const REMEDY: &str = ": its folder must be there, and the user that runs pglull must be allowed to write";

/// Takes log lines.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    quiet: bool,
    file: Arc<Mutex<Option<File>>>,
}

impl Sink {
    /// To standard error, unless `quiet`, and to this file, if any.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn new(quiet: bool, file: Option<&Path>) -> io::Result<Self> {
        let sink = Self { quiet, file: Arc::default() };
        sink.reopen(file)?;
        Ok(sink)
    }

    /// Opens the file, by its name, and lets go of the former one.
    ///
    /// # Errors
    /// If it cannot be opened; the former one stays then.
    pub fn reopen(&self, file: Option<&Path>) -> io::Result<()> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|error| io::Error::new(error.kind(), format!("logfile {}: {error}{REMEDY}", path.display())))
        };
        let fresh = file.map(open).transpose()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A full disk must not silence the other one, nor stop the program.
        if let Some(file) = self.file.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = file.write_all(line);
        }
        if !self.quiet {
            let _ = io::stderr().write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
