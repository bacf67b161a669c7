//! The console of a proxy, and what shutting the gate is called there.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;
use crate::load::Client;
use crate::targets::{Kind, Target};
use crate::wire;

/// A connection to the console of a proxy, which holds the clients of the database `bench` when it is told.
pub(crate) struct Console {
    client: Client,
    lull: bool,
    close: String,
}

impl Console {
    pub(crate) async fn open(target: &Target, port: u16) -> Result<Self> {
        let client = Client::log_in(port, "pgbouncer").await?;
        let lull = matches!(target.kind, Kind::Pglull(_));
        Ok(Self { client, lull, close: String::new() })
    }

    /// Returns when all open transactions have ended and everybody is held.
    pub(crate) async fn hold(&mut self) -> Result<()> {
        if !self.lull {
            self.close = "RESUME bench".to_owned();
            return self.client.ask(&wire::query("PAUSE bench"), 1).await;
        }
        let id = format!("bench{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros());
        let open = format!("WINDOW OPEN bench WITH (id='{id}', drain='5s', hold='30s', tenure='35s')");
        let answer = self.client.ask_for(&wire::query(&open)).await?;
        let token = rows(&answer).first().and_then(|row| row.get("token").cloned()).ok_or("no token")?;
        self.close = format!("WINDOW CLOSE {id} TOKEN '{token}'");
        Ok(())
    }

    /// Lets everybody go on.
    pub(crate) async fn release(&mut self) -> Result<()> {
        self.client.ask(&wire::query(&self.close), 1).await
    }
}

/// The rows of an answer, by the names of their columns.
fn rows(mut answer: &[u8]) -> Vec<BTreeMap<String, String>> {
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    while let Some((tag, length)) = wire::header(answer) {
        let body = &answer[5..length];
        answer = &answer[length..];
        match tag {
            b'T' => names = columns(body),
            b'D' => rows.push(names.iter().cloned().zip(values(body)).collect()),
            _ => {}
        }
    }
    rows
}

fn columns(body: &[u8]) -> Vec<String> {
    let (mut names, mut rest) = (Vec::new(), body.get(2..).unwrap_or_default());
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    names
}

fn values(body: &[u8]) -> Vec<String> {
    let (mut values, mut rest) = (Vec::new(), body.get(2..).unwrap_or_default());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        values.push(String::from_utf8_lossy(after.get(..length).unwrap_or_default()).into_owned());
        rest = after.get(length..).unwrap_or_default();
    }
    values
}
