//! The verbs of windows and pauses, as an operator's connection carries them out.

use std::sync::Arc;
use std::time::Duration;

use super::command::{Command, WindowOptions};
use super::console::{Answer, Env, Problem};
use super::operator::{Interrupt, Operator};
use super::table::{Column, Table, long, row, text};
use super::{findings, rehearse, start, upgrade, verbs};
use crate::config::WindowDefaults;
use crate::pool::database::Database;
use crate::pool::groups::Scope;
use crate::window::change_table::{ChangeTable, Part};
use crate::window::event::{Outcome, Reason};
use crate::window::machine::Phase;
use crate::window::plan::{Bounds, Form, Stragglers};
use crate::window::registry::{Denied, Handle, Refusal, Request, Status, fingerprint};
use crate::wire::reply::{Report, sqlstate};

/// What the log says of a command; never the SQL of a change, which may hold secrets.
pub(super) fn brief(command: &Command) -> String {
    match command {
        Command::WindowApply { databases, .. } => format!("WINDOW APPLY {}", databases.join(", ")),
        Command::WindowOpen { databases, .. } => format!("WINDOW OPEN {}", databases.join(", ")),
        Command::WindowRehearse { databases, .. } => format!("WINDOW REHEARSE {}", databases.join(", ")),
        Command::WindowRenew { id, .. } => format!("WINDOW RENEW {id}"),
        Command::WindowClose { id, .. } => format!("WINDOW CLOSE {id}"),
        Command::WindowAbort { id, .. } => format!("WINDOW ABORT {id}"),
        Command::Set { key, .. } => format!("SET {key}"),
        other => format!("{other:?}"),
    }
}

/// Carries out one of them.
pub(super) async fn run(command: Command, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    match command {
        Command::Pause { database } => pause(database, operator, env).await,
        Command::Resume { database } => resume(database, env).await,
        Command::WindowApply { databases, .. } if !is_one(&databases) => {
            let text = "WINDOW APPLY changes one database";
            Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text)
                .hint("WITH (also='b, c') holds others meanwhile; WINDOW OPEN a, b holds several while you change them by hand.")
                .into())
        }
        Command::WindowApply { databases, options, sql } => {
            let within = options.start_within;
            let request = request(Form::Apply, databases, (options, Some(sql)), operator, env);
            match within {
                Some(within) => start::apply_within(request, within, operator, env).await,
                None => apply(request, operator, env).await,
            }
        }
        Command::WindowOpen { databases, options } => {
            let request = request(Form::Open, databases, (options, None), operator, env);
            open(request, operator, env).await
        }
        Command::WindowRehearse { databases, options, sql } => {
            rehearse::run(databases, (options, sql), operator, env).await
        }
        Command::WindowRenew { id, token } => {
            let handle = env.registry.find(&id).map_err(denied)?;
            handle.check(&token).and_then(|()| handle.renew()).map_err(denied)?;
            Ok(Answer::Done("WINDOW"))
        }
        Command::WindowClose { id, token } => {
            let handle = env.registry.find(&id).map_err(denied)?;
            handle.check(&token).and_then(|()| handle.close()).map_err(denied)?;
            settled(&handle).await
        }
        Command::WindowAbort { id, .. } if env.registry.unsettled(&id).is_some() => {
            env.registry.unsettled(&id).iter().for_each(|unsettled| unsettled.give_up());
            Ok(Answer::Done("WINDOW"))
        }
        Command::WindowAbort { id, token, reason } => {
            let handle = env.registry.find(&id).map_err(denied)?;
            if let Some(token) = token {
                handle.check(&token).map_err(denied)?;
            }
            handle.abort(reason).map_err(denied)?;
            // Whoever has the answer may begin the next window.
            handle.until(closed).await;
            Ok(Answer::Rows(summary(&handle), "WINDOW"))
        }
        other => {
            let text = format!("{} is not in this version yet", brief(&other));
            Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text).into())
        }
    }
}

pub(super) fn request(
    form: Form,
    databases: Vec<String>,
    (options, sql): (WindowOptions, Option<String>),
    operator: &Operator,
    env: &Env,
) -> Request {
    let config = env.front.config();
    let defaults = &config.window;
    let bounds = Bounds {
        drain: Some(options.drain.unwrap_or(defaults.drain)),
        apply: options.apply.unwrap_or(defaults.apply),
        hold: Some(options.hold.unwrap_or(defaults.hold)),
        tenure: Some(options.tenure.unwrap_or(defaults.tenure)),
        stragglers: stragglers(&options, defaults),
        max_held: max_held(defaults, env),
    };
    let scope = Scope { users: options.users, applications: options.applications };
    // A change is made in the first of them: that is the one that was named, never one that stands for it.
    let mut databases = if sql.is_none() { every(databases, env) } else { databases };
    for name in every(options.also, env) {
        if !databases.contains(&name) {
            databases.push(name);
        }
    }
    let change_table = defaults.change_table.as_deref().and_then(ChangeTable::parse);
    let part = |(id, sql): (String, String)| Part { id, sha256: fingerprint(&sql), sql: Arc::from(sql) };
    let parts = options.changes.into_iter().map(part).collect();
    let (owner, verify, force) = (operator.name.clone(), options.verify, options.force);
    Request { id: options.id, databases, form, sql, parts, verify, bounds, force, scope, owner, change_table }
}

/// Whether these name one database: `*` names them all, however many there are.
pub(super) fn is_one(databases: &[String]) -> bool {
    matches!(databases, [name] if name != "*")
}

/// The names, with `*` replaced by those of all databases.
fn every(names: Vec<String>, env: &Env) -> Vec<String> {
    if names.iter().any(|name| name == "*") { every_name(env) } else { names }
}

/// What is done with stragglers: where rules allow to cut some, the class of each says it.
fn stragglers(options: &WindowOptions, defaults: &WindowDefaults) -> Stragglers {
    match options.stragglers.unwrap_or(defaults.stragglers).into() {
        Stragglers::Abort if defaults.classes.may_cut() => Stragglers::ByClass,
        named => named,
    }
}

fn max_held(defaults: &WindowDefaults, env: &Env) -> u64 {
    let most = if defaults.max_held == 0 { env.front.config().max_client_conn } else { defaults.max_held };
    u64::try_from(most).unwrap_or(u64::MAX)
}

pub(super) fn closed(status: &Status) -> bool {
    matches!(status.window.phase, Phase::Closed { .. })
}

pub(super) fn begin(request: Request, env: &Env) -> Result<Arc<Handle>, Problem> {
    env.registry.begin(request).map_err(|refusal| refused(&refusal))
}

/// Why a window was not begun.
pub(super) fn refused(refusal: &Refusal) -> Problem {
    let (code, hint) = match refusal {
        Refusal::NoDatabase(_) => (sqlstate::INVALID_CATALOG_NAME, "SHOW DATABASES lists them.".to_owned()),
        Refusal::Busy { id, .. } => (
            sqlstate::NOT_IN_PREREQUISITE_STATE,
            format!("Wait for it to end, or end it: WINDOW ABORT {id}, or RESUME for a pause."),
        ),
        Refusal::IdUsed(id) => (
            sqlstate::NOT_IN_PREREQUISITE_STATE,
            format!("Give this one another id. SHOW WINDOW {id} has the receipt of the other."),
        ),
        Refusal::Barred => {
            let hint = "Connect again, and try again on the process that answers.";
            (sqlstate::NOT_IN_PREREQUISITE_STATE, hint.to_owned())
        }
        Refusal::Closing => {
            (sqlstate::CANNOT_CONNECT_NOW, "Start the window on the process that takes over.".to_owned())
        }
    };
    Report::new(code, refusal.to_string()).hint(hint).into()
}

fn denied(denied: Denied) -> Problem {
    let (code, hint) = match &denied {
        Denied::Unknown(_) => (sqlstate::UNDEFINED_OBJECT, "SHOW WINDOWS lists them.".to_owned()),
        Denied::WrongToken(id) => {
            let hint = format!("WINDOW OPEN answered the token, once. Without it, WINDOW ABORT {id} ends the window.");
            (sqlstate::INSUFFICIENT_PRIVILEGE, hint)
        }
        Denied::Over { id, .. } => (sqlstate::NOT_IN_PREREQUISITE_STATE, format!("SHOW WINDOW {id} has its receipt.")),
        Denied::NotNow { id, .. } => (sqlstate::NOT_IN_PREREQUISITE_STATE, format!("SHOW WINDOW {id} tells more.")),
    };
    Report::new(code, denied.to_string()).hint(hint).into()
}

/// Follows a window until `enough`, telling the operator each phase. While the operator is there, the tenure is renewed;
/// if it goes, the window ends.
pub(super) async fn follow(
    handle: &Arc<Handle>,
    operator: &mut Operator,
    enough: impl Fn(&Status) -> bool,
) -> Result<Status, Problem> {
    let (mut told, mut found, mut cancelled) = (0, false, false);
    let tenure = handle.status.borrow().window.bounds.tenure.unwrap_or(Duration::from_secs(3600));
    let mut renewal = tokio::time::interval((tenure / 3).max(Duration::from_millis(10)));
    loop {
        let status = handle.status.borrow().clone();
        if !status.preflight.is_empty() && !std::mem::replace(&mut found, true) {
            findings::tell(&handle.id, &status.preflight, operator).await.inspect_err(|_| handle.owner_gone())?;
        }
        for (at, phase) in status.edges.iter().skip(told) {
            let after = at.since(status.window.times.started).as_millis();
            operator
                .notice(format!("window {}: {phase} (+{after} ms)", handle.id))
                .await
                .inspect_err(|_| handle.owner_gone())?;
        }
        told = status.edges.len();
        // Whoever has cancelled is answered when all is over, not where it would have been enough before.
        let enough = |status: &Status| if cancelled { closed(status) } else { enough(status) };
        if enough(&status) {
            return Ok(status);
        }
        tokio::select! {
            biased;
            interrupt = operator.interrupted() => match interrupt {
                Interrupt::Gone => {
                    handle.owner_gone();
                    return Err(Problem::Gone);
                }
                Interrupt::Cancelled => {
                    cancelled = true;
                    let _ = handle.abort(None);
                }
            },
            status = handle.until(|status| status.edges.len() > told || enough(status)) => {
                if status.edges.len() == told && !enough(&status) {
                    // The driver has died: nothing more will come, and the watchdog opens the gate.
                    return Ok(status);
                }
            }
            _ = renewal.tick() => {
                let _ = handle.renew();
            }
        }
    }
}

/// What is answered when a window is over.
pub(super) const SUMMARY: [Column; 8] = [
    text("id"),
    text("outcome"),
    text("reason"),
    long("drain_ms"),
    long("hold_ms"),
    long("apply_ms"),
    long("held_peak"),
    long("stall_max_ms"),
];

/// What `WINDOW OPEN` answers.
pub(super) const OPENED: [Column; 4] = [text("id"), text("token"), long("held_now"), long("hold_until_ms")];

fn summary(handle: &Handle) -> Table {
    let receipt = handle.receipt();
    let mut table = Table::new(&SUMMARY);
    table.rows.push(row![
        receipt.id,
        receipt.outcome,
        receipt.reason,
        receipt.took.drain_ms,
        receipt.took.hold_ms,
        receipt.took.apply_ms,
        receipt.held.held_peak,
        receipt.held.stall_max_ms,
    ]);
    table
}

/// The answer to the one who waited for a window's end.
async fn settled(handle: &Arc<Handle>) -> Result<Answer, Problem> {
    let status = handle.until(closed).await;
    match status.window.phase.outcome() {
        Some(Outcome::Applied | Outcome::Present(_) | Outcome::Resumed | Outcome::Rehearsed) => {
            Ok(Answer::Rows(summary(handle), "WINDOW"))
        }
        outcome => Err(unsuccessful(handle, outcome, &status.reason).into()),
    }
}

fn unsuccessful(handle: &Handle, outcome: Option<&Outcome>, reason: &str) -> Report {
    let (code, word) = match outcome {
        Some(Outcome::Refused(_)) => (sqlstate::NOT_IN_PREREQUISITE_STATE, "refused"),
        Some(Outcome::Aborted(Reason::ApplyFailed { sqlstate, .. })) => (sqlstate.as_str(), "aborted"),
        Some(Outcome::Unknown(_)) => ("40003", "of unknown outcome"),
        _ => (sqlstate::QUERY_CANCELED, "aborted"),
    };
    Report::new(code, format!("window {} {word}: {reason}", handle.id))
        .hint(format!("SHOW WINDOW {} has the receipt", handle.id))
}

pub(super) async fn apply(request: Request, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    let handle = begin(request, env)?;
    follow(&handle, operator, closed).await?;
    answer(&handle, operator).await
}

/// Tells what Postgres had to say, and how the window has ended.
pub(super) async fn answer(handle: &Arc<Handle>, operator: &mut Operator) -> Result<Answer, Problem> {
    for text in handle.receipt().notices {
        operator.notice(text).await?;
    }
    settled(handle).await
}

/// Answers when the window holds. From then on the token speaks for its owner: this connection may close.
async fn open(request: Request, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    let handle = begin(request, env)?;
    let enough = |status: &Status| status.window.phase == Phase::Holding || closed(status);
    let status = follow(&handle, operator, enough).await?;
    if status.window.phase.outcome().is_some() {
        return Err(unsuccessful(&handle, status.window.phase.outcome(), &status.reason).into());
    }
    let _ = handle.renew();
    let receipt = handle.receipt();
    let hold = status.window.bounds.hold.unwrap_or_default();
    let left = crate::ids::millis(hold).saturating_sub(receipt.took.hold_ms);
    let mut table = Table::new(&OPENED);
    table.rows.push(row![handle.id.clone(), handle.token.clone(), receipt.held.held_now, left]);
    Ok(Answer::Rows(table, "WINDOW"))
}

/// `PAUSE`: one window for each database, so that each can be resumed alone. Answers when all are drained; one that is
/// cancelled before that pauses nothing.
async fn pause(database: Option<String>, operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    let begun = begin_pauses(database.map_or_else(|| every_name(env), |name| vec![name]), &operator.name, env)?;
    let waited = verbs::unless_interrupted(drained(&begun), operator).await;
    if let Err(Problem::Say(_)) = &waited {
        begun.iter().for_each(|handle| drop(handle.close()));
        for handle in &begun {
            handle.until(closed).await;
        }
    }
    waited?
}

/// `PAUSE` of everything, by a signal.
pub(super) async fn pause_all(env: &Env) -> Result<Answer, Problem> {
    upgrade::barred(&Command::Pause { database: None }, env).await?;
    drained(&begin_pauses(every_name(env), "SIGUSR1", env)?).await
}

/// Pauses the databases that are not paused yet and waits for nothing.
pub(super) fn shut_for_kill(databases: &[Arc<Database>], owner: &str, env: &Env) -> Result<(), Problem> {
    let live = env.registry.live();
    let paused = |name: &str| live.iter().any(|handle| handle.form == Form::Pause && handle.covers(name));
    let names = databases.iter().map(|database| database.name.clone()).filter(|name| !paused(name)).collect();
    begin_pauses(names, owner, env).map(drop)
}

fn every_name(env: &Env) -> Vec<String> {
    env.front.databases.list().iter().map(|database| database.name.clone()).collect()
}

/// Shuts the gates: all of them or none.
fn begin_pauses(names: Vec<String>, owner: &str, env: &Env) -> Result<Vec<Arc<Handle>>, Problem> {
    let config = env.front.config();
    let defaults = &config.window;
    let bounds = Bounds {
        drain: None,
        apply: defaults.apply,
        hold: defaults.pause_max,
        tenure: None,
        stragglers: Stragglers::Abort,
        max_held: max_held(defaults, env),
    };
    let mut begun: Vec<Arc<Handle>> = Vec::new();
    for name in names {
        let (bounds, owner) = (bounds.clone(), owner.to_owned());
        let request = Request::new(Form::Pause, vec![name], bounds, owner);
        match begin(request, env) {
            Ok(handle) => begun.push(handle),
            Err(problem) => {
                begun.iter().for_each(|handle| drop(handle.close()));
                return Err(problem);
            }
        }
    }
    Ok(begun)
}

/// Waits until pauses are drained, or one of them has ended before.
async fn drained(begun: &[Arc<Handle>]) -> Result<Answer, Problem> {
    for handle in begun {
        let settled =
            |status: &Status| status.window.phase == Phase::Holding || status.window.phase.outcome().is_some();
        let status = handle.until(settled).await;
        if let Some(outcome) = status.window.phase.outcome() {
            let text = match outcome {
                Outcome::Resumed => "ended by RESUME before it was drained".to_owned(),
                _ => status.reason,
            };
            return Err(Report::new(sqlstate::QUERY_CANCELED, format!("pause {}: {text}", handle.id)).into());
        }
    }
    Ok(Answer::Done("PAUSE"))
}

pub(super) async fn resume(database: Option<String>, env: &Env) -> Result<Answer, Problem> {
    let live = env.registry.live();
    let covered = |handle: &&Arc<Handle>| database.as_ref().is_none_or(|name| handle.covers(name));
    if let Some(name) = database.as_ref().filter(|name| env.front.databases.find(name).is_none()) {
        return Err(Report::new(sqlstate::INVALID_CATALOG_NAME, format!("no such database: {name}")).into());
    }
    let pauses: Vec<_> = live.iter().filter(covered).filter(|handle| handle.form == Form::Pause).collect();
    if pauses.is_empty() {
        let report = match live.iter().find(covered) {
            Some(handle) if database.is_some() => {
                let text = format!("not paused: window {} of {} covers it", handle.id, handle.owner);
                Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text)
                    .hint(format!("WINDOW ABORT {} ends it", handle.id))
            }
            _ => {
                let what = database.map_or_else(|| "pooler".to_owned(), |name| format!("database \"{name}\""));
                Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, format!("{what} is not paused/suspended"))
            }
        };
        return Err(report.into());
    }
    // One that has just ended by itself is what the operator wanted. All are let go before any is waited for.
    pauses.iter().for_each(|handle| drop(handle.close()));
    for handle in pauses {
        handle.until(closed).await;
    }
    Ok(Answer::Done("RESUME"))
}

impl From<crate::config::Stragglers> for Stragglers {
    fn from(policy: crate::config::Stragglers) -> Self {
        match policy {
            crate::config::Stragglers::Abort => Self::Abort,
            crate::config::Stragglers::Cancel => Self::Cancel,
            crate::config::Stragglers::Terminate => Self::Terminate,
        }
    }
}
