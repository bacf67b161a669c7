//! `verify`: what a change promised is looked at before COMMIT, in its own transaction.

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::secs;
use crate::support::wire::Reply;

const ADD: &str = "ALTER TABLE accounts ADD COLUMN extra int NOT NULL DEFAULT 7";

fn scene() -> (Db, Proxy) {
    let db = Db::with(ACCOUNTS);
    let proxy = Spec::of(&db).pool(5).start();
    (db, proxy)
}

fn apply(proxy: &Proxy, id: &str, verify: &str) -> Result<Reply, String> {
    let mut window = proxy.apply(id, &format!("verify = $v$ {verify} $v$"), ADD);
    window.limit(secs(10));
    window.finish().map_err(|error| error.db().to_string())
}

#[test]
fn what_holds_is_committed() {
    let (db, proxy) = scene();
    let verify = "SELECT count(*) = 100 FROM accounts WHERE extra = 7; SET LOCAL work_mem = '1MB'; \
                  DO $$ BEGIN ASSERT 1 = 1; END $$; SELECT extra = 7, 'a note' FROM accounts; -- all of them";
    let reply = apply(&proxy, "holds", verify).unwrap();
    assert_eq!(reply.maps()[0]["outcome"], "applied");
    assert!(db.has_column("accounts", "extra"));
}

#[test]
fn what_does_not_hold_is_rolled_back_with_the_reason() {
    let (db, proxy) = scene();
    for (at, (verify, reason)) in [
        ("SELECT extra = 8 FROM accounts", "statement 1 is false in row 1"),
        ("SELECT true; SELECT n = 0 AND id < 50 FROM accounts ORDER BY id", "statement 2 is false in row "),
        ("SELECT true WHERE false", "statement 1 answers no row"),
        ("SELECT null::bool", "statement 1 is null in row 1"),
        ("SELECT 1", "statement 1 answers something else than a boolean"),
        ("SELECT true; SELECT 1/0", "division by zero (22012)"),
        ("DO $$ BEGIN ASSERT 1 = 2, 'not so'; END $$", "not so (P0004)"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("fails-{at}");
        let error = apply(&proxy, &id, verify).unwrap_err();
        assert!(error.contains(reason), "{verify}: {error}");
        let window = proxy.closed(&id);
        assert_eq!(window["outcome"], "aborted", "{verify}");
        assert!(window["reason"].contains(reason), "{window:?}");
        assert!(!db.has_column("accounts", "extra"), "{verify}");
    }
    // None of them was noted as applied.
    assert_eq!(db.one("SELECT count(*) FROM pglull.change"), "0");
    proxy.still_serves();
}

#[test]
fn a_verify_that_cannot_be_part_of_the_transaction_is_refused_and_one_without_end_is_stopped() {
    let (db, proxy) = scene();
    let error = apply(&proxy, "ends", "SELECT true; COMMIT").unwrap_err();
    assert!(error.contains("verify") && error.contains("COMMIT"), "{error}");
    assert_eq!(proxy.closed("ends")["outcome"], "refused");
    let mut window = proxy.apply("long", "apply='500ms', verify='SELECT pg_sleep(60) IS NULL'", ADD);
    window.limit(secs(10));
    assert_eq!(window.finish().unwrap_err().db().code, "57014");
    assert_eq!(proxy.closed("long")["outcome"], "aborted");
    assert!(!db.has_column("accounts", "extra"));
}
