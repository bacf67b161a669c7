//! `RELOAD`, SIGHUP and `SET`: another configuration is put in force, as a whole or not at all.
//!
//! Three steps. **Read**: the files are read and every mistake in them is found. **Agree**: whoever might refuse is asked,
//! and prepares what it needs; nothing has changed so far. **Change**: everybody takes the new values; nothing here can
//! fail. Whoever keeps something made from the configuration has its line in the last two.

use crate::admin::console::{Answer, Env, Problem};
use crate::config::{self, Config, changes};
use crate::net::tls::accept::Acceptor;
use crate::net::tls::connect::Connector;
use crate::wire::reply::{Report, sqlstate};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many mistakes a client of the console is shown; all of them are in the log.
const SHOWN: usize = 10;

/// Why nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// One line each, without secrets.
    pub why: Vec<String>,
    /// The same files may be taken later: it is a window that is in the way.
    pub passing: bool,
}

impl Refused {
    fn by(why: impl IntoIterator<Item = String>) -> Self {
        Self { why: why.into_iter().collect(), passing: false }
    }
}

/// What a reload comes to, one line each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reloaded {
    /// What is not as before.
    pub changes: Vec<String>,
    /// What should be known: what is odd, and what takes effect at the next start only.
    pub warnings: Vec<String>,
}

/// Reads the files again and puts what they say in force. Run it in a task of its own if the caller may go away.
///
/// # Errors
/// [`Refused`]; nothing was changed then.
pub async fn reload(env: &Env) -> Result<Reloaded, Refused> {
    let _turn = env.front.running.turn().await;
    let running = env.front.config();
    let file = running.file.clone();
    let read = tokio::task::spawn_blocking(move || config::load(&file)).await;
    let mut config = match read {
        Ok(Ok(config)) => config,
        Ok(Err(mistakes)) => return Err(Refused::by(mistakes.iter().map(ToString::to_string))),
        Err(_) => return Err(Refused::by(["the configuration could not be read".to_owned()])),
    };
    let mut warnings = config.warnings.clone();
    for key in config.keep_fixed(&running) {
        warnings.push(format!("{}: {key} has changed: it takes effect at the next start", config.file.display()));
    }
    let tls = agree(&config, env)?;
    let changes = changes::between(&running, &config);
    change(config, Some(tls), env);
    Ok(Reloaded { changes, warnings })
}

/// Gives one key another value until the next reload.
async fn set(key: &str, value: &str, env: &Env) -> Result<(), Refused> {
    let _turn = env.front.running.turn().await;
    let config = env.front.config().with(key, value).map_err(|why| Refused::by([why]))?;
    agree(&config, env)?;
    change(config, None, env);
    Ok(())
}

/// TLS of clients and to Postgres, made from a configuration with its files.
type Tls = (Acceptor, Connector);

/// Whether everybody can follow.
fn agree(config: &Config, env: &Env) -> Result<Tls, Refused> {
    let mut refused = vec![];
    for window in env.registry.live() {
        let lost = window.databases.iter().filter(|database| config.database(&database.name).is_none());
        refused.extend(lost.map(|database| {
            let (name, id, owner) = (&database.name, &window.id, &window.owner);
            format!("database \"{name}\" cannot be removed now: window {id} of {owner} covers it")
        }));
    }
    let passing = !refused.is_empty();
    let tls = Acceptor::new(config).and_then(|acceptor| Ok((acceptor, Connector::new(config)?)));
    let tls = tls.map_err(|bad| refused.push(bad.to_string()));
    if refused.is_empty()
        && let Err(error) = env.logs.reopen(config.logfile.as_deref())
    {
        refused.push(error.to_string());
    }
    tls.ok().filter(|_| refused.is_empty()).ok_or(Refused { why: refused, passing })
}

/// Puts it in force. Must not fail.
fn change(config: Config, tls: Option<Tls>, env: &Env) {
    let front = &env.front;
    let (before, config) = (front.config(), Arc::new(config));
    front.running.put(Arc::clone(&config));
    env.logs.level(config.level());
    front.users.reload(&config);
    if let Some((acceptor, connector)) = tls {
        front.door.acceptor.store(Arc::new(acceptor));
        front.databases.put_connector(connector);
    }
    front.lookups.forget();
    front.catalog.resize(config.prepared_statement_memory);
    front.resize_guests(before.max_client_conn, config.max_client_conn);
    for database in front.databases.reload(|role| front.users.credential(role)) {
        tracing::warn!(database = %database.name, "database removed: its clients are disconnected");
        for client in front.clients.list().iter().filter(|client| client.database == database.name) {
            client.dismiss(Report::new(sqlstate::ADMIN_SHUTDOWN, "database removed"));
        }
    }
}

/// The console's `RELOAD`. In a task of its own: an operator who goes away does not leave half a reload behind.
pub(super) async fn run(env: &Env) -> Result<Answer, Problem> {
    let task = tokio::spawn({
        let env = env.clone();
        async move { logged(&env, "RELOAD").await }
    });
    match task.await {
        Ok(Ok(Reloaded { changes, warnings })) => {
            let told: Vec<_> = changes.into_iter().chain(warnings).collect();
            Ok(if told.is_empty() { Answer::Done("RELOAD") } else { Answer::Say(told.join("\n"), "RELOAD") })
        }
        Ok(Err(Refused { why, .. })) => Err(failed(&why).into()),
        Err(_) => Err(failed(&[]).into()),
    }
}

/// As PgBouncer 1.25 says it, and then what is wrong.
fn failed(why: &[String]) -> Report {
    let report = Report::new(sqlstate::CONFIG_FILE_ERROR, "RELOAD failed, see logs for additional details");
    let mut shown: Vec<&str> = why.iter().take(SHOWN).map(String::as_str).collect();
    let rest = format!("and {} more", why.len().saturating_sub(SHOWN));
    if why.len() > SHOWN {
        shown.push(&rest);
    }
    report.detail(shown.join("\n")).hint("Nothing was changed. `pglull check FILE` shows every mistake.")
}

/// What SIGHUP does. Another process that is about to take over, or has, may have read the files before they were changed:
/// it is told too.
pub async fn signalled(env: Env) {
    if env.front.door.moving.load(Ordering::Acquire) {
        env.front.door.hangup.notify_one();
    }
    let _ = logged(&env, "SIGHUP").await;
}

/// Looks every `watch_config` whether the files have changed, and reloads when they are as they were at the look before: whoever
/// writes several is done then. Files that were refused are not tried again, unless it was for a window that runs.
pub async fn watch(env: Env) {
    /// How soon it is noticed that the watch itself was switched on.
    const SWITCHED_OFF: Duration = Duration::from_secs(1);
    let (mut last, mut refused) = (None, None);
    loop {
        let config = env.front.config();
        if config.watch_config.is_zero() {
            tokio::time::sleep(SWITCHED_OFF).await;
            continue;
        }
        tokio::time::sleep(config.watch_config).await;
        let file = config.file.clone();
        let seen = tokio::task::spawn_blocking(move || config::fingerprint(&file)).await.ok();
        let is_new = seen != Some(env.front.config().fingerprint) && seen != refused;
        if is_new
            && seen == last
            && let Err(Refused { passing: false, .. }) = logged(&env, "watch_config").await
        {
            refused = seen;
        }
        last = seen;
    }
}

async fn logged(env: &Env, by: &str) -> Result<Reloaded, Refused> {
    tracing::info!(by, "re-reading config");
    env.notify.reloading();
    let done = reload(env).await;
    env.notify.ready();
    match &done {
        Ok(Reloaded { changes, warnings }) => {
            changes.iter().for_each(|line| tracing::info!(by, "changed: {line}"));
            warnings.iter().for_each(|line| tracing::warn!("{line}"));
            tracing::info!(by, "configuration reloaded");
        }
        Err(Refused { why, .. }) => {
            why.iter().for_each(|line| tracing::error!("{line}"));
            tracing::error!(by, "RELOAD failed: the configuration is as it was");
        }
    }
    done
}

/// The console's `SET key = value`.
pub(super) async fn set_one(key: &str, value: &str, env: &Env) -> Result<Answer, Problem> {
    match set(key, value, env).await {
        Ok(()) => Ok(Answer::Done("SET")),
        Err(Refused { why, .. }) => Err(Report::new(sqlstate::INVALID_PARAMETER_VALUE, why.join("\n")).into()),
    }
}
