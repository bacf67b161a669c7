//! `SHOW STATS`, `STATS_TOTALS`, `STATS_AVERAGES`, `TOTALS`: the counters of clients' work, and how fast they grow.

use super::columns::STATS;
use super::of;
use crate::admin::command::Show;
use crate::admin::console::Env;
use crate::admin::table::{Cell, Table, row};
use crate::pool::database::Database;
use crate::pool::stats::Figures;

/// What some pools' counters stand at, and what they stood at when the averages began.
#[derive(Clone, Copy, Default)]
struct Sums {
    now: Figures,
    then: Figures,
}

impl Sums {
    fn add(&mut self, database: &Database) {
        for pool in database.pools() {
            self.now += pool.stats.figures();
            self.then += pool.stats.older();
        }
    }

    fn averages(&self, env: &Env) -> Figures {
        self.now.averages(&self.then, env.front.clock.now().since(env.periods.older()))
    }
}

/// One row a database: its name, and what is wanted of its sums.
fn by_database(show: &Show, env: &Env, wanted: impl Fn(&Sums) -> Vec<Figures>) -> Table {
    let mut table = of(show);
    for database in env.front.databases.list() {
        let mut sums = Sums::default();
        sums.add(&database);
        let mut row = row![database.name.clone()];
        row.extend(wanted(&sums).into_iter().flat_map(|figures| figures.0).map(Cell::from));
        table.rows.push(row);
    }
    table
}

pub(super) fn stats(env: &Env) -> Table {
    by_database(&Show::Stats, env, |sums| vec![sums.now, sums.averages(env)])
}

pub(super) fn totals_only(env: &Env) -> Table {
    by_database(&Show::StatsTotals, env, |sums| vec![sums.now])
}

pub(super) fn averages_only(env: &Env) -> Table {
    by_database(&Show::StatsAverages, env, |sums| vec![sums.averages(env)])
}

pub(super) fn totals(env: &Env) -> Table {
    let mut sums = Sums::default();
    env.front.databases.list().iter().for_each(|database| sums.add(database));
    let mut table = of(&Show::Totals);
    for (prefix, figures) in [("total", sums.now), ("avg", sums.averages(env))] {
        for (stat, value) in STATS.iter().zip(figures.0) {
            table.rows.push(row![format!("{prefix}_{}", stat.row), value]);
        }
    }
    table
}
