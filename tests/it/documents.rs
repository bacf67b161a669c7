//! Whatever the documents tell a reader to type is typed here: every `sh` block of README.md and docs/*.md runs, in order, against a
//! real proxy and Postgres, set up as docs/getting-started.md says. What cannot run here (NOT_RUN) has a reason, which is
//! printed. All commands, options, console commands, keys and metrics that are named anywhere must exist.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::CommandFactory as _;
use clap::Parser as _;
use clap::error::ErrorKind;
use pglull::cli::args::Cli;
use pglull::demo::cluster::find_tool;
use pglull::window::event::Reason;
use tempfile::TempDir;

use crate::support::postgres::{Db, cluster};
use crate::support::proxy::{Spec, binary, free_port};
use crate::support::wait::{eventually, secs};

/// The page whose set-up all others stand on.
const FIRST: &str = "docs/getting-started.md";

/// The longest page, apart, so that it runs beside the others.
const RECIPES: &str = "docs/windows.md";

/// How a line begins that is not run, and why not.
const NOT_RUN: &[(&str, &str)] = &[
    ("sudo ", "it changes the machine; deploy/test-deb.sh does it in a tree of its own"),
    ("sudoedit ", "it waits for a person"),
    ("apt-get ", "it changes the machine; deploy/test-deb.sh does it in a tree of its own"),
    ("systemctl ", "there is no systemd in a test; the unit's own command is run by tests/it/service.rs"),
    ("journalctl ", "there is no journal in a test"),
    ("docker ", "it builds for minutes; deploy/test-deploy.sh reads the Dockerfile"),
    ("kubectl ", "there is no cluster; deploy/test-deploy.sh reads the manifests"),
    ("cargo ", "it builds for minutes; make test does"),
    ("make ", "it builds for minutes; that the target exists is looked up"),
    ("pglull demo", "it takes half a minute; tests/it/cli.rs runs it"),
    ("pglull top", "it waits for keys; its arguments are read by the program's own parser"),
    ("pglull completions", "it writes into the system; tests/it/cli.rs runs it"),
    ("curl ", "there may be no curl; tests/it/figures.rs asks for what it asks for"),
    ("man ", "there may be no man; tests/it/cli.rs compares the page"),
];

/// Names with underscores that are Postgres', another program's, or a part of a name.
const OTHERS_NAMES: &[&str] = &[
    "application_name",
    "auth_type",
    "client_connection_check_interval",
    "client_encoding",
    "lock_timeout",
    "max_connections",
    "pg_authid",
    "pg_blocking_pids",
    "pg_cancel_backend",
    "pg_dump",
    "pg_hba",
    "pg_ident",
    "pg_isready",
    "pg_prewarm",
    "pg_read_all_stats",
    "pg_signal_backend",
    "pg_stat_activity",
    "pg_stat_statements",
    "pg_terminate_backend",
    "pg_xact_status",
    "pgbouncer_exporter",
    "search_path",
    "server_version",
    "set_config",
    "statement_timeout",
    "synchronous_standby_names",
    "idle_in_transaction_session_timeout",
    "gen_random_uuid",
    "clock_timestamp",
    "old_note",
    "applied_at",
    "already_applied",
    "superuser_reserved_connections",
    "log_connections",
];

struct Block {
    page: String,
    line: usize,
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README.md and docs/*.md, in order.
fn pages() -> Vec<String> {
    let docs =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.push("README.md".to_owned());
    pages.sort();
    pages
}

/// The fenced blocks of a page, and its text without them.
fn parts(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut open) = (Vec::new(), String::new(), None::<Block>);
    for (number, line) in read(page).lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let (page, language) = (page.to_owned(), language.trim().to_owned());
                open = Some(Block { page, line: number + 1, language, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => prose.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "{page}: a block without an end");
    (blocks, prose)
}

/// What stands between backticks.
fn spans(prose: &str) -> impl Iterator<Item = String> {
    let odd = prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    odd.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Words as a shell has them; `None` if a quote is left open. A `#` begins a comment.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    quote.is_none().then_some(all)
}

/// What is wrong with a command of ours; a part of one (an argument left out) is none.
fn wrong_command(line: &str) -> Option<String> {
    let words = words(line)?;
    let until =
        words.iter().position(|word| matches!(word.as_str(), "|" | ">" | "&&" | ";" | "...")).unwrap_or(words.len());
    let words = &words[..until];
    if let Err(error) = Cli::try_parse_from(words) {
        use ErrorKind::{
            DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
        };
        let part = [DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument];
        // An option without its value is a part, too.
        if !part.contains(&error.kind()) && !error.to_string().contains("none was supplied") {
            return Some(format!("{line}: {error}"));
        }
    }
    let console = words.get(1).filter(|verb| *verb == "admin").map(|_| words[2..].join(" "));
    console.filter(|text| !text.is_empty() && text != "COMMAND").and_then(|text| wrong_console_command(&text))
}

/// What is wrong with a command of the console; of one with parts left out only the first words are read.
fn wrong_console_command(text: &str) -> Option<String> {
    let error = pglull::admin::command::parse(text).err()?;
    Some(format!("{text}: {error}"))
}

/// Does it begin as a command of the console does, with nothing left out?
fn is_console_command(span: &str) -> bool {
    const VERBS: &[&str] =
        &["SHOW", "PAUSE", "RESUME", "RECONNECT", "WAIT_CLOSE", "KILL", "RELOAD", "UPGRADE", "SHUTDOWN"];
    const TARGETS: &[&str] = &["KILL_CLIENT", "DISABLE", "ENABLE", "WINDOW"];
    let mut words = span.split(' ');
    let verb = words.next().unwrap_or_default();
    let whole = !span.contains("..") && !span.contains(['[', '(', ',']) && span != "SHOW name";
    whole && (VERBS.contains(&verb) && span != "SHOW" || TARGETS.contains(&verb) && words.count() > 1)
}

fn long_options(command: &clap::Command, found: &mut BTreeSet<String>) {
    found.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")));
    command.get_subcommands().for_each(|sub| long_options(sub, found));
}

/// Everything that looks like a name in a text: letters, digits and underscores.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map(str::to_owned).collect()
}

fn is_snake(word: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.contains('_')
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(fits)
        && !word.ends_with('_')
}

/// The name of a metric without what a histogram's series have behind it.
fn metric(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// What is wrong with the words of one page. `known` has all names of keys, columns and labels.
fn wrong_names(
    page: &str,
    prose: &str,
    all: &str,
    known: &BTreeSet<String>,
    options: &BTreeSet<String>,
) -> Vec<String> {
    let metrics = read("docs/metrics.md");
    let mut wrong = Vec::new();
    for name in names(all).iter().filter(|name| name.starts_with("pglull_") && !name.ends_with('_')) {
        if !metrics.contains(&format!("`{name}`")) && !metrics.contains(&format!("`{}`", metric(name))) {
            wrong.push(format!("no metric {name}"));
        }
    }
    for span in spans(prose) {
        let first = span.split([' ', '=', '\'']).next().unwrap_or_default();
        // `pglull window ID` is an application_name.
        if span.starts_with("pglull ") && !span.contains(['[', '|', '<']) && span != "pglull window ID" {
            wrong.extend(wrong_command(&span));
        } else if is_console_command(&span) {
            wrong.extend(wrong_console_command(&span));
        } else if first.starts_with("--") && first.len() > 2 {
            wrong.extend((!options.contains(first) && first != "--locked").then(|| format!("no option {first}")));
        } else if is_snake(first) && (first == span || span.contains('=')) && !first.starts_with("pglull_") {
            wrong.extend((!known.contains(first)).then(|| format!("no key, column or label {first}")));
        }
    }
    for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        let file = link.split('#').next().unwrap_or_default();
        let there = root().join(page).parent().unwrap().join(file);
        wrong.extend((!link.contains("://") && !there.exists()).then(|| format!("no file {link}")));
        if let Some(anchor) = link.strip_prefix('#') {
            wrong.extend((!anchors(prose).contains(anchor)).then(|| format!("no heading {link}")));
        }
    }
    wrong.into_iter().map(|what| format!("{page}: {what}")).collect()
}

/// What headings are called in links.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    headings
        .map(|title| title.chars().filter(|c| kept(*c)).collect::<String>().to_lowercase().replace(' ', "-"))
        .collect()
}

#[test]
fn every_name_in_the_documents_exists() {
    let sources = ["proxy-config/reference.toml", "docs/console.md", "docs/metrics.md", "src/config/pgbouncer.rs"];
    let mut known: BTreeSet<String> = sources.iter().flat_map(|source| names(&read(source))).collect();
    known.extend(OTHERS_NAMES.iter().map(|name| (*name).to_owned()));
    // Keys of receipts, and names of checks.
    for source in [
        "src/admin/show/windows.rs",
        "src/window/receipt.rs",
        "src/admin/command/grammar.rs",
        "src/window/preflight.rs",
    ] {
        known.extend(fs::read_to_string(root().join(source)).map(|text| names(&text)).unwrap_or_default());
    }
    let mut options = BTreeSet::new();
    long_options(&Cli::command(), &mut options);
    let index = read("docs/README.md");
    for page in pages().iter().filter_map(|page| page.strip_prefix("docs/")).filter(|page| *page != "README.md") {
        assert!(index.contains(&format!("({page})")), "docs/README.md does not name {page}");
    }
    let more = ["deploy/README.md", "proxy-config/README.md", "SECURITY.md"].map(str::to_owned);
    let mut wrong = Vec::new();
    for page in pages().into_iter().chain(more) {
        let (_, prose) = parts(&page);
        wrong.extend(wrong_names(&page, &prose, &read(&page), &known, &options));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Texts between backticks in the first column of the table below a heading.
fn first_column(page: &str, heading: &str) -> Vec<String> {
    let text = read(page);
    let (_, below) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let below = below.split("\n## ").next().unwrap();
    let cells = below.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    cells.flat_map(|cell| spans(cell).collect::<Vec<_>>()).collect()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, text);
        } else if entry.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(entry).unwrap());
        }
    }
}

#[test]
fn the_runbook_knows_every_reason_alert_and_phase() {
    let page = "docs/runbook.md";
    let runbook = read(page);
    let failed = Reason::ApplyFailed { sqlstate: "42601".into(), message: "syntax error".into() };
    let reasons = [
        Reason::DrainBound,
        Reason::ApplyBound,
        Reason::HoldBound,
        Reason::TenureOver,
        Reason::OwnerGone,
        Reason::Operator,
        Reason::TooManyHeld,
        Reason::Shutdown,
        Reason::Watchdog,
        Reason::DriverDied,
        failed,
    ];
    for reason in reasons {
        let said = reason.to_string();
        let said = said.split(": syntax").next().unwrap();
        assert!(runbook.contains(&format!("`{said}`")), "the reason {said} is not in {page}");
    }
    let alerts = read("deploy/prometheus/alerts.yml");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(runbook.contains(&format!("`{alert}`")), "the alert {alert} is not in {page}");
    }
    for alert in first_column(page, "Alerts") {
        assert!(alerts.contains(&format!("alert: {alert}\n")), "{page}: no alert {alert}");
    }
    let metrics = read("docs/metrics.md");
    for (metric, label) in
        [("pglull_window_phase", "`phase` is one of "), ("pglull_windows_ended_total", "`outcome` is one of ")]
    {
        let row = metrics.lines().find(|line| line.starts_with(&format!("| `{metric}`"))).unwrap();
        for word in spans(row.split_once(label).unwrap().1) {
            assert!(runbook.contains(&format!("\n| `{word}` |")), "{word} has no row in {page}");
        }
    }
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    for text in first_column(page, "What clients are told") {
        assert!(code.contains(&text), "{page}: no client is told {text}");
    }
}

#[test]
fn the_check_of_names_finds_what_does_not_exist() {
    let text = "`pglull window aply shop` `pglull admin SHOW POLS` `SHOW POLS` `--frobnicate` `max_clint_conn` `pglull_held_clints` [a](gone.md)";
    let (known, mut options) = (BTreeSet::new(), BTreeSet::new());
    long_options(&Cli::command(), &mut options);
    let wrong = wrong_names("README.md", text, text, &known, &options);
    assert_eq!(wrong.len(), 7, "{wrong:#?}");
    let fine = "`pglull window apply` `pglull admin 'SHOW POOLS'` `SHOW POOLS` `--drain 2s` `PAUSE [db]` `pglull_stall_seconds_bucket`";
    assert_eq!(wrong_names("README.md", fine, fine, &known, &options), [""; 0]);
}

#[test]
fn every_configuration_in_the_documents_is_read() {
    let scene = Scene::new();
    let blocks: Vec<Block> = pages().iter().flat_map(|page| parts(page).0).collect();
    let languages = ["sh", "toml", "ini", "sql", "text", "yaml"];
    for block in &blocks {
        assert!(
            languages.contains(&block.language.as_str()),
            "{}:{}: say what it is: {languages:?}",
            block.page,
            block.line
        );
    }
    for block in blocks.iter().filter(|block| block.language == "toml") {
        let mut text = scene.fit(&block.text);
        for (section, lines) in
            [("[pglull]", "auth_file = \"userlist.txt\"\n"), ("[databases.", "host = \"127.0.0.1\"\n")]
        {
            if !text.contains(section) {
                let head = if section.ends_with('.') { "[databases.shop]" } else { section };
                text = format!("{head}\n{lines}\n{text}");
            }
        }
        fs::write(scene.path("some.toml"), text).unwrap();
        let output = scene.shell("pglull check some.toml");
        assert!(output.status.success(), "{}:{}:\n{}{}", block.page, block.line, block.text, said(&output));
    }
}

#[test]
fn every_command_in_the_documents_runs() {
    play_all(pages().iter().filter(|page| *page != RECIPES));
}

#[test]
fn every_recipe_for_a_change_runs() {
    play_all([RECIPES.to_owned()].iter());
}

/// Plays these pages, and says which ones do not do what they say.
fn play_all<'a>(pages: impl Iterator<Item = &'a String>) {
    // Only for the place among the other tests: those that measure time run alone.
    let _place = Spec::of(&Db::new()).start();
    let (mut not_run, mut failed) = (BTreeSet::new(), Vec::new());
    for page in pages {
        let (blocks, _) = parts(page);
        if blocks.iter().any(|block| block.language == "sh") {
            failed.extend(play(&blocks, &mut not_run).err());
        }
    }
    for (prefix, why) in not_run {
        println!("not run: {prefix}: {why}");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs the commands of one page in a folder of its own, with a database `shop` of its own.
fn play(blocks: &[Block], not_run: &mut BTreeSet<(&'static str, &'static str)>) -> Result<(), String> {
    let mut scene = Scene::new();
    if !blocks.iter().any(|block| block.text.contains("CREATE ROLE app")) {
        scene.database();
    }
    if !blocks.iter().any(|block| block.text.contains("pglull run ")) {
        let page = blocks.first().map_or("", |block| &block.page);
        scene.start(if page.contains("pgbouncer") { "pgbouncer.ini" } else { "pglull.toml" });
    }
    for block in blocks.iter().filter(|block| block.language == "sh") {
        let at = format!("{}:{}", block.page, block.line);
        let mut script = String::new();
        let mut skipping = false;
        for line in block.text.lines() {
            let skipped = NOT_RUN.iter().find(|(prefix, _)| line.starts_with(prefix) && !line.contains("--once"));
            if let Some((prefix, why)) = skipped.filter(|_| !skipping) {
                not_run.insert((prefix, why));
                check_unrun(&at, line);
            }
            let unrun = skipped.is_some() || skipping;
            skipping = unrun && line.ends_with('\\');
            if let Some(file) = line.strip_prefix("pglull run ") {
                scene.run(&at, &std::mem::take(&mut script))?;
                scene.start(file.split_whitespace().next().unwrap());
            } else if !unrun {
                script.extend([line, "\n"]);
            }
        }
        scene.run(&at, &script)?;
    }
    Ok(())
}

/// What can be said of a command that is not run.
fn check_unrun(at: &str, line: &str) {
    if let Some(targets) = line.strip_prefix("make ") {
        let target = targets.split_whitespace().next().unwrap_or_default();
        assert!(read("Makefile").contains(&format!("\n{target}:")), "{at}: no target {target}");
    }
    if line.starts_with("pglull ") {
        assert_eq!(wrong_command(line), None, "{at}");
    }
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

/// A text with another word in place of this one, where it stands alone.
fn with_word(text: &str, word: &str, other: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-');
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let behind = &rest[at + word.len()..];
        let alone = !rest[..at].ends_with(part) && !behind.starts_with(part);
        out.extend([&rest[..at], if alone { other } else { word }]);
        rest = behind;
    }
    out + rest
}

/// A folder in which a reader types, and what runs there.
struct Scene {
    dir: TempDir,
    /// Of a database and a role that no other test has; the documents call them shop and app.
    names: [String; 2],
    port: u16,
    metrics: u16,
    proxy: Option<Child>,
}

impl Scene {
    fn new() -> Self {
        cluster();
        let dir = tempfile::Builder::new().prefix("pglull-doc-").tempdir().unwrap();
        let port = free_port();
        let names = [format!("shop_{port}"), format!("app_{port}")];
        let scene = Self { dir, names, port, metrics: free_port(), proxy: None };
        for folder in ["bin", "etc", "run", "state"] {
            fs::create_dir(scene.path(folder)).unwrap();
        }
        symlink(fs::canonicalize(binary().get_program()).unwrap(), scene.path("bin/pglull")).unwrap();
        // What a reader has: the file of the first page, and that of the PgBouncer that is replaced.
        let (blocks, _) = parts(FIRST);
        let first = blocks.iter().find(|block| block.text.starts_with("# pglull.toml")).unwrap();
        scene.write("pglull.toml", &first.text);
        scene.write("userlist.txt", "\"app\" \"secret\"\n\"operator\" \"secret\"\n");
        scene.write("users.example", "\"app\" \"secret\"\n\"operator\" \"secret\"\n\"reporting\" \"secret\"\n");
        let ini =
            read("proxy-config/pgbouncer.ini").replace("bench = ", "shop = ").replace("dbname=bench", "dbname=shop");
        // Where nobody else listens.
        let ini = ini.replace("[pgbouncer]", "[pgbouncer]\nmetrics_addr = 127.0.0.1:9632\nunix_socket_dir =");
        scene.write("pgbouncer.ini", &ini);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), self.fit(text)).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A text with the ports and paths of this scene in place of those of the documents.
    fn fit(&self, text: &str) -> String {
        let (here, postgres) = (self.dir.path().display(), cluster().port().to_string());
        let table = [
            ("6432", self.port.to_string()),
            ("9632", self.metrics.to_string()),
            ("5433", postgres.clone()),
            ("5432", postgres),
            ("/etc/pglull", format!("{here}/etc")),
            ("/run/pglull", format!("{here}/run")),
            ("/var/lib/pglull", format!("{here}/state")),
            ("/tmp/pglull.sock", format!("{here}/admin.sock")),
        ];
        let text = ["shop", "app"]
            .iter()
            .zip(&self.names)
            .fold(text.to_owned(), |text, (from, to)| with_word(&text, from, to));
        table.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// The database and its owner, for a page that does not make them.
    fn database(&self) {
        let root = Db { name: "postgres".into(), user: String::new(), password: String::new() };
        root.sql(&self.fit("CREATE ROLE app LOGIN PASSWORD 'secret'"));
        root.sql(&self.fit("CREATE DATABASE shop OWNER app"));
    }

    fn shell(&self, script: &str) -> Output {
        let psql = find_tool("psql").unwrap();
        // It looks at the default address, which is not ours.
        let script = script.replace("pglull probe", "pglull probe --addr 127.0.0.1:9632");
        let (bin, tools) = (self.path("bin"), psql.parent().unwrap().display().to_string());
        let path = format!("{}:{tools}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60", "sh", "-eu", "-c", &self.fit(&script)]).current_dir(self.dir.path());
        command.env("PATH", path).env("PGPASSWORD", cluster().password()).env("PGCONNECT_TIMEOUT", "10");
        command.env("PGLULL_ADMIN_SOCKET", self.path("admin.sock")).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn run(&self, at: &str, script: &str) -> Result<(), String> {
        let output = self.shell(script);
        let why = || format!("{at} ends with {}:\n{script}\n{}{}", output.status, said(&output), self.log());
        output.status.success().then_some(()).ok_or_else(why)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the document starts in a terminal of its own.
    fn start(&mut self, file: &str) {
        self.stop();
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = binary();
        command.args(["run", file]).current_dir(self.dir.path()).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.proxy = Some(child);
        eventually("it listens", secs(20), || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Whoever it has handed over to ends with it.
    fn stop(&mut self) {
        if let Some(mut child) = self.proxy.take() {
            let socket = self.path("admin.sock");
            if socket.exists() {
                let end = binary().args(["admin", "SHUTDOWN", "--socket"]).arg(socket).output();
                drop(end);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
}
