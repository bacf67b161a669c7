//! Answers a request that will not run: the error at once, then silence until the request ends, then ReadyForQuery.
//!
//! As Postgres does: after an error in the extended protocol everything is skipped up to Sync; a simple query ends
//! with itself. Nothing of the request has reached a server.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::relay::{End, check};
use crate::clients::{Client, Doing};
use crate::net::watched::Watched;
use crate::wire::frame::{Flow, Verdict};
use crate::wire::reply::{self, Report, Severity};
use crate::wire::tags::client as from_client;

/// How long a client may take to read an answer that no server gives before it counts as gone.
const UNREAD: Duration = Duration::from_mins(1);

/// A client's ear, for answers that no server gives.
pub(super) struct Ear<'a> {
    pub(super) stream: &'a mut Watched,
    pub(super) client: &'a Client,
    /// What it does: working where its transaction is open.
    pub(super) doing: Doing,
    /// Set where it has got half a message.
    pub(super) mid_answer: &'a mut bool,
}

impl Ear<'_> {
    /// Tells it something, whole. Ends where it does not listen: when it is sent away, or after a while. **Not cancel-safe.**
    pub(super) async fn tell(&mut self, mut out: BytesMut) -> Result<(), End> {
        let all = out.len();
        let end = tokio::select! {
            biased;
            told = self.stream.write_all_buf(&mut out) => return told.map_err(|_| End::ClientGone),
            why = self.client.sent_away(self.doing) => End::Dismissed(why),
            () = tokio::time::sleep(UNREAD) => End::ClientGone,
        };
        *self.mid_answer = out.len() < all;
        Err(end)
    }
}

/// Answers the request whose first message stands at the front of `input`. If a transaction is open, it has failed.
/// **Not cancel-safe.**
pub(super) async fn reject(mut ear: Ear<'_>, input: &mut Flow, report: &Report) -> Result<(), End> {
    let mut out = BytesMut::new();
    report.write(Severity::Error, &mut out);
    ear.tell(out).await?;
    let mut skip = Skip::default();
    loop {
        input.walk(|head, _, _| {
            check(head)?;
            skip.judge(head.tag)
        })?;
        if skip.over && !input.mid_message() {
            break;
        }
        input.buf.reserve(4096);
        tokio::select! {
            biased;
            why = ear.client.sent_away(ear.doing) => return Err(End::Dismissed(why)),
            read = ear.stream.read_buf(&mut input.buf) => match read {
                Ok(0) | Err(_) => return Err(End::ClientGone),
                Ok(_) => {}
            },
        }
    }
    let mut out = BytesMut::new();
    match ear.doing {
        Doing::Working => reply::ready_to_roll_back(&mut out),
        Doing::Resting | Doing::Waiting => reply::ready_for_query(&mut out),
    }
    ear.tell(out).await
}

/// Finds the end of a request.
#[derive(Default)]
struct Skip {
    began: bool,
    over: bool,
}

impl Skip {
    fn judge(&mut self, tag: u8) -> Result<Verdict, End> {
        if self.over {
            return Ok(Verdict::Stop);
        }
        let first = !std::mem::replace(&mut self.began, true);
        match tag {
            from_client::TERMINATE => return Err(End::ClientLeft),
            from_client::SYNC => self.over = true,
            from_client::QUERY | from_client::FUNCTION_CALL => self.over = first,
            _ => {}
        }
        Ok(Verdict::Drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_postgres_would_end_it() {
        for (tags, left) in [("QQ", 1), ("FQ", 1), ("PBDESQ", 1), ("PBEQSQ", 1), ("SPBES", 4), ("PdcHS", 0)] {
            let mut skip = Skip::default();
            let dropped = tags.bytes().take_while(|tag| matches!(skip.judge(*tag), Ok(Verdict::Drop))).count();
            assert_eq!(tags.len() - dropped, left, "{tags}");
        }
    }
}
