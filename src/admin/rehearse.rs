//! `WINDOW REHEARSE`: what preflight finds and what is predicted, as rows; and what a drill or a trial has measured.

use std::sync::Arc;

use super::command::{Rehearsal, WindowOptions};
use super::console::{Answer, Env, Problem};
use super::operator::Operator;
use super::table::{Column, Table, row, text};
use super::{verbs, windows};
use crate::window::event::Outcome;
use crate::window::plan::Form;
use crate::window::preflight::{Line, Verdict, age};
use crate::window::registry::{Handle, Request};
use crate::window::rehearse::rehearse;
use crate::wire::reply::{Report, sqlstate};

/// The rows of a rehearsal.
pub(super) const FINDINGS: [Column; 4] = [text("check"), text("verdict"), text("subject"), text("reason")];

/// Carries it out.
pub(super) async fn run(
    databases: Vec<String>,
    (options, sql): (WindowOptions, Option<String>),
    operator: &mut Operator,
    env: &Env,
) -> Result<Answer, Problem> {
    let form = match options.rehearsal {
        Rehearsal::Look => None,
        Rehearsal::Drill => Some(Form::Drill),
        Rehearsal::Rollback => Some(Form::Trial),
    };
    if sql.is_some() && !windows::is_one(&databases) {
        let text = "a change is rehearsed on one database at a time";
        return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text).into());
    }
    let mut request = windows::request(form.unwrap_or(Form::Drill), databases, (options, sql), operator, env);
    let looked = verbs::unless_interrupted(rehearse(&env.registry, &request), operator).await?;
    let looked = looked.map_err(|refusal| Report::new(sqlstate::INVALID_CATALOG_NAME, refusal.to_string()))?;
    let mut lines = looked.lines;
    // What is applied already is not tried, as it would not be run.
    request.parts = looked.left;
    if form.is_some() && looked.refusal.is_none() && !looked.present {
        lines.extend(measured(request, operator, env).await?);
    }
    Ok(Answer::Rows(table(&lines), "WINDOW"))
}

/// Really does it, and tells what was measured.
async fn measured(request: Request, operator: &mut Operator, env: &Env) -> Result<Vec<Line>, Problem> {
    let handle = windows::begin(request, env)?;
    windows::follow(&handle, operator, windows::closed).await?;
    Ok(report(&handle))
}

fn report(handle: &Arc<Handle>) -> Vec<Line> {
    let receipt = handle.receipt();
    let status = handle.status.borrow().clone();
    let subject = format!("measured in window {}", handle.id);
    if status.window.phase.outcome() != Some(&Outcome::Rehearsed) {
        let why = format!("{}: {}", receipt.outcome, receipt.reason);
        return vec![Line::new(handle.form.as_str(), Verdict::Refuse, subject, why)];
    }
    let (took, held) = (receipt.took, receipt.held);
    let mut lines = vec![Line::new("drain", Verdict::Ok, subject.clone(), age(took.drain_ms))];
    if handle.form == Form::Trial {
        let why = format!("{}; it is the estimate for the same change from now on", age(took.apply_ms));
        lines.push(Line::new("apply", Verdict::Ok, subject.clone(), why));
    }
    let why = format!(
        "{} held, longest {}, median {}; the gate was shut for {}",
        held.held_total,
        age(held.stall_max_ms),
        age(held.stall_p50_ms),
        age(took.hold_ms)
    );
    lines.push(Line::new("stall", Verdict::Ok, subject, why));
    lines
}

/// Findings as rows.
fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&FINDINGS);
    for line in lines {
        table.rows.push(row![line.check.clone(), line.verdict.as_str(), line.subject.clone(), line.reason.clone()]);
    }
    table
}
