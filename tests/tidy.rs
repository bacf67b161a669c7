//! Checks on the source tree that no compiler makes: how long files are, who may use whom, what the pure files must
//! not know, and that documents name what exists.
//!
//! Each check is a plain function from text to complaints, so that the self-tests at the end can show that it
//! complains. The tables below are the rules; change a rule there, with its reason, in the same commit as the code.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read is a failed check")]

#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, count_code_lines, names_in_path, rooms_used};

/// Lines of code in one file: no blank lines, no comments, no inline tests.
const CODE_LINES_MAX: usize = 400;

/// Who may use whom: every room, and the rooms that it may name besides itself. Arrows point down only; a
/// room that is not here does not exist.
#[rustfmt::skip]
const ROOMS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("error", &["ids"]),
    ("clock", &["ids"]),
    ("wire", &["ids", "error"]),
    ("prepared", &["ids", "error", "wire"]),
    ("config", &["ids", "error"]),
    ("telemetry", &["ids", "error"]),
    // Text goes in, text comes out; the command line draws with it too.
    ("page", &["error"]),
    // Before the program, and beside it: it knows nothing of what the program does.
    ("process", &["error"]),
    ("auth", &["ids", "error", "config", "wire"]),
    ("net", &["ids", "error", "clock", "config", "telemetry"]),
    ("server", &["ids", "error", "clock", "config", "telemetry", "wire", "prepared", "auth", "net"]),
    ("clients", &["ids", "error", "clock", "config", "telemetry", "wire", "prepared", "net", "server"]),
    // The gate is in the ledger: a pool does not know what a window is.
    // A pool keeps what its servers log in with; it authenticates nobody.
    ("pool", &["ids", "error", "clock", "config", "telemetry", "wire", "prepared", "auth", "server", "clients"]),
    ("session", &["ids", "error", "clock", "config", "telemetry", "wire", "prepared", "auth", "net", "server", "clients", "pool"]),
    // One process takes over from another.
    ("upgrade", &["ids", "error", "clock", "config", "telemetry", "process", "wire", "prepared", "auth", "net", "server", "clients", "pool", "session"]),
    // A window moves pools, never sessions: whom a gate holds is the ledger's business.
    ("window", &["ids", "error", "clock", "config", "telemetry", "wire", "prepared", "auth", "net", "server", "clients", "pool"]),
    ("admin", &["ids", "error", "clock", "config", "telemetry", "process", "wire", "prepared", "auth", "net", "server", "clients", "pool", "session", "upgrade", "window", "page"]),
    ("app", &["ids", "error", "clock", "config", "telemetry", "process", "wire", "prepared", "auth", "net", "server", "clients", "pool", "session", "upgrade", "window", "page", "admin"]),
    ("cli", &["ids", "error", "clock", "config", "telemetry", "wire", "page", "app"]),
    // The demo looks at the proxy from outside, as an operator and an application do.
    ("demo", &["ids", "error", "clock", "config", "telemetry", "wire", "app", "cli"]),
];

/// Files that decide and touch nothing, each with the rooms that it may name besides its own and
/// [`PURE_MAY_USE`]. A `*` stands for the rest of the file's stem.
const PURE: &[(&str, &[&str])] = &[
    ("ids.rs", &[]),
    ("wire/*.rs", &[]),
    ("prepared/*.rs", &[]),
    ("session/translate*.rs", &["prepared", "server"]),
    ("session/translate/*.rs", &["prepared", "server"]),
    ("session/answers.rs", &["prepared", "server"]),
    ("session/messages.rs", &["prepared"]),
    ("session/probe.rs", &["prepared"]),
    ("session/passport.rs", &["prepared"]),
    ("upgrade/words.rs", &["auth", "config", "session"]),
    ("window/plan.rs", &[]),
    ("window/event.rs", &[]),
    ("window/machine.rs", &[]),
    ("window/receipt.rs", &[]),
    // The classes are rules of the configuration.
    ("window/preflight.rs", &["config"]),
    ("window/lints.rs", &[]),
    ("window/predict.rs", &[]),
    ("window/opportunity.rs", &[]),
    ("window/change_table.rs", &[]),
    ("window/verify.rs", &[]),
    ("window/record.rs", &[]),
    ("window/samples.rs", &[]),
    ("pool/gate.rs", &[]),
    ("pool/caps.rs", &[]),
    ("pool/ledger*.rs", &[]),
    ("pool/ledger/*.rs", &[]),
    ("pool/groups.rs", &["config"]),
    ("pool/failing.rs", &[]),
    ("server/progress.rs", &[]),
    ("page/*.rs", &[]),
    ("config/text.rs", &[]),
    ("config/types.rs", &[]),
    ("config/limits.rs", &[]),
    ("config/classes.rs", &[]),
    ("config/crowd.rs", &[]),
    ("config/hours.rs", &[]),
    ("config/userlist.rs", &[]),
    ("config/hba.rs", &[]),
    ("config/ident.rs", &[]),
    ("config/tokens.rs", &[]),
    // Durations and policies are written alike in a command and in the config, and read by the same function.
    // What `force` passes over is read into the window's own value.
    ("admin/command.rs", &["config", "window"]),
];

/// The rooms that every pure file may name.
const PURE_MAY_USE: &[&str] = &["ids", "error", "wire"];

/// What the pure files must not know: the runtime, sockets (an address is only a value), files, processes, clocks,
/// logs, figures.
const IMPURE: &[&str] = &[
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "fs",
    "process",
    "thread",
    "env",
    "tracing",
    "metrics",
    "Instant",
    "SystemTime",
];

/// The one file of the integration tests that may sleep: it waits for conditions, with a limit.
const MAY_SLEEP: &str = "support/wait.rs";

#[test]
fn files_are_short() {
    for folder in ["src", "benches"] {
        check(&sources(folder), |file| {
            let lines = count_code_lines(&file.code);
            if lines > CODE_LINES_MAX {
                vec![format!("{lines} lines of code, at most {CODE_LINES_MAX}: split it by what it does")]
            } else {
                Vec::new()
            }
        });
    }
}

#[test]
fn rooms_use_only_those_below_them() {
    check(&sources("src"), wrong_rooms);
}

#[test]
fn pure_files_touch_nothing() {
    check(&sources("src"), impurities);
}

#[test]
fn the_list_of_pure_files_is_not_out_of_date() {
    let files = sources("src");
    // Until the program is wired up, some of the rooms are still being built.
    if files.iter().any(|file| file.path == "app.rs") {
        for (pattern, _) in PURE {
            let found = files.iter().any(|file| matches(pattern, &file.path));
            assert!(found, "no file {pattern}: did it move? its rule must move with it");
        }
    }
}

#[test]
fn integration_tests_do_not_sleep() {
    check(&sources("tests/it"), |file| if file.path == MAY_SLEEP { Vec::new() } else { sleeps(&file.code) });
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["src", "tests/it", "benches"] {
        check(&sources(folder), |file| if file.only_tests { Vec::new() } else { unsaid(&file.text) });
    }
}

#[test]
fn every_metric_is_documented() {
    let table = read("src/telemetry/metrics/table.rs");
    let missing = undocumented(&table, &read("docs/metrics.md"));
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
}

#[test]
fn documents_name_tests_that_exist() {
    for document in ["GUARANTEES.md", "src/ARCHITECTURE.md", TRAPS, FAULTS] {
        let lost = lost_tests(&read(document), |path| fs::read_to_string(root().join(path)).ok());
        assert!(lost.is_empty(), "{document} names tests that do not exist: {lost:?}");
    }
}

/// The page of the protocol traps, how many there are, and whether each must have its row already.
const TRAPS: &str = "docs/traps.md";
const TRAPS_COUNT: usize = 52;
const ALL_TRAPS: bool = true;

/// The page of what can happen to a window, and how many rows it has.
const FAULTS: &str = "docs/faults.md";
const FAULTS_COUNT: usize = 30;

#[test]
fn each_trap_has_one_row_and_an_answer() {
    let there = rows_with_answers(&read(TRAPS), "", TRAPS_COUNT);
    assert!(!ALL_TRAPS || there == TRAPS_COUNT, "traps without a row: {there} are there");
}

#[test]
fn each_fault_of_a_window_has_one_row_and_an_answer() {
    assert_eq!(rows_with_answers(&read(FAULTS), "W", FAULTS_COUNT), FAULTS_COUNT, "faults without a row");
}

/// How many rows of the table begin with a number; each is there once, in order, and has an answer.
fn rows_with_answers(page: &str, prefix: &str, most: usize) -> usize {
    let rows = numbered_rows(page, prefix);
    let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, each once: {numbers:?}");
    assert!(numbers.iter().all(|number| (1..=most).contains(number)), "{numbers:?}");
    let unanswered: Vec<usize> =
        rows.iter().filter(|(_, answer)| !answers(answer)).map(|(number, _)| *number).collect();
    assert!(unanswered.is_empty(), "neither a test nor a reason (`cannot occur: ...`): {unanswered:?}");
    numbers.len()
}

/// Number and last cell of each row of the table.
fn numbered_rows(page: &str, prefix: &str) -> Vec<(usize, String)> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let number = |cells: &[&str]| cells.first()?.strip_prefix(prefix)?.parse().ok();
    cells.filter_map(|cells| Some((number(&cells)?, (*cells.last()?).to_string()))).collect()
}

fn answers(cell: &str) -> bool {
    cell.contains(".rs::") || cell.to_lowercase().contains("cannot occur: ")
}

fn wrong_rooms(file: &Source) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("room {room} is not in the table of tests/tidy.rs")];
    };
    let used = rooms_used(&file.path, &file.code);
    let wrong = used.iter().filter(|used| *used != room && !allowed.contains(&used.as_str()));
    wrong.map(|used| format!("{room} must not use {used} (the table is in tests/tidy.rs)")).collect()
}

fn impurities(file: &Source) -> Vec<String> {
    let Some((_, may_use)) = PURE.iter().find(|(pattern, _)| matches(pattern, &file.path)) else {
        return Vec::new();
    };
    let mut found: Vec<String> = IMPURE
        .iter()
        .filter(|word| names_in_path(&file.code, word))
        .map(|word| format!("a pure file names {word}"))
        .collect();
    for used in rooms_used(&file.path, &file.code) {
        let used = used.as_str();
        if Some(used) != file.room() && !PURE_MAY_USE.contains(&used) && !may_use.contains(&used) {
            found.push(format!("a pure file uses {used}"));
        }
    }
    found
}

fn sleeps(code: &str) -> Vec<String> {
    let lines = code.lines().enumerate().filter(|(_, line)| line.contains("sleep("));
    lines.map(|(n, _)| format!("line {}: sleeps; wait for a condition instead ({MAY_SLEEP})", n + 1)).collect()
}

fn unsaid(text: &str) -> Vec<String> {
    if text.starts_with("//!") { Vec::new() } else { vec!["begins without a `//!` that says what it is".into()] }
}

/// Names of metrics in the source of the table that the page does not show as code.
fn undocumented(table: &str, page: &str) -> Vec<String> {
    let named = table.split('"').filter(|part| part.starts_with("pglull_") && !part.contains(char::is_whitespace));
    named.filter(|name| !page.contains(&format!("`{name}`"))).map(ToString::to_string).collect()
}

/// Every `path.rs::name` of a document whose file has no test `fn name`.
fn lost_tests(document: &str, file: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let named = document.split('`').filter_map(|part| part.split_once(".rs::").map(|(path, name)| (part, path, name)));
    let lost = named.filter(|(_, path, name)| {
        let text = file(&format!("{path}.rs")).unwrap_or_default();
        let attributes = text.split_once(&format!("fn {name}(")).and_then(|(before, _)| before.rsplit('}').next());
        !attributes.is_some_and(|attributes| attributes.contains("test]") || attributes.contains("test("))
    });
    lost.map(|(whole, ..)| whole.to_string()).collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|middle| !middle.contains('/')),
    }
}

fn check(files: &[Source], complaints: impl Fn(&Source) -> Vec<String>) {
    let all: Vec<String> = files
        .iter()
        .flat_map(|file| complaints(file).into_iter().map(move |text| format!("{}: {text}", file.path)))
        .collect();
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files under `folder`; there must be some, or the checks would check nothing.
fn sources(folder: &str) -> Vec<Source> {
    let folder = root().join(folder);
    let mut files = Vec::new();
    collect(&folder, &folder, &mut files);
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn collect(base: &Path, folder: &Path, files: &mut Vec<Source>) {
    let entries: BTreeSet<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in entries {
        if path.is_dir() {
            collect(base, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_string();
            files.push(Source::new(name, fs::read_to_string(&path).unwrap()));
        }
    }
}

// The checks can fail.

fn sample(path: &str, text: &str) -> Source {
    Source::new(path.into(), text.into())
}

#[test]
fn a_long_file_is_long_and_tests_and_comments_do_not_count() {
    let code = "fn f() {}\n".repeat(CODE_LINES_MAX + 1);
    assert_eq!(count_code_lines(&sample("a.rs", &code).code), CODE_LINES_MAX + 1);
    let text = "//! Doc.\n\n/* a\n b */\nfn f() { \"// no { comment\"; }\n\n#[cfg(test)]\nmod tests {\n fn t() { '}'; }\n}\nfn g() {}\n";
    assert_eq!(count_code_lines(&sample("a.rs", text).code), 2);
    let text = "#[cfg(test)]\nmod tests;\nconst A: &str = r#\"one\ntwo\"three\n\"#;\n#[cfg(test)]\nfn only<'a>(x: [u8; 2]) -> &'a str { \"}\" }\n";
    assert_eq!(count_code_lines(&sample("a.rs", text).code), 3);
    assert_eq!(count_code_lines(&sample("a_tests.rs", "fn f() {}\n").code), 0);
    assert_eq!(count_code_lines(&sample("a/tests.rs", "fn f() {}\n").code), 0);
}

#[test]
fn a_wrong_arrow_is_found_however_it_is_written() {
    for text in [
        "use crate::window::plan::Plan;",
        "use crate::{ids::Epoch, window::{plan, event}};",
        "fn f() { crate::window::shut(); }",
        "use super::super::window::plan;",
        "pub(crate) use crate ::\n window as w;",
        "use crate::{\n    ids,\n    // why\n    window,\n};",
    ] {
        let found = wrong_rooms(&sample("pool/lease.rs", text));
        assert_eq!(found, ["pool must not use window (the table is in tests/tidy.rs)"], "{text}");
    }
    for text in [
        "// use crate::window::plan;",
        "const A: &str = \"crate::window\";",
        "use super::window_of_time;",
        "use crate::pool::window;",
        "#[cfg(test)]\nmod tests {\n use crate::window::plan;\n}\n",
        "pub(crate) fn f() {}",
    ] {
        assert!(wrong_rooms(&sample("pool/lease.rs", text)).is_empty(), "{text}");
    }
    assert_eq!(rooms_used("pool/mod.rs", "use super::window;"), BTreeSet::from(["window".to_string()]));
    assert_eq!(rooms_used("app.rs", "use super::window;"), BTreeSet::from(["window".to_string()]));
    assert!(!wrong_rooms(&sample("attic/mod.rs", "")).is_empty(), "a room that the table does not know");
}

#[test]
fn the_table_of_rooms_has_no_cycle() {
    for (n, (room, allowed)) in ROOMS.iter().enumerate() {
        for used in *allowed {
            let place = ROOMS.iter().position(|(name, _)| name == used);
            assert!(place.is_some_and(|place| place < n), "{room} may use {used}, which is not above it in the table");
        }
    }
}

#[test]
fn an_impure_file_is_found() {
    for (text, complaints) in [
        ("use tokio::time::sleep;", 1),
        ("use std::net::{SocketAddr, TcpStream};", 1),
        ("fn f() { tracing::info!(\"x\"); metrics::counter!(\"y\"); }", 2),
        ("use std::{fs::File, time::Instant};", 2),
        ("use crate::pool::Pool;", 1),
        ("// tokio::spawn\nuse crate::ids::Moment; use std::fmt;", 0),
        ("#[cfg(test)]\nmod tests { use std::fs::File; }", 0),
        ("fn f(net: u8, process: u8) { g(net, process); let env = 1; }", 0),
    ] {
        assert_eq!(impurities(&sample("window/machine.rs", text)).len(), complaints, "{text}");
        assert_eq!(impurities(&sample("window/driver.rs", text)).len(), 0, "{text}: not a pure file");
    }
    assert!(matches("pool/ledger*.rs", "pool/ledger_queue.rs") && matches("wire/*.rs", "wire/frame.rs"));
    assert!(!matches("wire/*.rs", "wire/deep/frame.rs") && !matches("ids.rs", "wire/ids.rs"));
}

#[test]
fn a_sleeping_test_is_found() {
    let asleep = sample("window.rs", "// sleep(1)\nfn f() {\n    tokio::time::sleep(ONE).await;\n}");
    assert_eq!(sleeps(&asleep.code), ["line 3: sleeps; wait for a condition instead (support/wait.rs)"]);
    assert!(sleeps(&sample("a.rs", "const A: &str = \"select pg_sleep(1)\";").code).is_empty());
}

#[test]
fn missing_words_are_found() {
    assert_eq!(unsaid("use std::fmt;\n//! late").len(), 1);
    assert!(unsaid("//! Early.\n").is_empty());
    let page =
        "| n | x |\n|---|---|\n| 1 | a | `b.rs::c` |\n| 3 | d | Cannot occur: no such thing. |\n| 4 | e | later |";
    let rows = numbered_rows(page, "");
    assert_eq!(
        rows.iter().map(|(number, cell)| (*number, answers(cell))).collect::<Vec<_>>(),
        [(1, true), (3, true), (4, false)]
    );
    let table = "A: Gauge Count \"pglull_a\" [\"database\"] [] \"pglull_ is no name.\"; B: \"pglull_b_total\"";
    assert_eq!(undocumented(table, "`pglull_a`"), ["pglull_b_total"]);
    let file = |path: &str| (path == "tests/it/bank.rs").then(|| "#[test]\nfn sums() {}\n\nfn adds() {}".to_string());
    let document = "`tests/it/bank.rs::sums` `tests/it/bank.rs::adds` `tests/it/gone.rs::sums` `src/app.rs`";
    assert_eq!(lost_tests(document, file), ["tests/it/bank.rs::adds", "tests/it/gone.rs::sums"]);
}
