//! pglull beside PgBouncer, a blind forwarder and no proxy at all: what each costs, in rounds that take turns.
//! `benches/README.md` says what is measured and how to read it.

#![expect(dead_code, reason = "the figures that use it follow")]

mod backend;
mod bench;
mod figures;
mod floor;
mod goals;
mod hist;
mod load;
mod process;
mod report;
mod samples;
mod targets;
mod wire;

use std::net::Ipv4Addr;

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;

use bench::{Bench, Options};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match options.role.as_deref() {
        Some(role) => runtime.block_on(play(role, options.backend)),
        None => runtime.block_on(compare(options)),
    }
}

/// Is a part of somebody else's run: says on which port, and serves until it is ended.
async fn play(role: &str, backend: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    match role {
        "null" => backend::serve(listener).await,
        "floor" => floor::serve(listener, backend).await,
        other => Err(format!("no role {other}").into()),
    }
}

async fn compare(options: Options) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut bench = Bench::prepare(options)?;
    let wanted = |name: &str| bench.options.figures.is_empty() || bench.options.figures.iter().any(|one| one == name);
    if wanted(figures::null::NAME) {
        figures::null::measure(&mut bench).await?;
    }
    let columns: Vec<String> = bench.targets.iter().map(|target| target.name.clone()).collect();
    println!("{}", report::markdown(&bench.samples, &columns));
    Ok(())
}
