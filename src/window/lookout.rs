//! Looks, while a change runs, whom it has to wait for: sessions beside us that hold what it needs.
//!
//! Each is named. One that the configuration allows to cut is cut, and only then: a session that is in nobody's way is left
//! alone. A change that ends soon is not looked after at all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::apply::Change;
use super::receipt::{Blocker, Cut};
use super::registry::{Handle, Registry, Status};
use crate::clients::Statement;
use crate::clock::Clock;
use crate::config::{Class, Classes, Who};
use crate::ids::ServerId;
use crate::pool::database::Database;
use crate::server::conn::{Failure, Server};
use crate::server::connect::{Target, connect};

/// How long a change runs before it is looked after.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often it is looked whom it waits for.
const LOOK: Duration = Duration::from_millis(50);
/// How long one question may take.
const ASK: Duration = Duration::from_secs(3);
/// How long a cut may take to be answered after the change has ended.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// So many are named at most.
const NAMED: usize = 20;

/// What is needed to look after one change.
pub(super) struct Lookout {
    target: Arc<Target>,
    clock: Clock,
    pid: i32,
    window: String,
    database: Arc<Database>,
    classes: Classes,
    status: watch::Sender<Status>,
    /// Locked from when a cut is asked for until it is noted.
    cutting: Mutex<()>,
}

/// Whom the change waits for.
struct Blocking {
    pid: i32,
    since: String,
    blocker: Blocker,
    cuttable: bool,
    /// It runs no statement: there is nothing to cancel.
    idle: bool,
}

/// One who was met already, by process and its start.
struct Met {
    who: (i32, String),
    /// Nothing more is to be done about it.
    settled: bool,
}

impl Lookout {
    pub(super) fn new(
        change: &Change,
        registry: &Registry,
        handle: &Handle,
        status: &watch::Sender<Status>,
    ) -> Option<Self> {
        Some(Self {
            target: Arc::clone(&change.target),
            clock: registry.clock,
            pid: change.server.link.key.pid,
            window: handle.id.clone(),
            database: handle.databases.first().map(Arc::clone)?,
            classes: registry.databases.config().window.classes.clone(),
            status: status.clone(),
            cutting: Mutex::default(),
        })
    }

    /// Runs `change` to its end and looks after it meanwhile. Whoever waits for the end is told by `ended` at once; a cut that
    /// is under way then, which may be what has let the change end, is noted before this returns, if it is answered within `SETTLE`.
    pub(super) async fn beside<T>(self, change: impl Future<Output = T>, ended: impl FnOnce(T)) {
        let look = self.look();
        tokio::pin!(look);
        let done = tokio::select! {
            biased;
            done = change => done,
            never = &mut look => match never {},
        };
        ended(done);
        tokio::select! {
            biased;
            // It is fair: no other cut is begun.
            _ = self.cutting.lock() => {}
            never = &mut look => match never {},
            // What is not answered by now is told as such.
            () = tokio::time::sleep(SETTLE) => {}
        }
    }

    /// Looks until it is dropped. Cancel-safe: a connection that is dropped half-way is closed.
    async fn look(&self) -> Infallible {
        tokio::time::sleep(PATIENCE).await;
        let mut known: Vec<Met> = Vec::new();
        loop {
            if let Err(failure) = self.watch(&mut known).await {
                tracing::warn!(window = %self.window, %failure, "whom the change waits for could not be looked at");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks over one connection until that fails. `known` are those who were met already.
    async fn watch(&self, known: &mut Vec<Met>) -> Result<(), Failure> {
        let mut server = connect(&self.target, ServerId(0), self.clock.now(), ASK).await?.wake();
        loop {
            for found in self.ask(&mut server).await? {
                let who = (found.pid, found.since.clone());
                if !known.iter().any(|met| met.who == who) && known.len() < NAMED {
                    tracing::warn!(window = %self.window, blocker = %found.blocker.sentence(), "the change waits");
                    self.status.send_modify(|status| status.beside.push(found.blocker.clone()));
                    known.push(Met { who: who.clone(), settled: false });
                }
                if let Some(met) = known.iter_mut().find(|met| met.who == who && !met.settled) {
                    // One whose cut was not answered is not cut twice.
                    met.settled = true;
                    met.settled = self.cut(&mut server, found).await?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask(&self, server: &mut Server) -> Result<Vec<Blocking>, Failure> {
        let sql = BLOCKING.replace("$PID", &self.pid.to_string());
        let answer = server.query_within(sql.as_bytes(), ASK).await?;
        Ok(answer.rows.iter().map(|row| self.read(row)).collect())
    }

    fn read(&self, row: &[Option<bytes::Bytes>]) -> Blocking {
        let text = |column: usize| {
            let value = row.get(column).and_then(Option::as_ref);
            value.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
        };
        let pid = text(0).parse().unwrap_or(0);
        let state = match text(3).as_str() {
            "active" => "active",
            "" => "state unknown",
            _ => "idle in transaction",
        };
        let (user, statement) = match pid {
            0 => ("a prepared transaction".to_owned(), String::new()),
            _ => (text(1), Statement::new(text(6).as_bytes()).show()),
        };
        let blocker = Blocker {
            database: self.database.name.clone(),
            kind: "beside".into(),
            user,
            application_name: text(2),
            addr: text(7),
            port: text(8).parse().unwrap_or(0),
            state: state.into(),
            age_ms: text(5).parse().unwrap_or(0),
            statement,
            server_pid: pid,
            id: 0,
        };
        Blocking {
            pid,
            since: text(4),
            blocker,
            cuttable: matches!(text(9).as_str(), "client backend" | "") && pid > 0,
            idle: text(3).starts_with("idle"),
        }
    }

    /// Cuts one if its class allows that. Returns whether nothing more is to be done about it: where no statement runs, a cancel
    /// would be answered with success and change nothing, but one may run at the next look.
    async fn cut(&self, server: &mut Server, found: Blocking) -> Result<bool, Failure> {
        let Blocking { pid, blocker, cuttable, idle, .. } = found;
        let who = Who { user: &blocker.user, database: &self.database.name, application: &blocker.application_name };
        let Some(class) = self.classes.of(who).filter(|class| cuttable && class.may_be_cut()) else { return Ok(true) };
        let (function, unless) = match class {
            Class::Terminate => ("pg_terminate_backend", ""),
            _ if idle => return Ok(false),
            _ => ("pg_cancel_backend", UNLESS_IDLE),
        };
        let _cutting = self.cutting.lock().await;
        let whom = format!("process {pid} ({}, application \"{}\")", blocker.user, blocker.application_name);
        let asked = Asked { lookout: self, whom: Some(whom), policy: class.as_str() };
        // Only if it still stands in the way: it may have gone, and its number be another's.
        let sql = format!(
            "SELECT pg_catalog.{function}(b.pid) FROM (VALUES ({pid})) AS b(pid) \
             WHERE b.pid = ANY (pg_catalog.pg_blocking_pids({})){unless}",
            self.pid
        );
        let done = match server.query_within(sql.as_bytes(), ASK).await {
            Ok(answer) => answer.rows.first().and_then(|row| row.first()?.clone()).is_some_and(|done| done == "t"),
            Err(Failure::Refused(report)) if !server.progress.broken() => {
                tracing::warn!(window = %self.window, pid, %report, "a session beside us could not be cut");
                asked.answered();
                return Ok(true);
            }
            Err(failure) => return Err(failure),
        };
        asked.answered();
        if done {
            tracing::warn!(window = %self.window, pid, user = %blocker.user, policy = class.as_str(), "session beside us cut");
            self.database.metrics.cut(class.as_str());
            let cut = Cut {
                database: blocker.database,
                kind: "session".into(),
                id: u64::try_from(pid).unwrap_or(0),
                user: blocker.user,
                application_name: blocker.application_name,
                policy: class.as_str().into(),
            };
            self.status.send_modify(|status| status.note_cut(cut));
        }
        Ok(done)
    }
}

/// A cut that was asked for. If it is dropped unanswered the receipt says so.
struct Asked<'a> {
    lookout: &'a Lookout,
    whom: Option<String>,
    policy: &'static str,
}

impl Asked<'_> {
    fn answered(mut self) {
        self.whom = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(whom) = self.whom.take() else { return };
        let text =
            format!("whether {whom} beside pglull was cut ({}) is not known: no answer came in time", self.policy);
        tracing::warn!(window = %self.lookout.window, "{text}");
        self.lookout.status.send_modify(|status| status.notices.push(text));
    }
}

/// Its statement may have ended since it was looked at.
const UNLESS_IDLE: &str =
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = b.pid AND a.state LIKE 'idle%')";

const BLOCKING: &str = "SELECT b.pid, a.usename, a.application_name, a.state, a.backend_start, \
     pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * 1000), \
     pg_catalog.left(a.query, 500), pg_catalog.host(a.client_addr), a.client_port, a.backend_type \
     FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($PID)) AS b(pid) \
     LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid";
