//! The recorder behind `/metrics`: registers what `table` names, renders it in Prometheus' text format.
//!
//! One [`Recorder`] belongs to one proxy; it is a cheap clone of shared state and never the `metrics`
//! crate's global recorder. Names come only from [`table`]; a handle is resolved once and then costs some
//! ten nanoseconds a record. Counters in seconds are kept here, since the exporter's counters are whole
//! numbers. This file must not know what is measured.

mod database;
#[cfg(test)]
mod docs;
mod family;
mod pool;
mod process;
pub mod table;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use database::{DatabaseMetrics, Holds};
pub use family::Family;
pub use pool::{PoolMetrics, Timing, Totals, publish};
pub use process::{Connected, ProxyMetrics};
use table::{Kind, Spec, Unit};
pub use text::labels;

/// Upper bounds of the histogram buckets in seconds, from 100 µs to 60 s. One set for all, so that stall, wait
/// and query can be laid over each other; the window's default bounds (2, 4, 10 s) fall between 1 and 10.
pub const BUCKETS_SECONDS: [f64; 13] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];

/// How often samples are moved out of the histograms' buffers. Without it memory grows until the first scrape.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The metrics of one proxy. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    exporter: PrometheusRecorder,
    handle: PrometheusHandle,
    seconds: Mutex<SecondsByName>,
    /// Recorders of series that end before the process does.
    apart: Mutex<Vec<Weak<Self>>>,
}

/// Counters in seconds: by metric name, then by rendered labels.
type SecondsByName = BTreeMap<&'static str, BTreeMap<String, f64>>;

/// Makes a recorder for one proxy and describes every metric of [`table::TABLE`] in it.
///
/// # Errors
/// Only if the exporter rejects [`BUCKETS_SECONDS`], which it does not.
pub fn install() -> Result<Recorder, BuildError> {
    let exporter = PrometheusBuilder::new().set_buckets(&BUCKETS_SECONDS)?.build_recorder();
    for spec in table::TABLE {
        match spec.kind {
            Kind::Counter => exporter.describe_counter(spec.name.into(), None, spec.help.into()),
            Kind::Gauge => exporter.describe_gauge(spec.name.into(), None, spec.help.into()),
            Kind::Histogram => exporter.describe_histogram(spec.name.into(), None, spec.help.into()),
        }
    }
    let handle = exporter.handle();
    let shared = Shared { exporter, handle, seconds: Mutex::default(), apart: Mutex::default() };
    Ok(Recorder { shared: Arc::new(shared) })
}

impl Recorder {
    /// A recorder for what does not live as long as the process: what is recorded there is rendered here for as long as
    /// anybody has it, and is gone with the last handle.
    #[must_use]
    pub fn apart(&self) -> Self {
        // It cannot fail where the first did not; if it did, the series would stay, no more.
        let Ok(apart) = install() else { return self.clone() };
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
        for spec in table::TABLE {
            if let Some(by_labels) = seconds.get(spec.name) {
                text::write_counter(&mut out, spec, by_labels);
            }
        }
        out
    }

    /// Moves the samples that the histograms have buffered into their buckets. Called every few seconds by
    /// [`run_upkeep`].
    pub fn upkeep(&self) {
        self.shared.handle.run_upkeep();
        self.living().iter().for_each(|one| one.shared.handle.run_upkeep());
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
        Timing::new(self.shared.exporter.register_histogram(&key(spec, values), &METADATA))
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

/// Moves buffered samples into their buckets every 5 s, for ever; the caller aborts it at shutdown.
/// Cancel-safe.
pub async fn run_upkeep(recorder: Recorder) {
    let mut every = tokio::time::interval(UPKEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let recorder = recorder.clone();
        // A burst of a million samples takes some 8 ms: too long for a thread that also relays bytes.
        if tokio::task::spawn_blocking(move || recorder.upkeep()).await.is_err() {
            tracing::warn!("upkeep of the metrics failed; trying again");
        }
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
