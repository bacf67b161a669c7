//! Whether it is safe to start a window: a judge over facts. Pure; `facts` collects them.
//!
//! Each finding is a line: what was checked, the verdict, whom it concerns, and a reason that a person can act on. A window
//! starts if no line refuses it, or the operator has named the checks that may be passed over.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lints::Lint;
use super::plan::{Force, Stragglers};
use crate::config::{Class, Classes, Who};
use crate::ids::millis;

/// What a check has come to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing speaks against it.
    Ok,
    /// It should be known; the window starts.
    Warn,
    /// The window does not start.
    Refuse,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

/// What is checked; the words are those of `force`.
pub const CHECKS: [&str; 9] =
    ["hours", "transactions", "sessions", "prepared", "standbys", "script", "target", "change", "window"];
/// What no operator can pass over: without it there is no change at all. By hand, the target is the operator's business.
fn is_firm(check: &str, by_hand: bool) -> bool {
    matches!(check, "script" | "change" | "window") || (check == "target" && !by_hand)
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// What was checked: a word of [`CHECKS`], or `lint`.
    pub check: Cow<'static, str>,
    /// What it has come to.
    pub verdict: Verdict,
    /// Whom or what it concerns; empty for none in particular.
    pub subject: String,
    /// Why, and what can be done.
    pub reason: String,
}

impl Line {
    /// A finding.
    #[must_use]
    pub fn new(check: &'static str, verdict: Verdict, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        let check = check.into();
        Self { check, verdict, subject: subject.into(), reason: reason.into() }
    }

    /// One line for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { check, subject, reason, .. } = self;
        if subject.is_empty() { format!("{check}: {reason}") } else { format!("{check}: {subject}: {reason}") }
    }
}

/// Somebody who has a session that does not come through us, as `pg_stat_activity` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// The process of its backend.
    pub pid: i32,
    /// Its role; empty for a process of Postgres' own.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// What kind of process it is.
    pub backend: String,
    /// `active`, `idle`, `idle in transaction` ...; empty if we may not see it.
    pub state: String,
    /// How long it has been connected.
    pub connected_ms: u64,
    /// The age of its transaction, if it has one and we may see it.
    pub transaction_ms: Option<u64>,
    /// The beginning of its last statement; passwords redacted.
    pub statement: String,
    /// The tables that it has locked, with the modes.
    pub locks: String,
}

/// A client of ours with an open transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// Its number in `SHOW CLIENTS`.
    pub id: u64,
    /// Its user.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// The age of its transaction.
    pub age_ms: u64,
    /// What it does, in words.
    pub doing: String,
}

/// A transaction that was prepared for a commit in two phases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// Its name.
    pub gid: String,
    /// Whose it is.
    pub owner: String,
    /// How long ago it was prepared.
    pub age_ms: u64,
}

/// A standby that is streaming.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standby {
    /// What it calls itself.
    pub name: String,
    /// How far it is behind in time, if that is known.
    pub lag_ms: Option<u64>,
    /// How far it is behind in bytes of WAL, if that is known.
    pub lag_bytes: Option<u64>,
}

/// Everything that is judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The database's entry.
    pub database: String,
    /// Why the change cannot be run in the one transaction of a window.
    pub objection: Option<String>,
    /// What is dangerous in the change.
    pub lints: Vec<Lint>,
    /// Why there is no connection to look, and to apply the change, on.
    pub unreachable: Option<String>,
    /// The server is a standby.
    pub in_recovery: bool,
    /// Transactions are read-only there.
    pub read_only: bool,
    /// The role that looks, if it may not see what sessions of others do.
    pub short_sighted: Option<String>,
    /// Clients of ours with open transactions.
    pub open: Vec<Open>,
    /// Sessions beside us.
    pub sessions: Vec<Session>,
    /// Prepared transactions of this database.
    pub prepared: Vec<Prepared>,
    /// Standbys that are streaming.
    pub standbys: Vec<Standby>,
    /// What the change table says of the change, if it was asked, and whether that speaks against a start.
    pub change: Option<(bool, String)>,
    /// The change is applied already, since when.
    pub present: Option<String>,
    /// How long it is until a window may start.
    pub hours_until: Duration,
    /// What could not be asked, and why.
    pub unasked: Vec<(&'static str, String)>,
}

/// By what it is judged.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How single users and applications are treated.
    pub classes: Classes,
    /// A transaction that is older speaks against a start.
    pub long_transaction: Duration,
    /// How many standbys must be streaming.
    pub standbys: usize,
    /// How far they may be behind in time; `None` is any.
    pub max_lag: Option<Duration>,
    /// And in bytes.
    pub max_lag_bytes: u64,
    /// When windows may start, as it was written.
    pub hours: String,
    /// What the operator wants done with stragglers.
    pub stragglers: Stragglers,
}

/// How old a transaction beside us must be to count: younger ones are gone when the change begins.
pub const MOMENTARY: Duration = Duration::from_millis(300);
/// So many findings of one check are told one by one.
const TOLD: usize = 10;

/// Judges. One line at least for each check.
#[must_use]
pub fn judge(facts: &Facts, policy: &Policy) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut check = |name: &'static str, found: Vec<Line>, fine: &str| {
        if found.is_empty() {
            lines.push(Line::new(name, Verdict::Ok, "", fine));
        }
        let more = found.len().saturating_sub(TOLD);
        let worst = found.iter().skip(TOLD).map(|line| line.verdict).max();
        lines.extend(found.into_iter().take(TOLD));
        if let Some(worst) = worst {
            lines.push(Line::new(name, worst, "", format!("and {more} more like these")));
        }
    };
    check(
        "script",
        facts.objection.iter().map(|why| firm("script", why)).collect(),
        "nothing forbids it a transaction",
    );
    if !facts.lints.is_empty() {
        let line = |lint: &Lint| Line::new("lint", Verdict::Warn, format!("\"{}\"", lint.statement), lint.advice);
        check("lint", facts.lints.iter().map(line).collect(), "");
    }
    check("hours", hours(facts, policy), "windows may start now");
    let target = target(facts);
    let seen = target.is_empty();
    check("target", target, "reachable, and takes changes");
    if let Some((speaks_against, what)) = &facts.change {
        let against = speaks_against.then(|| firm("change", what)).into_iter().collect();
        check("change", against, what);
    }
    check("transactions", transactions(facts, policy), "none is open for long through pglull");
    if let Some((_, why)) = facts.unasked.iter().find(|(what, _)| *what == "database") {
        let why = format!("not looked at: {why}");
        check("sessions", vec![Line::new("sessions", Verdict::Warn, "", why)], "");
    } else if seen {
        check("sessions", sessions(facts, policy), "nobody is in the way beside pglull");
        check("prepared", prepared(facts), "no prepared transaction");
        check("standbys", standbys(facts, policy), "as many and as near as they must be");
    }
    lines
}

/// Why a window does not start, in words; `None` if it does. Lines that are passed over become warnings.
#[must_use]
pub fn decide(lines: &mut [Line], force: &Force, by_hand: bool) -> Option<String> {
    for line in lines.iter_mut() {
        if line.verdict == Verdict::Refuse && !is_firm(&line.check, by_hand) && force.passes(&line.check) {
            line.verdict = Verdict::Warn;
            line.reason.push_str(" (passed over by force)");
        }
    }
    let against: Vec<&Line> = lines.iter().filter(|line| line.verdict == Verdict::Refuse).collect();
    let mut checks: Vec<&str> = against.iter().map(|line| line.check.as_ref()).collect();
    checks.dedup();
    let why: Vec<String> = against.iter().map(|line| line.sentence()).collect();
    if why.is_empty() {
        return None;
    }
    let advice = if checks.iter().any(|check| is_firm(check, by_hand)) {
        String::new()
    } else {
        format!("; force='{}' starts it all the same", checks.join(","))
    };
    Some(format!("{}{advice}", why.join("; ")))
}

fn firm(check: &'static str, why: &str) -> Line {
    Line::new(check, Verdict::Refuse, "", why)
}

fn hours(facts: &Facts, policy: &Policy) -> Vec<Line> {
    if facts.hours_until.is_zero() {
        return Vec::new();
    }
    let minutes = facts.hours_until.as_secs().div_ceil(60);
    let why = format!("windows may start at {} only: in {} h {} min", policy.hours, minutes / 60, minutes % 60);
    vec![Line::new("hours", Verdict::Refuse, "", why)]
}

fn target(facts: &Facts) -> Vec<Line> {
    if let Some(why) = &facts.unreachable {
        return vec![firm("target", why)];
    }
    let recovery = facts.in_recovery.then_some("the server is in recovery: it is a standby and takes no changes");
    let read_only = "transactions are read-only there: default_transaction_read_only is on";
    let read_only = facts.read_only.then_some(read_only).filter(|_| recovery.is_none());
    recovery.into_iter().chain(read_only).map(|why| firm("target", why)).collect()
}

fn transactions(facts: &Facts, policy: &Policy) -> Vec<Line> {
    let judge = |open: &Open| {
        let who = Who { user: &open.user, database: &facts.database, application: &open.application };
        let class = policy.classes.of(who);
        let long = open.age_ms >= millis(policy.long_transaction);
        let age = age(open.age_ms);
        let (verdict, why) = match class {
            Some(Class::Refuse) => {
                (Verdict::Refuse, format!("in a transaction for {age}, and must not be interrupted"))
            }
            Some(Class::Ignore) => return None,
            _ if !long => return None,
            Some(Class::Wait) => (Verdict::Warn, format!("in a transaction for {age}; it is waited for")),
            Some(class @ (Class::Cancel | Class::Terminate)) => {
                let word = class.as_str();
                (Verdict::Warn, format!("in a transaction for {age}; at the drain bound its class is {word}"))
            }
            None if matches!(policy.stragglers, Stragglers::Cancel | Stragglers::Terminate) => {
                (Verdict::Warn, format!("in a transaction for {age}; at the drain bound it is cut"))
            }
            None => {
                let bound = policy.long_transaction.as_secs();
                (Verdict::Refuse, format!("in a transaction for {age}, longer than long_transaction ({bound} s)"))
            }
        };
        let subject = format!("client {} ({}, application \"{}\")", open.id, open.user, open.application);
        Some(Line::new("transactions", verdict, subject, format!("{why}; {}", open.doing)))
    };
    facts.open.iter().filter_map(judge).collect()
}

fn sessions(facts: &Facts, policy: &Policy) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut resting: Vec<(&str, &str, usize, u64)> = Vec::new();
    for session in &facts.sessions {
        let who = Who { user: &session.user, database: &facts.database, application: &session.application };
        let class = policy.classes.of(who);
        if class == Some(Class::Ignore) {
            continue;
        }
        if let Some((verdict, why)) = judge_session(session, class, policy) {
            lines.push(Line::new("sessions", verdict, described(session), why));
            continue;
        }
        let (user, application) = (session.user.as_str(), session.application.as_str());
        match resting.iter_mut().find(|known| (known.0, known.1) == (user, application)) {
            Some(known) => (known.2, known.3) = (known.2 + 1, known.3.max(session.connected_ms)),
            None => resting.push((user, application, 1, session.connected_ms)),
        }
    }
    // The worst first: only some are told.
    lines.sort_by_key(|line| std::cmp::Reverse(line.verdict));
    for (user, application, count, connected) in resting {
        let why = format!("{count} beside pglull, for {} at most: they are not held", age(connected));
        lines.push(Line::new("sessions", Verdict::Warn, format!("{user}, application \"{application}\""), why));
    }
    if let Some(role) = &facts.short_sighted {
        let why = "may not see what sessions of others do: GRANT pg_read_all_stats to it";
        lines.insert(0, Line::new("sessions", Verdict::Warn, format!("role {role}"), why));
    }
    lines
}

/// What is said of one session; nothing of one that is between transactions or in a momentary one.
fn judge_session(session: &Session, class: Option<Class>, policy: &Policy) -> Option<(Verdict, String)> {
    let holds = !session.locks.is_empty();
    // Where we may not see its transaction, its locks tell that it has one.
    if session.transaction_ms.is_none() && !holds {
        return None;
    }
    let for_long = session.transaction_ms.is_none_or(|age| age >= millis(policy.long_transaction));
    let lasting = session.transaction_ms.is_none_or(|age| age >= millis(MOMENTARY));
    let mut why = match session.transaction_ms {
        Some(ms) => format!("in a transaction for {}", age(ms)),
        None => "in a transaction of unknown age".to_owned(),
    };
    if holds {
        why.push_str(&format!(", holds {}", session.locks));
    }
    let own = session.backend.starts_with("autovacuum") || session.user.is_empty();
    if own && !session.statement.contains("to prevent wraparound") {
        return lasting.then(|| (Verdict::Warn, format!("{why}; it gives way to the change after deadlock_timeout")));
    }
    let verdict = match class {
        Some(Class::Refuse) => {
            why.push_str(", and must not be interrupted");
            Verdict::Refuse
        }
        _ if !lasting => return None,
        Some(Class::Wait) => {
            why.push_str("; the change waits for it up to its bound");
            Verdict::Warn
        }
        Some(class @ (Class::Cancel | Class::Terminate)) => {
            why.push_str(&format!("; if it stands in the change's way, its class is {}", class.as_str()));
            Verdict::Warn
        }
        Some(Class::Ignore) => return None,
        None if holds || for_long => Verdict::Refuse,
        None => Verdict::Warn,
    };
    if !session.statement.is_empty() {
        why.push_str(&format!("; last statement: {}", session.statement));
    }
    Some((verdict, why))
}

fn described(session: &Session) -> String {
    let Session { pid, user, application, state, backend, .. } = session;
    let state = if state.is_empty() { "state unknown" } else { state };
    match (backend.as_str(), user.as_str()) {
        ("client backend" | "", user) => format!("process {pid} ({user}, application \"{application}\", {state})"),
        (backend, "") => format!("process {pid} ({backend})"),
        (backend, user) => format!("process {pid} ({backend}, {user})"),
    }
}

fn prepared(facts: &Facts) -> Vec<Line> {
    let judge = |prepared: &Prepared| {
        let subject = format!("\"{}\" of {}", prepared.gid, prepared.owner);
        let why = format!(
            "prepared {} ago; it keeps its locks until somebody says COMMIT PREPARED or ROLLBACK PREPARED",
            age(prepared.age_ms)
        );
        Line::new("prepared", Verdict::Refuse, subject, why)
    };
    facts.prepared.iter().map(judge).collect()
}

fn standbys(facts: &Facts, policy: &Policy) -> Vec<Line> {
    if let Some((_, why)) = facts.unasked.iter().find(|(what, _)| *what == "standbys") {
        let verdict = if policy.standbys > 0 { Verdict::Refuse } else { Verdict::Warn };
        return vec![Line::new("standbys", verdict, "", format!("could not be asked for: {why}"))];
    }
    let mut lines = Vec::new();
    let there = facts.standbys.len();
    if there < policy.standbys {
        let why = format!("{there} streaming, the configuration wants {} (standbys)", policy.standbys);
        lines.push(Line::new("standbys", Verdict::Refuse, "", why));
    }
    for standby in &facts.standbys {
        let late = policy.max_lag.zip(standby.lag_ms).filter(|(most, lag)| *lag > millis(*most));
        let far = standby.lag_bytes.filter(|bytes| *bytes > policy.max_lag_bytes);
        let why = match (late, far) {
            (Some((most, lag)), _) => format!("{} behind, more than max_lag ({} s)", age(lag), most.as_secs()),
            (_, Some(bytes)) => {
                format!("{} MB of WAL behind, more than max_lag_bytes ({} MB)", bytes >> 20, policy.max_lag_bytes >> 20)
            }
            (None, None) => continue,
        };
        lines.push(Line::new("standbys", Verdict::Refuse, standby.name.clone(), why));
    }
    lines
}

/// An age for people.
#[must_use]
pub fn age(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
