//! Arguments, config, logs, then the library.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use pglull::app::Outside;
use pglull::cli::args::{AdminArgs, Cli, Command, UpgradeArgs};
use pglull::cli::manual;
use pglull::cli::pgbouncer::{self, Classic};
use pglull::config::{self, Config, LogFormat};
use pglull::process::{background, handed, identity, notify::Notify, pidfile};
use pglull::telemetry::sink::Sink;
use pglull::telemetry::trace::{self, Format, Logs};
use pglull::upgrade::taking;
use pglull::{app, cli, demo};

/// What it does with memory that nobody uses any more: `.cargo/config.toml`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if pgbouncer::is_meant(&argv) {
        return match Classic::read(&argv) {
            Ok(args) => classic(&args),
            Err(error) => {
                let _ = error.print();
                ExitCode::from(u8::from(error.use_stderr()))
            }
        };
    }
    match Cli::parse().command {
        Command::Check(args) => check(&args.file, args.json),
        Command::Convert(args) => convert(&args.file, args.json),
        Command::Run(args) => match load(&args.file, false) {
            None => ExitCode::from(cli::USAGE),
            Some(config) => run(config, false),
        },
        Command::Demo(args) => block_on(1, demo::demo(args)),
        Command::Probe(args) => block_on(1, cli::probe(args)),
        Command::Admin(args) => block_on(1, cli::admin(args)),
        Command::Upgrade(UpgradeArgs { console, json }) => {
            let command = vec!["UPGRADE".to_owned()];
            block_on(1, cli::admin(AdminArgs { console, json, command }))
        }
        Command::Top(args) => block_on(1, cli::top(args)),
        Command::Completions(args) => print(&manual::completions(args.shell)),
        Command::Man => match manual::page() {
            Ok(page) => print(&page),
            Err(error) => failed(&error.to_string()),
        },
        Command::Window(command) => block_on(1, cli::window(*command)),
    }
}

/// Reads the configuration; every mistake is printed, and so is every warning unless it is to be `quiet`.
fn load(file: &Path, quiet: bool) -> Option<Config> {
    match config::load(file) {
        Ok(config) => {
            let warnings = config.warnings.iter().filter(|_| !quiet);
            warnings.for_each(|warning| eprintln!("warning: {warning}"));
            Some(config)
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
            None
        }
    }
}

/// Writes to standard output; who closes it (`| head`) wants no more of it.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Mistakes are exit code 2. What is in order is said too, on standard output.
fn check(file: &Path, json: bool) -> ExitCode {
    if json {
        let loaded = config::load(file).map(|config| config.warnings);
        print(&format!("{}\n", cli::checked(file, &loaded)));
        return if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(cli::USAGE) };
    }
    let Some(config) = load(file, false) else { return ExitCode::from(cli::USAGE) };
    let (databases, warnings) = (config.databases.len(), config.warnings.len());
    let of = |number: usize, what: &str| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    let (databases, warnings) = (of(databases, "database"), of(warnings, "warning"));
    print(&format!("{}: no mistakes ({databases}, {warnings})\n", file.display()))
}

/// Nothing is written if there is any mistake.
fn convert(file: &Path, json: bool) -> ExitCode {
    let converted = config::convert(file);
    if json {
        let warnings = converted.as_ref().map(|(_, warnings)| warnings.clone()).map_err(Clone::clone);
        let mut told = cli::checked(file, &warnings);
        told["toml"] = converted.as_ref().ok().map(|(toml, _)| toml.as_str()).into();
        print(&format!("{told}\n"));
        return if converted.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(cli::USAGE) };
    }
    match converted {
        Ok((toml, warnings)) => {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            match io::stdout().write_all(toml.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error.to_string()),
            }
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
            ExitCode::from(cli::USAGE)
        }
    }
}

/// As PgBouncer: not as root, in the background if asked to, and failures are exit code 1.
fn classic(args: &Classic) -> ExitCode {
    if args.version {
        // Scripts look for the first words.
        println!("{} (pglull {})", config::COMPATIBLE, env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if args.reboot {
        return failed(pgbouncer::NO_REBOOT);
    }
    let Some(file) = &args.file else { return failed("no configuration file specified") };
    // Said once, in the foreground; with -q, warnings are for the log only.
    let loaded = if background::is_background() { config::load(file).ok() } else { load(file, args.quiet) };
    let Some(mut config) = loaded else { return ExitCode::from(cli::FAILED) };
    config.at_least_verbose = usize::from(args.verbose);
    config.user_of_command_line = args.user.clone();
    config.user = args.user.clone().or(config.user);
    if identity::is_root() && config.user.as_deref().is_none_or(|user| user == "root") {
        return failed("pglull should not run as root: give it -u USERNAME, or user = USERNAME in the file");
    }
    if args.daemon && !background::is_background() {
        let Some(path) = &config.pidfile else { return failed("daemon needs pidfile configured") };
        return match pidfile::check(path).and_then(|()| background::start()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(cli::FAILED),
            Err(error) => failed(&error.to_string()),
        };
    }
    if args.daemon
        && let Err(error) = background::detach()
    {
        return failed(&error.to_string());
    }
    run(config, args.quiet || args.daemon)
}

fn failed(why: &str) -> ExitCode {
    eprintln!("pglull: {why}");
    ExitCode::from(cli::FAILED)
}

fn run(config: Config, quiet: bool) -> ExitCode {
    let handed = match handed::take() {
        Ok(handed) => handed,
        Err(error) => return failed(&error.to_string()),
    };
    let elder = match taking::elder() {
        Ok(elder) => elder,
        Err(error) => return failed(&format!("cannot take over: {error}")),
    };
    if let Some(user) = &config.user
        && let Err(why) = identity::become_user(user)
    {
        return failed(&why);
    }
    let logs = match log(&config, quiet) {
        Ok(logs) => logs,
        Err(error) => return failed(&format!("cannot set up logging: {error}")),
    };
    if quiet {
        // Not said on standard error, or to somebody who has closed the terminal.
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if identity::is_root() {
        tracing::warn!("running as root: give it a user of its own (user = NAME)");
    }
    let take = |path: &Path| match &elder {
        None => pidfile::Pidfile::take(path),
        Some(_) => Ok(pidfile::Pidfile::inherit(path)),
    };
    let _pidfile = match config.pidfile.as_deref().map(take).transpose() {
        Ok(taken) => taken,
        Err(error) => return failed(&error.to_string()),
    };
    let serving = Box::new(|| {
        if background::is_background()
            && let Err(error) = background::serving()
        {
            tracing::warn!(%error, "cannot let go of the terminal");
        }
    });
    let outside = Outside { logs, notify: Notify::from_env(), handed, elder, serving };
    block_on(config.worker_threads, async {
        match app::run(config, outside).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let why = match error.advice() {
                    "" => error.to_string(),
                    advice => format!("{error}: {advice}"),
                };
                tracing::error!("cannot start: {why}");
                if quiet { failed(&format!("cannot start: {why}")) } else { ExitCode::from(cli::FAILED) }
            }
        }
    })
}

fn log(config: &Config, quiet: bool) -> io::Result<Logs> {
    let format = match config.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
        LogFormat::Pgbouncer => Format::Bouncer,
    };
    let sink = Sink::new(quiet, config.logfile.as_deref())?;
    trace::install(format, config.level(), sink).map_err(io::Error::other)
}

/// Runs a future on a runtime with this many worker threads; 0 is one for every four cores. A single one is this thread itself:
/// it waits for its sockets without anybody to wake (`benches/NOTES.md` has the figures). The database needs the other cores
/// where it is on the same machine, and one thread is as much as PgBouncer has.
fn block_on(workers: usize, future: impl Future<Output = ExitCode>) -> ExitCode {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = if workers == 0 { (cores() / 4).max(1) } else { workers };
    let mut builder = if workers == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(future);
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            ExitCode::from(cli::FAILED)
        }
    }
}
