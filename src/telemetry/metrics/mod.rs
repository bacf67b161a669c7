//! The recorder behind `/metrics`: registers what `table` names, renders it in Prometheus' text format.
//!
//! One [`Recorder`] belongs to one proxy; it is a cheap clone of shared state and never the `metrics`
//! crate's global recorder. Names come only from [`table`]; a handle is resolved once and then costs some
//! nanoseconds a record. Counters in seconds are kept here, since the exporter's counters are whole numbers, and
//! histograms, since its are dear (`timing`). This file must not know what is measured.

mod database;
#[cfg(test)]
mod docs;
mod family;
mod pool;
mod process;
pub mod table;
mod text;
mod timing;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use database::{DatabaseMetrics, Holds};
pub use family::Family;
pub use pool::{PoolMetrics, Totals, publish};
pub use process::{Connected, ProxyMetrics};
use table::{Kind, Spec, Unit};
pub use text::labels;
pub use timing::Timing;

/// The metrics of one proxy. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    exporter: PrometheusRecorder,
    handle: PrometheusHandle,
    seconds: Mutex<ByName<f64>>,
    timings: Mutex<ByName<Timing>>,
    /// Recorders of series that end before the process does.
    apart: Mutex<Vec<Weak<Self>>>,
}

/// What is kept here: by metric name, then by rendered labels.
type ByName<T> = BTreeMap<&'static str, BTreeMap<String, T>>;

/// Makes a recorder for one proxy and describes every metric of [`table::TABLE`] in it.
#[must_use]
pub fn install() -> Recorder {
    let exporter = PrometheusBuilder::new().build_recorder();
    for spec in table::TABLE {
        match spec.kind {
            Kind::Counter => exporter.describe_counter(spec.name.into(), None, spec.help.into()),
            Kind::Gauge => exporter.describe_gauge(spec.name.into(), None, spec.help.into()),
            Kind::Histogram => {}
        }
    }
    let handle = exporter.handle();
    let (seconds, timings, apart) = Default::default();
    Recorder { shared: Arc::new(Shared { exporter, handle, seconds, timings, apart }) }
}

impl Recorder {
    /// A recorder for what does not live as long as the process: what is recorded there is rendered here for as long as
    /// anybody has it, and is gone with the last handle.
    #[must_use]
    pub fn apart(&self) -> Self {
        let apart = install();
        let mut all = self.shared.apart.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&apart.shared));
        apart
    }

    fn living(&self) -> Vec<Self> {
        let all = self.shared.apart.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|shared| Self { shared }).collect()
    }

    /// Everything in Prometheus' text format 0.0.4. Takes about a millisecond per thousand series: call it off
    /// the event loop.
    #[must_use]
    pub fn render(&self) -> String {
        let living = self.living();
        if living.is_empty() {
            return self.render_own();
        }
        text::join([self].into_iter().chain(&living).map(Self::render_own))
    }

    fn render_own(&self) -> String {
        let mut out = self.shared.handle.render();
        let seconds = self.shared.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let timings = self.shared.timings.lock().unwrap_or_else(PoisonError::into_inner);
        for spec in table::TABLE {
            if let Some(by_labels) = seconds.get(spec.name) {
                text::write_family(&mut out, spec, by_labels, |out, labels, value| {
                    let _ = writeln!(out, "{}{labels} {value}", spec.name);
                });
            }
            if let Some(by_labels) = timings.get(spec.name) {
                text::write_family(&mut out, spec, by_labels, |out, labels, timing| {
                    timing.write(out, spec.name, labels);
                });
            }
        }
        out
    }

    /// The counter `spec` with these label values, made if it is new. Resolve once, keep, increment often.
    pub fn counter(&self, spec: &'static Spec, values: &[&str]) -> Counter {
        debug_assert!(spec.kind == Kind::Counter && spec.unit != Unit::Seconds, "{}", spec.name);
        self.shared.exporter.register_counter(&key(spec, values), &METADATA)
    }

    /// The gauge `spec` with these label values, made if it is new.
    pub fn gauge(&self, spec: &'static Spec, values: &[&str]) -> Gauge {
        debug_assert!(spec.kind == Kind::Gauge, "{}", spec.name);
        self.shared.exporter.register_gauge(&key(spec, values), &METADATA)
    }

    /// The histogram `spec` of durations with these label values, made if it is new.
    #[must_use]
    pub fn timing(&self, spec: &'static Spec, values: &[&str]) -> Timing {
        debug_assert!(spec.kind == Kind::Histogram, "{}", spec.name);
        let labels = labels(spec.labels, values);
        let mut timings = self.shared.timings.lock().unwrap_or_else(PoisonError::into_inner);
        timings.entry(spec.name).or_default().entry(labels).or_default().clone()
    }

    /// Sets a counter of seconds to at least `total`; it never goes down. Takes a lock: for scrape time only.
    pub fn counter_seconds(&self, spec: &'static Spec, values: &[&str], total: Duration) {
        debug_assert!(spec.kind == Kind::Counter && spec.unit == Unit::Seconds, "{}", spec.name);
        let labels = labels(spec.labels, values);
        let mut seconds = self.shared.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let value = seconds.entry(spec.name).or_default().entry(labels).or_default();
        *value = value.max(total.as_secs_f64());
    }
}

/// The exporter asks for metadata and does not use it.
static METADATA: Metadata<'static> = Metadata::new("pglull", Level::INFO, None);

fn key(spec: &'static Spec, values: &[&str]) -> Key {
    debug_assert_eq!(spec.labels.len(), values.len(), "labels of {}", spec.name);
    let labels: Vec<Label> =
        spec.labels.iter().zip(values).map(|(name, value)| Label::new(*name, text::presentable(value))).collect();
    Key::from_parts(spec.name, labels)
}
