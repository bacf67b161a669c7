//! Wiring: builds every handle once, owns the order of start and shutdown. Nothing is decided here.

mod doors;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::admin::averages;
use crate::admin::console::{self, Ending, Env};
use crate::admin::exporter;
use crate::admin::reload;
use crate::admin::status;
use crate::auth::users::Users;
use crate::clients::{Clients, State};
use crate::clock::Clock;
use crate::config::{Config, Running};
use crate::net::listen::Listener;
use crate::net::tls::accept::Acceptor;
use crate::net::tls::connect::Connector;
use crate::pool::databases::Databases;
use crate::prepared::catalog::Catalog;
use crate::process::handed::Handed;
use crate::process::notify::{self, Notify};
use crate::session::front::{Door, Front, Via, guest_places};
use crate::session::greet::{Greeted, greet};
use crate::session::lookup::Lookups;
use crate::session::overdue;
use crate::telemetry::http::{self, Readiness, Sources};
use crate::telemetry::metrics::{self, ProxyMetrics, Recorder, Totals, publish};
use crate::telemetry::seldom::Seldom;
use crate::telemetry::trace::Logs;
use crate::window::registry::Registry;
use crate::window::store::{BadStore, Store};
use crate::window::watchdog::Watchdog;
use crate::wire::reply::{Report, sqlstate};

/// Why the proxy could not start, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// TLS could not be set up.
    #[error("{0}")]
    Tls(#[from] crate::net::tls::BadTls),
    /// The metrics could not be set up.
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
    /// The records of windows cannot be read or written.
    #[error("{0}")]
    State(#[from] BadStore),
}

impl StartError {
    /// What the operator can do about it; empty where the error says so itself.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        let Self::Listen(error) = self else { return "" };
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there, perhaps another pglull (ss -ltnp names it): end it, or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address (ip addr lists those it has)",
            io::ErrorKind::PermissionDenied => {
                "a port below 1024 needs the capability CAP_NET_BIND_SERVICE; a socket's folder must be writable for the user \
                 that runs pglull"
            }
            io::ErrorKind::NotFound => "the folder of a socket must be there before",
            _ => "",
        }
    }
}

/// What the process brings along from before there was a runtime.
pub struct Outside {
    /// Its logs.
    pub logs: Logs,
    /// The way to the service manager.
    pub notify: Notify,
    /// Sockets that listen already.
    pub handed: Vec<Handed>,
    /// Called once, when clients are served.
    pub serving: Box<dyn FnOnce() + Send>,
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// [`StartError`], before any client was served.
pub async fn run(config: Config, outside: Outside) -> Result<(), StartError> {
    raise_descriptor_limit(&config);
    let running = Running::new(config);
    let config = running.get();
    let recorder = metrics::install().map_err(|error| StartError::Metrics(error.to_string()))?;
    let clock = Clock::start();
    let clients: Arc<Clients> = Arc::default();
    let users = Users::new(&config);
    users.warm_up();
    let Outside { logs, notify, serving, handed } = outside;
    let doors = doors::open(&config, handed)?;
    let left = config.state_dir.as_deref().map(Store::open).transpose()?;
    let acceptor = ArcSwap::from_pointee(Acceptor::new(&config)?);
    let connector = Connector::new(&config)?;
    let databases = Databases::new(Arc::clone(&running), clock, recorder.clone(), connector);
    databases.warm(|role| users.credential(role));
    let _watchdog = Watchdog::start(Arc::clone(&databases), clock)?;
    let front = Front {
        running,
        clock,
        clients: Arc::clone(&clients),
        users: Arc::clone(&users),
        lookups: Lookups::new(clock, Arc::clone(&users)),
        databases: Arc::clone(&databases),
        catalog: Arc::new(Catalog::new(config.prepared_statement_memory)),
        metrics: Arc::new(ProxyMetrics::new(&recorder)),
        guests: Arc::new(Semaphore::new(guest_places(config.max_client_conn))),
        door: Arc::new(Door {
            acceptor,
            closing: AtomicBool::new(false),
            way: ArcSwapOption::empty(),
            crowd: Seldom::default(),
        }),
    };
    let registry = Registry::new(databases, clients, users, clock, left);
    let (shutdown, ending) = watch::channel(Ending::Run);
    let periods = Arc::default();
    // Before anybody can know that we are here: a signal without a handler ends the process.
    let heard = Signals::install()?;
    let (logs, notify) = (Arc::new(logs), Arc::new(notify));
    let answering = watch::Sender::default();
    let env = Env { front: front.clone(), registry, periods, shutdown, answering, logs, notify };
    tokio::spawn(averages::keep(env.clone()));
    for (listener, via) in doors.clients {
        tracing::info!(on = %listener.describe(), console_only = via == Via::AdminSocket, "listening");
        tokio::spawn(accept(listener, via, env.clone(), ending.clone()));
    }
    let scraping = tokio::spawn(metrics::run_upkeep(recorder.clone()));
    if let Some(listener) = doors.metrics {
        tokio::spawn(serve_http(listener, recorder, env.clone()));
    }
    tokio::spawn(overdue::run(front));
    serving();
    env.registry.recover();
    env.notify.ready();
    if let Some(within) = notify::watchdog() {
        tokio::spawn(show_life(within, env.clone()));
    }
    signals(&env, ending, heard).await;
    answered(&env).await;
    scraping.abort();
    tracing::info!("ended");
    Ok(())
}

/// Shows systemd's watchdog that tasks are run and that no lock of a database is stuck; whoever hangs there is started anew.
async fn show_life(within: Duration, env: Env) {
    // Twice in the time, as sd_watchdog_enabled(3) has it; never in a spin.
    let mut every = tokio::time::interval((within / 2).max(Duration::from_millis(10)));
    loop {
        every.tick().await;
        env.front.databases.list().iter().for_each(|database| _ = database.holds());
        env.notify.alive();
    }
}

/// Accepts until the process stops taking clients.
async fn accept(listener: Listener, via: Via, env: Env, mut ending: watch::Receiver<Ending>) {
    /// After an accept that failed for want of descriptors there is no use in trying again at once.
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        // The console goes on to be served: it is where an operator looks why the process has not ended yet.
        let stop = async {
            match via {
                Via::Listener => drop(ending.wait_for(|ending| *ending > Ending::Run).await),
                Via::AdminSocket => drop(ending.wait_for(|ending| *ending == Ending::Now).await),
            }
        };
        tokio::select! {
            biased;
            () = stop => return,
            accepted = listener.accept(|| env.front.config().tcp_watch()) => match accepted {
                Ok(stream) => drop(tokio::spawn(serve(stream, via, env.clone()))),
                Err(error) => {
                    tracing::warn!(%error, on = %listener.describe(), "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// One connection. A panic in here ends this connection only.
async fn serve(stream: crate::net::stream::Stream, via: Via, env: Env) {
    let greeted = {
        // The console's own socket is always answered: it is where an operator sees who takes the places.
        let place = Arc::clone(&env.front.guests).try_acquire_owned();
        if place.is_err() && via == Via::Listener {
            return turned_away(&env.front);
        }
        // Boxed: a log-in needs much more room than a session that is idle.
        Box::pin(greet(stream, &env.front, via)).await
    };
    match greeted {
        Greeted::Over => {}
        Greeted::Console(guest) => Box::pin(console::serve(guest, env)).await,
        // A task of its own: this one has room for what a console and a log-in need.
        Greeted::Session(session) => drop(tokio::spawn(session.run())),
    }
}

/// So many connections are logging in, or do nothing at all, that there is no room for one more. It is not told: who cannot be
/// waited for cannot be talked to.
fn turned_away(front: &Front) {
    front.metrics.login_failed("too_many_clients");
    if let Some(left_out) = front.door.crowd.turn() {
        tracing::warn!(left_out, "no more connections allowed (max_client_conn): too many that are not logged in");
    }
}

async fn serve_http(listener: TcpListener, recorder: Recorder, env: Env) {
    let mut ending = env.shutdown.subscribe();
    let (scraped, asked, looked) = (env.clone(), env.clone(), env.clone());
    let sources = Sources {
        recorder,
        snapshot: Arc::new(move || {
            publish_all(&scraped);
            let wanted = scraped.front.config().metrics_pgbouncer_names;
            if wanted { exporter::render(&scraped) } else { String::new() }
        }),
        readiness: Arc::new(move || {
            if asked.front.is_closing() {
                return Readiness::NotReady("shutting down".to_owned());
            }
            let held = asked.registry.live().len();
            Readiness::Ready(if held > 0 { format!("{held} windows are running") } else { String::new() })
        }),
        page: Arc::new(move |path, query| status::page(path, query, &looked)),
    };
    http::serve(listener, sources, async move {
        let _ = ending.wait_for(|ending| *ending == Ending::Now).await;
    })
    .await;
}

/// Fills in what is only counted in our own books, at each scrape.
fn publish_all(env: &Env) {
    let now = env.front.clock.now();
    let clients = env.front.clients.list();
    for database in env.front.databases.list() {
        let live = env.registry.live();
        let window = live.iter().find(|handle| handle.covers(&database.name));
        let phase = window.map(|handle| handle.status.borrow().window.phase.as_str());
        database.metrics.publish_phase(phase);
        database.metrics.publish_holds(database.holds());
        for pool in database.pools() {
            let (stats, counts) = (&pool.stats, pool.counts());
            let in_state = |wanted: fn(State) -> bool| {
                let ours =
                    clients.iter().filter(|client| client.database == database.name && client.pool_user == pool.user);
                ours.filter(|client| wanted(client.view().state)).count() as u64
            };
            let totals = Totals {
                transactions: stats.transactions.value(),
                queries: stats.queries.value(),
                client_bytes_received: stats.received.value(),
                client_bytes_sent: stats.sent.value(),
                server_connects: stats.server_connects.value(),
                server_connect_failures: stats.server_connect_failures.value(),
                server_closes: stats.server_closes.value(),
                cancels: stats.cancels.value(),
                wait_time_us: stats.wait_us.value(),
                transaction_time_us: stats.transaction_us.value(),
                query_time_us: stats.query_us.value(),
                clients_active: in_state(|state| matches!(state, State::Active | State::IdleInTransaction)),
                clients_idle: in_state(|state| state == State::Idle),
                clients_waiting: counts.waiting as u64,
                clients_held: counts.held as u64,
                servers_active: counts.lent as u64,
                servers_idle: counts.idle as u64,
                servers_connecting: counts.connecting as u64,
                maxwait_us: counts.oldest.map_or(0, |since| crate::ids::millis(now.since(since)).saturating_mul(1000)),
            };
            publish(&database.recorder, &database.name, &pool.user, &totals);
        }
    }
    env.front.metrics.publish_process();
}

/// The signals that mean something; none of them has its default effect any more.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Takes signals and the console's `SHUTDOWN` until the process is to end. As PgBouncer 1.23 and later: TERM waits for
/// clients, INT for servers, QUIT is at once; a second one of the first two is harder.
async fn signals(env: &Env, mut ending: watch::Receiver<Ending>, mut heard: Signals) {
    let wish = |wish: Ending| {
        env.shutdown.send_modify(|now| *now = if *now >= wish { Ending::Now } else { wish });
    };
    let mut closing = Box::pin(close(env, env.shutdown.subscribe()));
    loop {
        tokio::select! {
            biased;
            () = &mut closing => return,
            _ = ending.wait_for(|ending| *ending == Ending::Now) => {
                env.notify.stopping();
                env.front.door.closing.store(true, Ordering::Release);
                dismiss_all(env).await;
                return;
            }
            _ = heard.terminate.recv() => wish(Ending::WaitForClients),
            _ = heard.interrupt.recv() => wish(Ending::WaitForServers),
            _ = heard.quit.recv() => wish(Ending::Now),
            _ = heard.hangup.recv() => drop(tokio::spawn(reload::signalled(env.clone()))),
            _ = heard.user1.recv() => drop(tokio::spawn(console::pause_all(env.clone()))),
            _ = heard.user2.recv() => drop(tokio::spawn(console::resume_all(env.clone()))),
        }
    }
}

/// Waits until the process is asked to end, ends windows first, then waits for clients or servers.
async fn close(env: &Env, mut ending: watch::Receiver<Ending>) {
    /// How long connections that were accepted just before have to say who they are.
    const GREETING: Duration = Duration::from_secs(1);
    let _ = ending.wait_for(|ending| *ending > Ending::Run).await;
    tracing::info!(how = ?*ending.borrow(), "shutting down");
    let since = env.front.clock.now();
    env.notify.stopping();
    env.front.door.closing.store(true, Ordering::Release);
    env.registry.shut_down().await;
    let mut period = tokio::time::interval(Duration::from_millis(20));
    loop {
        period.tick().await;
        let how = *ending.borrow();
        let left = env.front.clients.count();
        let waited = env.front.clock.now().since(since);
        // Whoever is logging in is told; one that says nothing is not waited for.
        if left == 0 && (env.front.logging_in() == 0 || waited >= GREETING) {
            return;
        }
        if env.front.config().shutdown_timeout.is_some_and(|bound| waited >= bound) {
            tracing::warn!(clients = left, "shutdown_timeout: ending although clients are connected");
            env.shutdown.send_replace(Ending::Now);
            // What that means is seen to elsewhere.
            return std::future::pending().await;
        }
        if how == Ending::WaitForServers {
            // Those between transactions go now; the others at their next boundary.
            env.front.clients.list().iter().for_each(|client| client.dismiss_at_rest(farewell()));
        }
    }
}

fn farewell() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "pooler is shutting down")
}

async fn dismiss_all(env: &Env) {
    env.registry.shut_down().await;
    env.front.clients.list().iter().for_each(|client| client.dismiss(farewell()));
    // Farewells are short; whoever does not read his does not keep the process.
    let gone = async {
        while env.front.clients.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
}

/// Waits until the console has answered its commands: whoever runs a window is told how it ended.
async fn answered(env: &Env) {
    let mut answering = env.answering.subscribe();
    let quiet = answering.wait_for(|count| *count == 0);
    let _ = tokio::time::timeout(Duration::from_secs(1), quiet).await;
}

/// Every client and every server needs a descriptor; takes what the kernel allows and says if that is too little.
fn raise_descriptor_limit(config: &Config) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::debug!("cannot raise the limit of open files");
    }
    let servers: usize =
        config.databases.values().map(|entry| entry.pool_size.unwrap_or(config.default_pool_size)).sum();
    let needed = u64::try_from(config.max_client_conn.saturating_add(servers).saturating_add(64)).unwrap_or(u64::MAX);
    if needed > hard {
        tracing::warn!(limit = hard, needed, "the limit of open files is too low for max_client_conn and the pools");
    }
}
