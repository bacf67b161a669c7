//! The judge by hand: each check, each class, what force passes over.

use super::*;

fn policy(classes: &str) -> Policy {
    Policy {
        classes: Classes::read(classes).unwrap(),
        long_transaction: Duration::from_secs(15),
        standbys: 0,
        max_lag: Some(Duration::from_secs(60)),
        max_lag_bytes: 64 << 20,
        hours: String::new(),
        stragglers: Stragglers::Abort,
    }
}

fn session(transaction_ms: Option<u64>, locks: &str) -> Session {
    Session {
        pid: 7,
        user: "app".into(),
        application: "pg_dump".into(),
        backend: "client backend".into(),
        state: "active".into(),
        connected_ms: 5_000,
        transaction_ms,
        statement: "COPY accounts".into(),
        locks: locks.into(),
    }
}

fn open(age_ms: u64) -> Open {
    Open { id: 3, user: "app".into(), application: "web".into(), age_ms, doing: "idle in transaction".into() }
}

/// The worst that is said of one check.
fn worst(facts: &Facts, policy: &Policy, check: &str) -> Option<Verdict> {
    judge(facts, policy).iter().filter(|line| line.check == check).map(|line| line.verdict).max()
}

const LOCK: &str = "AccessShareLock on accounts";

#[test]
fn nothing_is_found_and_each_check_says_so() {
    let mut lines = judge(&Facts::default(), &policy(""));
    assert!(lines.iter().all(|line| line.verdict == Verdict::Ok), "{lines:#?}");
    let checks: Vec<_> = lines.iter().map(|line| line.check.as_ref()).collect();
    assert_eq!(checks, ["script", "hours", "target", "transactions", "sessions", "prepared", "standbys"]);
    assert_eq!(decide(&mut lines, &Force::Nothing, false), None);
}

#[test]
fn sessions_beside_us() {
    for (found, classes, expected) in [
        (session(Some(1000), LOCK), "", Verdict::Refuse),
        (session(Some(200), LOCK), "", Verdict::Warn),
        (session(Some(1000), ""), "", Verdict::Warn),
        (session(Some(16_000), ""), "", Verdict::Refuse),
        (session(None, LOCK), "", Verdict::Refuse),
        (session(None, ""), "", Verdict::Warn),
        (session(Some(60_000), LOCK), "ignore user=app", Verdict::Ok),
        (session(None, ""), "ignore application=pg_*", Verdict::Ok),
        (session(Some(60_000), LOCK), "wait user=app", Verdict::Warn),
        (session(Some(60_000), LOCK), "cancel user=app", Verdict::Warn),
        (session(Some(60_000), LOCK), "terminate user=app", Verdict::Warn),
        (session(Some(10), ""), "refuse user=app", Verdict::Refuse),
        (session(None, ""), "refuse user=app", Verdict::Warn),
        (session(Some(60_000), LOCK), "terminate user=other", Verdict::Refuse),
    ] {
        let facts = Facts { database: "bench".into(), sessions: vec![found.clone()], ..Facts::default() };
        assert_eq!(worst(&facts, &policy(classes), "sessions"), Some(expected), "{found:?} {classes}");
    }
}

#[test]
fn a_session_is_named_with_what_it_does() {
    let facts = Facts { sessions: vec![session(Some(65_432), LOCK)], ..Facts::default() };
    let mut lines = judge(&facts, &policy(""));
    let why = decide(&mut lines, &Force::Nothing, false).unwrap();
    for part in ["process 7", "app", "pg_dump", "active", "65.4 s", LOCK, "COPY accounts", "force='sessions'"] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn a_vacuum_gives_way_unless_it_must_not() {
    let vacuum = |statement: &str| Session {
        user: String::new(),
        backend: "autovacuum worker".into(),
        statement: statement.into(),
        ..session(Some(20_000), "ShareUpdateExclusiveLock on accounts")
    };
    for (statement, expected) in [
        ("autovacuum: VACUUM public.accounts", Verdict::Warn),
        ("autovacuum: VACUUM public.accounts (to prevent wraparound)", Verdict::Refuse),
    ] {
        let facts = Facts { sessions: vec![vacuum(statement)], ..Facts::default() };
        assert_eq!(worst(&facts, &policy(""), "sessions"), Some(expected), "{statement}");
    }
}

#[test]
fn sessions_at_rest_are_told_together() {
    let sessions = (0..30).map(|n| Session { connected_ms: n, ..session(None, "") }).collect();
    let lines = judge(&Facts { sessions, ..Facts::default() }, &policy(""));
    let found: Vec<_> = lines.iter().filter(|line| line.check == "sessions").collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].reason.contains("30 beside") && found[0].subject.contains("pg_dump"), "{found:?}");
}

#[test]
fn many_findings_are_cut_and_counted() {
    let sessions = vec![session(Some(1000), LOCK); 13];
    let lines = judge(&Facts { sessions, ..Facts::default() }, &policy(""));
    let found: Vec<_> = lines.iter().filter(|line| line.check == "sessions").collect();
    assert_eq!(found.len(), 11);
    assert!(found[10].reason.contains("3 more") && found[10].verdict == Verdict::Refuse, "{:?}", found[10]);
}

#[test]
fn transactions_through_us() {
    for (age_ms, classes, stragglers, expected) in [
        (14_999, "", Stragglers::Abort, Verdict::Ok),
        (15_000, "", Stragglers::Abort, Verdict::Refuse),
        (15_000, "", Stragglers::Cancel, Verdict::Warn),
        (15_000, "wait user=app", Stragglers::Abort, Verdict::Warn),
        (15_000, "terminate application=web", Stragglers::Abort, Verdict::Warn),
        (15_000, "ignore database=bench", Stragglers::Abort, Verdict::Ok),
        (1, "refuse user=app", Stragglers::Terminate, Verdict::Refuse),
    ] {
        let policy = Policy { stragglers, ..policy(classes) };
        let facts = Facts { database: "bench".into(), open: vec![open(age_ms)], ..Facts::default() };
        assert_eq!(worst(&facts, &policy, "transactions"), Some(expected), "{age_ms} {classes}");
    }
}

#[test]
fn prepared_transactions_hours_and_standbys() {
    let prepared = vec![Prepared { gid: "two".into(), owner: "app".into(), age_ms: 1 }];
    let facts = Facts { prepared, hours_until: Duration::from_secs(3_700), ..Facts::default() };
    let policy = Policy { hours: "Mon 02:00 UTC".into(), ..policy("") };
    assert_eq!(worst(&facts, &policy, "prepared"), Some(Verdict::Refuse));
    assert_eq!(worst(&facts, &policy, "hours"), Some(Verdict::Refuse));
    let mut lines = judge(&facts, &policy);
    let why = decide(&mut lines, &Force::Checks(vec!["hours".into()]), false).unwrap();
    assert!(why.contains("\"two\" of app") && !why.contains("hours"), "{why}");
    assert_eq!(decide(&mut lines, &Force::Everything, false), None);
    assert!(lines.iter().any(|line| line.verdict == Verdict::Warn && line.reason.contains("force")), "{lines:#?}");

    let standby = |lag_ms, lag_bytes| Standby { name: "b".into(), lag_ms, lag_bytes };
    for (wanted, there, expected) in [
        (0, vec![], Verdict::Ok),
        (1, vec![], Verdict::Refuse),
        (1, vec![standby(None, Some(0))], Verdict::Ok),
        (1, vec![standby(Some(60_001), Some(0))], Verdict::Refuse),
        (0, vec![standby(Some(10), Some((64 << 20) + 1))], Verdict::Refuse),
        (2, vec![standby(None, None)], Verdict::Refuse),
    ] {
        let facts = Facts { standbys: there.clone(), ..Facts::default() };
        let policy = Policy { standbys: wanted, ..policy.clone() };
        assert_eq!(worst(&facts, &policy, "standbys"), Some(expected), "{wanted} {there:?}");
    }
    let facts = Facts { unasked: vec![("standbys", "no".into())], ..Facts::default() };
    assert_eq!(worst(&facts, &policy, "standbys"), Some(Verdict::Warn));
    assert_eq!(worst(&facts, &Policy { standbys: 1, ..policy }, "standbys"), Some(Verdict::Refuse));
}

#[test]
fn what_cannot_be_passed_over() {
    let cases = [
        Facts { objection: Some("\"VACUUM\": no".into()), ..Facts::default() },
        Facts { unreachable: Some("cannot connect".into()), ..Facts::default() },
        Facts { in_recovery: true, read_only: true, ..Facts::default() },
        Facts { read_only: true, ..Facts::default() },
    ];
    for facts in cases {
        let mut lines = judge(&facts, &policy(""));
        let why = decide(&mut lines, &Force::Everything, false).unwrap();
        assert!(!why.contains("force="), "{why}");
        assert_eq!(lines.iter().filter(|line| line.verdict == Verdict::Refuse).count(), 1, "{lines:#?}");
        // By hand, the operator may know better.
        assert_eq!(decide(&mut lines, &Force::Everything, true).is_some(), facts.objection.is_some());
    }
}

#[test]
fn ages_for_people() {
    for (ms, expected) in
        [(0, "0 ms"), (999, "999 ms"), (1500, "1.5 s"), (119_999, "119.9 s"), (180_000, "3 min"), (7_200_000, "2 h")]
    {
        assert_eq!(age(ms), expected);
    }
}
