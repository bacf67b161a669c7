//! The HTTP side over a real loopback socket, with raw bytes: what is tested is what a stranger can do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{CONNECTIONS_MAX, Deadlines, Page, Readiness, Sources, serve_within};
use crate::telemetry::metrics::{Totals, install, publish};

const SHORT: Deadlines = Deadlines {
    head: Duration::from_millis(200),
    render: Duration::from_millis(200),
    write: Duration::from_millis(200),
};
/// For tests of something else: a busy machine must not make them fail.
const LONG: Deadlines = Deadlines { head: PATIENCE, render: PATIENCE, write: PATIENCE };
/// Far more than any test needs: reaching it is a failure, not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    addr: SocketAddr,
    state: Arc<Mutex<Readiness>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start(within: Deadlines, before_scrape: impl Fn() + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let recorder = install();
    let state = Arc::new(Mutex::new(Readiness::Ready(String::new())));
    let (counted, published, asked) = (AtomicU64::new(0), recorder.clone(), state.clone());
    let sources = Sources {
        recorder,
        snapshot: Arc::new(move || {
            before_scrape();
            let transactions = counted.fetch_add(1, Ordering::Relaxed) + 1;
            publish(&published, "shop", "app", &Totals { transactions, ..Totals::default() });
            String::new()
        }),
        readiness: Arc::new(move || asked.lock().unwrap().clone()),
        page: Arc::new(|path, query| {
            assert_ne!(path, "/panic");
            let body = format!("<p>{query}</p>");
            let policy = "default-src 'none'".to_owned();
            path.starts_with("/page").then_some(Page { found: path == "/page", kind: "text/html", policy, body })
        }),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve_within(listener, sources, async move { drop(stopped.await) }, within));
    Server { addr, state, stop, task }
}

/// Sends raw bytes and returns everything that comes back until the connection ends, however it ends.
async fn send(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[tokio::test]
async fn metrics_are_published_and_rendered_at_each_scrape() {
    let server = start(LONG, || ()).await;
    for scrape in 1..=2 {
        let answer = send(server.addr, &get("/metrics")).await;
        assert_eq!(status(&answer), "200", "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("# TYPE pglull_transactions_total counter\n"), "{answer}");
        let line = format!("pglull_transactions_total{{database=\"shop\",user=\"app\"}} {scrape}\n");
        assert!(answer.contains(&line), "{answer}");
    }
}

#[tokio::test]
async fn health_and_readiness() {
    let server = start(LONG, || ()).await;
    assert!(send(server.addr, &get("/healthz")).await.ends_with("\r\n\r\nok\n"));
    for (state, code, body) in [
        (Readiness::Ready(String::new()), "200", "ready\n"),
        (Readiness::Ready("shop is held by window 7".into()), "200", "ready: shop is held by window 7\n"),
        (Readiness::NotReady("shutting down".into()), "503", "not ready: shutting down\n"),
    ] {
        *server.state.lock().unwrap() = state;
        let answer = send(server.addr, &get("/readyz")).await;
        assert_eq!(status(&answer), code, "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        assert_eq!(status(&send(server.addr, &get("/healthz")).await), "200", "alive, ready or not");
    }
}

#[tokio::test]
async fn everything_else_is_refused() {
    let server = start(LONG, || ()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64 * 1024));
    for (request, expected) in [
        (get("/"), "404"),
        (get("/metrics/"), "404"),
        (get("/../etc/passwd"), "404"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".into(), "405"),
        ("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n".into(), "405"),
        ("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n".into(), "200"),
        ("\0\0\0\u{8}\u{4}\u{d2}\u{16}/\r\n\r\n".into(), "400"),
    ] {
        let answer = send(server.addr, &request).await;
        assert_eq!(status(&answer), expected, "{request:?}: {answer}");
    }
    // A head that is too long may be cut before its answer can be read.
    let answer = send(server.addr, &long).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert_eq!(status(&send(server.addr, &get("/healthz")).await), "200");
}

#[tokio::test]
async fn pages_are_served_and_nothing_else_may_come_of_them() {
    let server = start(LONG, || ()).await;
    let answer = send(server.addr, &get("/page?a=b")).await;
    assert_eq!(status(&answer), "200");
    assert!(answer.ends_with("\r\n\r\n<p>a=b</p>"), "{answer}");
    for header in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "x-frame-options: DENY",
        "referrer-policy: no-referrer",
        "content-type: text/html",
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    assert_eq!(status(&send(server.addr, &get("/page/none")).await), "404");
    assert_eq!(status(&send(server.addr, &get("/panic")).await), "500");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let answer = send(server.addr, &format!("{method} /page HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(status(&answer), "405", "{answer}");
        assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    }
    let answer = send(server.addr, "HEAD /page HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_name_of_somebodys_own_shows_no_page_to_a_browser_on_this_machine() {
    let server = start(LONG, || ()).await;
    for (host, expect) in [
        ("localhost", "200"),
        ("LOCALHOST:9632", "200"),
        ("127.0.0.1:9632", "200"),
        ("[::1]:9632", "200"),
        ("db-1:9632", "200"),
        ("a.localhost", "200"),
        ("evil.example", "421"),
        ("evil.example.:9632", "421"),
        ("127.0.0.1.evil.example:9632", "421"),
        ("\u{e9}vil.example", "421"),
    ] {
        let answer = send(server.addr, &format!("GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(status(&answer), expect, "{host}: {answer}");
    }
    // Scrapers and probes name a machine as they like.
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = send(server.addr, &format!("GET {path} HTTP/1.1\r\nHost: db.example\r\n\r\n")).await;
        assert_eq!(status(&answer), "200", "{answer}");
    }
}

#[tokio::test]
async fn one_request_per_connection() {
    let server = start(LONG, || ()).await;
    let twice = get("/healthz").repeat(2);
    let answer = send(server.addr, &twice).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn silent_connections_end_by_themselves() {
    let server = start(SHORT, || ()).await;
    let mut silent = half_asked(&server, CONNECTIONS_MAX / 2).await;
    let asked = Instant::now();
    for stream in &mut silent {
        assert!(!rest(stream).await.contains(" 200 "));
    }
    assert!(asked.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_crowd_of_silent_connections_keeps_no_health_check_waiting() {
    // No deadline comes to its help.
    let server = start(LONG, || ()).await;
    let mut crowd = half_asked(&server, 10 * CONNECTIONS_MAX).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = timeout(PATIENCE / 2, send(server.addr, &get(path))).await.expect("nobody made room");
        assert_eq!(status(&answer), "200", "{answer}");
    }
    // The oldest have made room, one for each that came.
    for stream in &mut crowd[..9 * CONNECTIONS_MAX] {
        assert_eq!(rest(stream).await, "");
    }
}

async fn half_asked(server: &Server, many: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..many {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        silent.push(stream);
    }
    silent
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    // Large enough to fill the socket buffers of both sides.
    let recorder_filler = Arc::new(Mutex::new(None));
    let filler = recorder_filler.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let recorder = install();
    let published = recorder.clone();
    let sources = Sources {
        recorder,
        snapshot: Arc::new(move || {
            let mut done = filler.lock().unwrap();
            if done.is_none() {
                for user in 0..40 {
                    publish(&published, &"x".repeat(20_000), &user.to_string(), &Totals::default());
                }
                *done = Some(());
            }
            String::new()
        }),
        readiness: Arc::new(|| Readiness::Ready(String::new())),
        page: Arc::new(|_, _| None),
    };
    let within = Deadlines { render: PATIENCE, ..SHORT };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve_within(listener, sources, async move { drop(stopped.await) }, within));
    let mut lazy = TcpStream::connect(addr).await.unwrap();
    lazy.write_all(get("/metrics").as_bytes()).await.unwrap();
    // The first byte shows that the answer is under way; then nothing is read any more.
    let mut first = [0];
    timeout(PATIENCE, lazy.read_exact(&mut first)).await.unwrap().unwrap();
    stop.send(()).unwrap();
    timeout(PATIENCE, task).await.expect("the server waits for a reader that never reads").unwrap();
    drop(lazy);
}

#[tokio::test]
async fn a_snapshot_that_panics_breaks_only_its_scrape() {
    let sane = Arc::new(AtomicBool::new(false));
    let told = sane.clone();
    let server = start(LONG, move || assert!(told.load(Ordering::SeqCst), "expected by this test")).await;
    assert_eq!(status(&send(server.addr, &get("/metrics")).await), "500");
    sane.store(true, Ordering::SeqCst);
    assert_eq!(status(&send(server.addr, &get("/metrics")).await), "200");
}

#[tokio::test]
async fn a_snapshot_that_hangs_stops_no_health_check() {
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    // Hangs until the sender has gone.
    let hang = move || {
        let _ = opened.lock().unwrap().recv();
    };
    let server = start(Deadlines { render: SHORT.render, ..LONG }, hang).await;
    for line in ["it hangs", "it stands behind the one that hangs"] {
        assert_eq!(status(&send(server.addr, &get("/metrics")).await), "503", "{line}");
        assert_eq!(status(&send(server.addr, &get("/healthz")).await), "200", "{line}");
    }
    drop(gate);
    let recovered = async { while status(&send(server.addr, &get("/metrics")).await) != "200" {} };
    timeout(PATIENCE, recovered).await.unwrap();
}

#[tokio::test]
async fn shutdown_frees_the_port_and_ends() {
    let server = start(SHORT, || ()).await;
    let mut open = TcpStream::connect(server.addr).await.unwrap();
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.task).await.expect("it waits for a silent connection").unwrap();
    assert_eq!(rest(&mut open).await, "");
    assert!(TcpStream::connect(server.addr).await.is_err());
}
