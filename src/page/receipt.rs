//! The page of one window: what `SHOW WINDOW id` says, and the drawing of its receipt.

use super::card::{blockers, card, clocks, tag};
use super::format::{count, moment, time};
use super::html::{Html, Sheet, Side, cell, page};
use super::overview::foot;
use super::{Facts, field, timeline};

/// Keys that are shown in their own way; the others stand in the list of all figures.
const APART: [&str; 3] = ["preflight", "blockers", "receipt"];

/// The page of this window.
#[must_use]
pub fn receipt(facts: &Facts) -> String {
    let (id, mut body) = (facts.text("id"), Html::new());
    let runs = facts.text("outcome").is_empty();
    body.raw("<header><h1>").text(id).raw("</h1>").add(&tag(facts.text("phase"), facts.text("outcome")));
    body.raw("<nav><a href=\"/\">all windows</a></nav></header>\n");
    if !facts.text("reason").is_empty() {
        body.element("p", if facts.text("outcome") == "applied" { "" } else { "bad" }, facts.text("reason"));
    }
    if runs {
        body.add(&card(facts));
    } else {
        ended(facts, &mut body);
    }
    preflight(&facts.list("preflight"), &mut body);
    if let Some(receipt) = facts.receipt() {
        listed(&receipt, &mut body);
    }
    body.raw("<details><summary>All figures</summary><div class=\"card\"><dl class=\"facts\">");
    for (key, value) in facts.0.iter().filter(|(key, value)| !APART.contains(&key.as_str()) && !value.is_empty()) {
        body.element("dt", "", key).element("dd", "", value);
    }
    body.raw("</dl></div></details>\n");
    foot(&mut body);
    page(&format!("window {id} - pglull"), runs.then_some("1"), &body)
}

/// What is told of one that is over.
fn ended(facts: &Facts, html: &mut Html) {
    let number = |key: &str| count(facts.number(key));
    let took = |key: &str| time(facts.number(key));
    html.raw("<dl class=\"tiles\">");
    for (name, value) in [
        ("longest stall", took("stall_max_ms")),
        ("stall, 99 of 100", took("stall_p99_ms")),
        ("stall, median", took("stall_p50_ms")),
        ("held at most", number("held_peak")),
        ("held in all", number("held_total")),
        ("cut", number("cut")),
    ] {
        html.raw("<div>").element("dt", "", name).element("dd", "", &value).raw("</div>");
    }
    html.raw("</dl>\n");
    if let Some(svg) = facts.receipt().and_then(|receipt| timeline::svg(&receipt).ok()) {
        html.raw("<h2>Timeline <small>").link(("/window/", facts.text("id"), "/timeline.svg"), "as a file");
        html.raw("</small></h2>\n<div class=\"card picture\" tabindex=\"0\">").drawing(&svg).raw("</div>\n");
    }
    html.raw("<h2>The window</h2>\n<div class=\"card\"><dl class=\"facts\">");
    let held = format!(
        "{} released, {} left, {} cancelled, {} expired, {} cut",
        number("released"),
        number("left"),
        number("cancelled"),
        number("expired"),
        number("cut")
    );
    let started = format!("{} UTC, for {}", moment(facts.text("started_at")), took("elapsed_ms"));
    let other = format!("preflight {}, heal {}, release {}", took("preflight_ms"), took("heal_ms"), took("release_ms"));
    for (key, value) in [
        ("database", facts.text("database")),
        ("form", facts.text("form")),
        ("owner", facts.text("owner")),
        ("started", &started),
        ("change, SHA-256", facts.text("change_sha256")),
        ("held clients", &held),
        ("other phases", &other),
    ] {
        if !value.is_empty() {
            html.element("dt", "", key).element("dd", "", value);
        }
    }
    html.raw("</dl>");
    clocks(facts, html);
    html.raw("</div>\n");
    let found = facts.list("blockers");
    if !found.is_empty() {
        html.raw("<h2>Blockers</h2>\n").add(&blockers(&found));
    }
}

fn preflight(lines: &[serde_json::Value], html: &mut Html) {
    if lines.is_empty() {
        return;
    }
    let sheet = [("check", Side::Left), ("verdict", Side::Left), ("whom", Side::Left), ("why", Side::Left)];
    let mut sheet = Sheet::new(&sheet);
    for line in lines {
        let (mut verdict, mut reason) = (Html::new(), Html::new());
        let word = field(line, "verdict");
        let class = match word.as_str() {
            "ok" => "good",
            "refuse" => "bad",
            _ => "warm",
        };
        verdict.element("span", class, &word);
        reason.element("span", "wide", &field(line, "reason"));
        sheet.row(&[cell(&field(line, "check")), verdict, cell(&field(line, "subject")), reason]);
    }
    html.raw("<h2>Preflight</h2>\n").add(&sheet.finish());
}

/// What only a receipt has.
fn listed(receipt: &serde_json::Value, html: &mut Html) {
    let list = |key: &str| receipt.get(key).and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let cuts = list("cuts");
    if !cuts.is_empty() {
        let mut sheet = Sheet::new(&[("who", Side::Left), ("what", Side::Left), ("policy", Side::Left)]);
        for cut in &cuts {
            let who = format!("{} ({})", field(cut, "user"), field(cut, "application_name"));
            let what = format!("{} {}", field(cut, "kind"), field(cut, "id"));
            sheet.row(&[cell(&who), cell(&what), cell(&field(cut, "policy"))]);
        }
        html.raw("<h2>Cut, by the policy that the operator named</h2>\n").add(&sheet.finish());
    }
    let notices = list("notices");
    if !notices.is_empty() {
        html.raw("<h2>What Postgres said</h2>\n<div class=\"card\">");
        for notice in notices.iter().filter_map(serde_json::Value::as_str) {
            html.raw("<p><code>").text(notice).raw("</code></p>");
        }
        html.raw("</div>\n");
    }
}

/// What is shown where there is no such window.
#[must_use]
pub fn unknown(id: &str) -> String {
    let mut body = Html::new();
    body.raw(
        "<header><h1>No such window</h1><nav><a href=\"/\">all windows</a></nav></header>\n<p>There is no window ",
    );
    body.element("code", "", id).raw(". The last 200 are kept, for 90 days; without <code>state_dir</code> ");
    body.raw("they are forgotten when pglull ends.</p>\n");
    page("no such window - pglull", None, &body)
}
