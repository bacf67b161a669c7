//! `pglull window ...`: turns the verbs into console commands and their answers into text.
//!
//! The proxy decides everything; here it is only asked. What a verb was asked for wrongly (no change, a file that
//! cannot be read) is found before anything is sent, and ends with [`USAGE`].

use std::process::ExitCode;
use std::time::SystemTime;

use super::advice::advice;
use super::apply::{Change, Ended, apply, look};
use super::args::{ApplyArgs, ConsoleArgs, ListArgs, OpenArgs, RehearseArgs, ShowArgs, WindowCommand};
use super::by_command::Unfit;
use super::client::{ClientError, Rows};
use super::files::{self, Script};
use super::live::{receipt, receipt_json, verdict, whole};
use super::term::{View, bold, err, out, width_out};
use super::top::listing;
use super::{FAILED, Site, USAGE, by_command, complain, statement, table};
use crate::page::timeline;

/// `pglull window ...`.
pub async fn window(command: WindowCommand) -> ExitCode {
    match command {
        WindowCommand::Apply(args) => apply_change(args).await,
        WindowCommand::Open(args) => open(args).await,
        WindowCommand::Rehearse(args) => rehearse(args).await,
        WindowCommand::Close(args) => {
            print(&args.console, &statement::steer("CLOSE", &args.id, Some(&args.token)), args.json).await
        }
        WindowCommand::Renew(args) => {
            print(&args.console, &statement::steer("RENEW", &args.id, Some(&args.token)), args.json).await
        }
        WindowCommand::Abort(args) => {
            print(&args.console, &statement::steer("ABORT", &args.id, args.token.as_deref()), args.json).await
        }
        WindowCommand::List(args) => list(args).await,
        WindowCommand::Show(args) => show(args).await,
        WindowCommand::Blockers(args) => {
            let database = args.database.as_deref().map(|d| format!(" {}", statement::name(d))).unwrap_or_default();
            print(&args.console, &format!("SHOW BLOCKERS{database}"), args.json).await
        }
    }
}

/// Sends one command that may take a while, prints notices as they come and the answer.
async fn print(console: &ConsoleArgs, command: &str, json: bool) -> ExitCode {
    match ask(console, command).await {
        Ok(results) => {
            for rows in &results {
                show_rows(rows, json);
            }
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

/// In a pipe everything; in a terminal what fits a line, the last window first, and the way to the rest.
async fn list(args: ListArgs) -> ExitCode {
    let width = width_out();
    if args.json || width == table::UNLIMITED {
        return print(&args.console, "SHOW WINDOWS", args.json).await;
    }
    match ask(&args.console, "SHOW WINDOWS").await {
        Ok(results) => {
            let rows = results.into_iter().next().unwrap_or_default();
            out(&listing(&rows, width));
            if !rows.rows.is_empty() {
                err("pglull window show ID tells all of one\n");
            }
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

async fn ask(console: &ConsoleArgs, command: &str) -> Result<Vec<Rows>, ClientError> {
    let mut console = Site::find(console).connect().await?;
    console.run(command, |notice| err(&format!("{}\n", table::visible(&notice.message)))).await
}

fn show_rows(rows: &Rows, json: bool) {
    if json {
        out(&table::json(rows));
    } else if rows.columns.is_empty() {
        out(&format!("{}\n", rows.tag));
    } else {
        out(&table::render(rows, width_out()));
    }
}

async fn open(args: OpenArgs) -> ExitCode {
    let id = args.bounds.id.clone().unwrap_or_else(new_id);
    match ask(&args.console, &statement::open(&args.database, &args.bounds, &id)).await {
        Ok(results) => {
            let rows = results.into_iter().next().unwrap_or_default();
            show_rows(&rows, args.json);
            let (id, token) = (rows.first("id").unwrap_or(&id), rows.first("token").unwrap_or("TOKEN"));
            err(&format!(
                "the clients of {} are held. When the change is done:\n  pglull window close {id} --token {token}\n\
                 or to let them go on with the old schema:\n  pglull window abort {id}\n",
                table::visible(&args.database)
            ));
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

/// Exit code 1 where a window would not start.
async fn rehearse(args: RehearseArgs) -> ExitCode {
    let read = match &args.sql {
        Some(sql) => Ok((Script::One(sql.clone()), Vec::new())),
        None if args.files.is_empty() => Ok((Script::Several(Vec::new()), Vec::new())),
        None => files::read(&args.files),
    };
    let (sql, parts) = match read {
        Ok((Script::One(sql), _)) => (Some(sql), Vec::new()),
        Ok((Script::Several(parts), left_out)) => {
            say_left_out(&left_out);
            (None, parts)
        }
        Err(mistake) => return usage(&mistake),
    };
    if sql.as_ref().is_some_and(|sql| sql.trim().is_empty()) || args.rollback && sql.is_none() && parts.is_empty() {
        return usage("the change is empty: name a file with SQL, - for standard input, or -c 'SQL'");
    }
    let how = if args.rollback { Some("rollback") } else { args.fire_drill.then_some("fire_drill") };
    let id = args.bounds.id.clone().unwrap_or_else(new_id);
    let command = statement::rehearse(&args.database, &args.bounds, (&id, how), (sql.as_deref(), &parts));
    match ask(&args.console, &command).await {
        Ok(results) => {
            let rows = results.into_iter().next().unwrap_or_default();
            show_rows(&rows, args.json);
            let verdict = rows.columns.iter().position(|column| column == "verdict");
            let refuses = |row: &&Vec<Option<String>>| verdict.and_then(|at| row.get(at)?.as_deref()) == Some("refuse");
            let against: Vec<String> = rows
                .rows
                .iter()
                .filter(refuses)
                .filter_map(|row| row.first()?.as_deref().map(table::visible))
                .collect();
            if !against.is_empty() {
                err(&format!("{}\n", bold(&format!("a window would not start now: {}", against.join(", ")))));
                return ExitCode::from(FAILED);
            }
            if verdict.is_some() {
                err(&format!("{}\n", bold("a window would start now")));
            }
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

async fn show(args: ShowArgs) -> ExitCode {
    let looked = async { look(&mut Site::find(&args.console).connect().await?, &args.id).await };
    match looked.await {
        Ok(status) if args.svg && status.text("receipt").is_empty() => {
            err(&format!("pglull: window {} has not ended: there is no receipt to draw yet\n", args.id));
            return ExitCode::from(FAILED);
        }
        Ok(status) if args.svg => match timeline::svg(&receipt_json(&status)) {
            Ok(svg) => out(&svg),
            Err(error) => {
                err(&format!("pglull: window {} cannot be drawn: {error}\n", args.id));
                return ExitCode::from(FAILED);
            }
        },
        Ok(status) if args.json => out(&format!("{}\n", receipt_json(&status))),
        Ok(status) if width_out() != table::UNLIMITED => out(&table::pairs(&whole(&status), width_out())),
        // In a pipe each key has one line.
        Ok(status) => {
            let entries = status.entries().filter(|(key, _)| *key != "receipt");
            let entries: Vec<_> = entries.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            out(&table::pairs(&entries, width_out()));
        }
        Err(error) => return complain(&error),
    }
    ExitCode::SUCCESS
}

async fn apply_change(args: ApplyArgs) -> ExitCode {
    if !args.program.is_empty() {
        return run_command(&args).await;
    }
    let read = match &args.sql {
        Some(sql) => Ok((Script::One(sql.clone()), Vec::new())),
        None => files::read(&args.files),
    };
    if args.verify.as_ref().is_some_and(|sql| sql.trim().is_empty()) {
        return usage("--verify is empty");
    }
    let (sql, parts, left_out) = match read {
        Ok((Script::One(sql), _)) if sql.trim().is_empty() => {
            return usage("the change is empty: name a file with SQL, - for standard input, or -c 'SQL'");
        }
        Ok((Script::One(sql), left_out)) => (sql, Vec::new(), left_out),
        Ok((Script::Several(parts), left_out)) => (String::new(), parts, left_out),
        Err(mistake) => return usage(&mistake),
    };
    say_left_out(&left_out);
    let id = args.bounds.id.clone().unwrap_or_else(new_id);
    let change = Change {
        database: &args.database,
        bounds: &args.bounds,
        id: &id,
        sql: &sql,
        parts: &parts,
        verify: args.verify.as_deref(),
        start_within: args.start_within.as_deref(),
    };
    let view = View::choose(args.plain);
    let ended = match apply(&Site::find(&args.console), &change, view).await {
        Ok(ended) => ended,
        Err(error) => return complain(&error),
    };
    conclude(&ended, &id, args.json)
}

fn say_left_out(names: &[String]) {
    if !names.is_empty() {
        err(&format!("left out, for undoing: {}\n", names.join(", ")));
    }
}

/// Shows the receipt, says what went wrong, and gives the exit code.
fn conclude(ended: &Ended, id: &str, json: bool) -> ExitCode {
    match &ended.status {
        Some(status) if json => out(&format!("{}\n", receipt_json(status))),
        Some(status) => out(&table::pairs(&receipt(status), width_out())),
        None if json => ended.answer.as_ref().map_or((), |rows| out(&table::json(rows))),
        None => ended.answer.as_ref().map_or((), |rows| show_rows(rows, false)),
    }
    match &ended.answer {
        _ if ended.applied() => {
            if let Some(status) = &ended.status {
                err(&format!("{}\n", bold(&verdict(status))));
            }
            ExitCode::SUCCESS
        }
        Ok(_) => {
            let told = |key| ended.status.as_ref().map(|status| table::visible(status.text(key))).unwrap_or_default();
            err(&format!("pglull: window {id} {}: {}\n", told("outcome"), told("reason")));
            advise(ended);
            ExitCode::from(FAILED)
        }
        // The receipt is shown already: what helps is said instead of where it is.
        Err(ClientError::Server(report)) if ended.status.as_ref().is_some_and(|s| !advice(s).is_empty()) => {
            err(&format!("pglull: {}\n", table::visible(&report.to_string())));
            advise(ended);
            ExitCode::from(FAILED)
        }
        Err(error) => {
            if !matches!(error, ClientError::Server(_)) && ended.status.is_none() {
                err(&format!("pglull: what has become of window {id} is not known here\n"));
            }
            complain(error)
        }
    }
}

/// What is the case now, and what to do next.
fn advise(ended: &Ended) {
    for line in ended.status.as_ref().map(advice).unwrap_or_default() {
        err(&format!("{line}\n"));
    }
}

/// A change that a command makes while the clients are held.
async fn run_command(args: &ApplyArgs) -> ExitCode {
    if args.verify.is_some() || args.start_within.is_some() {
        return usage("--verify and --start-within are for SQL that pglull runs itself; a command can do as they do");
    }
    let id = args.bounds.id.clone().unwrap_or_else(new_id);
    match by_command::apply(&Site::find(&args.console), args, &id).await {
        Ok(ended) => conclude(&ended, &id, args.json),
        Err(Unfit::Asked(mistake)) => usage(&mistake),
        Err(Unfit::Console(error)) => complain(&error),
    }
}

fn usage(mistake: &str) -> ExitCode {
    err(&format!("pglull: {mistake}\n"));
    ExitCode::from(USAGE)
}

/// An id from the clock; the digits after it are the sub-second part and our process.
pub(crate) fn new_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    statement::made_up_id(now.as_secs(), now.subsec_micros() ^ std::process::id().rotate_left(7))
}
