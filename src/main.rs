//! x
use clap::Parser;
use pglull::cli::args::{Cli, Command};
#[tokio::main]
async fn main() -> std::process::ExitCode {
    match Cli::parse().command {
        Command::Demo(a) => pglull::demo::demo(a).await,
        Command::Admin(a) => pglull::cli::admin(a).await,
        Command::Window(a) => pglull::cli::window(a).await,
        _ => std::process::ExitCode::from(2),
    }
}
