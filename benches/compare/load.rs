//! The load: many connections on one thread, each sending its request again as soon as the answer is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::Result;
use crate::hist::Histogram;
use crate::process::cpu_ns;
use crate::stream::{Stream, Tls};
use crate::wire::{self, Frames, error_text};

/// How long a client may wait for one answer before the cell counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What each client says.
#[derive(Clone, Default)]
pub(crate) struct Talk {
    /// Once, before anything is measured; answered by one ReadyForQuery, unless it is empty.
    pub(crate) first: Vec<u8>,
    /// Over and over.
    pub(crate) request: Vec<u8>,
    /// How many ReadyForQuery answer a request, each one transaction.
    pub(crate) answers: u32,
}

/// How statements are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Mode {
    /// One Query.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync with unnamed statement and portal.
    Extended,
    /// The same without Parse, with a statement prepared once.
    Prepared,
    /// Eight times what `Extended` sends, in one go.
    Pipelined,
}

impl Mode {
    pub(crate) const ALL: [Self; 4] = [Self::Simple, Self::Extended, Self::Prepared, Self::Pipelined];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
            Self::Pipelined => "pipelined",
        }
    }

    /// pgbench's `-S`, in this way.
    pub(crate) fn talk(self) -> Talk {
        const PIPELINE: u32 = 8;
        const STATEMENT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = ";
        let with_parameter = format!("{STATEMENT}$1");
        let (mut first, mut request, mut answers) = (Vec::new(), Vec::new(), 1);
        match self {
            Self::Simple => request = wire::query(&format!("{STATEMENT}4711")),
            Self::Extended => extended(&mut request, &with_parameter),
            Self::Prepared => {
                wire::parse(&mut first, "P_0", &with_parameter);
                wire::sync(&mut first);
                wire::bind_and_run(&mut request, "P_0", "4711");
            }
            Self::Pipelined => {
                answers = PIPELINE;
                (0..PIPELINE).for_each(|_| extended(&mut request, &with_parameter));
            }
        }
        Talk { first, request, answers }
    }
}

fn extended(out: &mut Vec<u8>, statement: &str) {
    wire::parse(out, "", statement);
    wire::bind_and_run(out, "", "4711");
}

/// One measurement.
pub(crate) struct Run {
    pub(crate) port: u16,
    pub(crate) talk: Talk,
    pub(crate) clients: usize,
    pub(crate) warm: Duration,
    pub(crate) span: Duration,
    /// Whose processor time is looked at.
    pub(crate) pid: Option<u32>,
}

/// What was seen while it was measured.
pub(crate) struct Seen {
    pub(crate) latency: Histogram,
    pub(crate) transactions: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_ns: u64,
    /// Those before and after the measurement too.
    pub(crate) in_all: u64,
}

impl Seen {
    pub(crate) fn tps(&self) -> f64 {
        self.transactions as f64 / self.seconds
    }

    /// How much of one core the proxy had, in percent.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu_ns as f64 / 1e7 / self.seconds
    }

    /// Microseconds of the proxy's processor time for each transaction.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.transactions as f64
    }
}

/// Logs all clients in, lets them talk, and tells what was seen.
///
/// # Errors
/// What the first client met that could not go on.
pub(crate) async fn run(run: &Run) -> Result<Seen> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let talk = Arc::new(run.talk.clone());
    let mut clients = JoinSet::new();
    for _ in 0..run.clients {
        let mut client = Client::log_in(run.port, "bench").await?;
        if !talk.first.is_empty() {
            client.ask(&talk.first, 1).await?;
        }
        let (talk, phase) = (Arc::clone(&talk), Arc::clone(&phase));
        clients.spawn(async move { client.talk(&talk, &phase).await.map_err(|error| error.to_string()) });
    }
    let cpu = || run.pid.map_or(Ok(0), cpu_ns);
    tokio::time::sleep(run.warm).await;
    let (before, began) = (cpu()?, Instant::now());
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(run.span).await;
    phase.store(OVER, Ordering::Relaxed);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu()?);
    let mut latency = Histogram::default();
    let mut in_all = 0;
    while let Some(client) = clients.join_next().await {
        let (seen, count) = client??;
        latency.merge(&seen);
        in_all += count * u64::from(talk.answers);
    }
    let transactions = latency.total() * u64::from(talk.answers);
    if transactions == 0 {
        return Err("no transaction".into());
    }
    Ok(Seen { latency, transactions, seconds, cpu_ns: after - before, in_all })
}

/// One connection.
pub(crate) struct Client {
    stream: Stream,
    frames: Frames,
    buf: Box<[u8; 8192]>,
}

impl Client {
    /// Connects and logs in.
    pub(crate) async fn log_in(port: u16, database: &str) -> Result<Self> {
        Self::enter(port, database, None).await
    }

    /// The same, perhaps over TLS.
    pub(crate) async fn enter(port: u16, database: &str, tls: Option<&Tls>) -> Result<Self> {
        let entering = async {
            let mut stream = Stream::open(port, tls).await?;
            stream.log_in(database).await?;
            Ok(Self { stream, frames: Frames::default(), buf: Box::new([0; 8192]) })
        };
        timeout(PATIENCE, entering).await.map_err(|_| "no log-in in time")?
    }

    /// Says good-bye.
    pub(crate) async fn leave(mut self) -> Result<()> {
        Ok(self.stream.send(b"X\0\0\0\x04").await?)
    }

    /// Sends, and reads until so many ReadyForQuery have come; an error on the way is ours.
    pub(crate) async fn ask(&mut self, request: &[u8], answers: u32) -> Result<()> {
        timeout(PATIENCE, self.exchange(request, answers)).await.map_err(|_| "no answer in time")?
    }

    /// Sends one Query, and gives back all that came until ReadyForQuery.
    pub(crate) async fn ask_for(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        timeout(PATIENCE, self.exchange_with(request, 1, |bytes| answer.extend_from_slice(bytes)))
            .await
            .map_err(|_| "no answer in time")??;
        Ok(answer)
    }

    async fn exchange(&mut self, request: &[u8], answers: u32) -> Result<()> {
        self.exchange_with(request, answers, |_| ()).await
    }

    async fn exchange_with(&mut self, request: &[u8], answers: u32, mut each: impl FnMut(&[u8])) -> Result<()> {
        self.stream.send(request).await?;
        let mut missing = answers;
        while missing > 0 {
            let n = self.stream.receive(&mut self.buf[..]).await?;
            each(&self.buf[..n]);
            let (mut ready, mut failed) = (0, false);
            self.frames.feed(&self.buf[..n], |tag| match tag {
                b'Z' => ready += 1,
                b'E' => failed = true,
                _ => {}
            });
            if failed {
                return Err(error_text(&self.buf[..n]).into());
            }
            missing = missing.saturating_sub(ready);
        }
        Ok(())
    }

    /// Sends `statement`, and then `data` where it is a COPY from us; reads all there is to the end.
    pub(crate) async fn bulk(&mut self, statement: &str, data: &[u8], buf: &mut [u8]) -> Result<()> {
        self.stream.send(&wire::query(statement)).await?;
        let (mut over, mut failure) = (false, None);
        while !over {
            let n = self.stream.receive(buf).await?;
            let mut asked = false;
            self.frames.feed(&buf[..n], |tag| match tag {
                b'Z' => over = true,
                b'G' => asked = true,
                b'E' => failure = Some(error_text(&buf[..n])),
                _ => {}
            });
            if asked {
                self.stream.send(data).await?;
            }
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    async fn talk(mut self, talk: &Talk, phase: &AtomicU8) -> Result<(Histogram, u64)> {
        let (mut seen, mut count) = (Histogram::default(), 0);
        loop {
            let began = Instant::now();
            // One timer for each request would be the dearest part of the load.
            self.exchange(&talk.request, talk.answers).await?;
            count += 1;
            match phase.load(Ordering::Relaxed) {
                WARMING => {}
                MEASURING => seen.add(began.elapsed()),
                _ => return Ok((seen, count)),
            }
        }
    }
}
