//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, and the pages that others make for people. All of it is read-only.
//!
//! Bounded in every direction: a few connections at a time (the oldest makes room for the next), a deadline
//! for the request and one for the answer, one request per connection, no request body. Rendering happens on
//! a blocking thread, one at a time, so that no scrape slows a client down. Health never asks a pool: a hold
//! must not look like an illness; nor must a crowd of connections that say nothing, or an orchestrator would end a proxy
//! that is well.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use super::metrics::Recorder;

/// Whether applications should be sent here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// Yes. The note says what is special now, such as a window that holds clients; it may be empty.
    Ready(String),
    /// No, and why.
    NotReady(String),
}

/// A page for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Whether it is what was asked for, or says that there is no such thing.
    pub found: bool,
    /// Its type.
    pub kind: &'static str,
    /// Its `Content-Security-Policy`.
    pub policy: String,
    /// The page.
    pub body: String,
}

/// What the server asks others for.
#[derive(Clone)]
pub struct Sources {
    /// Where the metrics are.
    pub recorder: Recorder,
    /// Called before each scrape, on a blocking thread, to publish what is counted elsewhere; what it returns is added to the
    /// answer. Must not block long.
    pub snapshot: Arc<dyn Fn() -> String + Send + Sync>,
    /// Asked for each `/readyz`, on the event loop: must answer at once.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Asked for every other path and its query, on a blocking thread: the page there, if there is one.
    pub page: Arc<Pages>,
}

/// From a path and a query to a page.
pub type Pages = dyn Fn(&str, &str) -> Option<Page> + Send + Sync;

/// Connections that are served at the same time. Honest ones last for milliseconds: the oldest of so many is stuck.
const CONNECTIONS_MAX: usize = 32;
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a failing accept (out of descriptors, mostly) rests before it tries again.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Deadlines of one connection.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// For the request's head to arrive.
    head: Duration,
    /// For the metrics to be rendered.
    render: Duration,
    /// For the answer to be taken.
    write: Duration,
}

const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(5), render: Duration::from_secs(5), write: Duration::from_secs(5) };

/// Answers on `listener` until `shutdown` is ready, then stops accepting and lets the answers that are under way
/// finish within their deadlines. Dropping the future ends everything at once.
pub async fn serve(listener: TcpListener, sources: Sources, shutdown: impl Future<Output = ()> + Send) {
    serve_within(listener, sources, shutdown, DEADLINES).await;
}

async fn serve_within(listener: TcpListener, sources: Sources, shutdown: impl Future<Output = ()>, within: Deadlines) {
    let line = || Arc::new(Semaphore::new(1));
    let scraper = Scraper { sources, scrapes: line(), pages: line(), within: within.render };
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                oldest_first.retain(|connection| !connection.is_finished());
                while oldest_first.len() >= CONNECTIONS_MAX {
                    let Some(oldest) = oldest_first.pop_front() else { break };
                    oldest.abort();
                    // Those that have asked get their turn before more are let in.
                    tokio::task::yield_now().await;
                }
                oldest_first.push_back(connections.spawn(answer_one(stream, scraper.clone(), within)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves the one request of a connection. Its end is the sum of the deadlines at the latest.
async fn answer_one(stream: TcpStream, scraper: Scraper, within: Deadlines) {
    let answered = Arc::new(Notify::new());
    let near = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
    let service = service_fn(|request: Request<Incoming>| {
        let (scraper, answered) = (scraper.clone(), answered.clone());
        async move {
            let response = scraper.answer(&request, near).await;
            answered.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within.head)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let too_late = async {
        answered.notified().await;
        tokio::time::sleep(within.write).await;
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection for metrics ended early");
        },
        () = too_late => tracing::debug!("a connection for metrics did not take its answer in time"),
    }
}

/// Answers requests; cheap to clone.
#[derive(Clone)]
struct Scraper {
    sources: Sources,
    /// Scrapes stand in line, and so do those who look at pages: neither waits for the other.
    scrapes: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    within: Duration,
}

impl Scraper {
    /// `near`: it comes from this machine.
    async fn answer(&self, request: &Request<Incoming>, near: bool) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/readyz" => readiness((self.sources.readiness)()),
            "/healthz" => plain(StatusCode::OK, "ok\n".into()),
            _ if near && request.headers().get(HOST).is_some_and(elsewhere) => plain(
                StatusCode::MISDIRECTED_REQUEST,
                "ask for this page by an address or as localhost; a proxy before it has to send such a Host\n".into(),
            ),
            path => self.page(path, request.uri().query().unwrap_or_default()).await,
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let sources = self.sources.clone();
        let render = move || {
            let more = (sources.snapshot)();
            sources.recorder.render() + &more
        };
        match in_turn(&self.scrapes, self.within, render).await {
            Ok(Some(text)) => {
                let mut response = plain(StatusCode::OK, text);
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            Ok(None) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered\n".into()),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the metrics took too long\n".into()),
        }
    }

    async fn page(&self, path: &str, query: &str) -> Response<Full<Bytes>> {
        let (make, path, query) = (self.sources.page.clone(), path.to_owned(), query.to_owned());
        match in_turn(&self.pages, self.within, move || make(&path, &query)).await {
            Ok(Some(Some(page))) => shown(page),
            Ok(Some(None)) => plain(StatusCode::NOT_FOUND, "not found: try /, /metrics, /healthz or /readyz\n".into()),
            Ok(None) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n".into()),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the page took too long\n".into()),
        }
    }
}

/// Whether a browser on this machine was led here by a name of somebody's else (DNS rebinding), so that their scripts could
/// read the page: it is neither an address nor `localhost`, nor a name without a dot, which nobody outside can have.
fn elsewhere(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    !(address || !name.contains('.') || name.ends_with(".localhost"))
}

/// Does some work on a blocking thread, one after the other; a line that does not move is an error. `None` if it panicked.
async fn in_turn<T: Send + 'static>(
    line: &Arc<Semaphore>,
    within: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, tokio::time::error::Elapsed> {
    let line = Arc::clone(line);
    let done = async move {
        let turn = line.acquire_owned().await.ok()?;
        tokio::task::spawn_blocking(move || {
            // Moved in here: what was given up still keeps the next one waiting until it is done.
            let _turn = turn;
            work()
        })
        .await
        .ok()
    };
    tokio::time::timeout(within, done).await
}

fn shown(page: Page) -> Response<Full<Bytes>> {
    let mut response = plain(if page.found { StatusCode::OK } else { StatusCode::NOT_FOUND }, page.body);
    let Ok(policy) = HeaderValue::try_from(page.policy) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the page has no policy\n".into());
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let same = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same.clone());
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same);
    response
}

fn readiness(state: Readiness) -> Response<Full<Bytes>> {
    match state {
        Readiness::Ready(note) if note.is_empty() => plain(StatusCode::OK, "ready\n".into()),
        Readiness::Ready(note) => plain(StatusCode::OK, format!("ready: {note}\n")),
        Readiness::NotReady(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
