//! Dashboards, recording rules and alerts name only what a real scrape has: each metric, each label, each value of a label.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};

/// What a scrape has: by the name of a metric its labels, each with the values that were seen.
type Seen = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn scrape(text: &str) -> Seen {
    let mut seen = Seen::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).unwrap();
        let labels = seen.entry(line[..end].to_owned()).or_default();
        let inner = line[end..].strip_prefix('{').and_then(|rest| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
        for (label, value) in matchers(inner) {
            labels.entry(label).or_default().insert(value);
        }
    }
    seen
}

/// `a="x",b=~"y|z"` as pairs.
fn matchers(inner: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = inner;
    while let Some((label, after)) = rest.split_once('=') {
        let after = after.trim_start_matches(['~', '=']).trim_start();
        let Some((value, tail)) = after.strip_prefix('"').and_then(|after| after.split_once('"')) else { break };
        found.push((label.trim_matches([' ', ',', '!', '\n']).to_owned(), value.to_owned()));
        rest = tail;
    }
    found
}

/// Every selector of an expression: the name of a metric, and its matchers.
fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let mut at = 0;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(start) = expression[at..].find("pglull_").map(|start| at + start) {
        let end = expression[start..].find(|c| !word(c)).map_or(expression.len(), |length| start + length);
        let name = &expression[start..end];
        let inner =
            expression[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        // Recorded names have colons.
        if !name.contains(':') && !expression[..start].ends_with(':') {
            found.push((name.to_owned(), matchers(inner)));
        }
        at = end;
    }
    found
}

/// The labels of every `by (...)`.
fn grouped_by(expression: &str) -> BTreeSet<String> {
    let groups = expression.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["instance", "job"];

/// What is wrong with an expression.
fn complaints(expression: &str, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = ADDED.into();
    for (name, matchers) in selectors(expression) {
        let Some(known) = seen.get(&name) else {
            wrong.push(format!("there is no {name}"));
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        for (label, value) in matchers {
            match known.get(&label) {
                None if ADDED.contains(&label.as_str()) => {}
                None => wrong.push(format!("{name} has no label {label}")),
                // A variable of the dashboard stands for any.
                Some(_) if value.contains('$') => {}
                Some(values) => {
                    let lost = value.split('|').filter(|value| !values.contains(*value));
                    wrong.extend(lost.map(|value| format!("{name} has no {label}=\"{value}\"")));
                }
            }
        }
    }
    let lost = grouped_by(expression).into_iter().filter(|label| !labels.contains(label.as_str()));
    wrong.extend(lost.map(|label| format!("grouped by {label}, which no metric there has")));
    wrong
}

/// Every `expr` of a file of rules: one line each, or a block that is indented further.
fn of_rules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((before, expression)) = line.split_once("expr:") else { continue };
        let mut whole = expression.trim().trim_start_matches(['|', '>', '-']).trim().to_owned();
        while let Some(more) = lines.next_if(|next| next.len() - next.trim_start().len() > before.len()) {
            whole = format!("{whole} {}", more.trim());
        }
        found.push(whole.trim().trim_matches('\'').to_owned());
    }
    found
}

/// Every `expr` and `query` of a dashboard.
fn of_dashboard(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(key, value)| match value.as_str() {
            Some(text) if key == "expr" || key == "query" => found.push(text.to_owned()),
            _ => of_dashboard(value, found),
        }),
        serde_json::Value::Array(values) => values.iter().for_each(|value| of_dashboard(value, found)),
        _ => {}
    }
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// Some traffic, an error, a cancel, a window with a client that is held.
fn busy(db: &Db) -> Proxy {
    let proxy = Spec::of(db).num("metrics_pgbouncer_names", 1).start();
    let mut wire = proxy.client().login();
    wire.ok("BEGIN; SELECT 1; COMMIT");
    wire.query("SELECT 1 / 0").unwrap_err();
    proxy.admin(&format!("PAUSE {}", db.name));
    wire.start("SELECT 1").unwrap();
    proxy.until_held(1);
    proxy.admin(&format!("RESUME {}", db.name));
    wire.finish().unwrap();
    proxy.admin(&proxy.apply_text("figures", "", "CREATE TABLE figures (n int)"));
    proxy.client().login().ok("SELECT * FROM figures");
    proxy
}

#[test]
fn every_query_of_rules_and_dashboard_finds_its_figures() {
    let db = Db::new();
    let proxy = busy(&db);
    let seen = scrape(&proxy.metrics_text());
    let mut expressions = Vec::new();
    for path in ["prometheus/recording.yml", "prometheus/alerts.yml"] {
        expressions.extend(of_rules(&file(path)).into_iter().map(|expression| (path, expression)));
    }
    let mut of_it = Vec::new();
    of_dashboard(&serde_json::from_str(&file("grafana/pglull.json")).unwrap(), &mut of_it);
    assert!(of_it.len() > 20, "{of_it:?}");
    expressions.extend(of_it.into_iter().map(|expression| ("grafana/pglull.json", expression)));
    let wrong: Vec<String> = expressions
        .iter()
        .flat_map(|(path, text)| complaints(text, &seen).into_iter().map(move |why| format!("{path}: {why}: {text}")))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // What is recorded under a name is recorded.
    let rules = file("prometheus/recording.yml");
    for (path, text) in &expressions {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for name in words.filter(|word| word.contains(":pglull_") || word.starts_with("pglull:")) {
            assert!(rules.contains(&format!("record: {name}")), "{path}: {name} is not recorded");
        }
    }
}

#[test]
fn a_wrong_query_is_found() {
    let seen = scrape("a 1\npglull_x_total{database=\"d\",how=\"left\"} 1\npglull_y 2\n");
    for (text, wrong) in [
        ("sum by (database, instance) (rate(pglull_x_total{how=\"left\", database=~\"$database\"}[5m])) / pglull_y", 0),
        ("pglull_z", 1),
        ("pglull_x_total{who=\"me\"}", 1),
        ("pglull_x_total{how=~\"left|right\"}", 1),
        ("sum by (user) (pglull_x_total)", 1),
        ("database:pglull_x:rate5m > 1", 0),
    ] {
        assert_eq!(complaints(text, &seen).len(), wrong, "{text}: {:?}", complaints(text, &seen));
    }
    let rules = "  - record: a\n    expr: one\n  - alert: b\n    expr: |\n      two\n      > 2\n    for: 5m\n";
    assert_eq!(of_rules(rules), ["one", "two > 2"]);
}

#[test]
fn figures_have_the_names_of_the_exporter_where_that_is_asked_for() {
    let db = Db::new();
    let proxy = busy(&db);
    let text = proxy.metrics_text();
    let seen = scrape(&text);
    let series: BTreeSet<&str> =
        text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    assert!(series.len() >= samples, "a series is there twice, so Prometheus drops the scrape");
    for name in [
        "pgbouncer_up",
        "pgbouncer_version_info",
        "pgbouncer_databases_pool_size",
        "pgbouncer_databases_reserve_pool",
        "pgbouncer_databases_paused",
        "pgbouncer_pools_client_active_connections",
        "pgbouncer_pools_client_waiting_connections",
        "pgbouncer_pools_client_maxwait_seconds",
        "pgbouncer_pools_server_idle_connections",
        "pgbouncer_pools_server_testing_connections",
        "pgbouncer_stats_queries_pooled_total",
        "pgbouncer_stats_totals_queries_pooled_total",
        "pgbouncer_stats_server_in_transaction_seconds_total",
        "pgbouncer_stats_binds_total",
        "pgbouncer_used_clients",
        "pgbouncer_free_servers",
        "pgbouncer_in_flight_dns_queries",
        "pgbouncer_config_max_client_connections",
        "pgbouncer_config_max_user_connections",
    ] {
        assert!(seen.contains_key(name), "no {name} in\n{text}");
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
    }
    let value = |name: &str| -> f64 {
        let start = format!("{name}{{database=\"{}\"", db.name);
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!(value("pgbouncer_stats_queries_pooled_total") >= 4.0);
    let in_transaction = value("pgbouncer_stats_server_in_transaction_seconds_total");
    assert!(in_transaction > 0.0 && in_transaction < 60.0, "in seconds: {in_transaction}");
    assert!(seen["pgbouncer_databases_pool_size"]["name"].contains(&db.name));
    assert_eq!(seen["pgbouncer_version_info"]["version"].first().unwrap(), "PgBouncer 1.25.2");
    drop(proxy);
    let proxy = Spec::of(&db).start();
    assert!(!proxy.metrics_text().contains("pgbouncer_"), "only where it is asked for");
}

/// The bound is the configuration's: databases and users that exist.
#[test]
fn nothing_that_a_client_sends_makes_a_series() {
    let db = Db::new();
    let spec = Spec::of(&db).fallback(&db).num("max_auto_databases", 2).text("auth_type", "scram-sha-256");
    let proxy = spec.start();
    let count = || proxy.metrics_text().lines().filter(|line| !line.starts_with('#')).count();
    proxy.client().app("first").login().ok("SELECT 1");
    let before = count();
    for n in 0..30 {
        let mut stranger = proxy.client().app(&format!("app {n}"));
        stranger.user = format!("stranger_{n}");
        stranger.connect().err().unwrap();
        let mut liar = proxy.client();
        liar.password = format!("no {n}");
        liar.connect().err().unwrap();
        let mut known = proxy.client().app(&format!("app {n}")).login();
        known.query(&format!("SELECT {n} AS column_{n}")).unwrap();
        let mut lost = proxy.client();
        lost.database = format!("nowhere_{n}");
        let _ = lost.connect();
    }
    let text = proxy.metrics_text();
    for word in ["stranger", "column_", "app "] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    // Whoever asks for a database that the entry `*` covers makes at most so many.
    let made: BTreeSet<&str> = text.split('"').filter(|word| word.starts_with("nowhere_")).collect();
    assert!(made.len() <= 2, "{made:?}");
    let per_database = before;
    assert!(count() <= before + 2 * per_database, "{before} before, {} now", count());
}

/// Runs `promtool` with this on its standard input; `None` where there is none, which is said past the harness.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus"));
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: promtool {arguments:?}: it is not here");
        return None;
    };
    // It may end without having read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    Some(said)
}

/// Rules, their unit tests, the dashboard's queries and a scrape, as Prometheus' own tool reads them.
#[test]
fn promtool_has_nothing_to_say() {
    let db = Db::new();
    let scrape = busy(&db).metrics_text();
    promtool(&["check", "rules", "recording.yml", "alerts.yml"], "");
    promtool(&["test", "rules", "tests.yml"], "");
    let mut queries = Vec::new();
    of_dashboard(&serde_json::from_str(&file("grafana/pglull.json")).unwrap(), &mut queries);
    let queries = queries.iter().filter(|query| query.contains("pglull_") && !query.starts_with("label_values"));
    let filled = queries.map(|query| query.replace("$__rate_interval", "5m").replace("$__range", "1h"));
    let rules: String =
        filled.enumerate().map(|(n, query)| format!("      - record: r{n}\n        expr: {query:?}\n")).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yml");
    fs::write(&path, format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
    // Ours only: the names of another exporter are as they are.
    let ours = scrape.split("# HELP pgbouncer_up").next().unwrap();
    if let Some(said) = promtool(&["check", "metrics"], ours) {
        assert_eq!(said, "", "promtool check metrics");
    }
}
