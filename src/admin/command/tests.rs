//! Tables of console texts: what they mean, what is wrong with them and where.

use super::*;
use crate::window::plan::Force;
use proptest::prelude::*;

fn name(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn commands() {
    use Command::*;
    for (text, expect) in [
        ("", Empty),
        (" ;; ", Empty),
        ("-- nothing\n/* at /* all */ */", Empty),
        ("pause", Pause { database: None }),
        ("PAUSE Bench;", Pause { database: name("Bench") }),
        ("Resume \"my \"\"db\"", Resume { database: name("my \"db") }),
        ("resume my-db--comment", Resume { database: name("my-db") }),
        ("KILL", Kill { database: None }),
        ("KILL pause", Kill { database: name("pause") }),
        ("KILL_CLIENT 42", KillClient(42)),
        ("DISABLE a", Disable { database: "a".into() }),
        ("ENABLE a.b", Enable { database: "a.b".into() }),
        ("RECONNECT/**/a", Reconnect { database: name("a") }),
        ("WAIT_CLOSE", WaitClose { database: None }),
        ("RELOAD;", Reload),
        ("upgrade", Upgrade),
        ("SHUTDOWN", Shutdown(super::Shutdown::Now)),
        ("shutdown wait_for_servers", Shutdown(super::Shutdown::WaitForServers)),
        ("SHUTDOWN WAIT_FOR_CLIENTS", Shutdown(super::Shutdown::WaitForClients)),
        ("SET query_wait_timeout = '5s'", Set { key: "query_wait_timeout".into(), value: "5s".into() }),
        ("SET Window.Drain TO 2s", Set { key: "window.drain".into(), value: "2s".into() }),
        ("SET extra_float_digits=3", NoOp("SET")),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", NoOp("SET")),
        ("SET SESSION search_path TO a, b", NoOp("SET")),
        ("SET LOCAL x = 1", Set { key: "x".into(), value: "1".into() }),
        ("SET TRANSACTION READ ONLY", NoOp("SET")),
        ("set DateStyle = ISO, MDY;", NoOp("SET")),
        ("BEGIN READ ONLY", Begin),
        ("START TRANSACTION", Begin),
        ("END", End("COMMIT")),
        ("rollback", End("ROLLBACK")),
        ("ROLLBACK TO SAVEPOINT a", NoOp("ROLLBACK")),
        ("SAVEPOINT a", NoOp("SAVEPOINT")),
        ("DEALLOCATE ALL", Deallocate(None)),
        ("DEALLOCATE PREPARE \"_pg3_0\"", Deallocate(name("_pg3_0"))),
        ("DISCARD ALL", NoOp("DISCARD ALL")),
        ("RESET ALL", NoOp("RESET")),
    ] {
        assert_eq!(parse(text), Ok(expect), "{text}");
    }
}

#[test]
fn several_changes_of_a_window() {
    let changes = vec![("001_a.x".to_owned(), " one ".to_owned()), ("b".to_owned(), "two".to_owned())];
    let options = WindowOptions { changes, ..WindowOptions::default() };
    let expect = Command::WindowApply { databases: vec!["a".into()], options, sql: " one \n;\ntwo".into() };
    assert_eq!(parse("WINDOW APPLY a AS CHANGE '001_a.x' $$ one $$, change \"b\" 'two';"), Ok(expect));
    for text in [
        "WINDOW APPLY a AS CHANGE",
        "WINDOW APPLY a AS CHANGE 'a b' 'x'",
        "WINDOW APPLY a AS CHANGE '' 'x'",
        "WINDOW APPLY a AS CHANGE '1' ''",
        "WINDOW APPLY a AS CHANGE '1' 'x', '2' 'y'",
        "WINDOW APPLY a AS CHANGE '1' 'x', CHANGE '1' 'y'",
        "WINDOW APPLY a WITH (id='1') AS CHANGE '1' 'x'",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn windows() {
    let bounds = WindowOptions {
        drain: secs(2),
        apply: Some(Duration::from_millis(1500)),
        hold: secs(60),
        tenure: secs(25),
        stragglers: Some(Stragglers::Cancel),
        id: name("w-1"),
        verify: Some("select true;".to_owned()),
        force: Force::Everything,
        also: vec!["b".to_owned(), "*".to_owned()],
        users: vec!["app".to_owned()],
        applications: vec!["web*".to_owned(), "my job".to_owned()],
        rehearsal: Rehearsal::Look,
        start_within: None,
        changes: vec![],
    };
    let a = || vec!["a".to_owned()];
    let id = || "w-1".to_owned();
    let token = || "t k".to_owned();
    let plain = WindowOptions::default;
    for (text, expect) in [
        (
            "WINDOW APPLY a WITH (drain='2s', apply = 1.5s, hold='1min', tenure=25, stragglers='cancel', id='w-1', verify=$v$select true;$v$, force, also='b, *', users='app', applications='web*,my job') AS $x$ a $$;$$ b $x$;",
            Command::WindowApply { databases: a(), options: bounds, sql: " a $$;$$ b ".into() },
        ),
        ("window apply a as 'it''s'", Command::WindowApply { databases: a(), options: plain(), sql: "it's".into() }),
        ("window open a", Command::WindowOpen { databases: a(), options: plain() }),
        (
            "WINDOW OPEN a, \"B c\" WITH (drain = 0, force = false)",
            Command::WindowOpen {
                databases: vec!["a".into(), "B c".into()],
                options: WindowOptions { drain: secs(0), ..plain() },
            },
        ),
        (
            "WINDOW OPEN a WITH (force = 'sessions, hours')",
            Command::WindowOpen {
                databases: a(),
                options: WindowOptions { force: Force::Checks(vec!["sessions".into(), "hours".into()]), ..plain() },
            },
        ),
        (
            "WINDOW REHEARSE a WITH (fire_drill=true)",
            Command::WindowRehearse {
                databases: a(),
                options: WindowOptions { rehearsal: Rehearsal::Drill, ..plain() },
                sql: None,
            },
        ),
        (
            "WINDOW REHEARSE a WITH (rollback, fire_drill) AS 'x'",
            Command::WindowRehearse {
                databases: a(),
                options: WindowOptions { rehearsal: Rehearsal::Rollback, ..plain() },
                sql: Some("x".into()),
            },
        ),
        ("WINDOW RENEW w-1 TOKEN 't k'", Command::WindowRenew { id: id(), token: token() }),
        ("WINDOW CLOSE 'w-1' token \"t k\"", Command::WindowClose { id: id(), token: token() }),
        ("WINDOW ABORT w-1", Command::WindowAbort { id: id(), token: None, reason: None }),
        ("WINDOW ABORT w-1 TOKEN 't k';", Command::WindowAbort { id: id(), token: Some(token()), reason: None }),
        ("WINDOW ABORT w-1 reason 'no'", Command::WindowAbort { id: id(), token: None, reason: Some("no".into()) }),
        (
            "WINDOW ABORT w-1 TOKEN 't k' REASON 'it''s late'",
            Command::WindowAbort { id: id(), token: Some(token()), reason: Some("it's late".into()) },
        ),
    ] {
        assert_eq!(parse(text), Ok(expect), "{text}");
    }
}

#[test]
fn shows() {
    for (text, expect) in [
        ("SHOW WINDOWS", Show::Windows),
        ("show window w-1", Show::Window("w-1".into())),
        ("show window '20260101T000000Z:1'", Show::Window("20260101T000000Z:1".into())),
        ("SHOW HELD", Show::Held(None)),
        ("SHOW HELD Bench", Show::Held(name("Bench"))),
        ("show blockers \"a b\"", Show::Blockers(name("a b"))),
        ("SHOW POOLS;", Show::Pools),
        ("SHOW STATS_TOTALS", Show::StatsTotals),
        ("SHOW stats_averages", Show::StatsAverages),
        ("SHOW ACTIVE_SOCKETS", Show::ActiveSockets),
        ("SHOW PEER_POOLS", Show::PeerPools),
        ("SELECT clients", Show::Clients),
        ("SELECT version()", Show::Version),
        ("SHOW TimeZone", Show::Parameter("timezone".into())),
        ("SHOW TIME ZONE", Show::Parameter("timezone".into())),
        ("SHOW TRANSACTION ISOLATION LEVEL", Show::Parameter("transaction_isolation".into())),
        ("SHOW server_version", Show::Parameter("server_version".into())),
    ] {
        assert_eq!(parse(text), Ok(Command::Show(expect)), "{text}");
    }
    for word in HELP
        .lines()
        .filter(|line| line.contains("SHOW ") && !line.contains("WINDOW"))
        .flat_map(|line| line.trim()[5..].split('|'))
    {
        assert!(matches!(parse(&format!("SHOW {word}")), Ok(Command::Show(_))), "{word}");
    }
}

#[test]
fn mistakes_say_what_was_expected_and_where() {
    const COMMANDS: &str = "expected SHOW, WINDOW, PAUSE, RESUME, RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT, DISABLE, ENABLE, SET, RELOAD, UPGRADE or SHUTDOWN";
    for (text, position, message) in [
        ("hello", 1, format!("{COMMANDS}, got \"hello\"")),
        ("'hunter2'", 1, format!("{COMMANDS}, got a string")),
        ("PAUSE a b", 9, "expected the end of the command, got \"b\"".into()),
        ("PAUSE a; RESUME a", 10, "expected the end of the command, got \"RESUME\"".into()),
        ("PAUSE ''", 7, "expected a database or the end of the command, got a string".into()),
        ("PAUSE \"\"", 7, "expected a database or the end of the command, got \"\"".into()),
        ("ENABLE", 7, "expected a database, got the end of the command".into()),
        ("KILL_CLIENT x", 13, "expected the id of a client, a number, got \"x\"".into()),
        ("SHOW", 5, "expected what to show after SHOW, got the end of the command".into()),
        ("SHOW colours", 6, "expected what to show after SHOW, got \"colours\"".into()),
        ("SELECT 1", 8, "expected what to show after SELECT, got \"1\"".into()),
        ("SHOW TIME OUT", 6, "expected what to show after SHOW, got \"TIME\"".into()),
        ("SHOW WINDOW", 12, "expected an id of 1 to 64 letters, digits and _ - . :, got the end of the command".into()),
        ("SHOW WINDOW 'a b'", 13, "expected an id of 1 to 64 letters, digits and _ - . :, got a string".into()),
        (
            "SHUTDOWN NOW",
            10,
            "expected WAIT_FOR_SERVERS, WAIT_FOR_CLIENTS or the end of the command, got \"NOW\"".into(),
        ),
        ("SET", 4, "expected the key of a setting, got the end of the command".into()),
        ("SET x y", 7, "expected = or TO, got \"y\"".into()),
        ("SET x =", 8, "expected a value, got the end of the command".into()),
        ("SUSPEND", 1, "SUSPEND is not supported".into()),
        ("WINDOW OPEN", 12, "expected a database, or * for all, got the end of the command".into()),
        ("WINDOW OPEN a,a", 15, "expected each database once, got \"a\"".into()),
        ("WINDOW OPEN a WITH drain", 20, "expected (, got \"drain\"".into()),
        (
            "WINDOW OPEN a WITH ()",
            21,
            "expected drain, apply, hold, tenure, stragglers, id, verify, force, also, users, applications, start_within, fire_drill or rollback, got \")\"".into(),
        ),
        ("WINDOW", 7, "expected APPLY, OPEN, REHEARSE, RENEW, CLOSE or ABORT, got the end of the command".into()),
        ("WINDOW APPLY a WITH (fire_drill) AS 'x'", 1, "fire_drill and rollback are options of WINDOW REHEARSE".into()),
        ("WINDOW OPEN a WITH (start_within=5)", 1, "start_within is an option of WINDOW APPLY".into()),
        (
            "WINDOW REHEARSE a WITH (rollback)",
            34,
            "expected AS $$ SQL $$: what is to be rolled back, got the end of the command".into(),
        ),
        ("WINDOW OPEN a WITH (drain '2s')", 27, "expected =, got a string".into()),
        ("WINDOW OPEN a WITH (force, force)", 28, "expected each option once, got \"force\"".into()),
        ("WINDOW OPEN a WITH (hold = 0)", 28, "expected a duration above 0, got \"0\"".into()),
        ("WINDOW OPEN a WITH (stragglers = kill)", 34, "expected abort, cancel or terminate, got \"kill\"".into()),
        ("WINDOW OPEN a WITH (verify = 'x')", 1, "verify is for WINDOW APPLY".into()),
        ("WINDOW APPLY a WITH (verify = '; --') AS 'x'", 31, "expected SQL that does something, got a string".into()),
        ("WINDOW APPLY a WITH (verify = x) AS 'x'", 31, "expected the SQL as $$ .. $$ or '..', got \"x\"".into()),
        ("WINDOW OPEN a WITH (force", 26, "expected ), got the end of the command".into()),
        ("WINDOW APPLY a $$x$$", 16, "expected WITH (..) or AS $$ SQL $$, got a string".into()),
        ("WINDOW APPLY a AS x", 19, "expected the SQL as $$ .. $$ or '..', got \"x\"".into()),
        ("WINDOW APPLY a AS $$ ; -- $$", 19, "expected SQL that does something, got a string".into()),
        ("WINDOW APPLY a AS $x$ select $$", 19, "expected the closing $x$".into()),
        ("WINDOW APPLY a AS 'x", 19, "expected a closing quote".into()),
        ("WINDOW CLOSE w", 15, "expected TOKEN '..', got the end of the command".into()),
        ("WINDOW CLOSE w TOKEN ''", 22, "expected the token that WINDOW OPEN answered, got a string".into()),
        ("WINDOW ABORT w x", 16, "expected TOKEN '..', got \"x\"".into()),
        ("/* open", 1, "expected the end of the comment, `*/`".into()),
        ("PAUSE \"\u{e4}\u{e4}", 7, "expected a closing double quote".into()),
        ("PAUSE \u{e4}\u{e4} \0\n", 10, "expected the end of the command, got \"\\0\"".into()),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.position, error.message), (position, message), "{text}");
    }
    assert_eq!(parse("hello").expect_err("hint").hint.as_deref(), Some("SHOW HELP lists the commands"));
    let bad = parse("WINDOW OPEN a WITH (drain='soon')").expect_err("duration");
    assert!(bad.message.starts_with("expected a duration like 250ms") && bad.position == 27, "{bad:?}");
}

#[test]
fn statements_are_split_where_postgres_would() {
    for (text, expect) in [
        ("", vec![]),
        (" ; -- x\n;/* ; */", vec![]),
        ("a", vec![(0, "a")]),
        ("a;b", vec![(0, "a"), (2, "b")]),
        ("\u{e4};b ; ", vec![(0, "\u{e4}"), (2, "b ")]),
        (
            "a ';' \";\" $$;$$ $x$;$$;$x$ /*;*/ --;\n;b",
            vec![(0, "a ';' \";\" $$;$$ $x$;$$;$x$ /*;*/ --;\n"), (38, "b")],
        ),
        ("a; 'open; b", vec![(0, "a"), (2, " 'open; b")]),
        ("a; $1 ;b", vec![(0, "a"), (2, " $1 "), (7, "b")]),
    ] {
        let found: Vec<_> = split(text).into_iter().map(|s| (s.before, s.text)).collect();
        assert_eq!(found, expect, "{text}");
    }
}

/// Texts near the grammar.
fn texts() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "WINDOW", "APPLY", "OPEN", "SHOW", "SET", "WITH", "(", ")", "AS", "=", ",", ";", "$$", "$x$", "'", "\"", "--",
        "/*", "*/", "\n", "a", "drain",
    ]);
    let piece = prop_oneof![4 => words.prop_map(|word| format!("{word} ")), 1 => any::<String>()];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in texts()) {
        if let Err(error) = parse(&text) {
            prop_assert!(error.position >= 1 && error.position <= text.chars().count() + 1);
            prop_assert!(!error.message.contains('\n'));
        }
        for statement in split(&text) {
            prop_assert!(text.chars().skip(statement.before).collect::<String>().starts_with(statement.text));
            let _ = parse(statement.text);
        }
    }

    #[test]
    fn a_quoted_name_comes_back_as_it_was(name in "[^\0]{1,20}", sql in "[^\0]{0,40}") {
        let quoted = name.replace('"', "\"\"");
        prop_assert_eq!(parse(&format!("PAUSE \"{quoted}\"")), Ok(Command::Pause { database: Some(name.clone()) }));
        let text = format!("WINDOW APPLY \"{quoted}\" AS 'x{}'", sql.replace('\'', "''"));
        let expect = Command::WindowApply { databases: vec![name], options: WindowOptions::default(), sql: format!("x{sql}") };
        prop_assert_eq!(parse(&text), Ok(expect));
    }
}

/// Deny by default: what a stats user may do is this list, and a command that is not on it is for admins.
#[test]
fn a_stats_user_may_look_and_nothing_else() {
    let looks = [
        "CLIENTS",
        "SERVERS",
        "POOLS",
        "DATABASES",
        "USERS",
        "LISTS",
        "CONFIG",
        "MEM",
        "STATE",
        "STATS",
        "STATS_TOTALS",
        "STATS_AVERAGES",
        "TOTALS",
        "PEERS",
        "PEER_POOLS",
        "DNS_HOSTS",
        "DNS_ZONES",
        "SOCKETS",
        "ACTIVE_SOCKETS",
        "VERSION",
        "HELP",
        "WINDOWS",
        "WINDOW w",
        "HELD",
        "BLOCKERS",
        "client_encoding",
    ];
    for what in looks {
        assert_eq!(parse(&format!("SHOW {what}")).unwrap().needs(), Role::Stats, "SHOW {what}");
    }
    for text in ["", "BEGIN", "COMMIT", "SET extra_float_digits = 3", "DISCARD ALL", "DEALLOCATE ALL"] {
        assert_eq!(parse(text).unwrap().needs(), Role::Stats, "{text}");
    }
    for text in [
        "SHOW FDS",
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "WAIT_CLOSE",
        "KILL",
        "KILL_CLIENT 1",
        "DISABLE a",
        "ENABLE a",
        "RELOAD",
        "SHUTDOWN",
        "SET log_level = debug",
        "WINDOW OPEN a",
        "WINDOW APPLY a AS 'x'",
        "WINDOW APPLY a AS CHANGE '1' 'one', CHANGE '2' 'two'",
        "WINDOW RENEW w TOKEN 't'",
        "WINDOW CLOSE w TOKEN 't'",
        "WINDOW ABORT w",
    ] {
        assert_eq!(parse(text).unwrap().needs(), Role::Admin, "{text}");
    }
}
