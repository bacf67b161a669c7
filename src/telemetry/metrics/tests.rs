//! Renders everything and reads it back as a scraper would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::table::{Kind, TABLE, Unit};
use super::{DatabaseMetrics, Holds, PoolMetrics, ProxyMetrics, Recorder, Totals, install, publish};

/// One sample line: name, labels as they are written, value.
type Sample = (String, String, f64);

#[derive(Default)]
struct Scrape {
    help: BTreeMap<String, String>,
    kind: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

/// Reads the text format strictly: any line that it does not know fails the test.
fn scrape(text: &str) -> Scrape {
    let mut found = Scrape::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(found.help.insert(name.into(), help.into()).is_none(), "two HELP lines: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(found.kind.insert(name.into(), kind.into()).is_none(), "two TYPE lines: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l));
            found.samples.push((name.into(), labels.into(), value.parse().unwrap()));
        }
    }
    let series: BTreeSet<_> = found.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
    assert_eq!(series.len(), found.samples.len(), "a series appears twice, so Prometheus drops the scrape");
    found
}

fn value(scrape: &Scrape, name: &str, labels: &str) -> Option<f64> {
    scrape.samples.iter().find(|(n, l, _)| n == name && l.trim_end_matches('}') == labels).map(|(_, _, v)| *v)
}

fn everything() -> (Recorder, Scrape) {
    let recorder = install();
    let pool = PoolMetrics::new(&recorder, "shop", "app");
    for timing in [&pool.wait, &pool.query, &pool.transaction] {
        timing.record(Duration::from_millis(2));
    }
    let database = DatabaseMetrics::new(&recorder, "shop");
    for timing in [&database.stall, &database.drain, &database.hold, &database.apply] {
        timing.record(Duration::from_secs(2));
    }
    database.windows_started();
    database.windows_ended("applied");
    database.publish_holds(Holds { begun: 4, now: 3, released: 1, ..Holds::default() });
    database.cut("cancel");
    database.publish_phase(Some("holding"));
    let totals =
        Totals { transactions: 5, wait_time_us: 1_500_000, clients_held: 3, maxwait_us: 250_000, ..Totals::default() };
    publish(&recorder, "shop", "app", &totals);
    let proxy = Arc::new(ProxyMetrics::new(&recorder));
    proxy.login_failed("bad_password");
    proxy.protocol_error();
    let mut client = proxy.connected();
    client.ends_because("client_close");
    drop(client);
    proxy.publish_process();
    let text = recorder.render();
    (recorder, scrape(&text))
}

#[test]
fn table_is_well_formed() {
    let mut names = BTreeSet::new();
    for spec in TABLE {
        assert!(names.insert(spec.name), "{} is there twice", spec.name);
        assert!(spec.name.starts_with("pglull_"), "{}", spec.name);
        assert!(spec.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", spec.name);
        assert_eq!(spec.name.ends_with("_total"), spec.kind == Kind::Counter, "{}", spec.name);
        let stem = spec.name.trim_end_matches("_total");
        assert_eq!(stem.ends_with("_seconds"), spec.unit == Unit::Seconds, "{}", spec.name);
        assert_eq!(stem.ends_with("_bytes"), spec.unit == Unit::Bytes, "{}", spec.name);
        assert!(spec.kind != Kind::Histogram || spec.unit == Unit::Seconds, "{}: the buckets are seconds", spec.name);
        assert!(spec.help.ends_with('.') && spec.help.len() > 20 && !spec.help.contains(['\n', '\\']), "{}", spec.name);
        assert!(spec.values.is_empty() || !spec.labels.is_empty(), "{}", spec.name);
        let values: BTreeSet<_> = spec.values.iter().collect();
        assert_eq!(values.len(), spec.values.len(), "{}", spec.name);
    }
}

#[test]
fn every_metric_is_rendered_with_help_and_type() {
    let (_, scrape) = everything();
    for spec in TABLE {
        assert_eq!(scrape.help.get(spec.name).map(String::as_str), Some(spec.help), "{}", spec.name);
        assert_eq!(scrape.kind.get(spec.name).map(String::as_str), Some(spec.kind.word()), "{}", spec.name);
        let sample = if spec.kind == Kind::Histogram { format!("{}_bucket", spec.name) } else { spec.name.into() };
        let found: Vec<_> = scrape.samples.iter().filter(|(name, ..)| *name == sample).collect();
        assert!(!found.is_empty(), "{} has no sample", spec.name);
        for (_, labels, _) in &found {
            let given: Vec<&str> = labels.split(',').filter_map(|l| l.split_once('=')).map(|(k, _)| k).collect();
            let given: Vec<&str> = given.into_iter().filter(|k| *k != "le").collect();
            assert_eq!(given, spec.labels, "{}", spec.name);
        }
        for known in spec.values {
            let seen = found.iter().any(|(_, labels, _)| labels.contains(&format!("=\"{known}\"")));
            assert!(seen, "{}: {known} does not start at 0", spec.name);
        }
    }
    assert_eq!(scrape.kind.len(), TABLE.len(), "something is rendered that the table does not name");
}

#[test]
fn values_arrive_in_base_units() {
    let (_, scrape) = everything();
    let pool = "database=\"shop\",user=\"app\"";
    assert_eq!(value(&scrape, "pglull_transactions_total", pool), Some(5.0));
    assert_eq!(value(&scrape, "pglull_client_wait_seconds_total", pool), Some(1.5));
    assert_eq!(value(&scrape, "pglull_pool_maxwait_seconds", pool), Some(0.25));
    assert_eq!(value(&scrape, "pglull_pool_clients", &format!("{pool},state=\"held\"")), Some(3.0));
    assert_eq!(value(&scrape, "pglull_wait_seconds_sum", pool), Some(0.002));
    assert_eq!(value(&scrape, "pglull_wait_seconds_bucket", &format!("{pool},le=\"0.001\"")), Some(0.0));
    assert_eq!(value(&scrape, "pglull_wait_seconds_bucket", &format!("{pool},le=\"0.003\"")), Some(1.0));
    assert_eq!(value(&scrape, "pglull_window_phase", "database=\"shop\",phase=\"holding\""), Some(1.0));
    assert_eq!(value(&scrape, "pglull_window_phase", "database=\"shop\",phase=\"draining\""), Some(0.0));
    assert_eq!(value(&scrape, "pglull_windows_ended_total", "database=\"shop\",outcome=\"applied\""), Some(1.0));
    let held = value(&scrape, "pglull_held_total", "database=\"shop\"").unwrap();
    let released = value(&scrape, "pglull_held_ended_total", "database=\"shop\",how=\"released\"").unwrap();
    assert_eq!(value(&scrape, "pglull_held_clients", "database=\"shop\""), Some(held - released));
    assert_eq!(value(&scrape, "pglull_clients_connected", ""), Some(0.0));
    assert_eq!(value(&scrape, "pglull_client_disconnections_total", "reason=\"client_close\""), Some(1.0));
    assert!(value(&scrape, "pglull_process_resident_memory_bytes", "").unwrap() > 1e6);
    assert!(value(&scrape, "pglull_process_open_fds", "").unwrap() >= 3.0);
    assert!(value(&scrape, "pglull_process_start_time_seconds", "").unwrap() > 1.7e9);
}

#[test]
fn counters_never_go_down() {
    let (recorder, _) = everything();
    publish(&recorder, "shop", "app", &Totals::default());
    let scrape = scrape(&recorder.render());
    let pool = "database=\"shop\",user=\"app\"";
    assert_eq!(value(&scrape, "pglull_transactions_total", pool), Some(5.0));
    assert_eq!(value(&scrape, "pglull_client_wait_seconds_total", pool), Some(1.5));
    assert_eq!(value(&scrape, "pglull_pool_clients", &format!("{pool},state=\"held\"")), Some(0.0));
}

#[test]
fn label_values_are_escaped_and_stay_apart() {
    // The pairs that the exporter's own escaping would make alike, and everything that ends a line or a value.
    let names = ["a\"b", "a\\\"b", "a\\b", "a\\\\b", "a\\", "a\nb", "a\\\nb", "a\\nb", "ä{},=\u{1}", ""];
    let recorder = install();
    for name in names {
        publish(&recorder, name, "app", &Totals::default());
        PoolMetrics::new(&recorder, name, "app").wait.record(Duration::from_millis(1));
    }
    let scrape = scrape(&recorder.render());
    for metric in ["pglull_transactions_total", "pglull_client_wait_seconds_total", "pglull_wait_seconds_count"] {
        let mut seen: Vec<String> =
            scrape.samples.iter().filter(|(name, ..)| name == metric).map(|(_, labels, _)| database(labels)).collect();
        seen.sort();
        let mut expected = names.map(String::from).to_vec();
        expected.sort();
        assert_eq!(seen, expected, "{metric}");
    }
}

/// The value of the label `database`, unescaped by the rules of the text format.
fn database(labels: &str) -> String {
    let mut rest = labels.strip_prefix("database=\"").unwrap().chars();
    let mut out = String::new();
    loop {
        match rest.next().unwrap() {
            '"' => break,
            '\\' => match rest.next().unwrap() {
                'n' => out.push('\n'),
                c @ ('\\' | '"') => out.push(c),
                other => panic!("unknown escape \\{other} in {labels}"),
            },
            c => out.push(c),
        }
    }
    assert!(rest.as_str().starts_with(",user=\"app\""), "{labels}");
    out
}

#[test]
fn recorders_do_not_share_anything() {
    let (one, other) = (install(), install());
    publish(&one, "shop", "app", &Totals { transactions: 7, ..Totals::default() });
    assert!(one.render().contains("pglull_transactions_total{database=\"shop\",user=\"app\"} 7"));
    assert!(!other.render().contains("shop"));
}

#[test]
fn a_task_that_panics_is_not_counted_as_connected() {
    let recorder = install();
    let proxy = Arc::new(ProxyMetrics::new(&recorder));
    let task = std::thread::spawn(move || {
        let _client = proxy.connected();
        panic!("expected by this test");
    });
    assert!(task.join().is_err());
    let scrape = scrape(&recorder.render());
    assert_eq!(value(&scrape, "pglull_clients_connected", ""), Some(0.0));
    assert_eq!(value(&scrape, "pglull_client_disconnections_total", "reason=\"internal\""), Some(1.0));
}

#[test]
fn what_is_recorded_apart_is_rendered_while_it_lives() {
    let recorder = install();
    let stays = DatabaseMetrics::new(&recorder, "shop");
    let totals = Totals { transactions: 7, wait_time_us: 2_500_000, ..Totals::default() };
    publish(&recorder, "shop", "app", &totals);
    let apart = recorder.apart();
    let goes = (DatabaseMetrics::new(&apart, "tenant"), PoolMetrics::new(&apart, "tenant", "app"));
    goes.1.wait.record(Duration::from_millis(2));
    publish(&apart, "tenant", "app", &Totals { transactions: 8, ..totals });
    drop(apart);
    let both = scrape(&recorder.render());
    let transactions = |scrape: &Scrape, database: &str| {
        value(scrape, "pglull_transactions_total", &format!("database=\"{database}\",user=\"app\""))
    };
    assert_eq!((transactions(&both, "shop"), transactions(&both, "tenant")), (Some(7.0), Some(8.0)));
    let of_tenant = |scrape: &Scrape| scrape.samples.iter().filter(|(_, labels, _)| labels.contains("tenant")).count();
    assert!(of_tenant(&both) > 20);
    assert_eq!(both.help.keys().collect::<Vec<_>>(), both.kind.keys().collect::<Vec<_>>());
    drop(goes);
    let alone = scrape(&recorder.render());
    assert_eq!((of_tenant(&alone), transactions(&alone, "shop")), (0, Some(7.0)));
    assert_eq!(alone.samples.len(), both.samples.len() - of_tenant(&both));
    drop(stays);
}
