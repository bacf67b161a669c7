//! One question to Postgres with one bound value, in the extended protocol: what was given as a value can never be SQL.

use bytes::{BufMut, Bytes, BytesMut};

use super::conn::{Failure, Server, row};
use crate::wire::reply::Report;
use crate::wire::tags;

/// The most rows that an answer may have; one more is an error.
const ROWS_MAX: usize = 16;

impl Server {
    /// Runs a query of the proxy's own with `value` for `$1`, and gives its rows as text. The type of `$1` is Postgres' choice.
    /// **Not cancel-safe.**
    ///
    /// # Errors
    /// [`Failure::Refused`] with Postgres' own report if it failed; any other if the connection is not to be used again.
    pub async fn ask(&mut self, sql: &str, value: &str) -> Result<Vec<Vec<Option<Bytes>>>, Failure> {
        if sql.contains('\0') || value.contains('\0') {
            return Err(Failure::Protocol("a zero byte in a query of our own".to_owned()));
        }
        let mut body = BytesMut::new();
        // The unnamed statement, the query, no type given.
        body.put_u8(0);
        body.put_slice(sql.as_bytes());
        body.put_slice(&[0, 0, 0]);
        self.send(tags::client::PARSE, &body).await?;
        body.clear();
        // The unnamed portal and statement, all text; one value; all text.
        body.put_slice(&[0, 0, 0, 0, 0, 1]);
        body.put_u32(u32::try_from(value.len()).map_err(|_| Failure::Protocol("a value too long".to_owned()))?);
        body.put_slice(value.as_bytes());
        body.put_slice(&[0, 0]);
        self.send(tags::client::BIND, &body).await?;
        self.send(tags::client::EXECUTE, &[0, 0, 0, 0, 0]).await?;
        self.send(tags::client::SYNC, &[]).await?;
        self.rows().await
    }

    async fn rows(&mut self) -> Result<Vec<Vec<Option<Bytes>>>, Failure> {
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                tags::server::DATA_ROW if rows.len() < ROWS_MAX => rows.push(row(body.freeze())?),
                tags::server::DATA_ROW => {
                    return Err(Failure::Protocol(format!("more than {ROWS_MAX} rows where one was expected")));
                }
                tags::server::ERROR => {
                    let report = Report::parse(&body);
                    if self.progress.broken() {
                        return Err(Failure::Refused(report));
                    }
                    refused.get_or_insert(report);
                }
                tags::server::COPY_IN | tags::server::COPY_OUT => {
                    return Err(Failure::Protocol("COPY where rows were expected".to_owned()));
                }
                tags::server::READY_FOR_QUERY => {
                    return refused.map_or(Ok(rows), |report| Err(Failure::Refused(report)));
                }
                _ => {}
            }
        }
    }
}
