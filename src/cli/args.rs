//! The command line: what can be typed, and what each option means.
//!
//! Only shapes and their checks live here; nothing is opened and nothing is sent. clap answers a mistake with
//! its usage text and exit code 2, and so does every mistake that is found later ([`super::USAGE`]).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What the program's exit codes mean; `pgbouncer`'s command line has PgBouncer's own.
pub(super) const EXIT_CODES: &str = "Exit codes:\n  \
    0  done; of a window: the change is committed, or was before\n  \
    1  failed, refused or aborted; of a window: the change is not made\n  \
    2  asked for in a wrong way, or the configuration has mistakes; nothing was started";

/// A connection pooler for PostgreSQL that turns a schema change from an outage into one slow query.
#[derive(Debug, Parser)]
#[command(name = "pglull", version, about, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy with this configuration
    Run(FileArgs),
    /// Check a configuration, report every mistake at once, start nothing
    Check(CheckArgs),
    /// Write a pgbouncer.ini as our TOML, to standard output
    Convert(CheckArgs),
    /// Show a schema change under live load, on a throwaway Postgres; leaves nothing behind
    Demo(DemoArgs),
    /// Ask a running proxy whether it is well, for health checks: exit code 0 or 1, and one line
    Probe(super::probe::ProbeArgs),
    /// Send one command to the console of a running proxy
    Admin(AdminArgs),
    /// Have the program's new version take over from the running one; no client notices
    Upgrade(UpgradeArgs),
    /// Watch pools, clients, servers and windows live
    Top(TopArgs),
    /// Change a schema while the clients wait, and look at such windows
    #[command(subcommand)]
    Window(Box<WindowCommand>),
    /// Write what a shell needs to complete this command line, to standard output
    Completions(CompletionsArgs),
    /// Write the manual page, to standard output: pglull man | man -l -
    Man,
}

/// The shells that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash: pglull completions bash > /etc/bash_completion.d/pglull
    Bash,
    /// zsh: pglull completions zsh > /usr/local/share/zsh/site-functions/_pglull
    Zsh,
    /// fish: pglull completions fish > ~/.config/fish/completions/pglull.fish
    Fish,
}

/// Options of `pglull completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// What `pglull top` begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopView {
    /// One line a pool
    Pools,
    /// One line a client
    Clients,
    /// One line a server
    Servers,
    /// The windows, the last first
    Windows,
}

/// Options of `pglull top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// What to begin with; the keys 1 to 4 change it
    #[arg(value_enum, value_name = "VIEW", default_value = "pools")]
    pub view: TopView,
    /// Show only lines with this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Sort by this column of the table; twice the same key of the keyboard turns the order
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// How often to look
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = period)]
    pub every: f64,
    /// Print one frame and end; no terminal is needed
    #[arg(long)]
    pub once: bool,
    /// Everything as one JSON object, once
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull check` and `convert`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Our TOML, or a pgbouncer.ini
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The mistakes and warnings, and what was converted, as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The configuration file of `run`.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Our TOML, or a pgbouncer.ini
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Options of `pglull demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// For contrast: the same load and the same change straight on Postgres, without proxy and window
    #[arg(long)]
    pub against_direct: bool,
    /// How long the whole demo takes, in seconds
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u64).range(14..=60))]
    pub seconds: u64,
    /// Plain lines instead of a view that is redrawn in place
    #[arg(long)]
    pub plain: bool,
}

/// Where the console is.
#[derive(Debug, Clone, Default, Args)]
pub struct ConsoleArgs {
    /// The console's own socket [env: PGLULL_ADMIN_SOCKET] [default: /run/pglull/admin.sock, else ./pglull-admin.sock]
    // Not clap's `env`: what stands in the environment must not speak against --url.
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// The console over a TCP listener instead; the password is taken from PGPASSWORD
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "socket", global = true)]
    pub url: Option<String>,
    /// The name to log in with [default: the name of the operating system's user]
    #[arg(long, value_name = "NAME", global = true)]
    pub user: Option<String>,
}

/// Options of `pglull admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
    /// One JSON object a row instead of a table
    #[arg(long)]
    pub json: bool,
    /// The console's command, such as 'SHOW POOLS' or 'PAUSE bench'
    #[arg(value_name = "COMMAND", required = true, num_args = 1..)]
    pub command: Vec<String>,
}

/// Options of `pglull upgrade`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
    /// The answer as a JSON object
    #[arg(long)]
    pub json: bool,
}

/// The verbs of `pglull window`.
#[derive(Debug, Subcommand)]
pub enum WindowCommand {
    /// Hold the clients, apply SQL in one transaction or run a command, let the clients go on
    Apply(ApplyArgs),
    /// Hold the clients and answer with an id and a token, for a change made by hand
    Open(OpenArgs),
    /// Look whether a window would start, predict its stall, and, if asked, try it without consequences
    Rehearse(RehearseArgs),
    /// End an opened window: the change is done
    Close(TokenArgs),
    /// Say that an opened window is still wanted, for another tenure
    Renew(TokenArgs),
    /// End a window at once: the old schema stays, the clients go on
    Abort(AbortArgs),
    /// List windows, the running ones first
    #[command(visible_alias = "status")]
    List(ListArgs),
    /// One window, with its receipt once it is closed
    Show(ShowArgs),
    /// What a drain would have to wait for right now
    Blockers(BlockersArgs),
}

/// What to do with a transaction that is still open when the drain's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stragglers {
    /// Give up the window; nobody is hurt
    Abort,
    /// Cancel the statement of the open transaction
    Cancel,
    /// End the connection of the open transaction
    Terminate,
}

impl Stragglers {
    /// The console's word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }
}

/// The bounds of a window. What is not given is decided by the proxy's configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct BoundsArgs {
    /// How long open transactions may take to finish, such as 500ms; else as configured, or 2s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub drain: Option<String>,
    /// How long the change itself may take; else as configured, or 4s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub apply: Option<String>,
    /// The longest that any one client may be held; else as configured, or 10s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub hold: Option<String>,
    /// How long the window outlives a silent owner; else as configured, or 25s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub tenure: Option<String>,
    /// What to do with transactions that outlast the drain; else as configured, or abort
    #[arg(long, value_enum, value_name = "POLICY")]
    pub stragglers: Option<Stragglers>,
    /// Other databases that are held too, by their names
    #[arg(long, value_name = "DBS")]
    pub also: Option<String>,
    /// Hold only clients of these users, such as 'app, web*'; the others flow on
    #[arg(long, value_name = "NAMES")]
    pub users: Option<String>,
    /// Hold only clients of these applications; the others flow on
    #[arg(long, value_name = "NAMES")]
    pub applications: Option<String>,
    /// Start although these checks of preflight speak against it, such as sessions,hours; or all
    #[arg(long, value_name = "CHECKS", value_parser = checks)]
    pub force: Option<String>,
    /// A name for the change; made up from the time where it is missing
    #[arg(long, value_name = "ID", value_parser = window_id)]
    pub id: Option<String>,
}

/// Options of `pglull window apply`.
#[derive(Debug, Args)]
#[command(
    override_usage = "pglull window apply [OPTIONS] <DB> <FILE>...\n       pglull window apply [OPTIONS] <DB> -c <SQL>\n       pglull window apply [OPTIONS] <DB> -- <COMMAND> [ARG]..."
)]
#[command(group = clap::ArgGroup::new("change").required(true).args(["files", "sql", "program"]))]
pub struct ApplyArgs {
    /// The database, by the name that clients ask for
    #[arg(value_name = "DB")]
    pub database: String,
    /// A file with the SQL, - for standard input; or several files in order, or a folder of *.sql in the order of their
    /// versions: those that are not applied yet, together
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The SQL itself
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    pub sql: Option<String>,
    /// A command that makes the change itself while the clients are held, with PGHOST and so on set to the database; if
    /// it ends with another code than 0, the window is aborted
    #[arg(last = true, value_name = "COMMAND")]
    pub program: Vec<OsString>,
    /// SQL that must hold before COMMIT: each row of its answers begins with true; otherwise the change is rolled back
    #[arg(long, value_name = "SQL")]
    pub verify: Option<String>,
    /// Wait for a good moment for so long, such as 30min, and try carefully; of SQL alone
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start_within: Option<String>,
    /// The window's bounds.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// The receipt as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Plain lines instead of a view that is redrawn in place
    #[arg(long)]
    pub plain: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window open`.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// The database, by the name that clients ask for
    #[arg(value_name = "DB")]
    pub database: String,
    /// The window's bounds.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// The answer as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// The database, by the name that clients ask for
    #[arg(value_name = "DB")]
    pub database: String,
    /// A file with the SQL, - for standard input; or several, or a folder, as for apply: those that are not applied yet
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The SQL itself
    #[arg(short = 'c', long = "command", value_name = "SQL", conflicts_with = "files")]
    pub sql: Option<String>,
    /// Really hold the clients, and let them go on as soon as the last transaction has ended
    #[arg(long)]
    pub fire_drill: bool,
    /// Really run the SQL in a window, and roll it back
    #[arg(long)]
    pub rollback: bool,
    /// The window's bounds.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// The answer as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window close` and `renew`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The window
    #[arg(value_name = "ID", value_parser = window_id)]
    pub id: String,
    /// The token that `window open` printed
    #[arg(long, value_name = "TOKEN")]
    pub token: String,
    /// The answer as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The window
    #[arg(value_name = "ID", value_parser = window_id)]
    pub id: String,
    /// The token that `window open` printed
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The answer as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// One JSON object a window
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The window
    #[arg(value_name = "ID", value_parser = window_id)]
    pub id: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// A drawing of its receipt: phases, clients held over time, stalls
    #[arg(long, conflicts_with = "json")]
    pub svg: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Options of `pglull window blockers`.
#[derive(Debug, Args)]
pub struct BlockersArgs {
    /// Only this database
    #[arg(value_name = "DB")]
    pub database: Option<String>,
    /// One JSON object a blocker
    #[arg(long)]
    pub json: bool,
    /// Where the console is.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Accepts a duration as the console takes it; it is passed on as it was written.
fn time(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number = !digits.is_empty()
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.parse::<f64>().is_ok_and(f64::is_finite);
    if number && ["", "ms", "s", "min", "h"].contains(&unit) {
        Ok(text.to_owned())
    } else {
        Err("expected a time such as 500ms, 2s, 2.5s or 1min".to_owned())
    }
}

/// Accepts a number of seconds between looks.
fn period(text: &str) -> Result<f64, String> {
    let seconds = text.trim_end_matches('s').parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.1 to 3600".to_owned())
}

/// Accepts names of checks; which there are is the proxy's to know.
fn checks(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || matches!(c, ',' | '_');
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected names of checks, such as sessions,hours, or all".to_owned())
    }
}

/// Accepts a window's id: it must stand in a command without quotes, and in a file's name.
fn window_id(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(['-', '.']) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits, - _ . or :, not starting with - or .".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.kind())
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn good_lines() {
        for line in [
            "pglull run a.toml",
            "pglull check a.toml",
            "pglull convert a.ini",
            "pglull demo",
            "pglull demo --against-direct --seconds 20",
            "pglull probe",
            "pglull probe live --addr 127.0.0.1:1 --timeout 5 --after 15",
            "pglull admin SHOW POOLS",
            "pglull admin --socket /x SHOW POOLS",
            "pglull window apply bench a.sql b.sql --drain 2s --apply 500ms",
            "pglull window apply bench - --hold 10 --tenure 1min --stragglers cancel --id x-1 --json --plain",
            "pglull window apply bench -c select --socket /tmp/s",
            "pglull window apply bench --apply 3s -- sh -c true --id",
            "pglull window open bench --drain 2.5s",
            "pglull window apply bench -c select --force sessions,hours",
            "pglull window rehearse bench",
            "pglull window rehearse bench --fire-drill --json",
            "pglull window rehearse bench a.sql b.sql --rollback --drain 2s",
            "pglull window close w-1 --token t",
            "pglull window renew w-1 --token t",
            "pglull window abort w-1",
            "pglull window status",
            "pglull window list --json",
            "pglull window show w-1",
            "pglull window blockers",
            "pglull window blockers bench --json",
            "pglull window show w:1",
            "pglull check a.toml --json",
            "pglull completions fish",
            "pglull man",
            "pglull top",
            "pglull top clients --filter web --sort state --every 0.5 --once --json --socket /x",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn bad_lines() {
        for line in [
            "pglull",
            "pglull run",
            "pglull admin",
            "pglull window apply bench",
            "pglull window apply bench a.sql -c select",
            "pglull window apply bench a.sql -- true",
            "pglull window apply bench --",
            "pglull window apply bench a.sql --drain soon",
            "pglull window apply bench a.sql --drain -2s",
            "pglull window apply bench a.sql --drain inf",
            "pglull window apply bench a.sql --id a'b",
            "pglull window apply bench a.sql --stragglers shoot",
            "pglull window close w-1",
            "pglull window rehearse",
            "pglull window rehearse bench a.sql -c select",
            "pglull window apply bench a.sql --force a'b",
            "pglull demo --seconds 3",
            "pglull admin --socket /x --url h:1 SHOW POOLS",
            "pglull completions tcsh",
            "pglull top nothing",
            "pglull top --every 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
