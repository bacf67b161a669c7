//! The client against a console that is played from a script.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Serves one connection: the start-up is read and answered, then each query gets the next answer.
fn serve(path: &Path, answers: Vec<Vec<u8>>) -> tokio::task::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap() as usize;
        let mut startup = vec![0; length - 4];
        stream.read_exact(&mut startup).await.unwrap();
        let mut seen = vec![String::from_utf8_lossy(&startup).into_owned()];
        stream.write_all(&message(b'R', &[0; 4])).await.unwrap();
        stream.write_all(&message(b'Z', b"I")).await.unwrap();
        for answer in answers {
            assert_eq!(stream.read_u8().await.unwrap(), b'Q');
            let length = stream.read_u32().await.unwrap() as usize;
            let mut query = vec![0; length - 4];
            stream.read_exact(&mut query).await.unwrap();
            seen.push(String::from_utf8_lossy(&query).into_owned());
            stream.write_all(&answer).await.unwrap();
        }
        seen
    })
}

fn someone() -> Login {
    Login { user: "someone".into(), password: None }
}

#[tokio::test]
async fn rows_notices_errors_and_the_next_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let row = [&[0, 1, 0, 0, 0, 1][..], b"7"].concat();
    let good = [
        message(b'N', b"SNOTICE\0Mdraining\0\0"),
        message(b'T', &[&[0, 1][..], b"id\0", &[0; 18]].concat()),
        message(b'D', &row),
        message(b'C', b"WINDOW\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let bad = [message(b'E', b"SERROR\0C55000\0Mno\0Htry\0\0"), message(b'Z', b"I")].concat();
    let server = serve(&path, vec![bad, good]);
    let mut console = Console::connect(&Endpoint::Unix(path), &someone()).await.unwrap();

    let failure = console.query("SHOW X").await.unwrap_err();
    assert_eq!((failure.to_string().as_str(), failure.advice().as_str()), ("no (SQLSTATE 55000)", "try"));

    let mut notices = Vec::new();
    let answer = console.run("WINDOW", |n| notices.push(n.message)).await.unwrap();
    assert_eq!(notices, ["draining"]);
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].first("id"), answer[0].first("none")), (Some("7"), None));
    assert_eq!(answer[0].tag, "WINDOW");
    let seen = server.await.unwrap();
    assert!(seen[0].contains("user\0someone\0database\0pglull\0"), "{seen:?}");
    assert_eq!(seen[1..], ["SHOW X\0", "WINDOW\0"]);
}

#[tokio::test]
async fn a_connection_that_ends_in_the_answer_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let server = serve(&path, vec![b"C\0\0".to_vec()]);
    let mut console = Console::connect(&Endpoint::Unix(path), &someone()).await.unwrap();
    assert!(matches!(console.query("SHOW X").await, Err(ClientError::Closed)));
    assert!(matches!(console.query("SHOW X").await, Err(ClientError::Busy)));
    server.await.unwrap();
}

#[tokio::test]
async fn nobody_there_comes_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let failure = Console::connect(&Endpoint::Unix(dir.path().join("none")), &someone()).await.err().unwrap();
    assert!(matches!(failure, ClientError::Connect { .. }));
    assert!(failure.advice().contains("--socket"));
}

#[test]
fn scram_and_md5_answers_need_a_password_and_never_show_it() {
    let without = someone();
    let mut out = BytesMut::new();
    let failure = login::Exchange::new(&without).answer(5, b"salt", &mut out).unwrap_err();
    assert!(matches!(failure, ClientError::Login(_)));
    let with = Login { password: Some("geheim".into()), ..someone() };
    let mut exchange = login::Exchange::new(&with);
    exchange.answer(10, b"SCRAM-SHA-256\0\0", &mut out).unwrap();
    assert!(!out.is_empty());
    let failure = exchange.answer(11, b"nonsense", &mut out).unwrap_err();
    assert!(!failure.to_string().contains("geheim"));
    assert!(login::Exchange::new(&with).answer(11, b"r=x", &mut out).is_err());
    assert!(login::Exchange::new(&with).answer(7, b"", &mut out).is_err());
}
