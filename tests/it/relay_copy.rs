//! COPY in both directions, with the errors and the early Syncs that make it hard.

use crate::relay::{Send, Until, Z, check, q};
use crate::support::wire::*;

#[test]
fn copy_in() {
    let rows: Vec<u8> = (0..1000).flat_map(|n| copy_data(format!("{n}\tx\n").as_bytes())).collect();
    check(
        "CREATE TABLE t(a int, b text)",
        &[
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(rows),
            Send(copy_done()),
            Z,
            q("SELECT count(*), sum(a) FROM t"),
            Z,
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_data(b"1\ty\n")),
            Send(copy_fail("changed my mind")),
            Z,
            q("COPY t FROM STDIN; SELECT count(*) FROM t"),
            Until(b'G', 1),
            Send([copy_data(b"7\tz\n"), copy_done()].concat()),
            Z,
            q("BEGIN; COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_done()),
            Z,
            q("ROLLBACK"),
            Z,
        ],
    );
}

/// The client goes on sending after the server has given up: all of it must be swallowed.
#[test]
fn trap_29_copy_in_with_a_bad_row() {
    let more: Vec<u8> = (0..50).flat_map(|n| copy_data(format!("{n}\n").as_bytes())).collect();
    check(
        "CREATE TABLE t(a int)",
        &[
            q("COPY t FROM STDIN"),
            Until(b'G', 1),
            Send(copy_data(b"not a number\n")),
            Until(b'E', 1),
            Z,
            Send([more, copy_done()].concat()),
            q("SELECT count(*) FROM t"),
            Z,
        ],
    );
}

#[test]
fn copy_out() {
    check(
        "CREATE TABLE t(a int, b text); INSERT INTO t SELECT i, repeat('y', i % 50) FROM generate_series(1, 2000) i",
        &[
            q("COPY t TO STDOUT"),
            Z,
            q("COPY (SELECT 1/(a - 1500) FROM t) TO STDOUT"),
            Z,
            Send([extended("COPY t TO STDOUT (FORMAT csv)", &[]), sync()].concat()),
            Z,
        ],
    );
}

/// tokio-postgres sends Sync before the data; Postgres ignores it while the copy runs.
#[test]
fn trap_30_a_sync_inside_copy_is_not_answered() {
    check(
        "CREATE TABLE t(a int)",
        &[
            Send([parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat()),
            Until(b'G', 1),
            Send([copy_data(b"1\n2\n"), sync(), flush(), copy_data(b"3\n"), copy_done(), sync()].concat()),
            Z,
            q("SELECT count(*) FROM t"),
            Z,
            // The same at once, without waiting for the server.
            Send(
                [
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    copy_data(b"4\n"),
                    copy_done(),
                    sync(),
                ]
                .concat(),
            ),
            Z,
            // An error in extended COPY: skipped up to the last Sync.
            Send([parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0)].concat()),
            Send([flush()].concat()),
            Until(b'G', 1),
            Send([copy_data(b"x\n"), copy_done(), sync()].concat()),
            Z,
        ],
    );
}
