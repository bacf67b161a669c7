//! `UPGRADE`: the program once more, from its file as it is now, takes over from this process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::command::Command;
use super::console::{Answer, Ending, Env, Problem};
use super::operator::Operator;
use super::table::{Column, Table, long, row, text};
use super::verbs::unless_interrupted;
use crate::clients::Client;
use crate::process::{again, pidfile};
use crate::upgrade::giving::Heir;
use crate::upgrade::{Key, Last, PoolKey, taking};
use crate::wire::reply::{Report, sqlstate};

/// What is answered.
const COLUMNS: [Column; 4] = [long("pid"), text("version"), long("clients_moved"), long("clients_left")];

/// How long the answer waits for clients to move.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often clients are asked: some have become idle, some have just logged in.
const AGAIN: Duration = Duration::from_millis(20);

/// How long a server is idle until it is closed for the sake of the other process.
const SHRINK: Duration = Duration::from_secs(1);

/// How long a command waits for the process before this one: without clients it ends in a moment.
const ELDER: Duration = Duration::from_secs(2);

/// Set while an upgrade is under way; whatever would meet it is refused.
struct Moving<'a>(&'a Env);

impl<'a> Moving<'a> {
    fn begin(env: &'a Env) -> Result<Self, Report> {
        if env.front.door.moving.swap(true, Ordering::AcqRel) {
            return Err(under_way());
        }
        // From here on it is let go on drop.
        let moving = Self(env);
        env.registry.bar().map_err(|id| {
            Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, format!("window {id} is running"))
                .hint("Upgrade when it has ended, or end it: RESUME, WINDOW ABORT.")
        })?;
        Ok(moving)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if *self.0.shutdown.borrow() == Ending::Run {
            self.0.registry.unbar();
            self.0.front.door.moving.store(false, Ordering::Release);
        }
    }
}

fn under_way() -> Report {
    Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, "an upgrade is under way")
        .hint("It takes a moment: try again. Afterwards another process answers: connect again.")
}

/// Why a command cannot be carried out now: another process serves some of the clients, or is about to.
///
/// # Errors
/// What the operator is told.
pub(super) async fn barred(command: &Command, env: &Env) -> Result<(), Report> {
    if *env.shutdown.borrow() == Ending::Moved
        && !matches!(command, Command::Show(_) | Command::Shutdown(_) | Command::KillClient(_))
    {
        return Err(Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, "another process has taken over")
            .hint("Connect again: it answers at the same address."));
    }
    let touches_all = matches!(
        command,
        Command::Pause { .. }
            | Command::Kill { .. }
            | Command::Upgrade
            | Command::WindowApply { .. }
            | Command::WindowOpen { .. }
            | Command::WindowRehearse { .. }
    );
    // The other process has read the files already, and would not know.
    let changes =
        matches!(command, Command::Reload | Command::Set { .. } | Command::Disable { .. } | Command::Enable { .. });
    if (touches_all || changes) && env.front.door.moving.load(Ordering::Acquire) {
        return Err(under_way());
    }
    if !touches_all {
        return Ok(());
    }
    let mut elder = env.front.door.elder.subscribe();
    let ended = timeout(ELDER, elder.wait_for(Option::is_none)).await.is_ok();
    if ended {
        return Ok(());
    }
    let text = "the process before the last upgrade still serves clients, and this one cannot hold them";
    Err(Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text).hint(
        "It ends when they have left: those with TLS, in a transaction, or with a server of their own. SIGINT to it \
         disconnects each at the end of its transaction.",
    ))
}

/// Nothing may be shut when the clients change hands: the other process would not know.
fn is_at_peace(env: &Env) -> Result<(), Report> {
    let refuse =
        |text: String, hint: &str| Err(Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text).hint(hint.to_owned()));
    if let Some(database) = env.front.databases.list().iter().find(|database| database.is_disabled()) {
        return refuse(
            format!("database \"{}\" is disabled", database.name),
            "The new process would not know: ENABLE it first.",
        );
    }
    if std::process::id() == 1 {
        let hint = "In a container, start another container with the new version instead.";
        return refuse("process 1 cannot be replaced".to_owned(), hint);
    }
    Ok(())
}

/// Carries it out. Until the new process serves, nothing has changed.
pub(super) async fn run(operator: &mut Operator, env: &Env) -> Result<Answer, Problem> {
    let moving = Moving::begin(env)?;
    is_at_peace(env)?;
    let before = env.front.clients.count();
    let mut command = again::again()?;
    taking::mark(&mut command);
    let started = unless_interrupted(Heir::start(command, &env.shares.load(), pool_keys(env)), operator).await?;
    let heir = started.map_err(|error| {
        Report::new(sqlstate::INTERNAL_ERROR, error.to_string()).hint("This process goes on as before.")
    })?;
    // A command that was let through just before the mark was set may have come to something.
    is_at_peace(env)?;
    let (pid, version) = (heir.pid(), heir.version.clone());
    // Who has told this process to end means the service, not this process alone.
    if !Ending::moves(&env.shutdown) {
        return Err(Report::new(sqlstate::CANNOT_CONNECT_NOW, "pooler is shutting down").into());
    }
    drop(moving);
    let given = Given::away(env);
    in_charge(env, pid);
    let lost = match heir.lead(&env.front, end_too(env)).await {
        Ok(lost) => lost,
        Err(error) => {
            come_back(env, &given);
            return Err(Report::new(sqlstate::INTERNAL_ERROR, format!("the new process has died: {error}")).into());
        }
    };
    tracing::info!(pid, version, "another process has taken over");
    tokio::spawn(see_off(env.clone(), pid, (given, lost)));
    let until = Instant::now() + PATIENCE;
    while env.front.clients.count() > 0 && Instant::now() < until {
        tokio::time::sleep(AGAIN).await;
    }
    let left = env.front.clients.count();
    let mut table = Table::new(&COLUMNS);
    table.rows.push(row![u64::from(pid), version, before.saturating_sub(left), left]);
    Ok(Answer::Rows(table, "UPGRADE"))
}

/// The new process was told to end: that is meant for both.
fn end_too(env: &Env) -> impl Fn(Last) + Send + Sync + 'static {
    let shutdown = env.shutdown.clone();
    move |last| {
        let wish = match last {
            Last::WaitForClients => Ending::WaitForClients,
            Last::WaitForServers => Ending::WaitForServers,
            Last::Now => Ending::Now,
        };
        shutdown.send_modify(|now| *now = wish.max(*now));
    }
}

/// What servers log in with that no configuration tells: what clients have proved to have.
fn pool_keys(env: &Env) -> Vec<PoolKey> {
    let mut keys = Vec::new();
    for database in env.front.databases.list() {
        for pool in database.pools() {
            let known = env.front.users.credential(&pool.user).is_some();
            if let Some(credential) = pool.target().keychain.get().filter(|_| !known) {
                let (database, role) = (database.name.clone(), pool.user.clone());
                keys.push(PoolKey { database, role, key: Key::from(&*credential) });
            }
        }
    }
    keys
}

/// Files that this process would have removed, and which are the other's now.
struct Given(Vec<usize>);

impl Given {
    fn away(env: &Env) -> Self {
        let shares = env.shares.load();
        let ours = shares.iter().enumerate().filter(|(_, share)| share.is_ours());
        let given = ours.map(|(at, share)| {
            share.set_ours(false);
            at
        });
        Self(given.collect())
    }

    fn back(&self, env: &Env) {
        let shares = env.shares.load();
        self.0.iter().filter_map(|at| shares.get(*at)).for_each(|share| share.set_ours(true));
    }
}

/// Has clients move as they become idle; ends the process after the last. If the other one dies, this one goes on.
async fn see_off(env: Env, heir: u32, (given, mut lost): (Given, oneshot::Receiver<()>)) {
    let mut shrunk = Instant::now();
    loop {
        pass_hangup_on(&env, heir);
        let plain = |client: &&std::sync::Arc<Client>| client.tls.is_none();
        let clients = env.front.clients.list();
        clients.iter().filter(plain).for_each(|client| client.ask_to_move(true));
        // A guest may become a client; one that has is counted before it is a guest no more.
        if env.front.door.accepting() == 0 && env.front.logging_in() == 0 && env.front.clients.count() == 0 {
            tracing::info!("every client has left or moved");
            env.shutdown.send_replace(Ending::Now);
            return;
        }
        // What nobody needs here the other process may need.
        if shrunk.elapsed() >= SHRINK {
            shrunk = Instant::now();
            env.front.databases.list().iter().for_each(|database| database.shrink(SHRINK));
        }
        if timeout(AGAIN, &mut lost).await.is_ok() {
            come_back(&env, &given);
            return;
        }
    }
}

/// Has the process in charge read the files again, if this one was told to since the upgrade began.
fn pass_hangup_on(env: &Env, heir: u32) {
    // Whoever lives is not waited for yet, so the number is its own.
    let lives = env.front.door.way.load().is_some();
    if env.front.door.hangup.notified().now_or_never().is_some() && lives {
        tracing::info!(pid = heir, "SIGHUP is passed on to the process that has taken over");
        let _ = kill(Pid::from_raw(i32::try_from(heir).unwrap_or(i32::MAX)), Signal::SIGHUP);
    }
}

/// Says to the operating system which process is in charge. The pidfile is written before this process can end, and remove it.
fn in_charge(env: &Env, pid: u32) {
    let config = env.front.config();
    if let Some(Err(error)) = config.pidfile.as_deref().map(|path| pidfile::replace(path, pid)) {
        tracing::warn!(%error, "the pidfile holds another process");
    }
    env.notify.main_pid(pid);
}

/// The other process is dead: takes clients in again, unless this one was told to end.
fn come_back(env: &Env, given: &Given) {
    env.front.clients.list().iter().for_each(|client| client.ask_to_move(false));
    if !Ending::comes_back(&env.shutdown) {
        return;
    }
    tracing::error!("the process that had taken over has died; this one goes on");
    given.back(env);
    in_charge(env, std::process::id());
    env.registry.unbar();
    env.front.door.moving.store(false, Ordering::Release);
}
