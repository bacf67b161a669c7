//! Clients that are silent, or busy, for longer than they may: looked for at intervals, so that no request sets a timer.
//!
//! Time in the queue or behind a shut gate is nobody's fault and is measured by `query_wait_timeout` alone.

use std::time::Duration;

use super::front::Front;
use crate::clients::State;
use crate::config::ClientLimits;
use crate::ids::Moment;
use crate::wire::reply::{Report, sqlstate};

/// How often they are looked for at most and at least.
const PERIOD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Looks for them for as long as the process lives. A bound is overrun by at most a second, or by a quarter of it.
pub async fn run(front: Front) {
    loop {
        let shortest = front.config().shortest_client_timeout();
        tokio::time::sleep(shortest.unwrap_or(PERIOD.1).div_f64(4.0).clamp(PERIOD.0, PERIOD.1)).await;
        if shortest.is_none() {
            continue;
        }
        let (config, now) = (front.config(), front.clock.now());
        for client in front.clients.list() {
            let limits = config.client_limits(&client.database, &client.user);
            if let Some(why) = overdue(client.timing(), &limits, now) {
                client.dismiss(why);
            }
        }
    }
}

/// Why a client has to leave, if it has. The texts are PgBouncer's, the codes Postgres' own for the same settings.
fn overdue(
    (state, since, transaction): (State, Moment, Option<Moment>),
    limits: &ClientLimits,
    now: Moment,
) -> Option<Report> {
    let over = |since: Moment, bound: Option<Duration>| bound.is_some_and(|bound| now.since(since) >= bound);
    let long = transaction.is_some_and(|began| over(began, limits.transaction_timeout));
    let (sqlstate, text) = match state {
        State::Waiting => return None,
        State::Idle if over(since, limits.client_idle_timeout) => (sqlstate::IDLE_SESSION, "client_idle_timeout"),
        State::Idle => return None,
        State::IdleInTransaction if over(since, limits.idle_transaction_timeout) => {
            (sqlstate::IDLE_IN_TRANSACTION, "idle transaction timeout")
        }
        State::Active if over(since, limits.query_timeout) => (sqlstate::QUERY_CANCELED, "query timeout"),
        State::IdleInTransaction | State::Active if long => (sqlstate::TRANSACTION_TIMEOUT, "transaction timeout"),
        State::IdleInTransaction | State::Active => return None,
    };
    Some(Report::new(sqlstate, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_state_has_its_clock() {
        let mut limits = Config::default().client_limits("", "");
        let look = |limits: &ClientLimits, state, since, transaction: Option<u64>| {
            let report = overdue((state, Moment(since), transaction.map(Moment)), limits, Moment(10_000))?;
            Some((report.sqlstate, report.message))
        };
        let all = [State::Idle, State::Waiting, State::Active, State::IdleInTransaction];
        for state in all {
            assert_eq!(look(&limits, state, 0, Some(0)), None, "all are off by default");
        }
        let bound = Some(Duration::from_secs(5));
        (limits.client_idle_timeout, limits.idle_transaction_timeout) = (bound, bound);
        (limits.query_timeout, limits.transaction_timeout) = (bound, Some(Duration::from_secs(9)));
        for (state, since, transaction, expected) in [
            (State::Idle, 5_000, None, Some(("57P05", "client_idle_timeout"))),
            (State::Idle, 5_001, None, None),
            (State::Waiting, 0, None, None),
            (State::Active, 5_000, Some(5_000), Some(("57014", "query timeout"))),
            (State::Active, 5_001, Some(1_001), None),
            (State::Active, 9_999, Some(1_000), Some(("25P04", "transaction timeout"))),
            (State::IdleInTransaction, 5_000, Some(5_000), Some(("25P03", "idle transaction timeout"))),
            (State::IdleInTransaction, 9_999, Some(1_000), Some(("25P04", "transaction timeout"))),
            (State::IdleInTransaction, 9_999, Some(1_001), None),
        ] {
            let expected = expected.map(|(code, text)| (code.to_owned(), text.to_owned()));
            assert_eq!(look(&limits, state, since, transaction), expected, "{state:?} {since} {transaction:?}");
        }
    }
}
