//! Preparing anew what a change of the schema has made stale, before anybody needs it.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt as _;

use super::conn::{Failure, Server};
use crate::prepared::catalog::Statement;
use crate::prepared::slots::{Shape, write_name};
use crate::prepared::{Digest, Digesting};
use crate::wire::tags::{client, server};

/// How many statements a server prepares anew in advance: those that it ran last. The others are prepared when they are
/// asked for, so that nobody waits for what nobody uses.
const HOT: usize = 16;

impl Server {
    /// Forgets what it has prepared in an older state of the schema than this, and writes one batch that has the hot
    /// statements prepared anew. Gives them; [`renewed`](Self::renewed) reads the answer. **Not cancel-safe**: a batch that is
    /// written in part ends the connection.
    ///
    /// # Errors
    /// If the socket is dead.
    pub async fn renew(&mut self, schema: u64) -> Result<Vec<Arc<Statement>>, Failure> {
        if std::mem::replace(&mut self.schema, schema) == schema {
            return Ok(Vec::new());
        }
        let hot = self.slots.hottest(HOT);
        self.slots.schema_changed();
        if hot.is_empty() {
            return Ok(hot);
        }
        let (mut out, mut body) = (BytesMut::new(), BytesMut::new());
        while let Some(id) = self.slots.next_unwanted(usize::MAX) {
            self.append(client::CLOSE, &of_statement(id), &mut out)?;
        }
        self.append(client::SYNC, &[], &mut out)?;
        for statement in &hot {
            body.clear();
            write_name(statement.id, &mut body);
            body.put_u8(0);
            body.put_slice(statement.body());
            self.append(client::PARSE, &body, &mut out)?;
            // Whoever goes by an older description has to be told if it is another now.
            self.append(client::DESCRIBE, &of_statement(statement.id), &mut out)?;
            // One that the new schema does not allow does not take the others with it.
            self.append(client::SYNC, &[], &mut out)?;
        }
        self.stream.write_all(&out).await?;
        Ok(hot)
    }

    /// Reads the answer to [`renew`](Self::renew): how many statements it has prepared. Cancel-safe in that the server knows what
    /// it is still owed; what it has prepared is not known then.
    ///
    /// # Errors
    /// If the connection is not to be used again.
    pub async fn renewed(&mut self, hot: &[Arc<Statement>]) -> Result<u64, Failure> {
        if hot.is_empty() {
            return Ok(0);
        }
        self.end_of_batch().await?;
        self.slots.all_closed();
        self.slots.batch_ends();
        let mut count = 0;
        for statement in hot {
            if let Some(shape) = self.end_of_batch().await? {
                self.slots.sent(statement);
                self.slots.parsed(statement.id);
                self.slots.set_shape(Some(statement.id), Shape::Known(shape));
                count += 1;
            }
            self.slots.batch_ends();
        }
        self.note_prepared();
        Ok(count)
    }

    /// Reads up to ReadyForQuery; what was described, if nothing was refused.
    async fn end_of_batch(&mut self) -> Result<Option<Digest>, Failure> {
        let (mut fine, mut digesting) = (true, Digesting::default());
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                server::ERROR if self.progress.broken() => {
                    return Err(Failure::Protocol("the server says good-bye".to_owned()));
                }
                server::ERROR => fine = false,
                server::PARAMETER_DESCRIPTION => digesting.parameters(&body),
                server::ROW_DESCRIPTION => digesting.columns(Some(&body)),
                server::NO_DATA => digesting.columns(None),
                server::READY_FOR_QUERY => return Ok(fine.then(|| digesting.digest())),
                _ => {}
            }
        }
    }
}

/// The body of a Close or Describe.
fn of_statement(id: u64) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u8(b'S');
    write_name(id, &mut body);
    body.put_u8(0);
    body
}
