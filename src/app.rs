//! Wiring: builds every handle once, owns the order of start and shutdown. Nothing is decided here.

mod doors;
mod ending;
mod heir;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::ending::{Signals, answered, signals};
use self::heir::take_over;
use crate::admin::averages;
use crate::admin::console::{self, Ending, Env};
use crate::admin::exporter;
use crate::admin::{reload, status};
use crate::auth::users::Users;
use crate::clients::{Clients, State};
use crate::clock::Clock;
use crate::config::{Config, Running};
use crate::net::listen::{Listener, Share};
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
use crate::telemetry::trace::Logs;
use crate::upgrade::STATE;
use crate::upgrade::taking::{self, Inheritance};
use crate::window::registry::Registry;
use crate::window::store::{BadStore, Store};
use crate::window::watchdog::Watchdog;

/// Why the proxy could not start, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// TLS could not be set up.
    #[error("{0}")]
    Tls(#[from] crate::net::tls::BadTls),
    /// The process before this one has not said what it should.
    #[error("cannot take over: {0}")]
    Elder(io::Error),
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
    /// The process to take over from.
    pub elder: Option<UnixStream>,
    /// Called once, when clients are served.
    pub serving: Box<dyn FnOnce() + Send>,
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// [`StartError`], before any client was served.
pub async fn run(config: Config, mut outside: Outside) -> Result<(), StartError> {
    let mut inheritance = match outside.elder.take() {
        None => None,
        Some(elder) => Some(taking::inherit(elder).await.map_err(StartError::Elder)?),
    };
    let serving = match start(config, outside, inheritance.as_mut()).await {
        Ok(serving) => serving,
        Err(error) => {
            if let Some(inheritance) = inheritance {
                inheritance.fail(error.to_string()).await;
            }
            return Err(error);
        }
    };
    let Serving { env, ending, heard, _watchdog } = serving;
    let elder = match inheritance {
        None => {
            env.notify.ready();
            None
        }
        Some(inheritance) => Some(take_over(inheritance, &env).await?),
    };
    signals(&env, ending, heard).await;
    if let Some(mut told) = elder {
        // An elder that is gone needs no word, and one that hangs gets none.
        let _ = tokio::time::timeout(Duration::from_secs(1), told.wait_for(|told| *told)).await;
    }
    answered(&env).await;
    tracing::info!("ended");
    Ok(())
}

/// What runs from the start to the end.
struct Serving {
    env: Env,
    ending: watch::Receiver<Ending>,
    heard: Signals,
    _watchdog: Watchdog,
}

/// Builds everything, and begins to accept.
async fn start(config: Config, outside: Outside, inheritance: Option<&mut Inheritance>) -> Result<Serving, StartError> {
    let takes_over = inheritance.is_some();
    raise_descriptor_limit(&config);
    let running = Running::new(config);
    let config = running.get();
    let recorder = metrics::install();
    let clock = Clock::start();
    let clients: Arc<Clients> = Arc::default();
    let users = Users::new(&config);
    users.warm_up();
    let Outside { logs, notify, serving, mut handed, .. } = outside;
    let (inherited, lock) = inheritance
        .map(|inheritance| (std::mem::take(&mut inheritance.doors), inheritance.state.take()))
        .unwrap_or_default();
    handed.extend(inherited);
    let mut doors = doors::open(&config, handed)?;
    let left = config.state_dir.as_deref().map(|dir| Store::open(dir, lock.map(File::from))).transpose()?;
    if let Some((store, _)) = &left {
        doors.shares.push(Share::of_file(STATE, store.share()?));
    }
    let acceptor = ArcSwap::from_pointee(Acceptor::new(&config)?);
    let connector = Connector::new(&config)?;
    let databases = Databases::new(Arc::clone(&running), clock, recorder.clone(), connector);
    databases.warm(|role| users.credential(role));
    let watchdog = Watchdog::start(Arc::clone(&databases), clock)?;
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
        door: Arc::new(Door::new(acceptor)),
    };
    let registry = Registry::new(databases, clients, users, clock, left);
    // Whoever takes over begins when it is told to: nobody is lost if it never is.
    let (shutdown, ending) = watch::channel(if takes_over { Ending::Moved } else { Ending::Run });
    // Before anybody can know that we are here: a signal without a handler ends the process.
    let heard = Signals::install()?;
    let env = Env {
        front: front.clone(),
        registry,
        periods: Arc::default(),
        shutdown,
        answering: watch::Sender::default(),
        logs: Arc::new(logs),
        notify: Arc::new(notify),
        shares: Arc::new(ArcSwap::from_pointee(doors.shares)),
    };
    tokio::spawn(averages::keep(env.clone()));
    for (listener, via) in doors.clients {
        tracing::info!(on = %listener.describe(), console_only = via == Via::AdminSocket, "listening");
        tokio::spawn(accept(listener, via, env.clone(), ending.clone()));
    }
    if let Some(listener) = doors.metrics {
        tokio::spawn(serve_http(listener, recorder, env.clone()));
    }
    tokio::spawn(overdue::run(front));
    tokio::spawn(reload::watch(env.clone()));
    serving();
    env.registry.recover();
    if let Some(within) = notify::watchdog() {
        tokio::spawn(show_life(within, env.clone()));
    }
    Ok(Serving { env, ending, heard, _watchdog: watchdog })
}

/// Shows systemd's watchdog that tasks are run and that no lock of a database is stuck; whoever hangs there is started anew.
async fn show_life(within: Duration, env: Env) {
    // Twice in the time, as sd_watchdog_enabled(3) has it; never in a spin.
    let mut every = tokio::time::interval((within / 2).max(Duration::from_millis(10)));
    loop {
        every.tick().await;
        env.front.databases.list().iter().for_each(|database| _ = database.holds());
        // Whoever is in charge speaks for itself.
        if *env.shutdown.borrow() != Ending::Moved {
            env.notify.alive();
        }
    }
}

/// Accepts until the process stops taking clients.
async fn accept(listener: Listener, via: Via, env: Env, mut ending: watch::Receiver<Ending>) {
    /// After an accept that failed for want of descriptors there is no use in trying again at once.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut accepting = Some(env.front.door.accepts());
    loop {
        // The console goes on to be served: it is where an operator looks why the process has not ended yet.
        let stop = async {
            match via {
                Via::Listener => drop(ending.wait_for(|ending| *ending > Ending::Run).await),
                Via::AdminSocket => drop(ending.wait_for(|ending| ending.leaves_all_to_others()).await),
            }
        };
        tokio::select! {
            biased;
            () = stop => {
                // Another process accepts instead; if it dies, we go on.
                drop(accepting.take());
                if ending.wait_for(|ending| *ending != Ending::Moved).await.is_err() || *ending.borrow() > Ending::Run {
                    return;
                }
                accepting.get_or_insert_with(|| env.front.door.accepts());
            }
            accepted = listener.accept(|| env.front.config().tcp_watch()) => match accepted {
                Ok(stream) => {
                    // Here and now: it is seen from outside that somebody has come. Whoever comes through the console's own socket is
                    // always answered, as that is where an operator sees who takes the places, and takes none from those.
                    let place = match via {
                        Via::Listener => Arc::clone(&env.front.guests).try_acquire_owned().ok(),
                        Via::AdminSocket => None,
                    };
                    tokio::spawn(serve(stream, via, place, env.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, on = %listener.describe(), "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// One connection. A panic in here ends this connection only.
async fn serve(stream: crate::net::stream::Stream, via: Via, place: Option<OwnedSemaphorePermit>, env: Env) {
    let greeted = {
        let place = place;
        if place.is_none() && via == Via::Listener {
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

async fn serve_http(listener: Listener, recorder: Recorder, env: Env) {
    let mut ending = env.shutdown.subscribe();
    // Scrapes go to the process that has taken over; if it dies, they come here again.
    loop {
        match listener.again() {
            Ok(listener) => answer_http(listener, recorder.clone(), &env).await,
            Err(error) => tracing::warn!(%error, "metrics are not served"),
        }
        let _ = ending.wait_for(|ending| *ending != Ending::Moved).await;
        if *ending.borrow() > Ending::Run {
            return;
        }
    }
}

async fn answer_http(listener: TcpListener, recorder: Recorder, env: &Env) {
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
        let _ = ending.wait_for(|ending| ending.leaves_all_to_others()).await;
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
                transactions: stats.transaction.count(),
                queries: stats.query.count(),
                client_bytes_received: stats.received.value(),
                client_bytes_sent: stats.sent.value(),
                server_connects: stats.server_connects.value(),
                server_connect_failures: stats.server_connect_failures.value(),
                server_closes: stats.server_closes.value(),
                cancels: stats.cancels.value(),
                wait_time_us: stats.wait.sum_us(),
                transaction_time_us: stats.transaction.sum_us(),
                query_time_us: stats.query.sum_us(),
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
