//! A connected socket that one task watches for as long as it has it.
//!
//! A task that waits for something else besides, as a client's does for its turn and for its answer, comes back to its socket
//! several times before anything has arrived there. The runtime has to be told only once whom to wake.
//!
//! That it has forgotten it again cannot be told by what is there to be read: it notes an arrival first and takes the waker out
//! later, and what another thread has read, and registered, in between is woken for an arrival that is over. So the waker is one of
//! ours, which knows that it was used.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use super::stream::Stream;

/// See the module's text. Everything but waiting is as it is with the [`Stream`] inside.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    /// Made when it is first waited.
    bell: Option<Arc<Bell>>,
}

/// Wakes the task, and knows whether it still can.
#[derive(Debug)]
struct Bell {
    task: Waker,
    /// The runtime has it, and has not rung it since.
    hung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before: the task must not see it hanging when it is polled for this.
        self.take_down();
        self.task.wake_by_ref();
    }
}

impl Bell {
    fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire)
    }

    fn take_down(&self) {
        self.hung.store(false, Ordering::Release);
    }
}

impl Watched {
    /// Nobody watches it yet.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self { stream, bell: None }
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
        if let Some(bell) = &self.bell
            && bell.is_hung()
            && self.stream.may_be_read()
        {
            bell.take_down();
        }
        self.poll_arrival(cx)
    }

    /// The same right after a look that has found nothing.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let bell = match &self.bell {
            Some(bell) if bell.task.will_wake(cx.waker()) => bell,
            _ => self.bell.insert(Arc::new(Bell { task: cx.waker().clone(), hung: AtomicBool::new(false) })),
        };
        if bell.is_hung() {
            return Poll::Pending;
        }
        // A task that has had its share is put off without a look.
        let looks = has_budget_remaining();
        // Before the runtime has it: it may be rung at once.
        bell.hung.store(true, Ordering::Release);
        let ready = self.stream.poll_readable(&mut Context::from_waker(&Waker::from(Arc::clone(bell))));
        if !looks || ready.is_ready() {
            bell.take_down();
        }
        ready
    }

    /// As [`Stream::read_into`]; where there is nothing, the task is woken when there is something.
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
        let tried = self.stream.read_arrived(cx, buf, room)?;
        self.take_down();
        match tried {
            Poll::Ready(read) => Some(read),
            Poll::Pending => None,
        }
    }

    /// What there was has been read, or could not be: who waits for more has to be known to the runtime anew.
    fn take_down(&self) {
        if let Some(bell) = &self.bell {
            bell.take_down();
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
        this.take_down();
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

    /// Fails where nobody is woken, instead of waiting for ever.
    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(std::time::Duration::from_secs(20), what).await.unwrap()
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
            in_time(waits(&mut ours)).await;
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
            in_time(waits(&mut ours)).await;
            assert_eq!(reads(&mut ours, 1000).await, 1);
        }
    }

    /// The runtime has noted an arrival, which another thread reads before the waker is taken out: the one that was registered behind
    /// the reading is taken for it.
    #[tokio::test]
    async fn a_task_that_was_woken_for_what_is_over_is_known_anew() {
        let (mut ours, _theirs) = pair();
        assert!(has_nothing(&mut ours).await);
        let bell = Arc::clone(ours.bell.as_ref().unwrap());
        let looked = std::future::poll_fn(|cx| {
            assert!(bell.is_hung() && ours.poll_readable(cx).is_pending(), "known, and not told again");
            // As the runtime does with the waker that it has.
            Waker::from(Arc::clone(&bell)).wake();
            assert!(!bell.is_hung() && ours.poll_readable(cx).is_pending());
            assert!(bell.is_hung(), "told again");
            Poll::Ready(())
        });
        looked.await;
    }

    /// The same on several threads, where it may happen by chance: nothing that is sent is left lying.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_that_is_sent_is_heard_on_several_threads() {
        let (mut ours, mut theirs) = pair();
        let echo = tokio::spawn(async move {
            let mut heard = 0;
            while heard < 20_000 {
                // It looks at its socket for other reasons, too, as a client's task does.
                tokio::task::yield_now().await;
                heard += in_time(reads(&mut ours, 1000)).await;
                ours.write_all(&[1]).await.unwrap();
            }
        });
        let mut answer = [0];
        for _ in 0..20_000 {
            theirs.write_all(&[7]).await.unwrap();
            in_time(tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut answer)).await.unwrap();
        }
        in_time(echo).await.unwrap();
    }

    #[tokio::test]
    async fn another_task_that_takes_it_over_is_woken() {
        let (mut ours, mut theirs) = pair();
        assert!(has_nothing(&mut ours).await);
        let taken = tokio::spawn(async move { reads(&mut ours, 1000).await });
        tokio::task::yield_now().await;
        theirs.write_all(&[7; 5]).await.unwrap();
        assert_eq!(in_time(taken).await.unwrap(), 5);
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
        in_time(heard).await;
    }
}
