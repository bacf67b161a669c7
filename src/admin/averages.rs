//! The periods of the averages in `SHOW STATS`, and the line in the log at the end of each.

use tokio::time::{Instant, sleep_until};

use super::console::Env;
use crate::pool::stats::Figures;

/// Ends a period every `stats_period`, for as long as the process lives. Cancel-safe.
pub async fn keep(env: Env) {
    loop {
        let (began, period) = (env.front.clock.now(), env.front.config().stats_period);
        sleep_until(Instant::now() + period).await;
        turn(&env);
        if env.front.config().log_stats {
            let elapsed = env.front.clock.now().since(began);
            let (mut now, mut then) = (Figures::default(), Figures::default());
            for pool in env.front.databases.list().iter().flat_map(|database| database.pools()) {
                now += pool.stats.figures();
                then += pool.stats.older();
            }
            tracing::info!("{}", line(&now.averages(&then, elapsed)));
        }
    }
}

fn turn(env: &Env) {
    env.periods.turn(env.front.clock.now());
    for pool in env.front.databases.list().iter().flat_map(|database| database.pools()) {
        pool.stats.turn();
    }
}

/// In PgBouncer's words: tools that read its log find them.
fn line(averages: &Figures) -> String {
    let [_, xacts, queries, received, sent, xact, query, wait, client_parses, server_parses, binds, _] = averages.0;
    format!(
        "stats: {xacts} xacts/s, {queries} queries/s, {client_parses} client parses/s, {server_parses} server parses/s, \
         {binds} binds/s, in {received} B/s, out {sent} B/s, xact {xact} us, query {query} us, wait {wait} us"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_pgbouncers() {
        assert_eq!(
            line(&Figures([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])),
            "stats: 2 xacts/s, 3 queries/s, 9 client parses/s, 10 server parses/s, 11 binds/s, in 4 B/s, out 5 B/s, \
             xact 6 us, query 7 us, wait 8 us"
        );
    }
}
