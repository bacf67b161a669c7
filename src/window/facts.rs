//! Looks before a window starts: collects the facts that `preflight` judges, on the connection of the change itself.
//!
//! Nobody is held meanwhile. A session beside us that is in a transaction for a moment only is looked at twice: what counts
//! is what lasts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::apply::{self, Change, Script};
use super::change_table::{Note, Part};
use super::event::Event;
use super::lints::lints;
use super::noting::Before;
use super::people::in_transaction;
use super::plan::{Force, Form, Stragglers};
use super::preflight::{Facts, Line, MOMENTARY, Open, Policy, Prepared, Session, Standby, Verdict, decide, judge};
use super::registry::Registry;
use super::script;
use crate::clients::{State, Statement};
use crate::ids::millis;
use crate::pool::database::Database;
use crate::server::cancel::Link;
use crate::server::conn::{Failure, Server};

/// How long one question may take.
const ASK: Duration = Duration::from_secs(3);
/// How long all looks together may take: a little less than the machine waits for them.
const LOOK: Duration = Duration::from_secs(9);
/// How many databases are looked at at once.
const AT_ONCE: usize = 32;

/// What is to be started.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// How it changes the schema.
    pub(super) form: Form,
    /// The change; empty for none.
    pub(super) script: Script,
    /// What is noted of it.
    pub(super) note: Note,
    /// It is a look only: nothing is made ready for it in the database.
    pub(super) looks_only: bool,
    /// What the operator passes over.
    pub(super) force: Force,
    /// What the operator wants done with stragglers.
    pub(super) stragglers: Stragglers,
}

/// What a look has come to.
pub(super) struct Looked {
    /// All findings.
    pub(super) lines: Vec<Line>,
    /// Whether the window starts, and if not why.
    pub(super) answer: Event,
    /// The change, ready to run, if there is one.
    pub(super) change: Option<Change>,
}

/// Looks at all databases that a window is to cover.
pub(super) async fn look(registry: &Registry, databases: &[Arc<Database>], wanted: &Wanted) -> Looked {
    let by_hand = !wanted.form.runs_sql();
    let (mut lines, mut change, mut present) = (Vec::new(), None, None);
    let policy = policy(registry, wanted.stragglers);
    let looks = gather_all(registry, databases, wanted).await;
    for (ix, (database, (facts, ready))) in databases.iter().zip(looks).enumerate() {
        let mut found = judge(&facts, &policy);
        if databases.len() > 1 {
            found.iter_mut().for_each(|line| line.subject = format!("{} {}", database.name, line.subject));
        }
        lines.append(&mut found);
        match ready {
            Some(ready) if ix == 0 && !by_hand => (change, present) = (Some(ready), facts.present),
            Some(looked) => looked.server.farewell(),
            None => {}
        }
    }
    let mut answer = match (present, decide(&mut lines, &wanted.force, by_hand)) {
        // Whatever else speaks against it: there is nothing to be done.
        (Some(what), _) => Event::Present(what),
        (None, Some(why)) => Event::Refused(why),
        (None, None) => Event::Passed,
    };
    if answer == Event::Passed
        && !wanted.looks_only
        && let Some(ready) = &mut change
        && let Err(why) = ready.make_table().await
    {
        lines.push(Line::new("change", Verdict::Refuse, "", why.as_str()));
        answer = Event::Refused(why);
    }
    if answer != Event::Passed
        && let Some(looked) = change.take()
    {
        looked.server.farewell();
    }
    if let Some(change) = &mut change {
        change.trial = wanted.form == Form::Trial;
    }
    Looked { lines, answer, change }
}

fn policy(registry: &Registry, stragglers: Stragglers) -> Policy {
    let config = registry.databases.config();
    let window = &config.window;
    Policy {
        classes: window.classes.clone(),
        long_transaction: window.long_transaction,
        standbys: window.standbys,
        max_lag: window.max_lag,
        max_lag_bytes: u64::try_from(window.max_lag_bytes).unwrap_or(u64::MAX),
        hours: window.windows.as_str().to_owned(),
        stragglers,
    }
}

/// The facts of all, in their order. Those who do not answer must not keep the others from being heard: all are asked at
/// once, up to a bound, and whoever has not answered in time is known by that.
async fn gather_all(registry: &Registry, databases: &[Arc<Database>], wanted: &Wanted) -> Vec<(Facts, Option<Change>)> {
    let until = Instant::now() + LOOK;
    let look = |(ix, database): (usize, &Arc<Database>)| {
        // The first is the one that is changed; the others are only held.
        let role = if ix == 0 { wanted.clone() } else { Wanted { form: Form::Open, ..wanted.clone() } };
        let database = Arc::clone(database);
        async move {
            let gathered = timeout_at(until, gather(registry, (&database, databases), &role)).await;
            gathered.unwrap_or_else(|_| {
                let unreachable = Some(format!("preflight could not look at it within {} s", LOOK.as_secs()));
                let open = open_transactions(registry, &database);
                (Facts { unreachable, open, ..known(registry, &database, &role) }, None)
            })
        }
    };
    stream::iter(databases.iter().enumerate().map(look)).buffered(AT_ONCE).collect().await
}

/// The facts of one database, which is held together with `all`.
async fn gather(
    registry: &Registry,
    (database, all): (&Arc<Database>, &[Arc<Database>]),
    wanted: &Wanted,
) -> (Facts, Option<Change>) {
    let mut facts = known(registry, database, wanted);
    let ready = match registry.target(database) {
        Ok(target) => apply::prepare(target, registry.clock, wanted.script.clone(), wanted.note.clone()).await,
        Err(why) if !wanted.form.runs_sql() => {
            facts.unasked.push(("database", why));
            facts.open = open_transactions(registry, database);
            return (facts, None);
        }
        Err(why) => Err(why),
    };
    let mut ready = match ready {
        Ok(ready) => ready,
        Err(why) => {
            facts.unreachable = Some(why);
            facts.open = open_transactions(registry, database);
            return (facts, None);
        }
    };
    if let Err(failure) = ask(&mut ready.server, all, &mut facts).await {
        facts.unreachable = Some(format!("cannot ask the database: {failure}"));
    }
    if wanted.form == Form::Trial {
        facts.objection = facts.objection.or_else(|| parts_objection(&ready.note.parts, &wanted.script));
    }
    if wanted.form == Form::Apply && facts.unreachable.is_none() {
        let mut before = ready.before().await;
        if before == Ok(Before::Never) && !ready.note.parts.is_empty() {
            before = ready.pending().await;
            let sql: Vec<&str> = ready.note.parts.iter().map(|part| part.sql.as_ref()).collect();
            facts.lints = lints(&sql.join("\n;\n"));
            facts.objection = parts_objection(&ready.note.parts, &wanted.script);
        }
        match before {
            Ok(Before::Pending(what)) => facts.change = Some((false, what)),
            Ok(Before::Never) => facts.change = Some((false, "not applied before".to_owned())),
            Ok(Before::Applied(what)) => {
                facts.change = Some((false, what.clone()));
                facts.present = Some(what);
            }
            Ok(Before::Taken(why)) | Err(why) => facts.change = Some((true, why)),
        }
    }
    facts.open = open_transactions(registry, database);
    (facts, Some(ready))
}

/// What is known before anybody is asked.
fn known(registry: &Registry, database: &Database, wanted: &Wanted) -> Facts {
    // Of several changes, those are looked at that turn out to be left.
    let whole = wanted.form.runs_sql() && wanted.note.parts.is_empty();
    let objection = if whole { objection(&wanted.script) } else { None };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Facts {
        database: database.name.clone(),
        objection,
        lints: if whole { lints(&wanted.script.sql) } else { Vec::new() },
        hours_until: registry.databases.config().window.windows.until(now.as_secs()),
        ..Facts::default()
    }
}

fn objection(script: &Script) -> Option<String> {
    script::objection(&script.sql).or_else(|| script::verify_objection(&script.verify))
}

/// The same of several changes, with the id of the one.
fn parts_objection(parts: &[Part], script: &Script) -> Option<String> {
    let object = |part: &Part| script::objection(&part.sql).map(|objection| format!("{}: {objection}", part.id));
    parts.iter().find_map(object).or_else(|| script::verify_objection(&script.verify))
}

/// Clients of ours with open transactions, the oldest first.
fn open_transactions(registry: &Registry, database: &Arc<Database>) -> Vec<Open> {
    let now = registry.clock.now();
    let mut open: Vec<Open> = in_transaction(registry, std::slice::from_ref(database))
        .into_iter()
        .filter_map(|client| {
            let view = client.view();
            let state = if view.state == State::IdleInTransaction { "idle in transaction" } else { "active" };
            Some(Open {
                id: client.id.0,
                user: client.user.clone(),
                application: client.application_name(),
                age_ms: millis(now.since(view.transaction?)),
                doing: format!("{state}, last statement: {}", view.statement.show()),
            })
        })
        .collect();
    open.sort_by_key(|open| std::cmp::Reverse(open.age_ms));
    open
}

/// Asks the database.
async fn ask(server: &mut Server, all: &[Arc<Database>], facts: &mut Facts) -> Result<(), Failure> {
    let answer = rows(server, TARGET).await?;
    let first = answer.first().ok_or_else(|| Failure::Protocol("no row".to_owned()))?;
    facts.in_recovery = first.flag(0);
    facts.read_only = first.text(1) != "off";
    let sees_all = first.flag(2);
    facts.sessions = sessions(server, all).await?;
    let passing = |session: &Session| match session.transaction_ms {
        Some(age) => age < millis(MOMENTARY),
        None => !session.locks.is_empty(),
    };
    if facts.sessions.iter().any(passing) {
        tokio::time::sleep(MOMENTARY).await;
        facts.sessions = sessions(server, all).await?;
    }
    let hidden = |session: &Session| session.state.is_empty() && !session.user.is_empty();
    facts.short_sighted = (!sees_all && facts.sessions.iter().any(hidden)).then(|| first.text(3));
    let prepared = |row: &Row| Prepared { gid: row.text(0), owner: row.text(1), age_ms: row.number(2).unwrap_or(0) };
    facts.prepared = rows(server, PREPARED).await?.iter().map(prepared).collect();
    if !facts.in_recovery {
        standbys(server, facts).await?;
    }
    Ok(())
}

async fn standbys(server: &mut Server, facts: &mut Facts) -> Result<(), Failure> {
    let found = match rows(server, STANDBYS).await {
        Ok(found) => found,
        // Where Postgres is not quite Postgres.
        Err(Failure::Refused(report)) if !server.progress.broken() => {
            facts.unasked.push(("standbys", report.message));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    if found.iter().any(|row| row.text(3).is_empty()) {
        let why = "the role may not see them: GRANT pg_read_all_stats to it".to_owned();
        facts.unasked.push(("standbys", why));
        return Ok(());
    }
    let standby = |row: &Row| Standby { name: row.text(0), lag_ms: row.number(1), lag_bytes: row.number(2) };
    facts.standbys = found.iter().map(standby).collect();
    Ok(())
}

/// Where a Postgres is: host, port, and the address that the host turned out to have.
type Place<'a> = (&'a str, u16, Option<SocketAddr>);

fn place(link: &Link) -> Place<'_> {
    (&link.target.host, link.target.port, link.addr)
}

/// Whether both are the same Postgres, as far as can be told: the number of a process means nothing on another one. One host
/// may have several addresses, and several hosts one; on this machine the port tells.
fn is_one(a: Place<'_>, b: Place<'_>) -> bool {
    let is_near = |(host, _, addr): Place<'_>| addr.map_or(host.starts_with('/'), |addr| addr.ip().is_loopback());
    a.1 == b.1 && (a.0 == b.0 || (a.2.is_some() && a.2 == b.2) || (is_near(a) && is_near(b)))
}

/// The sessions of the server's database that are none of ours. Several of our entries may lead to it: those that are held
/// are ours, the others are not. Their looks are known by the name of the window.
async fn sessions(server: &mut Server, all: &[Arc<Database>]) -> Result<Vec<Session>, Failure> {
    let pools = all.iter().flat_map(|database| database.pools());
    let servers = pools.flat_map(|pool| pool.roster.list());
    let here = place(&server.link);
    let links = servers.filter_map(|listed| Some(Arc::clone(&listed.account()?.link)));
    let pids: Vec<String> =
        links.filter(|link| is_one(place(link), here)).map(|link| link.key.pid.to_string()).collect();
    let sql = SESSIONS.replace("$OURS", &pids.join(","));
    let session = |row: &Row| {
        let statement = row.text(7);
        let hidden = statement == "<insufficient privilege>";
        Session {
            pid: row.text(0).parse().unwrap_or(0),
            user: row.text(1),
            application: row.text(2),
            backend: row.text(3),
            state: row.text(4),
            connected_ms: row.number(5).unwrap_or(0),
            transaction_ms: row.number(6),
            statement: if hidden { String::new() } else { Statement::new(statement.as_bytes()).show() },
            locks: row.text(8),
        }
    };
    Ok(rows(server, &sql).await?.iter().map(session).collect())
}

const TARGET: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only'), \
     pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'), current_user";

const SESSIONS: &str = "SELECT a.pid, a.usename, a.application_name, a.backend_type, a.state, \
     pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp() - a.backend_start) * 1000), \
     pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * 1000), \
     pg_catalog.left(a.query, 500), pg_catalog.left(h.locks, 200) \
     FROM pg_catalog.pg_stat_activity a LEFT JOIN ( \
       SELECT l.pid, pg_catalog.string_agg(DISTINCT l.mode || ' on ' || coalesce(c.relname, l.relation::text), ', ') AS locks \
       FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation \
       WHERE l.locktype = 'relation' AND l.granted AND l.relation >= 16384 \
       AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
       AND (c.relkind IS NULL OR c.relkind IN ('r', 'p', 'v', 'm', 'f')) GROUP BY l.pid) h ON h.pid = a.pid \
     WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() \
     AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'autovacuum worker') \
     AND (a.application_name = pg_catalog.current_setting('application_name') AND a.usename = current_user) IS NOT TRUE \
     AND a.pid <> ALL ('{$OURS}'::pg_catalog.int4[]) ORDER BY a.xact_start NULLS LAST, a.pid";

const PREPARED: &str = "SELECT gid, owner, \
     pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp() - prepared) * 1000) \
     FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared";

const STANDBYS: &str = "SELECT application_name, pg_catalog.floor(extract(epoch FROM replay_lag) * 1000), \
     pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn), state \
     FROM pg_catalog.pg_stat_replication WHERE state = 'streaming' OR state IS NULL";

/// One row, as text.
struct Row(Vec<Option<bytes::Bytes>>);

impl Row {
    /// A value; empty for NULL.
    fn text(&self, column: usize) -> String {
        let value = self.0.get(column).and_then(Option::as_ref);
        value.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    fn flag(&self, column: usize) -> bool {
        self.text(column) == "t"
    }

    /// A whole number; below 0, as clocks that were set back can give, is 0.
    fn number(&self, column: usize) -> Option<u64> {
        let text = self.text(column);
        text.parse::<i64>().ok().map(|number| u64::try_from(number).unwrap_or(0))
    }
}

async fn rows(server: &mut Server, sql: &str) -> Result<Vec<Row>, Failure> {
    Ok(server.query_within(sql.as_bytes(), ASK).await?.rows.into_iter().map(Row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_another_postgres_are_no_sessions_of_this_one() {
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let here: Place<'_> = ("db1", 5432, at("10.0.0.1:5432"));
        for (other, one) in [
            (here, true),
            (("10.0.0.1", 5432, at("10.0.0.1:5432")), true),
            // A name that several proxies before one Postgres have.
            (("db1", 5432, at("10.0.0.9:5432")), true),
            (("db2", 5432, at("10.0.0.2:5432")), false),
            (("db1", 5433, at("10.0.0.1:5433")), false),
            (("/tmp", 5432, None), false),
            (("localhost", 5432, at("127.0.0.1:5432")), false),
        ] {
            assert_eq!((is_one(here, other), is_one(other, here)), (one, one), "{other:?}");
        }
        let near: [Place<'_>; 4] = [
            ("/tmp", 5432, None),
            ("/run/postgresql", 5432, None),
            ("localhost", 5432, at("[::1]:5432")),
            ("127.0.0.1", 5432, at("127.0.0.1:5432")),
        ];
        assert!(near.iter().all(|a| near.iter().all(|b| is_one(*a, *b))));
        assert!(!is_one(near[0], ("/tmp", 5433, None)));
    }
}
