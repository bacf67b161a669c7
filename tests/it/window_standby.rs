//! What preflight has against a start where there are standbys that lag and transactions that were prepared and left.

use crate::support::own::{Own, can_have_standbys, options};
use crate::support::proxy::Spec;
use crate::support::wait::{eventually, secs};

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int";

impl Own {
    /// What a refused window says; it has held nobody and changed nothing.
    fn refused(&self, id: &str, with: &str) -> String {
        let error = self.proxy.apply(id, with, ADD).finish().unwrap_err().db();
        assert_eq!(error.code, "55000", "{error}");
        let shown = self.proxy.window(id);
        assert_eq!((shown["outcome"].as_str(), shown["held_total"].as_str()), ("refused", "0"));
        assert!(!self.has_extra());
        error.to_string()
    }
}

#[test]
fn a_standby_that_lags_and_a_prepared_transaction_are_named() {
    if !can_have_standbys() {
        return;
    }
    let settings = [("max_prepared_transactions", "2")];
    let spec = |spec: Spec| spec.window_num("standbys", 1).window("max_lag", "1s").window("max_lag_bytes", "1MB");
    let own = Own::with(&settings, spec);
    let none = own.refused("none", "");
    assert!(none.contains("standbys: 0 streaming"), "{none}");
    let standby = own.cluster.standby(options()).unwrap();
    let mut root = own.direct();
    let streams =
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_lsn()";
    eventually("it streams", secs(20), || root.one(streams) == "1");

    let blind = own.refused("blind", "");
    assert!(blind.contains("standbys: could not be asked for") && blind.contains("GRANT pg_read_all_stats"), "{blind}");
    root.ok(&format!("GRANT pg_read_all_stats TO {}", own.db.user));

    // It takes what it is sent, and applies nothing of it.
    let mut beside = own.direct_at(standby.port()).login();
    beside.ok("SELECT pg_wal_replay_pause()");
    root.ok("CREATE TABLE big AS SELECT repeat('x', 500) FROM generate_series(1, 6000)");
    let behind = "SELECT count(*) FROM pg_stat_replication WHERE pg_wal_lsn_diff(flush_lsn, replay_lsn) > 1 << 20";
    eventually("it is behind", secs(20), || root.one(behind) == "1");
    let far = own.refused("far", "");
    assert!(
        far.contains("standbys: walreceiver: ") && far.contains("MB of WAL behind, more than max_lag_bytes"),
        "{far}"
    );
    beside.ok("SELECT pg_wal_replay_resume()");
    eventually("it has caught up", secs(20), || root.one(streams) == "1");

    // Each commit reaches it later than is allowed.
    beside.ok("ALTER SYSTEM SET recovery_min_apply_delay = '1200ms'");
    beside.ok("SELECT pg_reload_conf()");
    beside.close();
    let lags = "SELECT count(*) FROM pg_stat_replication WHERE replay_lag > interval '1 second'";
    // A commit that it has got before the setting is in force is not late.
    eventually("it lags", secs(20), || {
        root.ok("SELECT pg_current_xact_id()");
        root.one(lags) == "1"
    });
    let late = own.refused("late", "");
    assert!(late.contains("1.") && late.contains("behind, more than max_lag (1 s)"), "{late}");

    // A transaction that somebody has prepared and left.
    root.ok("BEGIN; LOCK TABLE accounts IN ROW SHARE MODE; PREPARE TRANSACTION 'left behind'");
    root.close();
    let left = own.refused("left", "force='standbys'");
    assert!(
        left.contains("prepared: \"left behind\" of postgres: prepared ") && left.contains("ROLLBACK PREPARED"),
        "{left}"
    );
    // Passed over, it stands in the way of the change, which gives up at its bound.
    let error = own.proxy.apply("bound", "force, apply='600ms'", ADD).finish().unwrap_err().db();
    assert!(["55P03", "57014"].contains(&error.code.as_str()), "{error}");
    let mut root = own.direct();
    root.ok("ROLLBACK PREPARED 'left behind'");
    root.close();
    own.proxy.apply("after", "force='standbys'", ADD).finish().unwrap();
    assert!(own.has_extra());

    // The standby itself takes no changes.
    let (to, from) = (format!("port = {}\n", standby.port()), format!("port = {}\n", own.cluster.port()));
    own.proxy.edit(|text| text.replace(&from, &to));
    own.proxy.admin("RELOAD");
    let error = own.proxy.apply("standby", "force", "SELECT 1").finish().unwrap_err().db();
    assert!(error.message.contains("it is a standby and takes no changes"), "{error}");
}
