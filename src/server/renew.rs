//! Preparing anew what a change of the schema has made stale, before anybody needs it.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt as _;

use super::conn::{Failure, Server};
use super::residue;
use crate::prepared::catalog::Statement;
use crate::prepared::slots::{Shape, write_name};
use crate::prepared::{Digest, Digesting};
use crate::wire::tags::{client, server};

/// How many statements a server prepares anew in advance: those that it ran last. The others are prepared when they are
/// asked for, so that nobody waits for what nobody uses.
const HOT: usize = 16;

/// At most so many bytes of text in all: the whole batch stands in memory, once for each server, and is to be read in a moment.
const HOT_BYTES: usize = 256 << 10;

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
        let mut hot = self.slots.hottest(HOT);
        // The session may have another client's settings than those by which its literals were read.
        let reading = residue::reading(&self.parameters, self.settings.as_deref());
        hot.retain(|statement| statement.reading.is_none_or(|theirs| theirs == reading));
        let mut room = HOT_BYTES;
        // The hottest stand last.
        let fits = hot.iter().rev().take_while(|statement| take(&mut room, statement.body().len())).count();
        hot.drain(..hot.len() - fits);
        self.slots.schema_changed();
        if !hot.is_empty() {
            let mut out = BytesMut::new();
            while let Some(id) = self.slots.next_unwanted(usize::MAX) {
                self.append(client::CLOSE, &of_statement(id), &mut out)?;
            }
            self.prepare_anew(&hot, out).await?;
        }
        Ok(hot)
    }

    /// Writes one batch that has these prepared, behind what is written already. **Not cancel-safe**, as [`renew`](Self::renew).
    ///
    /// One batch, not one for each: whoever does not want to wait for a lock that somebody has cancels it once.
    ///
    /// # Errors
    /// If the socket is dead.
    pub async fn prepare_anew(&mut self, statements: &[Arc<Statement>], mut out: BytesMut) -> Result<(), Failure> {
        if statements.is_empty() {
            return Ok(());
        }
        let mut body = BytesMut::new();
        for statement in statements {
            body.clear();
            write_name(statement.id, &mut body);
            body.put_u8(0);
            body.put_slice(statement.body());
            self.append(client::PARSE, &body, &mut out)?;
            // Whoever goes by an older description has to be told if it is another now.
            self.append(client::DESCRIBE, &of_statement(statement.id), &mut out)?;
        }
        self.append(client::SYNC, &[], &mut out)?;
        self.stream.write_all(&out).await?;
        Ok(())
    }

    /// Reads the answer to a batch of [`prepare_anew`](Self::prepare_anew): how many of these it has prepared. The one behind them
    /// the new schema does not allow; what stands behind that was skipped. Cancel-safe in that the server knows what it is still
    /// owed; what it has prepared is not known then.
    ///
    /// # Errors
    /// If the connection is not to be used again.
    pub async fn renewed(&mut self, statements: &[Arc<Statement>]) -> Result<usize, Failure> {
        let (parsed, shapes) = self.end_of_batch().await?;
        self.slots.all_closed();
        for (ix, statement) in statements.iter().take(parsed).enumerate() {
            self.slots.sent(statement);
            self.slots.parsed(statement.id);
            match shapes.get(ix) {
                Some(shape) => self.slots.set_shape(Some(statement.id), Shape::Known(*shape)),
                None => self.slots.drop_slot(statement.id),
            }
        }
        self.slots.batch_ends();
        self.note_prepared();
        Ok(shapes.len())
    }

    /// Reads up to ReadyForQuery: how many statements were parsed, and the shapes of those that were described.
    async fn end_of_batch(&mut self) -> Result<(usize, Vec<Digest>), Failure> {
        let (mut parsed, mut shapes, mut digesting) = (0, Vec::new(), Digesting::default());
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                server::ERROR if self.progress.broken() => {
                    return Err(Failure::Protocol("the server says good-bye".to_owned()));
                }
                server::PARSE_COMPLETE => parsed += 1,
                server::PARAMETER_DESCRIPTION => digesting.parameters(&body),
                server::ROW_DESCRIPTION | server::NO_DATA => {
                    let mut described = std::mem::take(&mut digesting);
                    described.columns((tag == server::ROW_DESCRIPTION).then_some(&body));
                    shapes.push(described.digest());
                }
                server::READY_FOR_QUERY => return Ok((parsed, shapes)),
                _ => {}
            }
        }
    }
}

/// Takes so much of what there is room for; false if there is not enough.
fn take(room: &mut usize, bytes: usize) -> bool {
    let left = room.checked_sub(bytes);
    *room = left.unwrap_or(0);
    left.is_some()
}

/// The body of a Close or Describe.
fn of_statement(id: u64) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u8(b'S');
    write_name(id, &mut body);
    body.put_u8(0);
    body
}
