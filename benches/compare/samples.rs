//! What was measured, round by round, and the medians and ratios of it.

use serde::Serialize;

/// What a row of the report is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Key {
    pub(crate) figure: &'static str,
    /// For example `simple, 64 clients`.
    pub(crate) cell: String,
    /// For example `CPU us/tx`.
    pub(crate) metric: &'static str,
}

/// All that was measured for one row and target.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    #[serde(flatten)]
    pub(crate) key: Key,
    pub(crate) target: String,
    /// Round and value.
    pub(crate) values: Vec<(usize, f64)>,
    /// Why there are values missing.
    pub(crate) failure: Option<String>,
}

/// Median, lowest and highest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Samples {
    pub(crate) series: Vec<Series>,
}

impl Samples {
    fn series(&mut self, key: &Key, target: &str) -> &mut Series {
        let at = self.series.iter().position(|one| one.key == *key && one.target == target).unwrap_or_else(|| {
            let series = Series { key: key.clone(), target: target.to_owned(), values: Vec::new(), failure: None };
            self.series.push(series);
            self.series.len() - 1
        });
        &mut self.series[at]
    }

    pub(crate) fn add(&mut self, key: &Key, target: &str, round: usize, value: f64) {
        self.series(key, target).values.push((round, value));
    }

    pub(crate) fn fail(&mut self, key: &Key, target: &str, why: &str) {
        self.series(key, target).failure.get_or_insert_with(|| why.to_owned());
    }

    pub(crate) fn find(&self, key: &Key, target: &str) -> Option<&Series> {
        self.series.iter().find(|one| one.key == *key && one.target == target)
    }

    /// The rows, in the order in which they were measured first.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for series in &self.series {
            if !keys.contains(&series.key) {
                keys.push(series.key.clone());
            }
        }
        keys
    }

    /// What one target's values are of another's, in pairs of the same round.
    pub(crate) fn ratio(&self, key: &Key, ours: &str, theirs: &str) -> Option<Spread> {
        let (ours, theirs) = (self.find(key, ours)?, self.find(key, theirs)?);
        let of_round = |round| theirs.values.iter().find(|(at, _)| *at == round).map(|(_, value)| *value);
        spread(ours.values.iter().filter_map(|(round, value)| Some(value / of_round(*round)?)).collect())
    }
}

impl Series {
    pub(crate) fn spread(&self) -> Option<Spread> {
        spread(self.values.iter().map(|(_, value)| *value).collect())
    }
}

pub(crate) fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let half = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
    Some(Spread { median, low, high })
}
