//! Clients, the real session and pool, and a server that answers at once, all on one thread: each step of a session passes
//! through a probe, so that what it costs can be told from what the client, the server and the runtime cost.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use pglull::auth::users::Users;
use pglull::clock::Clock;
use pglull::config::{self, Running};
use pglull::net::stream::Stream;
use pglull::net::tls::accept::Acceptor;
use pglull::net::tls::connect::Connector;
use pglull::pool::databases::Databases;
use pglull::prepared::catalog::Catalog;
use pglull::session::front::{Door, Front, Via, guest_places};
use pglull::session::greet::{Greeted, greet};
use pglull::session::lookup::Lookups;
use pglull::telemetry::metrics::{self, ProxyMetrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::wire::{self, Frames};
use crate::{Result, backend};

/// Runs a step of a session, and may look at what that costs.
pub(crate) type Probe = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// What a client says, over and over.
#[derive(Clone, Default)]
pub(crate) struct Talk {
    /// Once, before, one after the other; each is answered by one ReadyForQuery.
    pub(crate) first: Vec<Vec<u8>>,
    /// Each time; answered by one ReadyForQuery.
    pub(crate) request: Vec<u8>,
}

impl Talk {
    /// One Query.
    pub(crate) fn simple() -> Self {
        Self { request: wire::query("SELECT abalance FROM pgbench_accounts WHERE aid = 4711"), ..Self::default() }
    }

    /// Parse, Bind, Describe, Execute, Sync with unnamed statement and portal.
    pub(crate) fn extended() -> Self {
        let mut request = Vec::new();
        wire::parse(&mut request, "", "SELECT abalance FROM pgbench_accounts WHERE aid = $1");
        wire::bind_and_run(&mut request, "", "4711");
        Self { request, ..Self::default() }
    }

    /// The same without Parse, with a statement prepared once.
    pub(crate) fn prepared() -> Self {
        let (mut first, mut request) = (Vec::new(), Vec::new());
        wire::parse(&mut first, "P_0", "SELECT abalance FROM pgbench_accounts WHERE aid = $1");
        wire::sync(&mut first);
        wire::bind_and_run(&mut request, "P_0", "4711");
        Self { first: vec![first], request }
    }

    /// The same within a transaction block that stays open.
    pub(crate) fn in_block(mut self) -> Self {
        self.first.push(wire::query("BEGIN"));
        self
    }
}

/// See the module's text.
pub(crate) struct Rig {
    runtime: Runtime,
    clients: Vec<Client>,
    request: Vec<u8>,
}

impl Rig {
    /// So many clients on so many servers, logged in, each with the first of its talk said.
    pub(crate) fn start((clients, servers): (usize, usize), talk: &Talk, probe: Probe) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clients = runtime.block_on(async {
            let backend = TcpListener::bind("127.0.0.1:0").await?;
            let front = front(backend.local_addr()?.port(), servers)?;
            tokio::spawn(backend::serve(backend));
            let door = TcpListener::bind("127.0.0.1:0").await?;
            let port = door.local_addr()?.port();
            tokio::spawn(accept(door, front, probe));
            let mut logged_in = Vec::new();
            for _ in 0..clients {
                logged_in.push(Client::log_in(port, &talk.first).await?);
            }
            Ok::<_, crate::Error>(logged_in)
        })?;
        Ok(Self { runtime, clients, request: talk.request.clone() })
    }

    /// Each client makes so many requests; all ask before any has its answer, each time another first: with fewer servers than
    /// clients, everyone has waited for one after as many rounds as there are clients, and has the timer that is kept from then on.
    pub(crate) fn run(&mut self, rounds: usize) -> Result<()> {
        let Self { runtime, clients, request } = self;
        runtime.block_on(async {
            // The list of those who yield is made anew for each `block_on`, by the first: not by a session, whose steps are counted.
            tokio::task::yield_now().await;
            for _ in 0..rounds {
                for client in &mut *clients {
                    client.stream.write_all(request).await?;
                }
                for client in &mut *clients {
                    client.answered().await?;
                }
                clients.rotate_left(1);
            }
            Ok(())
        })
    }
}

/// One connection of an application. It asks for no memory once it is logged in.
struct Client {
    stream: TcpStream,
    frames: Frames,
    buf: Box<[u8; 4096]>,
}

impl Client {
    async fn log_in(port: u16, first: &[Vec<u8>]) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, frames: Frames::default(), buf: Box::new([0; 4096]) };
        client.stream.write_all(&wire::startup("bench", "bench")).await?;
        client.answered().await?;
        for request in first {
            client.stream.write_all(request).await?;
            client.answered().await?;
        }
        Ok(client)
    }

    /// Reads to the next ReadyForQuery.
    async fn answered(&mut self) -> Result<()> {
        let mut ready = false;
        while !ready {
            let n = self.stream.read(&mut self.buf[..]).await?;
            let mut failed = n == 0;
            self.frames.feed(&self.buf[..n], |tag| match tag {
                b'Z' => ready = true,
                b'E' => failed = true,
                _ => {}
            });
            if failed {
                return Err(format!("no answer but: {}", wire::error_text(&self.buf[..n])).into());
            }
        }
        Ok(())
    }
}

/// What `app.rs` builds, without what a transaction does not need.
fn front(backend: u16, servers: usize) -> Result<Front> {
    let site = tempfile::tempdir()?;
    let file = site.path().join("pgbouncer.ini");
    let text = format!(
        "[databases]\nbench = host=127.0.0.1 port={backend} user=bench\n[pgbouncer]\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = {servers}\nmax_prepared_statements = 100\n"
    );
    std::fs::write(&file, text)?;
    let config = config::load(&file).map_err(|mistakes| format!("{mistakes:?}"))?;
    let running = Running::new(config);
    let config = running.get();
    let (clock, recorder) = (Clock::start(), metrics::install());
    let users = Users::new(&config);
    let databases = Databases::new(Arc::clone(&running), clock, recorder.clone(), Connector::new(&config)?);
    let acceptor = ArcSwap::from_pointee(Acceptor::new(&config)?);
    Ok(Front {
        running,
        clock,
        clients: Arc::default(),
        lookups: Lookups::new(clock, Arc::clone(&users)),
        users,
        databases,
        catalog: Arc::new(Catalog::new(config.prepared_statement_memory)),
        metrics: Arc::new(ProxyMetrics::new(&recorder)),
        guests: Arc::new(Semaphore::new(guest_places(config.max_client_conn))),
        door: Arc::new(Door::new(acceptor)),
    })
}

async fn accept(listener: TcpListener, front: Front, probe: Probe) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let stream = Stream::tcp(socket, &front.config().tcp_watch())?;
        if let Greeted::Session(session) = greet(stream, &front, Via::Listener).await {
            let session = Box::pin(session.run());
            tokio::spawn(Probed { session, probe: Arc::clone(&probe) });
        }
    }
}

/// A session whose every step passes through a probe.
struct Probed<F> {
    session: Pin<Box<F>>,
    probe: Probe,
}

impl<F: Future<Output = ()>> Future for Probed<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { session, probe } = self.get_mut();
        let mut polled = Poll::Pending;
        probe(&mut || polled = session.as_mut().poll(cx));
        polled
    }
}
