//! pglull beside PgBouncer, a blind forwarder and no proxy at all: what each costs, in rounds that take turns.
//! `benches/README.md` says what is measured and how to read it.

mod backend;
mod bench;
mod console;
mod figures;
mod floor;
mod goals;
mod hist;
mod load;
mod postgres;
mod process;
mod report;
mod samples;
mod stream;
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
        "idle" => floor::answer(listener).await,
        "floor" => floor::serve(listener, backend).await,
        other => Err(format!("no role {other}").into()),
    }
}

async fn compare(mut options: Options) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    if options.figures.is_empty() {
        options.figures = figures::ALL.map(str::to_owned).to_vec();
    }
    if let Some(wrong) = options.figures.iter().find(|name| !figures::ALL.contains(&name.as_str())) {
        return Err(format!("no figure {wrong}: there are {}", figures::ALL.join(", ")).into());
    }
    let mut bench = Bench::prepare(options)?;
    let head = report::head(&bench);
    for name in bench.options.figures.clone() {
        // One that cannot be measured here must not cost the others.
        if let Err(error) = figures::measure(&name, &mut bench).await {
            bench.say(&format!("{name}: {error}"));
        }
        bench.cores.stay_on(None)?;
    }
    let columns: Vec<String> = bench.targets.iter().map(|target| target.name.clone()).collect();
    let text = format!("{head}{}", report::markdown(&bench.samples, &columns));
    println!("{text}");
    if bench.options.save {
        report::save(&bench, &text)?;
    }
    Ok(())
}
