//! `WINDOW APPLY .. WITH (start_within='30min')`: waits for a good moment, tries, backs off, gives up with a report.
//!
//! Each try is a window under the same id, with a receipt of its own; between tries nobody is held.

use std::time::Duration;

use super::console::{Answer, Env, Problem};
use super::operator::Operator;
use super::{verbs, windows};
use crate::window::opportunity::{Next, Sight, Waiting, may_mend};
use crate::window::preflight::{Line, Verdict, age};
use crate::window::registry::{Refusal, Request};
use crate::window::rehearse::{Rehearsal, rehearse};
use crate::wire::reply::{Report, sqlstate};

/// So many reasons are told in the report.
const TOLD: usize = 10;

/// Carries it out.
pub(super) async fn apply_within(
    request: Request,
    within: Duration,
    operator: &mut Operator,
    env: &Env,
) -> Result<Answer, Problem> {
    let clock = env.front.clock;
    let mut waiting = Waiting::begin(&request.bounds, within, clock.now());
    let mut reasons: Vec<String> = Vec::new();
    loop {
        let looked = verbs::unless_interrupted(rehearse(&env.registry, &request), operator).await?;
        let looked = looked.map_err(|refusal| Report::new(sqlstate::INVALID_CATALOG_NAME, refusal.to_string()))?;
        // What is wrong with the change itself is told at once, by the window that refuses it; that it is there already, too.
        let of_change = |line: &Line| line.check == "script" || line.check == "change";
        let hopeless = looked.lines.iter().any(|line| of_change(line) && line.verdict == Verdict::Refuse);
        if hopeless || looked.present {
            return windows::apply(request, operator, env).await;
        }
        if let Some(why) = against(&looked, &request)
            && reasons.last().is_none_or(|last| !same(last, &why))
        {
            operator.notice(format!("waiting: {why}")).await?;
            reasons.push(why);
        }
        let fits = looked.prediction.fits(&request.bounds);
        let sight = Sight { refused: looked.refusal.is_some(), fits, hours_until: hours_until(&request, env) };
        match waiting.next(sight, clock.now()) {
            Next::Wait(pause) => verbs::unless_interrupted(tokio::time::sleep(pause), operator).await?,
            Next::GiveUp => return Err(given_up(within, &waiting, &reasons).into()),
            Next::Try(drain) => {
                let mut one = request.clone();
                one.bounds.drain = Some(drain);
                operator.notice(format!("try {}: drain bound {}", waiting.tries() + 1, age_of(drain))).await?;
                let handle = match env.registry.begin(one) {
                    Ok(handle) => handle,
                    // Somebody was quicker.
                    Err(busy @ Refusal::Busy { .. }) => {
                        reasons.push(format!("try {}: {busy}", waiting.tries() + 1));
                        waiting.failed(clock.now());
                        continue;
                    }
                    Err(refusal) => return Err(windows::refused(&refusal)),
                };
                let status = windows::follow(&handle, operator, windows::closed).await?;
                let outcome = status.window.phase.outcome();
                if !outcome.is_some_and(|outcome| may_mend(outcome, !status.beside.is_empty())) {
                    return windows::answer(&handle, operator).await;
                }
                reasons.push(format!("try {}: {}", waiting.tries() + 1, status.reason));
                waiting.failed(clock.now());
            }
        }
    }
}

/// Whether two reasons differ in figures only: an age grows with each look, and is no news.
fn same(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect::<String>();
    words(one) == words(other)
}

fn age_of(duration: Duration) -> String {
    age(crate::ids::millis(duration))
}

/// How long it is until windows may start, unless that is passed over.
fn hours_until(request: &Request, env: &Env) -> Duration {
    if request.force.passes("hours") {
        return Duration::ZERO;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    env.front.config().window.windows.until(now.as_secs())
}

/// Why this is no good moment.
fn against(looked: &Rehearsal, request: &Request) -> Option<String> {
    let late = || {
        let bad = looked.lines.iter().find(|line| line.subject == "predicted" && line.verdict != Verdict::Ok);
        bad.map(|line| format!("{}: {}", line.check, line.reason))
    };
    looked.refusal.clone().or_else(|| late().filter(|_| !looked.prediction.fits(&request.bounds)))
}

fn given_up(within: Duration, waiting: &Waiting, reasons: &[String]) -> Report {
    let last = reasons.last().map_or("there was no time to look", String::as_str);
    let text =
        format!("no window was begun or ended well within {}: {} tries; {last}", age_of(within), waiting.tries());
    let report = Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text);
    let skipped = reasons.len().saturating_sub(TOLD);
    let told: Vec<&str> = reasons.iter().skip(skipped).map(String::as_str).collect();
    report.detail(told.join("\n")).hint("WINDOW REHEARSE tells how it stands; longer bounds or another hour may help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_that_grows_is_no_news() {
        let of = |age: &str| format!("transactions: client 7 (app) has been in a transaction for {age}");
        assert!(same(&of("16 s"), &of("17 s")) && same(&of("9.8 s"), &of("10 s")));
        assert!(!same(&of("16 s"), "sessions: process 7") && !same(&of("59 s"), &of("2 min")));
    }
}
