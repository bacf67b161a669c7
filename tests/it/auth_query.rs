//! Users that are looked up in the database: found, not found, expired, and nobody fooled (trap 45).

use crate::auth::{cannot_be_told_apart, refused, steps};
use crate::support::postgres::{Db, tool};
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, ms, secs};
use crate::support::wire::Target;

/// A database with a role that may look users up in `pg_authid`, and a proxy that knows nobody else.
fn spec(db: &Db) -> Spec {
    let looker = looker(db);
    db.sql(&format!("CREATE ROLE {looker} LOGIN SUPERUSER PASSWORD 'pw of looker'"));
    Spec::of(db)
        .unforced(db)
        .text("auth_type", "scram-sha-256")
        .text("auth_user", &looker)
        .user(&looker, "pw of looker")
        .no_user(&db.user)
}

fn looker(db: &Db) -> String {
    format!("look_{}", db.user)
}

/// The same with a function of one's own, which keeps a list of its calls in table `seen`.
fn with_function(db: &Db, body: &str) -> Spec {
    let sql = format!(
        "CREATE TABLE seen (name text, path text, app text);
         CREATE FUNCTION look(who text) RETURNS TABLE (name text, secret text) LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
           INSERT INTO public.seen VALUES (who, current_setting('search_path'), current_setting('application_name'));
           {body}
           RETURN QUERY SELECT a.rolname::text, a.rolpassword FROM pg_catalog.pg_authid a WHERE a.rolname = who;
         END $$"
    );
    db.sql(&sql);
    spec(db).text("auth_query", "SELECT * FROM look($1)")
}

fn calls(db: &Db, name: &str) -> usize {
    db.one(&format!("SELECT count(*) FROM seen WHERE name = '{name}'")).parse().unwrap()
}

#[test]
fn users_are_looked_up_and_log_in_to_postgres_with_what_they_prove() {
    let db = Db::new();
    for auth in ["scram-sha-256", "md5", "plain"] {
        let proxy = if auth == "scram-sha-256" { spec(&db) } else { again(&db) }.text("auth_type", auth).start();
        assert_eq!(proxy.client().login().one("SELECT current_user"), db.user, "{auth}");
        cannot_be_told_apart(&proxy.client());
        let mut command = tool("psql");
        command.args(["-XAt", "-p", &proxy.port.to_string(), "-U", &db.user, "-d", &db.name, "-c", "SELECT 42"]);
        let output = command.env("PGPASSWORD", &db.password).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42", "{output:?}");
    }
}

/// A second proxy for a database whose looker is there already.
fn again(db: &Db) -> Spec {
    let looker = looker(db);
    Spec::of(db).unforced(db).text("auth_user", &looker).user(&looker, "pw of looker").no_user(&db.user)
}

/// Trap 45, CVE-2025-2291: a password that has expired opens nothing; nor does a role that may not log in.
#[test]
fn trap_45_an_expired_password_is_no_password() {
    let db = Db::new();
    let proxy = spec(&db).text("auth_query_cache_time", "0").start();
    let client = proxy.client();
    for (valid, good) in [("'2001-01-01'", false), ("'infinity'", true), ("'-infinity'", false), ("'2999-01-01'", true)]
    {
        db.sql(&format!("ALTER ROLE {} VALID UNTIL {valid}", db.user));
        assert_eq!(client.connect().is_ok(), good, "{valid}");
    }
    let wrong = steps(&Target { password: "wrong".to_owned(), ..client.clone() });
    for change in ["VALID UNTIL '2001-01-01'", "VALID UNTIL 'infinity' PASSWORD NULL", "NOLOGIN"] {
        db.sql(&format!("ALTER ROLE {} {change}", db.user));
        assert_eq!(steps(&client), wrong, "{change}");
        assert_eq!(steps(&Target { password: String::new(), ..client.clone() }), wrong, "{change}");
    }
}

/// Trap 45: a name is a value and never SQL, and only its own row opens the door.
#[test]
fn trap_45_a_name_is_never_sql() {
    let db = Db::new();
    let proxy = spec(&db).start();
    db.sql("CREATE TABLE precious (a int)");
    let looker = looker(&db);
    let long = "x".repeat(63);
    let odd =
        ["o'neil; DROP TABLE precious; --", "\"; drop table precious; --", "$1", "Ünïcødé", " ", &long, "%", "a\\b"];
    for name in odd {
        let quoted = name.replace('"', "\"\"");
        db.sql(&format!("CREATE ROLE \"{quoted}\" LOGIN PASSWORD 'pw'"));
        let client = Target { user: name.to_owned(), password: "pw".to_owned(), ..proxy.client() };
        assert_eq!(client.login().one("SELECT current_user"), name);
        assert_eq!(refused(&Target { password: "wrong".to_owned(), ..client }).code, "28P01", "{name}");
    }
    // Postgres cuts names at 63 bytes; ours is not that role.
    for name in [format!("{long}x"), format!("{looker}'"), "nobody; SELECT".to_owned()] {
        let error = refused(&Target { user: name, password: "pw".to_owned(), ..proxy.client() });
        assert_eq!(error.code, "28P01");
    }
    assert_eq!(db.one("SELECT count(*) FROM pg_class WHERE relname = 'precious'"), "1");
    drop(proxy);
    for name in odd {
        let quoted = name.replace('"', "\"\"");
        db.sql(&format!("DROP ROLE \"{quoted}\""));
    }
}

/// Trap 45, CVE-2025-12819: nothing of a client's start-up packet reaches the connection that looks it up.
#[test]
fn trap_45_the_settings_of_a_client_do_not_reach_the_look_up() {
    let db = Db::new();
    db.sql(&format!(
        "CREATE SCHEMA evil;
         CREATE TABLE evil.pg_authid (rolname text, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool);
         INSERT INTO evil.pg_authid VALUES ('{}', 'guessed', NULL, true), ('ghost', 'guessed', NULL, true);
         GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON evil.pg_authid TO PUBLIC",
        db.user
    ));
    let proxy = with_function(&db, "").start();
    let by_default = again(&db).text("auth_type", "scram-sha-256").start();
    let tricks = [
        ("search_path", "evil, pg_catalog"),
        ("options", "-c search_path=evil,pg_catalog"),
        ("role", "postgres"),
        ("application_name", "trick"),
    ];
    for proxy in [&proxy, &by_default] {
        for (name, value) in tricks {
            for user in [db.user.as_str(), "ghost"] {
                let client = Target { user: user.to_owned(), password: "guessed".to_owned(), ..proxy.client() };
                assert_eq!(refused(&client.param(name, value)).code, "28P01", "{name} {user}");
            }
        }
        proxy.client().param("search_path", "evil, pg_catalog").login();
    }
    let seen = db.sql("SELECT DISTINCT path, app FROM seen").rows;
    assert_eq!(seen, [[Some("\"$user\", public".to_owned()), Some("pglull".to_owned())]]);
}

/// Trap 45: who owns a database chooses its search_path; that makes nobody another role, nor runs anything as the looker.
#[test]
fn trap_45_the_search_path_of_a_database_does_not_lead_the_look_up_astray() {
    let db = Db::new();
    db.sql(&format!(
        "CREATE SCHEMA evil;
         CREATE TABLE evil.pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool);
         INSERT INTO evil.pg_authid VALUES ('{0}', 'guessed', NULL, true), ('ghost', 'guessed', NULL, true);
         CREATE TABLE evil.ran (what text);
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS
           $$ INSERT INTO evil.ran VALUES ('now'); SELECT '-infinity'::timestamptz $$;
         CREATE FUNCTION evil.same(name, text) RETURNS bool LANGUAGE sql AS
           $$ INSERT INTO evil.ran VALUES ('='); SELECT true $$;
         CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
         GRANT ALL ON SCHEMA evil TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
         ALTER DATABASE {1} SET search_path = evil, pg_catalog",
        db.user, db.name
    ));
    let proxy = spec(&db).start();
    assert_eq!(proxy.client().login().one("SELECT current_user"), db.user);
    for user in [db.user.as_str(), "ghost"] {
        let client = Target { user: user.to_owned(), password: "guessed".to_owned(), ..proxy.client() };
        assert_eq!(refused(&client).code, "28P01", "{user}");
    }
    assert_eq!(db.one("SELECT count(*) FROM evil.ran"), "0");
}

#[test]
fn trap_45_one_look_up_for_each_name_and_its_result_is_used_again() {
    let db = Db::new();
    let proxy = with_function(&db, "PERFORM pg_sleep(0.3);").start();
    let crowd = |user: &str, password: &str| -> Vec<bool> {
        let target = Target { user: user.to_owned(), password: password.to_owned(), ..proxy.client() };
        let one = || {
            std::thread::spawn({
                let target = target.clone();
                move || target.connect().is_ok()
            })
        };
        let all: Vec<_> = (0..15).map(|_| one()).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    };
    assert_eq!(crowd(&db.user, &db.password), [true; 15]);
    assert_eq!(calls(&db, &db.user), 1);
    // Unknown names too, so that a crowd of strangers is not a crowd of queries.
    assert_eq!(crowd("stranger", "x"), [false; 15]);
    assert_eq!(calls(&db, "stranger"), 1);
    // One that was made since is found soon.
    let new = format!("new_{}", db.user);
    assert_eq!(refused(&Target { user: new.clone(), ..proxy.client() }).code, "28P01");
    db.sql(&format!("CREATE ROLE {new} LOGIN PASSWORD 'pw'"));
    let client = Target { user: new, password: "pw".to_owned(), ..proxy.client() };
    eventually("the new role is found", secs(10), || client.connect().is_ok());
}

#[test]
fn trap_45_a_look_up_that_fails_is_said_and_hurts_nobody_else() {
    let db = Db::new();
    let proxy =
        spec(&db).text("auth_query", "SELECT name, secret FROM logins WHERE name = $1").user("known", "pw").start();
    db.sql(&format!("CREATE ROLE known_{} LOGIN", db.user));
    let error = refused(&proxy.client());
    assert_eq!((error.code.as_str(), error.message.as_str()), ("08006", "auth_query failed"));
    assert!(proxy.log().contains("relation \"logins\" does not exist"), "{}", proxy.log());
    // Whoever is in auth_file needs no look-up: a wrong password is a wrong password.
    let known = Target { user: "known".to_owned(), password: "wrong".to_owned(), ..proxy.client() };
    assert_eq!(refused(&known).code, "28P01");
    // It is tried again at once when it can be made.
    db.sql(&format!(
        "CREATE TABLE logins (name text, secret text); INSERT INTO logins VALUES ('{}', '{}')",
        db.user, db.password
    ));
    assert_eq!(proxy.client().login().one("SELECT current_user"), db.user);
}

/// A look-up has its bound, and those of other names do not wait for it.
#[test]
fn trap_45_a_slow_look_up_ends_and_is_alone() {
    let db = Db::new();
    let proxy = with_function(&db, "IF who = 'slow' THEN PERFORM pg_sleep(60); END IF;").start();
    let slow = Target { user: "slow".to_owned(), ..proxy.client() };
    let slow = std::thread::spawn(move || refused(&slow));
    eventually("it is being looked up", secs(10), || !db.running("look(").is_empty());
    proxy.client().login();
    assert!(!slow.is_finished());
    assert_eq!(slow.join().unwrap().message, "auth_query failed");
}

/// DESIGN: a login completes while its database is held. A look-up does not pass the gate.
#[test]
fn a_log_in_that_is_looked_up_completes_in_a_hold() {
    let db = Db::new();
    let proxy = with_function(&db, "").start();
    proxy.admin(&format!("PAUSE {}", db.name));
    let mut wire = proxy.client().login();
    wire.start("SELECT current_user").unwrap();
    proxy.until_held(1);
    assert!(wire.silent(ms(100)));
    proxy.admin(&format!("RESUME {}", db.name));
    assert_eq!(wire.finish().unwrap().one(), db.user);
}

/// The database of a look-up is `auth_dbname`, also for the console; without it the console knows only `auth_file`.
#[test]
fn look_ups_in_a_database_of_their_own() {
    let (db, logins) = (Db::new(), Db::new());
    let list = |proxy: &Proxy, user: &str, password: &str| {
        let console = Target {
            database: "pgbouncer".to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            ..proxy.client()
        };
        console.connect().map(|_| ())
    };
    let proxy = spec(&db).text("admin_users", &db.user).start();
    assert_eq!(list(&proxy, &db.user, &db.password).err().unwrap().db().code, "28P01");
    drop(proxy);
    logins.sql(&format!(
        "CREATE TABLE people (name text, secret text); INSERT INTO people VALUES ('{}', 'of its own')",
        db.user
    ));
    let spec = again(&db).also(&logins).text("auth_type", "scram-sha-256").text("admin_users", &db.user);
    let spec = spec.no_user(&logins.user).text("auth_dbname", &logins.name);
    let proxy = spec.text("auth_query", "SELECT name, secret FROM people WHERE name = $1").start();
    list(&proxy, &db.user, "of its own").unwrap();
    assert_eq!(list(&proxy, &db.user, &db.password).err().unwrap().db().code, "28P01");
    // The right password here is another than in Postgres, which says so itself.
    assert_eq!(refused(&Target { password: "of its own".to_owned(), ..proxy.client() }).code, "28P01");
}
