//! Whole windows against a console that is played: two connections at the same time, as the real one has them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::cli::client::{Endpoint, Login};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn rows(columns: &[&str], rows: &[&[&str]], tag: &str) -> Vec<u8> {
    let count = |n: usize| u16::try_from(n).unwrap().to_be_bytes().to_vec();
    let mut body = count(columns.len());
    for column in columns {
        body.extend([column.as_bytes(), &[0; 19]].concat());
    }
    let mut out = message(b'T', &body);
    for row in rows {
        let mut body = count(row.len());
        for value in *row {
            body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value.as_bytes());
        }
        out.extend(message(b'D', &body));
    }
    out.extend(message(b'C', &[tag.as_bytes(), b"\0"].concat()));
    out.extend(message(b'Z', b"I"));
    out
}

/// What the played console does with `WINDOW APPLY`.
#[derive(Clone, Copy)]
enum Play {
    Applies,
    Refuses,
    /// The connection breaks, and the receipt knows this outcome.
    Breaks(&'static str),
}

async fn read(stream: &mut UnixStream, startup: bool) -> Option<String> {
    if !startup {
        stream.read_u8().await.ok()?;
    }
    let length = stream.read_u32().await.ok()? as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some(String::from_utf8_lossy(&body).into_owned())
}

/// One connection. `looks` counts how often somebody has looked at the window: it applies once it was looked at.
async fn converse(mut stream: UnixStream, play: Play, looks: Arc<AtomicUsize>) -> Option<()> {
    read(&mut stream, true).await?;
    let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
    stream.write_all(&welcome).await.ok()?;
    while let Some(query) = read(&mut stream, false).await {
        let answer = if query.starts_with("WINDOW APPLY") {
            assert_eq!(query, "WINDOW APPLY bench WITH (id='w-1') AS $$SELECT 1$$\0");
            while looks.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let notice = message(b'N', b"SNOTICE\0Mdraining\0\0");
            stream.write_all(&notice).await.ok()?;
            match play {
                Play::Applies => rows(&["id", "outcome"], &[&["w-1", "applied"]], "WINDOW"),
                Play::Refuses => [message(b'E', b"SERROR\0C55000\0Mw-1: refused\0\0"), message(b'Z', b"I")].concat(),
                Play::Breaks(_) => return None,
            }
        } else {
            assert_eq!(query, "SHOW WINDOW w-1\0");
            looks.fetch_add(1, Ordering::SeqCst);
            let outcome = match play {
                Play::Applies => "applied",
                Play::Refuses => "refused",
                Play::Breaks(outcome) => outcome,
            };
            rows(&["key", "value"], &[&["id", "w-1"], &["outcome", outcome]], "SHOW")
        };
        stream.write_all(&answer).await.ok()?;
    }
    Some(())
}

fn console(path: &Path, play: Play) -> Site {
    let listener = UnixListener::bind(path).unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, play, Arc::clone(&looks)));
        }
    });
    let login = Login { user: "someone".into(), password: None };
    Site { endpoint: Endpoint::Unix(path.to_owned()), login }
}

async fn ended(play: Play) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let site = console(&dir.path().join("a"), play);
    let bounds = crate::cli::args::BoundsArgs::default();
    let change = Change {
        database: "bench",
        bounds: &bounds,
        id: "w-1",
        sql: "SELECT 1",
        parts: &[],
        verify: None,
        start_within: None,
    };
    apply(&site, &change, View::Lines).await.unwrap()
}

#[tokio::test]
async fn an_applied_window() {
    let ended = ended(Play::Applies).await;
    assert!(ended.applied());
    assert_eq!(ended.status.unwrap().text("outcome"), "applied");
    assert!(ended.sent <= ended.answered);
}

#[tokio::test]
async fn a_refused_window() {
    let ended = ended(Play::Refuses).await;
    assert!(!ended.applied());
    assert!(matches!(ended.answer, Err(ClientError::Server(_))));
}

#[tokio::test]
async fn a_lost_answer_is_decided_by_the_receipt() {
    assert!(ended(Play::Breaks("applied")).await.applied());
    assert!(!ended(Play::Breaks("aborted")).await.applied());
}

#[test]
fn what_is_drawn_says_already_is_not_said_again_and_all_else_is() {
    assert!(tells_phase("window w-1: draining (+3 ms)", "w-1"));
    for other in [
        "waiting: sessions: process 7",
        "try 1: drain bound 250 ms",
        "window w-12: draining",
        "table \"x\" does not exist, skipping",
    ] {
        assert!(!tells_phase(other, "w-1"), "{other}");
    }
}
