//! `docs/metrics.md`, rendered from the table. Run the test with `PGLULL_WRITE_DOCS=1` to write it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::table::{Kind, Spec, TABLE};

const HEAD: &str = "\
# Metrics

`GET /metrics` on `metrics_addr` (default `127.0.0.1:9632`), Prometheus text format 0.0.4. This page is made from
`src/telemetry/metrics/table.rs`; a test compares them, and `PGLULL_WRITE_DOCS=1 cargo test metrics_page` writes it anew.

- All names begin with `pglull_`. Times are in seconds, sizes in bytes; counters end in `_total` and start at 0 with the process.
- Histograms share one set of buckets, so they can be laid over each other: ";

const TAIL: &str = "
- `database` is the name that clients ask for, `user` the user of the pool. No label holds an address or a statement.
- How many series there are is bounded by the configuration, whatever clients send: a database is one of `[databases]` or one of at most
  `max_auto_databases` that the entry `*` has made (their series end with them), a user is one that has logged in with a proof, and all other
  labels have the values below. A log-in that fails, an application name or a statement makes no series.
- With `metrics_pgbouncer_names = true` the same page also has the names of `pgbouncer_exporter` (`pgbouncer_up`, `pgbouncer_pools_*`,
  `pgbouncer_databases_*`, `pgbouncer_stats_*` and `pgbouncer_stats_totals_*`, `pgbouncer_config_*`, ...), with its labels, so that dashboards and alerts
  that were made for PgBouncer go on. That exporter itself works too: it asks the console.
- At every moment `pglull_held_total` is the sum of `pglull_held_ended_total` and `pglull_held_clients`: each hold ends exactly once.
";

fn page() -> String {
    let bounds: Vec<String> = super::timing::bounds().map(|seconds| seconds.to_string()).collect();
    let mut out = format!("{HEAD}{} s.{TAIL}", bounds.join(", "));
    for (title, kinds) in [("Histograms", Kind::Histogram), ("Counters", Kind::Counter), ("Gauges", Kind::Gauge)] {
        let _ = write!(out, "\n## {title}\n\n| Name | Labels | What it says |\n|---|---|---|\n");
        for spec in TABLE.iter().filter(|spec| spec.kind == kinds) {
            let _ = writeln!(out, "| `{}` | {} | {}{} |", spec.name, labels(spec), spec.help, values(spec));
        }
    }
    out
}

fn labels(spec: &Spec) -> String {
    spec.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
}

fn values(spec: &Spec) -> String {
    let Some(label) = spec.labels.last().filter(|_| !spec.values.is_empty()) else {
        return String::new();
    };
    let values: Vec<String> = spec.values.iter().map(|value| format!("`{value}`")).collect();
    format!(" `{label}` is one of {}.", values.join(", "))
}

#[test]
fn metrics_page_equals_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("PGLULL_WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/metrics.md is out of date: PGLULL_WRITE_DOCS=1 cargo test metrics_page");
}
