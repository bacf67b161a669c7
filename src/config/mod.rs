//! The configuration: our TOML or a `pgbouncer.ini`, and a `userlist.txt`, read into one typed [`Config`].
//!
//! A file becomes entries with lines (`text.rs`, `ini.rs`), entries become values (`build.rs`, by the tables of
//! `types.rs`), and all mistakes of all files are reported together. Only [`load`] touches the disk.

mod auth_files;
mod build;
pub(crate) mod changes;
mod check;
mod classes;
mod convert;
mod crowd;
mod hba;
mod hours;
mod ident;
mod include;
mod ini;
mod limits;
mod mistake;
mod pgbouncer;
mod reference;
mod running;
mod text;
mod tls;
mod tokens;
mod types;
mod userlist;
mod value;

#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;

use build::Content;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use check::CONSOLE;
pub use classes::{Class, Classes};
pub use crowd::{Crowd, Who, is_like};
pub use hba::{Hba, Method, Names, Net, Over, Rule};
pub use hours::Hours;
pub use ident::IdentMaps;
pub use limits::{ClientLimits, PoolLimits, TcpWatch};
pub use mistake::Mistake;
pub use pgbouncer::COMPATIBLE;
pub use reference::reference;
pub use running::Running;
pub use tls::{TlsProtocols, TlsSide};
pub use types::{Config, Database, Setting, UserOverride, UserSecret, WindowDefaults};
pub use value::{AuthType, LogFormat, PoolMode, Secret, SslMode, Stragglers, parse_duration};

/// What only a PEM file has.
const PEM: &[u8] = b"-----BEGIN ";

/// The largest file that is read, in bytes: room for millions of users, and not for a device.
const LARGEST: u64 = 256 << 20;

/// Reads a configuration file, and the file of users that it names. Blocks; call it before serving or off the runtime.
///
/// # Errors
/// Every mistake in both files, ordered by file and line; nothing has been started or changed.
pub fn load(path: &Path) -> Result<Config, Vec<Mistake>> {
    let noted = Noted::default();
    let content = noted.read(path).map_err(|error| unreadable(path, &error))?;
    let mut config = build::build(path, &content.text, &|path| noted.read(path))?;
    config.fingerprint = noted.fingerprint();
    let holds_password = config.databases.values().any(|database| database.password.is_some());
    if holds_password && content.world_readable {
        config.warnings.push(format!("{}: holds a password and can be read by everybody: chmod o-rwx", path.display()));
    }
    Ok(config)
}

/// A number for what stands in a configuration file and in every file that it names: as [`Config::fingerprint`], right or
/// not. Links are followed, so files that are replaced as a whole folder are seen too. Blocks.
#[must_use]
pub fn fingerprint(path: &Path) -> u64 {
    let noted = Noted::default();
    if let Ok(content) = noted.read(path) {
        let _ = build::build(path, &content.text, &|path| noted.read(path));
    }
    noted.fingerprint()
}

/// Reads files, and notes what was in them.
#[derive(Default)]
struct Noted(RefCell<DefaultHasher>);

impl Noted {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let content = read(path);
        let mut seen = self.0.borrow_mut();
        path.hash(&mut *seen);
        match &content {
            Ok(content) => content.text.hash(&mut *seen),
            Err(error) => error.kind().hash(&mut *seen),
        }
        content
    }

    fn fingerprint(&self) -> u64 {
        self.0.borrow().finish()
    }
}

/// Makes our TOML of a `pgbouncer.ini`; also returns what should be known of it, one line each. Blocks. The text holds the
/// passwords that the file holds.
///
/// # Errors
/// Every mistake in the file and those that it names.
pub fn convert(path: &Path) -> Result<(String, Vec<String>), Vec<Mistake>> {
    let content = read(path).map_err(|error| unreadable(path, &error))?;
    convert::to_toml(path, &content.text, &read)
}

fn unreadable(path: &Path, error: &io::Error) -> Vec<Mistake> {
    vec![Mistake {
        file: path.to_path_buf(),
        line: 1,
        key: "file".to_owned(),
        expected: "a file that can be read".to_owned(),
        got: mistake::unread(error),
    }]
}

fn read(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    if file.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MB", LARGEST >> 20)));
    }
    Ok(Content { text: decoded(bytes)?, world_readable: mode & 0o004 != 0 })
}

/// The text in a file. Comments, and what stands beside the certificates of a PEM file, may be in whatever encoding they were
/// written in; all else is UTF-8.
fn decoded(bytes: Vec<u8>) -> io::Result<String> {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error.into_bytes(),
    };
    let is_pem = bytes.windows(PEM.len()).any(|window| window == PEM);
    let mut text = String::with_capacity(bytes.len());
    for (line, number) in bytes.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let decoded = String::from_utf8_lossy(line);
        if matches!(decoded, Cow::Owned(_)) && !is_pem && !decoded.trim_start().starts_with(['#', ';']) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is not UTF-8")));
        }
        text.push_str(&decoded);
    }
    Ok(text)
}
