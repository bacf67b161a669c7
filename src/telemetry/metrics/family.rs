//! One counter metric with one label whose values the code knows, such as the outcome of a window.
//!
//! Every known value exists from the start with 0, so that a rate over the first occurrence is right and
//! an alert can be written before anything has gone wrong. Values are `&'static str`: nothing that a client
//! sends can become a label.

use metrics::Counter;

use super::Recorder;
use super::table::Spec;

/// The counters of one metric, by the values of its last label.
#[derive(Clone, Debug)]
pub struct Family {
    recorder: Recorder,
    spec: &'static Spec,
    fixed: Vec<String>,
    known: Vec<(&'static str, Counter)>,
}

impl Family {
    /// The counters of `spec` for each of its listed values; `fixed` are the values of all labels but the last.
    pub(super) fn new(recorder: &Recorder, spec: &'static Spec, fixed: &[&str]) -> Self {
        let fixed: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        let mut family = Self { recorder: recorder.clone(), spec, fixed, known: Vec::new() };
        family.known = spec.values.iter().map(|value| (*value, family.resolve(value))).collect();
        family
    }

    /// Counts one more of `value`.
    pub fn increment(&self, value: &'static str) {
        self.add(value, 1);
    }

    /// Counts `count` more of `value`. A value that the table does not list still counts, at the price of a look-up.
    pub fn add(&self, value: &'static str, count: u64) {
        self.counter(value).increment(count);
    }

    /// `value` has been counted so often elsewhere.
    pub fn absolute(&self, value: &'static str, count: u64) {
        self.counter(value).absolute(count);
    }

    fn counter(&self, value: &'static str) -> Counter {
        debug_assert!(self.spec.values.contains(&value), "{}: {value} is not in the table", self.spec.name);
        let known = self.known.iter().find(|(known, _)| *known == value);
        known.map_or_else(|| self.resolve(value), |(_, counter)| counter.clone())
    }

    fn resolve(&self, value: &str) -> Counter {
        let mut values: Vec<&str> = self.fixed.iter().map(String::as_str).collect();
        values.push(value);
        self.recorder.counter(self.spec, &values)
    }
}
