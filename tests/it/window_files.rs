//! `pglull window apply DB FOLDER`: what is not applied yet of a folder of migrations, in one window and one transaction.

use std::fs;
use std::process::{Output, Stdio};

use tempfile::TempDir;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec, binary};

struct Scene {
    db: Db,
    proxy: Proxy,
    dir: TempDir,
}

impl Scene {
    fn new(spec: impl FnOnce(Spec) -> Spec) -> Self {
        let db = Db::with(ACCOUNTS);
        let proxy = spec(Spec::of(&db).pool(5)).start();
        Self { db, proxy, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, sql: &str) -> &Self {
        fs::write(self.dir.path().join(name), sql).unwrap();
        self
    }

    /// `pglull window apply DB FILES`, in the folder.
    fn apply(&self, id: &str, files: &[&str]) -> Output {
        self.window("apply", id, files)
    }

    fn window(&self, verb: &str, id: &str, files: &[&str]) -> Output {
        let mut command = binary();
        command.args(["window", verb, &self.db.name, "--id", id, "--socket"]);
        command.arg(self.proxy.console_dir().join(format!(".s.PGSQL.{}", self.proxy.port)));
        command.args(files).current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn noted(&self) -> String {
        self.db
            .one("SELECT coalesce(string_agg(id, ' ' ORDER BY id), '') FROM pglull.change WHERE applied_at IS NOT NULL")
    }

    fn has(&self, columns: &str) -> bool {
        columns.split(' ').all(|column| self.db.has_column("accounts", column))
    }
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

fn add(column: &str) -> String {
    format!("ALTER TABLE accounts ADD COLUMN {column} int")
}

#[test]
fn what_is_left_of_a_folder_is_one_change() {
    let scene = Scene::new(|spec| spec);
    // The second needs the first, and is before it in the alphabet. One leaves a setting behind.
    let quiet = "SELECT pg_catalog.set_config('search_path', '', false)";
    scene.file("2_a.sql", &add("a")).file("10_b.sql", "UPDATE accounts SET a = 1; -- no newline");
    scene.file("3_quiet.sql", quiet).file("10_b.down.sql", "DROP TABLE accounts");
    let output = scene.apply("first", &["."]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("to be applied: 2_a, 3_quiet, 10_b\n"), "{}", said(&output));
    assert!(said(&output).contains("left out, for undoing: 10_b.down.sql"), "{}", said(&output));
    assert_eq!(scene.db.one("SELECT count(DISTINCT xmin::text) || ' ' || count(*) FROM pglull.change"), "1 4");
    assert_eq!(scene.db.one("SELECT count(*) FROM accounts WHERE a IS NULL"), "0");

    // Again: nothing is left, and nobody is held, not even by somebody who would keep it from draining.
    let mut open = scene.proxy.client().login();
    open.ok("BEGIN");
    let output = scene.apply("again", &["."]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("already applied, all 3: nothing was done"), "{}", said(&output));
    assert_eq!(scene.proxy.closed("again")["outcome"], "already_applied");
    open.ok("COMMIT");

    scene.file("11_c.sql", &add("c")).file("4_late.sql", &add("late"));
    let output = scene.apply("second", &["."]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let told = "to be applied: 4_late, 11_c; applied before: 2_a, 3_quiet, 10_b; \
                out of order: 4_late should have come before 10_b";
    assert!(said(&output).contains(told), "{}", said(&output));
    assert!(scene.has("a c late"));
    let sha256 = scene.db.one("SELECT encode(sha256(convert_to(pg_read_file, 'UTF8')), 'hex') FROM (SELECT 'ALTER TABLE accounts ADD COLUMN c int'::text AS pg_read_file) x");
    assert_eq!(scene.db.one("SELECT sha256 FROM pglull.change WHERE id = '11_c'"), sha256);
}

#[test]
fn a_folder_is_applied_as_a_whole_or_not_at_all() {
    let scene = Scene::new(|spec| spec);
    scene.file("1_a.sql", &add("a")).file("2_b.sql", "SELECT 1/0").file("3_c.sql", &add("c"));
    let output = scene.apply("all", &["."]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("2_b: division by zero"), "{}", said(&output));
    assert!(!scene.has("a") && !scene.has("c"));
    assert_eq!(scene.noted(), "");
    // Of what is left, one cannot run in a transaction: nobody is held.
    scene.file("2_b.sql", "CREATE INDEX CONCURRENTLY i ON accounts (n)");
    let output = scene.apply("refused", &["."]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("2_b: \"CREATE INDEX CONCURRENTLY"), "{}", said(&output));
    assert_eq!(scene.proxy.closed("refused")["outcome"], "refused");
    scene.file("2_b.sql", &add("b"));
    let output = scene.apply("well", &["."]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(scene.has("a b c"));

    // What is applied cannot be edited.
    scene.file("1_a.sql", &add("other")).file("4_d.sql", &add("d"));
    let output = scene.apply("edited", &["."]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("another change was applied as 1_a at 20"), "{}", said(&output));
    assert!(!scene.has("d"));
    scene.proxy.still_serves();
}

#[test]
fn several_files_are_applied_in_the_order_that_was_typed() {
    let scene = Scene::new(|spec| spec);
    scene.file("b.sql", &add("b")).file("a.sql", "UPDATE accounts SET b = 1");
    let output = scene.apply("typed", &["b.sql", "a.sql"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(scene.noted(), "a b typed");
    // What is noted by one is known to a folder too.
    let output = scene.apply("more", &["a.sql", "b.sql"]);
    assert!(said(&output).contains("already applied, all 2"), "{}", said(&output));
    for (files, why) in [
        (&["."][..], "what is its place in the order?"),
        (&["a.sql", "."], "is a folder: name it alone"),
        (&["a.sql", "-"], "standard input has no name"),
        (&["none"], "cannot read none"),
    ] {
        let output = scene.apply("wrong", files);
        assert_eq!(output.status.code(), Some(2), "{files:?}: {}", said(&output));
        assert!(said(&output).contains(why), "{files:?}: {}", said(&output));
    }
    // The id of the window is noted too: it must be another.
    let output = scene.apply("a", &["a.sql", "b.sql"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("expected ids that differ, also from that of the window"), "{}", said(&output));
}

#[test]
fn without_a_change_table_there_is_nothing_to_tell_what_is_left() {
    let scene = Scene::new(|spec| spec.window("change_table", ""));
    scene.file("1_a.sql", &add("a"));
    let output = scene.apply("no", &["."]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("change_table is \"\""), "{}", said(&output));
    assert!(!scene.has("a"));
}

#[test]
fn a_folder_is_rehearsed_as_it_would_be_applied() {
    let scene = Scene::new(|spec| spec);
    scene.file("1_a.sql", &add("a")).file("2_b.sql", &add("b"));
    let rehearse = |id: &str, options: &[&str], code: i32, expect: &str| {
        let output = scene.window("rehearse", id, &[options, &["."]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(expect), "{expect}: {}", said(&output));
    };
    // Nothing is noted anywhere yet, not even the table is there.
    rehearse("r1", &[], 0, "to be applied: 1_a, 2_b");
    rehearse("r2", &["--rollback"], 0, "it is the estimate for the same change");
    assert!(!scene.has("a"));
    assert_eq!(scene.apply("first", &["."]).status.code(), Some(0));
    // What is applied is not run again.
    scene.file("3_c.sql", &add("c"));
    rehearse("r3", &[], 0, "to be applied: 3_c; applied before: 1_a, 2_b");
    rehearse("r4", &["--rollback"], 0, "it is the estimate for the same change");
    assert!(!scene.has("c"));
    assert_eq!(scene.noted(), "1_a 2_b first");
    scene.file("4_d.sql", "VACUUM");
    rehearse("r5", &["--rollback"], 1, "4_d: ");
    scene.file("4_d.sql", &add("d"));
    assert_eq!(scene.apply("second", &["."]).status.code(), Some(0));
    rehearse("r6", &["--rollback"], 0, "already applied, all 4");
    assert!(scene.proxy.admin("SHOW WINDOWS").maps().iter().all(|row| row["id"] != "r6"), "it was tried");
    scene.file("2_b.sql", &add("other"));
    rehearse("r7", &["--rollback"], 1, "another change was applied as 2_b");
}

/// dbmate, goose and others keep the way back in the same file: run as a whole it would undo the change, and be noted.
#[test]
fn a_file_with_its_way_back_in_it_is_not_run_as_a_whole() {
    let scene = Scene::new(|spec| spec);
    let undo = "ALTER TABLE accounts DROP COLUMN a";
    scene.file("1_a.sql", &format!("-- migrate:up\n{};\n\n-- migrate:down\n{undo};\n", add("a")));
    let output = scene.apply("w", &["."]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("1_a: behind \"-- migrate:down\""), "{}", said(&output));
    assert_eq!(scene.proxy.closed("w")["outcome"], "refused");
    scene.file("1_a.sql", &format!("\u{feff}-- migrate:up\n{};\n\n-- migrate:down\n", add("a")));
    assert_eq!(scene.apply("w", &["."]).status.code(), Some(0));
    assert!(scene.has("a"));
}
