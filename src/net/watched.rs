//! A connected socket that one task watches for as long as it has it.
//!
//! A task that waits for something else besides, as a client's does for its turn and for its answer, comes back to its socket
//! several times before anything has arrived there. The runtime has to be told only once whom to wake.

use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use super::stream::Stream;

/// See the module's text. Everything but waiting is as it is with the [`Stream`] inside.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    /// Whom the runtime wakes, if nothing has been there to be read since it was told: where the waker's task is. As long as the runtime
    /// has that waker, no other task can be there.
    told: Option<NonZero<usize>>,
}

impl Watched {
    /// Nobody watches it yet.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self { stream, told: None }
    }

    /// The socket itself, to ask it something.
    #[must_use]
    pub const fn socket(&self) -> &Stream {
        &self.stream
    }

    /// As [`Stream::poll_readable`].
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.told.is_some() && self.stream.may_be_read() {
            self.told = None;
        }
        self.poll_arrival(cx)
    }

    /// The same right after a look that has found nothing.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let task = NonZero::new(cx.waker().data().addr());
        if self.told.is_some() && self.told == task {
            return Poll::Pending;
        }
        // A task that has had its share is put off without a look.
        let looks = has_budget_remaining();
        let ready = self.stream.poll_readable(cx);
        self.told = task.filter(|_| looks && ready.is_pending());
        ready
    }

    /// As [`Stream::poll_read_into`].
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        loop {
            if let Some(read) = self.read_into(cx, buf, room) {
                return Poll::Ready(read);
            }
            std::task::ready!(self.poll_arrival(cx))?;
        }
    }

    /// As [`Stream::read_into`].
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn read_into(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, room: usize) -> Option<io::Result<usize>> {
        // Whoever was told of it has been woken, whether there was anything to be had or not.
        let tried = self.stream.read_arrived(cx, buf, room)?;
        self.told = None;
        match tried {
            Poll::Ready(read) => Some(read),
            Poll::Pending => None,
        }
    }

    /// As [`Stream::close`].
    pub async fn close(&mut self) {
        self.stream.close().await;
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.told = None;
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    fn pair() -> (Watched, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Watched::new(Stream::Unix(ours)), theirs)
    }

    /// Waits as a client's task does that has other things to wait for: it looks, watches, and looks and watches again.
    async fn waits(stream: &mut Watched) {
        std::future::poll_fn(|cx| {
            for _ in 0..3 {
                std::task::ready!(stream.poll_readable(cx)).unwrap();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// A look, after which the task is to be woken.
    async fn has_nothing(stream: &mut Watched) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(stream.poll_readable(cx).is_pending())).await
    }

    async fn reads(stream: &mut Watched, room: usize) -> usize {
        std::future::poll_fn(|cx| stream.poll_read_into(cx, &mut BytesMut::new(), room)).await.unwrap()
    }

    #[tokio::test]
    async fn a_task_is_woken_by_each_arrival_however_often_it_has_looked() {
        let (mut ours, mut theirs) = pair();
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                theirs.write_all(&[7; 10]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut read = 0;
        while read < 1000 {
            waits(&mut ours).await;
            read += reads(&mut ours, if read % 3 == 0 { 1000 } else { 1 }).await;
        }
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_arrives_after_a_wait_that_was_given_up_is_seen() {
        let (mut ours, mut theirs) = pair();
        for _ in 0..3 {
            assert!(has_nothing(&mut ours).await);
            theirs.write_all(&[7]).await.unwrap();
            // The runtime hears of it before anybody looks.
            while !ours.socket().may_be_read() {
                tokio::task::yield_now().await;
            }
            waits(&mut ours).await;
            assert_eq!(reads(&mut ours, 1000).await, 1);
        }
    }

    #[tokio::test]
    async fn another_task_that_takes_it_over_is_woken() {
        let (mut ours, mut theirs) = pair();
        assert!(has_nothing(&mut ours).await);
        let taken = tokio::spawn(async move { reads(&mut ours, 1000).await });
        tokio::task::yield_now().await;
        theirs.write_all(&[7; 5]).await.unwrap();
        assert_eq!(taken.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_task_that_has_had_its_share_is_woken_too() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&[7]).await.unwrap();
        assert_eq!(reads(&mut ours, 1000).await, 1);
        let writer = async {
            tokio::task::yield_now().await;
            theirs.write_all(&[7]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let mut spends = true;
        let spent = std::future::poll_fn(|cx| {
            while spends && has_budget_remaining() {
                std::task::ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            }
            spends = false;
            ours.poll_readable(cx)
        });
        let heard = async {
            tokio::select! {
                ready = spent => ready.unwrap(),
                () = writer => {}
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), heard).await.unwrap();
    }
}
