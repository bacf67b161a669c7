//! The folder of the records of windows: one process has it, and what is written is on the disk or was not written.
//!
//! Blocking: it is called from threads that may block.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::record::{LONGEST, Record, is_record};

/// The file that one process holds locked.
const LOCK: &str = "lock";
/// What a record is written to before it takes its name.
const TEMPORARY: &str = "record.new";

/// Why the folder cannot be used, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BadStore {
    /// It cannot be made, read or written.
    #[error("state_dir {}: {what}: {error}{}", dir.display(), remedy(error))]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Another process has it.
    #[error("state_dir {} belongs to another pglull that runs: give each its own", .0.display())]
    Taken(PathBuf),
}

/// What helps: a start by hand, as root, leaves files that the service may not touch.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": it and all in it must belong to the user that runs pglull (chown -R), and be writable"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => ": name a folder",
        _ => "",
    }
}

/// The folder; it is held until this is dropped.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// One record is written at a time.
    writing: Mutex<()>,
    lock: File,
}

impl Store {
    /// Takes the folder, makes it if it is not there, and reads what is in it. Records that cannot be read are given as
    /// far as their names tell, with the reason.
    ///
    /// The lock may come from a process that this one takes over from; it is worth something if it is this folder's.
    ///
    /// # Errors
    /// [`BadStore`].
    pub fn open(dir: &Path, inherited: Option<File>) -> Result<(Self, Vec<Record>), BadStore> {
        let unusable = |what| {
            let dir = dir.to_owned();
            move |error| BadStore::Unusable { dir, what, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable("cannot make the folder"))?;
        let lock = writable(&dir.join(LOCK), false).map_err(unusable("cannot write to it"))?;
        let lock = match inherited.filter(|inherited| is_same(inherited, &lock)) {
            Some(inherited) => inherited,
            None => {
                match lock.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Err(BadStore::Taken(dir.to_owned())),
                    Err(TryLockError::Error(error)) => return Err(unusable("cannot lock it")(error)),
                }
                lock
            }
        };
        let store = Self { dir: dir.to_owned(), writing: Mutex::default(), lock };
        // It is known now rather than at the first window.
        store.put(TEMPORARY, "").map_err(unusable("cannot write to it"))?;
        store.remove(&[TEMPORARY.to_owned()]);
        let records = store.read().map_err(unusable("cannot read it"))?;
        Ok((store, records))
    }

    /// The lock once more, for a process that takes over: it holds for as long as one of the two has it.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone().map(OwnedFd::from)
    }

    /// The records, the oldest first.
    fn read(&self) -> io::Result<Vec<Record>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| is_record(name)));
        }
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| self.read_one(name)).collect())
    }

    fn read_one(&self, name: &str) -> Option<Record> {
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::open(self.dir.join(name))?.take(LONGEST).read_to_string(&mut text)?;
            Ok(text)
        };
        let decoded = read().map_err(|error| error.to_string()).and_then(|text| Record::decode(&text));
        let record = match decoded {
            Ok(record) if record.receipt.file_name() == name => return Some(record),
            Ok(_) => Record::unreadable(name, "it is that of another window"),
            Err(why) => Record::unreadable(name, &why),
        };
        tracing::error!(
            file = name,
            why = record.as_ref().map_or("", |r| &r.receipt.reason),
            "a record cannot be read"
        );
        record
    }

    /// Writes a record. When this returns it is on the disk, whole, or what stood there before is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        self.put(&record.receipt.file_name(), &record.encode().map_err(io::Error::other)?)
    }

    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let temporary = self.dir.join(TEMPORARY);
        let written = (|| {
            let mut file = writable(&temporary, true)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, self.dir.join(name))?;
            // The name is in the folder, and the folder is a file too.
            File::open(&self.dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// The same, beside the runtime's threads. What was begun is ended, even if nobody waits for it any more.
    ///
    /// # Errors
    /// Why it is not on the disk, in words for the operator.
    pub async fn keep(self: &Arc<Self>, record: Record) -> Result<(), String> {
        let store = Arc::clone(self);
        let failed = |error: &dyn std::fmt::Display| {
            format!("the window's record cannot be written to state_dir {}: {error}", self.dir.display())
        };
        match tokio::task::spawn_blocking(move || store.write(&record)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Removes records beside whoever asks for it, where there is a runtime.
    pub fn remove_beside(self: Arc<Self>, names: Vec<String>) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || self.remove(&names))),
            Err(_) => self.remove(&names),
        }
    }

    /// Removes records; one that cannot be removed is removed another time.
    pub fn remove(&self, names: &[String]) {
        for name in names {
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

/// Whether both are one file: the lock of an open file is each copy's, but no other opening's.
fn is_same(one: &File, other: &File) -> bool {
    let id = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

fn writable(path: &Path, empty: bool) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(empty).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record::unreadable(&format!("20261122T081500.123Z-{id}.record"), "x").unwrap()
    }

    #[test]
    fn what_is_written_is_found_again_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let (store, found) = Store::open(&path, None).unwrap();
        assert_eq!(found, []);
        let (mut a, b) = (record("a"), record("b"));
        store.write(&a).unwrap();
        store.write(&b).unwrap();
        a.receipt.reason = "another".to_owned();
        store.write(&a).unwrap();
        assert!(matches!(Store::open(&path, None), Err(BadStore::Taken(_))), "two processes have it");
        drop(store);
        let (store, found) = Store::open(&path, None).unwrap();
        assert_eq!(found, [a, b.clone()]);
        store.remove(&[b.receipt.file_name()]);
        drop(store);
        assert_eq!(Store::open(&path, None).unwrap().1.len(), 1);
    }

    #[test]
    fn damaged_files_are_said_and_strange_ones_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), None).unwrap());
        for (name, bytes) in [
            ("20261122T081500.123Z-torn.record", &b"pglull record 1 sha256=00\n{}"[..]),
            ("20261122T081500.124Z-empty.record", b""),
            ("20261122T081500.125Z-bytes.record", b"\xff\xfe"),
            ("notes.txt", b"mine"),
            ("x.record", b"mine"),
        ] {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        fs::create_dir(dir.path().join("20261122T081500.126Z-dir.record")).unwrap();
        let found = Store::open(dir.path(), None).unwrap().1;
        let ids: Vec<_> = found.iter().map(|record| record.receipt.id.as_str()).collect();
        assert_eq!(ids, ["torn", "empty", "bytes", "dir"]);
        assert!(found.iter().all(|record| record.receipt.outcome == "unknown" && record.settled()));
        assert!(dir.path().join("notes.txt").exists());
    }

    #[test]
    fn a_record_under_another_name_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), None).unwrap();
        store.write(&record("a")).unwrap();
        drop(store);
        fs::rename(dir.path().join(record("a").receipt.file_name()), dir.path().join(record("c").receipt.file_name()))
            .unwrap();
        let found = Store::open(dir.path(), None).unwrap().1;
        assert!(found[0].receipt.reason.contains("another window"), "{found:?}");
    }
}
