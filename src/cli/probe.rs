//! `pglull probe`: asks a running proxy how it is, for health checks where there is no other program to ask with.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{FAILED, err, out};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Whether applications should come here: no while it shuts down (/readyz)
    Ready,
    /// Whether it runs at all: if not, start it anew (/healthz)
    Live,
}

/// Options of `pglull probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to ask
    #[arg(value_enum, value_name = "WHAT", default_value = "ready")]
    pub what: What,
    /// Where the proxy answers: its metrics_addr
    #[arg(long, env = "PGLULL_METRICS_ADDR", value_name = "HOST:PORT", default_value = "127.0.0.1:9632")]
    pub addr: SocketAddr,
    /// How many seconds the answer may take
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Wait so many seconds before asking: for a hook that has to wait before it lets the proxy be stopped
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub after: u64,
}

/// The most bytes of an answer that are read; those of the proxy are one line.
const ANSWER_MAX: u64 = 16 * 1024;

/// Says how it is in one line. Exit code 0 for well, 1 for anything else.
pub async fn probe(args: ProbeArgs) -> ExitCode {
    tokio::time::sleep(Duration::from_secs(args.after)).await;
    let path = match args.what {
        What::Ready => "/readyz",
        What::Live => "/healthz",
    };
    let (addr, within) = (args.addr, Duration::from_secs(args.timeout));
    let verdict = match tokio::time::timeout(within, ask(addr, path)).await {
        Err(_) => Err(format!("no answer from {addr} within {} s", within.as_secs())),
        Ok(Err(error)) => Err(format!("cannot ask {addr}: {error} (is it pglull's metrics_addr?)")),
        Ok(Ok(answer)) => read(&answer),
    };
    match verdict {
        Ok(said) => {
            out(&format!("{said}\n"));
            ExitCode::SUCCESS
        }
        Err(why) => {
            err(&format!("pglull: {why}\n"));
            ExitCode::from(FAILED)
        }
    }
}

async fn ask(addr: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The first line of the body, if the status is 200.
fn read(answer: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default();
    let Some(code) = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)) else {
        return Err("the answer is not HTTP: is another program there?".to_owned());
    };
    let said = super::table::visible(body.lines().next().unwrap_or_default());
    if code == "200" { Ok(said) } else { Err(if said.is_empty() { format!("status {code}") } else { said }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let is = |answer: &str, expected: Result<&str, &str>| {
            let expected = expected.map(ToOwned::to_owned).map_err(ToOwned::to_owned);
            assert_eq!(read(answer.as_bytes()), expected, "{answer:?}");
        };
        is("HTTP/1.1 200 OK\r\nx: y\r\n\r\nready: 1 windows are running\n", Ok("ready: 1 windows are running"));
        is("HTTP/1.1 503 No\r\n\r\nnot ready: shutting down\n", Err("not ready: shutting down"));
        is("HTTP/1.1 404 Not Found\r\n\r\n", Err("status 404"));
        is("SSH-2.0-x\r\n", Err("the answer is not HTTP: is another program there?"));
        is("", Err("the answer is not HTTP: is another program there?"));
        is("HTTP/1.1\r\n\r\n", Err("the answer is not HTTP: is another program there?"));
    }
}
