//! Arguments, config, logs, then the library.

use std::process::ExitCode;

use clap::Parser as _;
use pglull::cli::args::{Cli, Command, FileArgs};
use pglull::config::{self, Config, LogFormat};
use pglull::telemetry::trace::{self, Format};
use pglull::{app, cli, demo};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => load(&args).map_or(ExitCode::from(cli::USAGE), |_| ExitCode::SUCCESS),
        Command::Run(args) => match load(&args) {
            None => ExitCode::from(cli::USAGE),
            Some(config) => run(config),
        },
        Command::Demo(args) => block_on(1, demo::demo(args)),
        Command::Admin(args) => block_on(1, cli::admin(args)),
        Command::Window(command) => block_on(1, cli::window(command)),
    }
}

/// Reads the configuration; every mistake is printed, and so is every warning.
fn load(args: &FileArgs) -> Option<Config> {
    match config::load(&args.file) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            Some(config)
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
            None
        }
    }
}

fn run(config: Config) -> ExitCode {
    let format = match config.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    if let Err(error) = trace::install(format, &config.log_level) {
        eprintln!("cannot set up logging: {error}");
        return ExitCode::from(cli::USAGE);
    }
    let workers = config.worker_threads;
    block_on(workers, async {
        match app::run(config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "cannot start");
                ExitCode::from(cli::FAILED)
            }
        }
    })
}

/// Runs a future on a runtime with this many worker threads; 0 is one for each core.
fn block_on(workers: usize, future: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if workers > 0 {
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
