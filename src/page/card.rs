//! A window that runs: its phase, a clock against each bound, who is held, who blocks.

use super::format::{count, counted, time};
use super::html::{Html, Sheet, Side, cell};
use super::{Facts, field};

/// The phases that a change walks through, in order.
const WAY: [&str; 6] = ["preflight", "draining", "holding", "applying", "healing", "releasing"];

/// Blockers that are shown; the others are counted.
const BLOCKERS_SHOWN: usize = 10;

/// The card of a window that runs.
pub(super) fn card(facts: &Facts) -> Html {
    let mut html = Html::new();
    html.raw("<section class=\"card live\"><h3>").link(("/window/", facts.text("id"), ""), facts.text("id"));
    html.text(" on ").text(facts.text("database")).raw("</h3>");
    let about =
        format!("{} by {}, running for {}", facts.text("form"), facts.text("owner"), time(facts.number("elapsed_ms")));
    html.element("p", "faint", &about);
    way(facts.text("phase"), &mut html);
    clocks(facts, &mut html);
    let held = format!(
        "{} held now, {} at most; {} open",
        counted(facts.number("held_now"), "client"),
        count(facts.number("held_peak")),
        counted(facts.number("open_transactions"), "transaction")
    );
    html.element("p", "", &held);
    let found = facts.list("blockers");
    if !found.is_empty() {
        html.element("p", "warm", "The drain waits for:").add(&blockers(&found));
    }
    html.raw("</section>\n");
    html
}

fn way(current: &str, html: &mut Html) {
    html.raw("<ol class=\"way\">");
    for phase in WAY {
        html.raw(if phase == current { "<li class=\"now\" aria-current=\"step\">" } else { "<li>" });
        html.text(phase).raw("</li>");
    }
    if !WAY.contains(&current) {
        html.raw("<li class=\"now\" aria-current=\"step\">").text(current).raw("</li>");
    }
    html.raw("</ol>");
}

/// What is spent of each bound, and what is left of the tenure.
pub(super) fn clocks(facts: &Facts, html: &mut Html) {
    html.raw("<div class=\"clocks\">");
    for (name, spent, limit) in [
        ("drain", "drain_ms", "drain_limit_ms"),
        ("apply", "apply_ms", "apply_limit_ms"),
        ("hold", "hold_ms", "hold_limit_ms"),
    ] {
        let (spent, limit) = (facts.number(spent), facts.number(limit));
        let text = if limit == 0 { time(spent) } else { format!("{} of {}", time(spent), time(limit)) };
        clock(html, name, (spent, limit), &text);
    }
    let (left, limit) = (facts.number("tenure_left_ms"), facts.number("tenure_limit_ms"));
    if limit > 0 && facts.text("phase") != "closed" {
        let text = format!("{} left of {}", time(left), time(limit));
        clock(html, "tenure", (limit.saturating_sub(left), limit), &text);
    }
    html.raw("</div>");
}

fn clock(html: &mut Html, name: &'static str, (spent, limit): (u64, u64), text: &str) {
    // Nine tenths of a bound: whoever looks should know before it is reached.
    let late = limit > 0 && spent.saturating_mul(10) >= limit.saturating_mul(9);
    html.element("span", "faint", name);
    html.raw(if late { "<progress class=\"late\" max=\"" } else { "<progress max=\"" });
    html.text(&limit.max(1).to_string()).raw("\" value=\"");
    html.text(&(if limit == 0 { 0 } else { spent.min(limit) }).to_string()).raw("\" aria-label=\"").raw(name);
    html.raw("\"></progress>").element("span", "", text);
}

/// Who keeps a drain from finishing, as a receipt has them.
pub(super) fn blockers(found: &[serde_json::Value]) -> Html {
    let mut sheet = Sheet::new(&[
        ("who", Side::Left),
        ("from", Side::Left),
        ("state", Side::Left),
        ("for", Side::Right),
        ("last statement", Side::Left),
    ]);
    for blocker in found.iter().take(BLOCKERS_SHOWN) {
        let who = match (field(blocker, "user"), field(blocker, "application_name")) {
            (user, application) if application.is_empty() => user,
            (user, application) => format!("{user} ({application})"),
        };
        let from = if field(blocker, "kind") == "beside" {
            format!("beside pglull, process {}", field(blocker, "server_pid"))
        } else {
            format!("{}:{}, client {}", field(blocker, "addr"), field(blocker, "port"), field(blocker, "id"))
        };
        let mut statement = Html::new();
        statement.raw("<code class=\"wide\">").text(&field(blocker, "statement")).raw("</code>");
        let age = time(field(blocker, "age_ms").parse().unwrap_or_default());
        sheet.row(&[cell(&who), cell(&from), cell(&field(blocker, "state")), cell(&age), statement]);
    }
    let mut html = sheet.finish();
    let more = found.len().saturating_sub(BLOCKERS_SHOWN);
    if more > 0 {
        html.element("p", "faint", &format!("and {more} more: pglull window blockers"));
    }
    html
}

/// The word for how a window ended, or where it stands.
pub(super) fn tag(phase: &str, outcome: &str) -> Html {
    let mut html = Html::new();
    let (class, word) = match outcome {
        "" => ("tag warm", phase),
        "applied" | "already_applied" | "rehearsed" | "resumed" => ("tag good", outcome),
        _ => ("tag bad", outcome),
    };
    html.element("span", class, word);
    html
}
