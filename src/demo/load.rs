//! The load: several pgbench processes at the same time, each in a protocol mode of its own.
//!
//! Rates are fixed, so that the machine is not saturated and the timeline is flat where nothing happens.
//! A pgbench ends by its own clock; one that does not, and one that is dropped, is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::DemoError;
use super::cluster::Cluster;
use super::observe::{Fates, Log, read_fates, read_log};
use super::setup::{APP, DATABASE, SCALE, SESSION_APP};

/// Reads of the view that the change swaps, by all its columns.
const READ: &str = "\\set aid random(1, 100000 * :scale)\nSELECT * FROM account_overview WHERE aid = :aid;\n";

/// A transaction that thinks for 200 ms while it is open.
const SLOW: &str = "\\set aid random(1, 100000 * :scale)\n\\set delta random(-5000, 5000)\nBEGIN;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\\sleep 200 ms\n\
    UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
    INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP);\nCOMMIT;\n";

/// A report that keeps its transaction open for 3 s.
const REPORT: &str = "BEGIN;\nSELECT count(*) FROM pgbench_accounts WHERE abalance < 0;\n\\sleep 3 s\nCOMMIT;\n";

/// Clients that behave alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    /// Its name in the tables; also the application name.
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) does: &'static str,
    /// How many clients.
    pub(crate) clients: u32,
    /// pgbench's `-M`.
    pub(crate) mode: &'static str,
    /// Who logs in; decides the pool mode.
    pub(crate) user: &'static str,
    /// The script; `None` is pgbench's own TPC-B.
    pub(crate) script: Option<&'static str>,
    /// Transactions a second of all its clients; 0 = as fast as they get.
    pub(crate) rate: u32,
    /// What the script itself sleeps in a transaction, in milliseconds.
    pub(crate) own_ms: u64,
    /// Ends after one transaction a client instead of by time.
    pub(crate) once: bool,
}

const PLAIN: Group = Group {
    name: "reads",
    does: "reads of a view",
    clients: 12,
    mode: "simple",
    user: APP,
    script: Some(READ),
    rate: 1200,
    own_ms: 0,
    once: false,
};

/// Who works all the time, with and without a proxy: 32 clients in three protocol modes, and 4 with long transactions.
pub(crate) const GROUPS: [Group; 4] = [
    PLAIN,
    Group { name: "tpcb", does: "TPC-B", mode: "extended", script: None, rate: 300, ..PLAIN },
    Group {
        name: "session",
        does: "TPC-B, session",
        clients: 8,
        mode: "prepared",
        user: SESSION_APP,
        script: None,
        rate: 200,
        ..PLAIN
    },
    Group { name: "slow", does: "slow, 200 ms", clients: 4, script: Some(SLOW), rate: 0, own_ms: 200, ..PLAIN },
];

/// Clients that read what the change alters by named statements: they need the healing of prepared statements,
/// so they take part only where there is no proxy, to show what happens to them.
pub(crate) const NAMED: Group =
    Group { name: "named", does: "named reads", clients: 4, mode: "prepared", rate: 100, ..PLAIN };

/// One report, begun just before the change.
pub(crate) const ONE_REPORT: Group = Group {
    name: "report",
    does: "report, 3 s",
    clients: 1,
    script: Some(REPORT),
    rate: 0,
    own_ms: 3000,
    once: true,
    ..PLAIN
};

/// Where the load goes and where it leaves its files.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) port: u16,
    pub(crate) folder: &'a Path,
}

/// A group at work.
pub(crate) struct Running {
    pub(crate) group: Group,
    child: Child,
    folder: PathBuf,
}

/// What became of a group.
pub(crate) struct Seen {
    pub(crate) group: Group,
    pub(crate) log: Log,
    pub(crate) fates: Fates,
}

/// Starts a group, which works for so many seconds.
pub(crate) fn start(group: Group, site: &Site<'_>, seconds: u64) -> Result<Running, DemoError> {
    let folder = site.folder.to_owned();
    let file = |end: &str| folder.join(format!("{}.{end}", group.name));
    let mut command = Command::from(site.cluster.tool("pgbench")?);
    command.env("PGHOST", "127.0.0.1").env("PGPORT", site.port.to_string());
    command
        .env("PGUSER", group.user)
        .env("PGAPPNAME", group.name)
        .env("PGSSLMODE", "disable")
        .env("PGGSSENCMODE", "disable");
    command.args(["-n", "-M", group.mode, "-c", &group.clients.to_string(), "-j", "1", "-l", "--failures-detailed"]);
    command.arg("--log-prefix").arg(file("log"));
    if group.once {
        command.args(["-t", "1"]);
    } else {
        command.args(["-T", &seconds.to_string()]);
    }
    if group.rate > 0 {
        command.args(["-R", &group.rate.to_string()]);
    }
    if let Some(script) = group.script {
        std::fs::write(file("sql"), script)?;
        command.arg("-s").arg(SCALE.to_string()).arg("-f").arg(file("sql"));
    } else {
        command.args(["-b", "tpcb-like"]);
    }
    command.arg(DATABASE).current_dir(&folder);
    // A process group of its own: Ctrl-C is for us, and we end it.
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command.stdout(std::fs::File::create(file("out"))?).stderr(std::fs::File::create(file("err"))?);
    let child = command.spawn()?;
    Ok(Running { group, child, folder })
}

impl Running {
    /// Waits until the group has ended, kills it after `limit`, and reads what it left.
    pub(crate) async fn finish(mut self, limit: Duration) -> Result<Seen, DemoError> {
        let ended = timeout(limit, self.child.wait()).await;
        let good_exit = match &ended {
            Ok(status) => status.as_ref().is_ok_and(std::process::ExitStatus::success),
            Err(_) => {
                self.child.kill().await?;
                false
            }
        };
        let read = |end: &str| read_lossy(&self.folder.join(format!("{}.{end}", self.group.name)));
        let mut fates = read_fates(&read("out"), &read("err"), good_exit);
        if ended.is_err() {
            fates.words.push(format!("did not end within {} s and was killed", limit.as_secs()));
        }
        let mut log = Log::default();
        let prefix = format!("{}.log.", self.group.name);
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let part = read_log(&read_lossy(&entry.path()), self.group.own_ms * 1000);
                log.transactions.extend(part.transactions);
                log.failed += part.failed;
                log.odd += part.odd;
            }
        }
        Ok(Seen { group: self.group, log, fates })
    }

    /// Whether it has ended already, which before its time means trouble.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_what_is_promised() {
        let working: u32 = GROUPS.iter().filter(|g| g.own_ms == 0).map(|g| g.clients).sum();
        assert_eq!(working, 32);
        for mode in ["simple", "extended", "prepared"] {
            assert!(GROUPS.iter().any(|g| g.mode == mode), "{mode}");
        }
        let mut names: Vec<_> = GROUPS.iter().chain([&NAMED, &ONE_REPORT]).map(|g| g.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 6);
    }
}
