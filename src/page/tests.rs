//! Pages are looked at as text: what stands in them, and that nothing from outside is more than text.

use super::*;
use serde_json::json;

const EVIL: &str = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{0}\u{1b}[2J";

fn grid(columns: &[&'static str], row: &[&str]) -> Grid {
    Grid { columns: columns.to_vec(), rows: vec![row.iter().map(ToString::to_string).collect()] }
}

fn facts(pairs: &[(&str, &str)]) -> Facts {
    Facts(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

/// Nothing that a browser would run or fetch, and nothing that steers a terminal.
fn harmless(page: &str) {
    let markup = page.to_lowercase();
    for word in ["<script", "<img", "<iframe", "<link", "<object", "<form", "onerror=\"", "javascript:", "src=\""] {
        assert!(!markup.contains(word), "{word}: {page}");
    }
    assert!(!page.contains('\u{1b}') && !page.contains('\u{0}'));
    assert_eq!(markup.matches("<style>").count(), 1);
    assert_eq!(markup.matches("</style>").count(), 1);
    // Tags that are opened are closed, in order.
    let mut open: Vec<&str> = Vec::new();
    let after = page.split_once("</style>").unwrap();
    let text = format!("{}{}", after.0.split_once("<style>").unwrap().0, after.1);
    for tag in text.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        match (tag.starts_with('/'), name) {
            (_, "!DOCTYPE" | "meta") => {}
            (true, name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            (false, name) if !tag.ends_with('/') => open.push(name),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn evil() -> Overview {
    Overview {
        version: "1",
        now: EVIL.into(),
        pools: grid(&["database", "user", "cl_held", "pool_mode", "paused"], &[EVIL, EVIL, "7", EVIL, "1"]),
        stats: grid(&["database", "avg_xact_count", "avg_recv"], &[EVIL, "1234", "2000"]),
        windows: grid(&["id", "database", "outcome", "reason", "started_at"], &[EVIL; 5]),
        running: vec![window()],
        refresh: true,
        ..Overview::default()
    }
}

fn window() -> Facts {
    let blocker = json!([{"user": EVIL, "application_name": EVIL, "addr": EVIL, "port": 5, "state": EVIL, "age_ms": 1500,
        "statement": EVIL, "kind": "transaction"}]);
    let check = json!([{"check": EVIL, "verdict": EVIL, "subject": EVIL, "reason": EVIL}]);
    facts(&[
        ("id", EVIL),
        ("database", EVIL),
        ("form", EVIL),
        ("owner", EVIL),
        ("phase", EVIL),
        ("reason", EVIL),
        ("drain_ms", "1900"),
        ("drain_limit_ms", "2000"),
        ("tenure_left_ms", "9000"),
        ("tenure_limit_ms", "25000"),
        ("held_now", "12"),
        ("blockers", &blocker.to_string()),
        ("preflight", &check.to_string()),
        ("receipt", ""),
    ])
}

#[test]
fn whatever_stands_in_a_page_is_text() {
    let page = overview(&evil());
    harmless(&page);
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    harmless(&receipt(&window()));
    harmless(&unknown(EVIL));
    let mut over = window();
    let drawn = json!({"id": EVIL, "databases": [EVIL], "outcome": EVIL, "reason": EVIL, "owner": EVIL, "form": EVIL,
        "edges": [{"at_ms": 1, "phase": EVIL}], "notices": [EVIL], "cuts": [{"user": EVIL, "application_name": EVIL, "kind": EVIL,
        "policy": EVIL, "id": 1}]});
    over.0.push(("outcome".into(), EVIL.into()));
    over.0.retain(|(key, _)| key != "receipt");
    over.0.push(("receipt".into(), drawn.to_string()));
    let page = receipt(&over);
    harmless(&page);
    assert!(page.contains("<svg"), "{page}");
    assert!(drawing(&over).is_some_and(|svg| svg.starts_with("<svg")) && drawing(&window()).is_none());
}

#[test]
fn an_overview_shows_what_it_was_given() {
    let page = overview(&evil());
    for part in
        ["A window is running", "1.90 s of 2.00 s", "9.00 s left of 25.00 s", "12 clients held now", "content=\"1\""]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Nine tenths of the drain are over.
    assert!(page.contains("<progress class=\"late\" max=\"2000\" value=\"1900\""));
    let quiet = overview(&Overview { refresh: false, ..Overview::default() });
    harmless(&quiet);
    assert!(quiet.contains("No pool yet") && quiet.contains("None yet") && !quiet.contains("http-equiv"));
}

#[test]
fn the_pool_in_trouble_stands_first_however_many_there_are() {
    let row = |name: String, waiting: &str, paused: &str| vec![name, waiting.to_owned(), paused.to_owned()];
    let mut rows: Vec<Vec<String>> = (0..500).map(|number| row(format!("calm_{number:03}"), "0", "0")).collect();
    rows.push(row("paused".into(), "0", "1"));
    rows.push(row("waits".into(), "3", "0"));
    let pools = Grid { columns: vec!["database", "cl_waiting", "paused"], rows };
    let page = overview(&Overview { pools, ..Overview::default() });
    let at = |name: &str| page.find(&format!("<td>{name}</td>")).unwrap_or_else(|| panic!("{name} is not shown"));
    assert!(at("waits") < at("paused") && at("paused") < at("calm_000") && at("calm_000") < at("calm_001"));
}

#[test]
fn a_page_is_bounded() {
    let mut about = evil();
    about.pools.rows = vec![about.pools.rows[0].clone(); 5_000];
    let page = overview(&about);
    harmless(&page);
    assert!(page.contains("and 4800 more"));
}

#[test]
fn the_policy_lets_in_the_style_and_nothing_else() {
    let policy = policy();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    // The style neither fetches nor ends early.
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains("</"));
}
