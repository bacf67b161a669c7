//! Throwaway servers that go through what servers go through: they are stopped hard, come back, and have standbys.

use std::io::Write as _;
use std::path::Path;

use super::{Cluster, ClusterError, Options, Owner, append, bin_dir, io_error, launch, settings, stop};

impl Cluster {
    /// Stops the server at once, as `pg_ctl stop -m immediate` does: to those who are connected it is a crash. Blocks
    /// until it is gone.
    pub fn halt(&mut self) {
        stop(&mut self.server);
    }

    /// Starts the server again after [`Cluster::halt`], on this port, and waits until it accepts connections.
    ///
    /// # Errors
    /// [`ClusterError`], as [`Cluster::start`].
    pub fn start_again(&mut self, port: u16) -> Result<(), ClusterError> {
        // The guard of before would take the folder down with it; it has nothing more to guard.
        if let Some(mut pipe) = self.guard.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.guard.wait();
        (self.server, self.guard, self.port) = launch(&bin_dir()?, &Owner::find()?, self.dir.path(), Some(port))?;
        Ok(())
    }

    /// A standby of this server that streams from it. `options` are its own, where they do not concern the data.
    ///
    /// # Errors
    /// [`ClusterError`], as [`Cluster::start`].
    pub fn standby(&self, options: Options) -> Result<Self, ClusterError> {
        let (user, password) = (self.superuser().to_owned(), self.password().to_owned());
        let options = Options { superuser: user, password, ..options };
        Self::made(options, |bin, owner, dir, options| self.copied(bin, owner, dir, options))
    }

    fn copied(&self, bin: &Path, owner: &Owner, dir: &Path, options: &Options) -> Result<(), ClusterError> {
        let output = owner
            .command(&bin.join("pg_basebackup"), dir)
            .args(["-D", "data", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-h", "127.0.0.1"])
            .args(["-p", &self.port().to_string(), "-U", self.superuser()])
            .env("PGPASSWORD", self.password())
            .output()
            .map_err(io_error("cannot run pg_basebackup"))?;
        if !output.status.success() {
            return Err(ClusterError::Failed {
                what: format!("pg_basebackup ended with {}", output.status),
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        append(&dir.join("data").join("postgresql.conf"), &settings(options))
    }
}
