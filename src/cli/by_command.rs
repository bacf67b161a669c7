//! A change that a command makes: the window is opened, the command runs while it holds, and its exit code decides.
//!
//! The command is stopped at the bound, by an interrupt, and when the window has ended without us. Nothing is said of the
//! outcome, and the gate is not opened by us, before the last of its processes is gone.

use std::io::IsTerminal as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::apply::{Answer, Ended, Show, Task, look};
use super::args::{ApplyArgs, BoundsArgs};
use super::client::{ClientError, Endpoint};
use super::family::{End, Family};
use super::live::{Status, seconds};
use super::term::View;
use super::{Site, place, statement};

/// How long a command that was told to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long one that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(3);
/// What is kept back of the hold bound, so that we end the window before the proxy has to.
const MARGIN: Duration = Duration::from_millis(150);
/// How often the window is renewed, and so looked whether it still holds.
const RENEW: Duration = Duration::from_millis(250);
/// How often the processes are looked at, even if no signal says that one has ended.
const LOOK: Duration = Duration::from_millis(50);
/// For so long are clients held at most if we are killed, unless the operator wants it otherwise.
const TENURE: &str = "5s";
/// How long the console may be unreachable: a proxy that is not there holds nobody.
const AWAY: Duration = Duration::from_secs(1);

/// Why nothing was started.
pub(super) enum Unfit {
    /// It was asked for in a wrong way.
    Asked(String),
    /// The console did not answer, or refused.
    Console(ClientError),
}

impl<E: Into<ClientError>> From<E> for Unfit {
    fn from(error: E) -> Self {
        Self::Console(error.into())
    }
}

/// Opens a window, runs the command in it, closes or aborts it.
///
/// # Errors
/// Only what happens before the window is opened; everything later is in [`Ended`].
pub(super) async fn apply(site: &Site, args: &ApplyArgs, id: &str) -> Result<Ended, Unfit> {
    let mut command = prepare(site, args, id).await?;
    let tenure = args.bounds.tenure.clone().or_else(|| Some(TENURE.to_owned()));
    let bounds = BoundsArgs { tenure, ..args.bounds.clone() };
    let runner = site.connect().await?;
    // The command writes to the same terminal: nothing is drawn in place.
    let mut show = Show::new(site, id, View::Lines)?;
    let sent = SystemTime::now();
    let opened = show.run(runner, &statement::open(&args.database, &bounds, id)).await;
    let answer = match opened {
        Ok(rows) => {
            let token = rows.first().and_then(|rows| rows.first("token")).unwrap_or_default().to_owned();
            in_window(&mut show, &token, &mut command).await
        }
        Err(error) => Err(error),
    };
    Ok(show.end(answer, (sent, SystemTime::now())).await)
}

/// Finds the command and the database, before anybody is held.
async fn prepare(site: &Site, args: &ApplyArgs, id: &str) -> Result<Command, Unfit> {
    let (name, rest) = args.program.split_first().ok_or_else(|| Unfit::Asked("the command is empty".to_owned()))?;
    let path = std::env::var_os("PATH");
    let program = place::program(name, path.as_deref()).map_err(Unfit::Asked)?;
    let mut console = site.connect().await?;
    let databases = console.query("SHOW DATABASES").await?.pop().unwrap_or_default();
    let config = console.query("SHOW CONFIG").await?.pop().unwrap_or_default();
    let database = &args.database;
    let way = place::environment(&databases, &config, database).ok_or_else(|| {
        Unfit::Asked(format!("there is no database {database} in SHOW DATABASES; nothing was started"))
    })?;
    let host = way.iter().find(|(key, _)| *key == "PGHOST").map(|(_, host)| host.as_str()).unwrap_or_default();
    if let Endpoint::Tcp(address) = &site.endpoint
        && place::is_local(host)
        && !place::is_local(address.rsplit_once(':').map_or(address, |(host, _)| host))
    {
        let text = format!("pglull at {address} reaches {database} at {host:?}, on its own machine: run this there");
        return Err(Unfit::Asked(text));
    }
    let mut command = Command::new(program);
    for key in place::CLEARED {
        command.env_remove(key);
    }
    command.args(rest).envs(way).env("PGAPPNAME", format!("pglull window {id}")).env("PGLULL_WINDOW", id);
    // A group of its own may not read from the terminal; a file or a pipe is meant for the command.
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    if args.json {
        command.stdout(Stdio::from(std::io::stderr()));
    }
    Ok(command)
}

/// Until when a command may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// When it is told to stop, from its start.
    stop: Duration,
    /// When it is killed.
    kill: Duration,
    /// Which bound that is, and how long.
    bound: (&'static str, u64),
}

impl Limits {
    /// From what the console tells of a window that holds.
    fn of(status: &Status) -> Self {
        let number = |key| status.number(key).unwrap_or(0);
        let (apply, hold) = (number("apply_limit_ms"), number("hold_limit_ms"));
        // The proxy begins the way back a tenth of the bound before it, or 0.5 s.
        let reserve = (hold / 10).min(500);
        let left = Duration::from_millis(hold.saturating_sub(number("hold_ms") + reserve)).saturating_sub(MARGIN);
        let grace = GRACE.min(left / 4);
        let (latest, wanted) = (left - grace, Duration::from_millis(apply));
        let (stop, bound) = if wanted <= latest { (wanted, ("apply", apply)) } else { (latest, ("hold", hold)) };
        Self { stop, kill: stop + grace, bound }
    }
}

/// Runs the command in a window that holds, and ends the window.
async fn in_window(show: &mut Show<'_>, token: &str, command: &mut Command) -> Answer {
    let mut console = show.site.connect().await?;
    let status = look(&mut console, show.id).await?;
    let limits = Limits::of(&status);
    let own = std::env::var("PGOPTIONS").ok();
    command.env("PGOPTIONS", place::options(own.as_deref(), limits.stop.as_millis().max(1)));
    let tenure = Duration::from_millis(status.number("tenure_limit_ms").unwrap_or(0)).max(RENEW);
    let mut keeper = Keeper::start(show.site.clone(), (show.id.to_owned(), token.to_owned()), tenure);
    let children = signal(SignalKind::child())?;
    let said = match Family::start(command) {
        Ok(family) => {
            show.say(&format!("held: the command runs, for {} at most", seconds(millis(limits.stop))));
            attend(show, (family, children), limits, &mut keeper).await
        }
        Err(error) => Some(format!("the command could not be started: {error}")),
    };
    drop(keeper);
    // The first connection may be of a process that is no more.
    let mut console = show.site.connect().await?;
    match said {
        None => console.run(&statement::steer("CLOSE", show.id, Some(token)), |_| {}).await,
        Some(reason) => console.run(&statement::give_up(show.id, token, &reason), |_| {}).await,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until the whole family is gone, and stops it where it must. Gives why the change is not made, or nothing.
async fn attend(
    show: &mut Show<'_>,
    (mut family, mut children): (Family, UnixSignal),
    limits: Limits,
    keeper: &mut Keeper,
) -> Option<String> {
    let started = Instant::now();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop: Option<String> = None;
    let (mut wake, mut killed) = (started + limits.stop, false);
    while !family.look() {
        let why = tokio::select! {
            biased;
            () = show.interrupts.next() => Some("interrupted by its operator".to_owned()),
            lost = keeper.lost(), if stop.is_none() => Some(lost),
            () = sleep_until(wake) => {
                let (name, bound) = limits.bound;
                Some(format!("the {name} bound of {} was reached", seconds(bound)))
            }
            _ = children.recv() => None,
            _ = tick.tick() => None,
        };
        match (why, &stop) {
            (Some(why), None) => {
                show.say(&format!("{why}: the command is told to stop (SIGTERM)"));
                family.tell(Signal::SIGTERM);
                // One that is stopped would not hear it.
                family.tell(Signal::SIGCONT);
                wake = Instant::now() + (limits.kill - limits.stop);
                stop = Some(why);
            }
            (Some(_), Some(_)) if !killed => {
                show.say("it is killed (SIGKILL)");
                (killed, wake) = (true, Instant::now() + GONE);
            }
            (Some(_), Some(why)) if Instant::now() >= wake => {
                return Some(format!("{why}; the command was killed, but is not gone"));
            }
            _ => {}
        }
        if killed {
            family.tell(Signal::SIGKILL);
        }
    }
    let end = family.end().unwrap_or(End::Signal(None));
    show.say(&format!("the command {end}"));
    verdict(end, stop, killed)
}

/// Why the change is not made, or nothing if it is.
fn verdict(end: End, stop: Option<String>, killed: bool) -> Option<String> {
    match (stop, end) {
        (None, End::Code(0)) => None,
        (None, end) => Some(format!("the command {end}")),
        // It may have been ready for all we know, or may call it an orderly end to be interrupted.
        (Some(why), End::Code(0)) if killed => {
            Some(format!("{why}; the command {end}, what it left behind was killed"))
        }
        (Some(why), end) => Some(format!("{why}; the command {end}")),
    }
}

/// Renews the window over a connection of its own, until it cannot.
struct Keeper {
    lost: oneshot::Receiver<String>,
    _task: Task,
}

impl Keeper {
    fn start(site: Site, (id, token): (String, String), tenure: Duration) -> Self {
        let (tell, lost) = oneshot::channel();
        let task = tokio::spawn(async move {
            let command = statement::steer("RENEW", &id, Some(&token));
            let why = renew(&site, &command, tenure).await;
            let _ = tell.send(why);
        });
        Self { lost, _task: Task(task) }
    }

    /// Why the window holds no more.
    async fn lost(&mut self) -> String {
        (&mut self.lost).await.unwrap_or_else(|_| "the window could not be renewed".to_owned())
    }
}

async fn renew(site: &Site, command: &str, tenure: Duration) -> String {
    let (mut console, mut heard) = (None, Instant::now());
    loop {
        let asked = async {
            let mut current = match console.take() {
                Some(current) => current,
                None => site.connect().await?,
            };
            current.query(command).await?;
            Ok::<_, ClientError>(current)
        };
        let patience = match timeout(tenure, asked).await {
            Ok(Ok(current)) => {
                (console, heard) = (Some(current), Instant::now());
                tenure
            }
            Ok(Err(ClientError::Server(report))) => return format!("the window ended before the command: {report}"),
            Ok(Err(ClientError::Connect { .. })) => AWAY,
            Ok(Err(_)) | Err(_) => tenure,
        };
        if heard.elapsed() > patience {
            return "the console of pglull does not answer any more".to_owned();
        }
        tokio::time::sleep(RENEW).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Rows;

    fn limits(apply: u64, hold: u64, spent: u64) -> (u64, u64, &'static str) {
        let row = |key: &str, value: u64| vec![Some(key.to_owned()), Some(value.to_string())];
        let rows = vec![row("apply_limit_ms", apply), row("hold_limit_ms", hold), row("hold_ms", spent)];
        let limits = Limits::of(&Status::from_rows(&Rows { rows, ..Rows::default() }));
        (millis(limits.stop), millis(limits.kill), limits.bound.0)
    }

    #[test]
    fn a_command_is_gone_before_the_proxy_has_to_open_the_gate() {
        for (given, expect) in [
            ((4000, 10_000, 0), (4000, 5000, "apply")),
            ((4000, 10_000, 2000), (4000, 5000, "apply")),
            ((9000, 10_000, 0), (8350, 9350, "hold")),
            ((4000, 1000, 0), (562, 750, "hold")),
            ((4000, 1000, 950), (0, 0, "hold")),
        ] {
            assert_eq!(limits(given.0, given.1, given.2), expect, "{given:?}");
        }
    }

    #[test]
    fn the_exit_code_decides() {
        let late = || Some("late".to_owned());
        for (end, stop, killed, expect) in [
            (End::Code(0), None, false, None),
            (End::Code(3), None, false, Some("the command ended with exit code 3")),
            (End::Signal(Some(Signal::SIGSEGV)), None, false, Some("the command was ended by SIGSEGV")),
            (End::Signal(Some(Signal::SIGKILL)), late(), true, Some("late; the command was ended by SIGKILL")),
            (End::Code(0), late(), false, Some("late; the command ended with exit code 0")),
            (
                End::Code(0),
                late(),
                true,
                Some("late; the command ended with exit code 0, what it left behind was killed"),
            ),
        ] {
            assert_eq!(verdict(end, stop, killed).as_deref(), expect);
        }
    }
}
