//! Words and sockets between two processes, over a Unix socket: a length in four bytes, big-endian, with which the sockets
//! travel (`SCM_RIGHTS`, `unix(7)`), then so many bytes of JSON.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Sockets that come with one word at most; the kernel takes 253 (`SCM_MAX_FD`).
const SOCKETS: usize = 64;
/// The longest word: a client's statements are bounded by far less.
const WORD_MAX: usize = 256 << 20;

/// The end that words are put in.
#[derive(Debug)]
pub(super) struct Sender(OwnedWriteHalf);

/// The end that words come out of.
#[derive(Debug)]
pub(super) struct Receiver(OwnedReadHalf);

/// Both ends on this side.
///
/// # Errors
/// The kernel's.
pub(super) fn link(socket: std::os::unix::net::UnixStream) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((Sender(write), Receiver(read)))
}

impl Sender {
    /// Sends a word, and sockets with it. **Not cancel-safe.**
    ///
    /// # Errors
    /// The other process has gone; the word is too long, or there are too many sockets, and nothing was sent.
    pub(super) async fn send(&mut self, word: &impl Serialize, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(word)?;
        if text.len() > WORD_MAX {
            return Err(io::Error::other("a word that is too long"));
        }
        let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes();
        let stream: &UnixStream = self.0.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(sockets)) {
                return Err(io::Error::other("too many sockets"));
            }
            let parts = [IoSlice::new(&length)];
            Ok(rustix::net::sendmsg(stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        let sent = sent.await?;
        self.0.write_all(length.get(sent..).unwrap_or_default()).await?;
        self.0.write_all(&text).await
    }
}

impl Receiver {
    /// The next word, and the sockets that came with it; `None` when the other process has closed. What is no word of ours is
    /// passed over: it may be of a later version, and the link stands. **Not cancel-safe.**
    ///
    /// # Errors
    /// It has died in the middle of a word.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        while let Some((text, sockets)) = self.text().await? {
            match serde_json::from_slice(&text) {
                Ok(word) => return Ok(Some((word, sockets))),
                Err(error) => tracing::warn!(kind = ?error.classify(), "the other process says what is not understood"),
            }
        }
        Ok(None)
    }

    async fn text(&mut self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut length = [0_u8; 4];
        let mut sockets = Vec::new();
        let stream: &UnixStream = self.0.as_ref();
        let got = stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut length)];
            let got = rustix::net::recvmsg(stream.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    sockets.extend(came);
                }
            }
            Ok(got)
        });
        let got = got.await?;
        if got == 0 {
            return Ok(None);
        }
        self.0.read_exact(length.get_mut(got..).unwrap_or_default()).await?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > WORD_MAX {
            return Err(io::Error::other("a word that is too long"));
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await?;
        Ok(Some((text, sockets)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn words_and_sockets_come_in_their_order() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let ((mut sender, _kept), (_, mut receiver)) = (link(here).unwrap(), link(there).unwrap());
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let long = "x".repeat(1 << 20);
        let sending = async {
            sender.send(&"one", &[]).await.unwrap();
            sender.send(&long, &[far.as_fd(), far.as_fd()]).await.unwrap();
            sender.send(&7, &[far.as_fd()]).await.unwrap();
        };
        let receiving = async {
            let (one, none) = receiver.receive::<String>().await.unwrap().unwrap();
            assert_eq!((one.as_str(), none.len()), ("one", 0));
            let (two, sockets) = receiver.receive::<String>().await.unwrap().unwrap();
            assert_eq!((two.len(), sockets.len()), (long.len(), 2));
            let (three, mut sockets) = receiver.receive::<u32>().await.unwrap().unwrap();
            assert_eq!((three, sockets.len()), (7, 1));
            sockets.pop().unwrap()
        };
        let ((), socket) = tokio::join!(sending, receiving);
        near.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        std::os::unix::net::UnixStream::from(socket).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        drop((sender, _kept));
        assert!(receiver.receive::<u32>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn strange_words_are_passed_over() {
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let (_sender, mut receiver) = link(there).unwrap();
        here.write_all(b"\0\0\0\x05maybe\0\0\0\0\0\0\0\x04true").unwrap();
        assert!(receiver.receive::<bool>().await.unwrap().unwrap().0);
    }

    #[tokio::test]
    async fn a_death_in_the_middle_is_an_error() {
        for bytes in [&b"\0\0"[..], b"\0\0\0\x05tru", b"\xff\xff\xff\xff"] {
            let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
            let (_sender, mut receiver) = link(there).unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert!(receiver.receive::<bool>().await.is_err(), "{bytes:?}");
        }
    }
}
