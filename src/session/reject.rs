//! Answers a request that will not run: the error at once, then silence until the request ends, then ReadyForQuery.
//!
//! As Postgres does: after an error in the extended protocol everything is skipped up to Sync; a simple query ends
//! with itself. Nothing of the request has reached a server.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::relay::{End, check};
use crate::clients::{Client, Doing, Told};
use crate::net::stream::Stream;
use crate::wire::frame::{Flow, Verdict};
use crate::wire::reply::{self, Report, Severity};
use crate::wire::tags::client as from_client;

/// Answers the request whose first message stands at the front of `input`. **Not cancel-safe.**
pub(super) async fn reject(
    stream: &mut Stream,
    input: &mut Flow,
    (client, report): (&Client, &Report),
) -> Result<(), End> {
    let mut out = BytesMut::new();
    report.write(Severity::Error, &mut out);
    stream.write_all(&out).await.map_err(|_| End::ClientGone)?;
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
        let told = std::future::poll_fn(|cx| client.poll_told(cx, Doing::Resting));
        tokio::select! {
            biased;
            told = told => if let Told::Leave(why) = told {
                return Err(End::Dismissed(why));
            },
            read = stream.read_buf(&mut input.buf) => match read {
                Ok(0) | Err(_) => return Err(End::ClientGone),
                Ok(_) => {}
            },
        }
    }
    out.clear();
    reply::ready_for_query(&mut out);
    stream.write_all(&out).await.map_err(|_| End::ClientGone)
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
