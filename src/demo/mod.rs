//! `pglull demo`: a schema change under live load on a throwaway Postgres, seen from the clients.
//!
//! It ends by itself, within 90 s whatever happens, and leaves nothing behind: every process is killed when
//! what owns it is dropped, on Ctrl-C and on failure as well, and all files stand in the cluster's folder.

pub mod cluster;

mod change;
mod load;
mod observe;
mod plot;
mod report;
mod setup;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::cli::args::DemoArgs;
use crate::cli::client::ClientError;
use crate::cli::{FAILED, Interrupts, View, err, out};
use change::Outcome;
use cluster::{Cluster, ClusterError, Options};
use load::{GROUPS, Group, NAMED, ONE_REPORT, Running, Seen};
use report::{Sums, clients, everybody, stall, sums, timeline};

/// The demo ends after this, whatever happens.
const LIMIT: Duration = Duration::from_secs(90);
/// What setting up, ending and telling take of the demo's time, in seconds.
const AROUND: u64 = 8;
/// What a group may take longer than its time: a transaction that is stalled at the end.
const OVERTIME: Duration = Duration::from_secs(15);

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// No throwaway Postgres.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The operating system refused something.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
    /// One of Postgres' tools failed.
    #[error("{name} failed: {why}")]
    Tool {
        /// Which one.
        name: &'static str,
        /// In its own words.
        why: String,
    },
    /// The proxy did not start, or did not stay.
    #[error("the proxy does not run: {how}\nthe end of its log:\n{log}")]
    Proxy {
        /// What happened.
        how: String,
        /// What it logged at last.
        log: String,
    },
    /// The console did not do as told.
    #[error("the console: {0}")]
    Console(ClientError),
    /// The load ended before the change.
    #[error("the clients of \"{name}\" ended too early: {words}")]
    Load {
        /// Which group.
        name: &'static str,
        /// In pgbench's words.
        words: String,
    },
    /// The database is not as it should be.
    #[error("{what} (found: {found})")]
    Wrong {
        /// What is wrong.
        what: &'static str,
        /// What was found instead.
        found: String,
    },
    /// Something has no end.
    #[error("{0} did not end in its time")]
    Stuck(&'static str),
}

/// `pglull demo`. Exit code 0 only if the change was applied and no client saw an error or a disconnect;
/// with `--against-direct`, where errors are what is shown, if the change could be shown at all.
pub async fn demo(args: DemoArgs) -> ExitCode {
    let mut interrupts = match Interrupts::new() {
        Ok(interrupts) => interrupts,
        Err(error) => return failed(&error.into()),
    };
    // Dropping the show ends every process of it.
    tokio::select! {
        shown = timeout(LIMIT, Box::pin(show(&args))) => match shown {
            Ok(Ok(good)) => if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) },
            Ok(Err(error)) => failed(&error),
            Err(_) => failed(&DemoError::Stuck("the demo")),
        },
        () = interrupts.next() => {
            err("\npglull: interrupted; everything is stopped and removed\n");
            ExitCode::from(FAILED)
        }
    }
}

fn failed(error: &DemoError) -> ExitCode {
    err(&format!("pglull: {error}\n"));
    ExitCode::from(FAILED)
}

/// Says what happens, with the time since the start.
struct Story(Instant);

impl Story {
    fn say(&self, what: &str) {
        out(&format!("{:>6.1} s  {what}\n", self.0.elapsed().as_secs_f64()));
    }
}

async fn show(args: &DemoArgs) -> Result<bool, DemoError> {
    let story = Story(Instant::now());
    out(if args.against_direct {
        "pglull demo --against-direct: the same change without a window, straight on Postgres\n"
    } else {
        "pglull demo: a schema change under live load\n"
    });
    story.say("starting a throwaway Postgres");
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(Options::default()))
        .await
        .map_err(|_| DemoError::Stuck("starting Postgres"))??;
    let folder = setup::folder(&cluster)?;
    story.say(&format!("filling pgbench_accounts with {} x 100,000 rows", setup::SCALE));
    setup::fill(&cluster).await?;
    let working_s = args.seconds - AROUND;
    if args.against_direct {
        let site = load::Site { cluster: &cluster, port: cluster.port(), folder: &folder };
        return against_direct(&story, &site, working_s).await;
    }
    story.say(&format!("starting the proxy with {} servers for each user", setup::POOL));
    let mut proxy = setup::Proxy::start(&cluster, &folder).await?;
    let site = load::Site { cluster: &cluster, port: proxy.port, folder: &folder };
    let mut groups = begin(&story, &site, &GROUPS, working_s)?;
    sleep(Duration::from_millis(working_s * 450)).await;
    if !proxy.runs() {
        return Err(DemoError::Proxy { how: "it ended under load".to_owned(), log: proxy.log_tail() });
    }
    early_end(&mut groups).await?;
    announce(&story, "the change, in a window:");
    let outcome = change::in_window(&proxy.console, View::choose(args.plain)).await?;
    story.say(if outcome.applied { "applied; the clients go on" } else { "not applied; the clients go on" });
    let seen = end(groups, working_s).await?;
    let verified = change::verify(&cluster).await;
    let log = proxy.log_tail();
    let still_there = proxy.runs();
    proxy.stop().await?;
    story.say("the load has ended");
    let sums = tell(&outcome, &seen);
    let good = verdict(&outcome, sums, verified) && still_there;
    if !good {
        out(&format!("\nThe end of the proxy's log:\n{log}\n"));
    }
    drop(cluster);
    Ok(good)
}

/// The contrast: no proxy, no window, and two things more that such days have.
async fn against_direct(story: &Story, site: &load::Site<'_>, working_s: u64) -> Result<bool, DemoError> {
    let mut all = GROUPS.to_vec();
    all.push(NAMED);
    let mut groups = begin(story, site, &all, working_s)?;
    out("          (the named reads are not part of `pglull demo`)\n");
    sleep(Duration::from_millis(working_s * 450)).await;
    early_end(&mut groups).await?;
    story.say("somebody begins a report: one transaction, open for 3 s");
    groups.push(load::start(ONE_REPORT, site, working_s)?);
    sleep(Duration::from_millis(400)).await;
    announce(story, "the change, straight on Postgres:");
    let outcome = change::direct(site.cluster).await;
    story.say(if outcome.applied { "applied" } else { "not applied" });
    let seen = end(groups, working_s).await?;
    story.say("the load has ended");
    let sums = tell(&outcome, &seen);
    let took = outcome.felt_us.1.saturating_sub(outcome.felt_us.0) / 1000;
    if outcome.applied {
        change::verify(site.cluster).await?;
    } else {
        out(&format!("\nThe change failed: {}\n", outcome.reason));
    }
    out(&format!(
        "\nThe change stood in the queue for the table's lock behind the report, and everybody behind the change:\n\
         {} without an end that anybody had set. {} of {} clients got an error, {} lost their connection.\n\
         In a window the change would not have begun: it ends at its drain bound (2 s), nobody is hurt,\n\
         and it names the report. `pglull demo` shows the window.\n",
        crate::cli::seconds(took),
        sums.errors,
        sums.clients,
        sums.disconnects
    ));
    Ok(true)
}

fn begin(story: &Story, site: &load::Site<'_>, groups: &[Group], working_s: u64) -> Result<Vec<Running>, DemoError> {
    story.say(&format!("load for {working_s} s:"));
    for group in groups {
        out(&format!("          {:>2} clients, {:<8} protocol: {}\n", group.clients, group.mode, group.does));
    }
    groups.iter().map(|group| load::start(*group, site, working_s)).collect()
}

/// A group that has ended before the change has nothing to say about it.
async fn early_end(groups: &mut Vec<Running>) -> Result<(), DemoError> {
    let Some(at) = groups.iter_mut().position(Running::has_ended) else {
        return Ok(());
    };
    let seen = groups.swap_remove(at).finish(OVERTIME).await?;
    Err(DemoError::Load { name: seen.group.name, words: seen.fates.words.join("; ") })
}

fn announce(story: &Story, title: &str) {
    story.say(title);
    let text: String = change::CHANGE.lines().map(|line| format!("          {line}\n")).collect();
    out(&text);
}

async fn end(groups: Vec<Running>, working_s: u64) -> Result<Vec<Seen>, DemoError> {
    let until = Instant::now() + Duration::from_secs(working_s) + OVERTIME;
    let mut seen = Vec::new();
    for group in groups {
        let left = until.saturating_duration_since(Instant::now());
        seen.push(group.finish(left).await?);
    }
    Ok(seen)
}

/// Prints what the clients saw.
fn tell(outcome: &Outcome, seen: &[Seen]) -> Sums {
    let all = everybody(seen);
    out(&format!("\nWhat the clients saw\n{}\n{}", clients(seen), stall(outcome, &all)));
    out(&format!("\nThe timeline; 0 is the start of the change\n{}", timeline(outcome, &all)));
    sums(seen)
}

fn verdict(outcome: &Outcome, sums: Sums, verified: Result<(), DemoError>) -> bool {
    let applied = if outcome.applied { "applied" } else { "NOT applied" };
    out(&format!(
        "\nThe change is {applied}. {} clients made {} transactions: {} errors, {} disconnects.\n",
        sums.clients, sums.transactions, sums.errors, sums.disconnects
    ));
    if !outcome.applied {
        out(&format!("Why: {}\n", outcome.reason));
        return false;
    }
    match verified {
        Ok(()) => out("The database has the new column, type and view, and the accounts add up to their history.\n"),
        Err(error) => {
            out(&format!("But the database is not as it should be: {error}\n"));
            return false;
        }
    }
    sums.errors == 0 && sums.disconnects == 0
}
