//! A connected socket: TCP, Unix, or TCP with TLS. Everything above is written against this type.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::poll_proceed;

use super::tls::accept::Acceptor;
use super::tls::connect::Connector;
use super::tls::{Encrypted, TlsInfo};
use crate::config::TcpWatch;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP, encrypted. Boxed: it is large, and most connections are not.
    Tls(Box<Encrypted>),
    /// A handshake was begun and did not end well: the socket is closed.
    Closed,
}

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// An address and a port.
    Tcp(IpAddr, u16),
    /// A process of this machine, with its user id.
    Unix {
        /// The peer's effective user id when it connected.
        uid: u32,
    },
}

impl Peer {
    /// What `SHOW CLIENTS` prints as `addr`.
    #[must_use]
    pub fn addr(&self) -> String {
        match self {
            Self::Tcp(ip, _) => ip.to_string(),
            Self::Unix { .. } => "unix".to_owned(),
        }
    }

    /// What `SHOW CLIENTS` prints as `port`.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp(_, port) => *port,
            Self::Unix { .. } => 0,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(ip, port) => write!(f, "{ip}:{port}"),
            Self::Unix { uid } => write!(f, "unix(uid {uid})"),
        }
    }
}

/// So much goes into a socket at once, as a rule: what there is to say of one that is full is not prepared beforehand.
const SMALL: usize = 16 << 10;

/// A read with so much room or less is a small one.
const SMALL_READ: usize = 4 << 10;

/// The most probes that Linux takes (`MAX_TCP_KEEPCNT`).
const PROBES_MAX: u32 = 127;

/// The longest that fits the kernel's count of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// The kernel counts these in whole seconds, from 1 to 32767 (`MAX_TCP_KEEPIDLE`).
fn at_least_a_second(time: Duration) -> Duration {
    time.clamp(Duration::from_secs(1), Duration::from_secs(32_767))
}

impl Stream {
    /// Sets what every TCP connection of ours has: no Nagle delay, and what notices a peer that is gone.
    ///
    /// # Errors
    /// What the kernel says; the socket is dead then.
    pub fn tcp(stream: TcpStream, watch: &TcpWatch) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        if watch.keepalive {
            let mut probes = socket2::TcpKeepalive::new();
            probes = watch.idle.into_iter().fold(probes, |probes, idle| probes.with_time(at_least_a_second(idle)));
            probes =
                watch.interval.into_iter().fold(probes, |probes, gap| probes.with_interval(at_least_a_second(gap)));
            probes = watch.probes.into_iter().fold(probes, |probes, count| probes.with_retries(count.min(PROBES_MAX)));
            socket.set_tcp_keepalive(&probes)?;
        }
        if let Some(bound) = watch.user_timeout {
            socket.set_tcp_user_timeout(Some(bound.min(USER_TIMEOUT_MAX)))?;
        }
        Ok(Self::Tcp(stream))
    }

    /// A connected socket, without TLS, that another process has accepted.
    ///
    /// # Errors
    /// The kernel's; it is no stream socket.
    pub fn adopt(socket: OwnedFd, watch: &TcpWatch) -> io::Result<Self> {
        let socket = socket2::Socket::from(socket);
        socket.set_nonblocking(true)?;
        if socket.domain()? == socket2::Domain::UNIX {
            return UnixStream::from_std(socket.into()).map(Self::Unix);
        }
        Self::tcp(TcpStream::from_std(socket.into())?, watch)
    }

    /// What is known of its TLS; `None` if it has none.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        match self {
            Self::Tls(stream) => Some(stream.info()),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => None,
        }
    }

    /// The peer's certificate in DER, if it has shown one. A client is asked for one, and it is verified, with
    /// `client_tls_sslmode` of `verify-ca` and `verify-full` only.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => stream.peer_certificate(),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => None,
        }
    }

    /// Whether the peer begins with TLS at once: its first byte is that of a handshake record. Takes nothing away.
    /// Waits for that byte. Cancel-safe.
    ///
    /// # Errors
    /// If the peer has closed, or the socket is dead.
    pub async fn begins_with_tls(&self) -> io::Result<bool> {
        const HANDSHAKE: u8 = 0x16;
        let Self::Tcp(stream) = self else { return Ok(false) };
        let mut first = [0_u8];
        match stream.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first == [HANDSHAKE]),
        }
    }

    /// The handshake with a client. If it fails, or is given up in the middle, the connection is closed.
    ///
    /// # Errors
    /// What the peer or the socket did; `Unsupported` if there is no TLS for this connection.
    pub async fn accept_tls(&mut self, acceptor: &Acceptor) -> io::Result<()> {
        let tcp = self.take_tcp()?;
        *self = Self::Tls(Box::new(acceptor.handshake(tcp).await?));
        Ok(())
    }

    /// The handshake with a server called `host`. If it fails, or is given up in the middle, the connection is closed.
    ///
    /// # Errors
    /// As [`accept_tls`](Self::accept_tls), and why the certificate is not believed.
    pub async fn connect_tls(&mut self, connector: &Connector, host: &str) -> io::Result<()> {
        let tcp = self.take_tcp()?;
        *self = Self::Tls(Box::new(connector.handshake(tcp, host).await?));
        Ok(())
    }

    fn take_tcp(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(self, Self::Closed) {
            Self::Tcp(tcp) => Ok(tcp),
            other => {
                *self = other;
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn peer(&self) -> io::Result<Peer> {
        let tcp = |stream: &TcpStream| stream.peer_addr().map(|addr| Peer::Tcp(addr.ip(), addr.port()));
        match self {
            Self::Tcp(stream) => tcp(stream),
            Self::Tls(stream) => tcp(stream.socket()),
            Self::Closed => Err(closed()),
            Self::Unix(stream) => stream.peer_cred().map(|cred| Peer::Unix { uid: cred.uid() }),
        }
    }

    /// The port this end listens on, for `SHOW CLIENTS`; 0 for Unix sockets.
    #[must_use]
    pub fn local(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|addr| (addr.ip(), addr.port())),
            Self::Tls(stream) => stream.socket().local_addr().ok().map(|addr| (addr.ip(), addr.port())),
            Self::Unix(_) | Self::Closed => None,
        }
    }

    /// The address of the other end; none for Unix sockets.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.socket().peer_addr().ok(),
            Self::Unix(_) | Self::Closed => None,
        }
    }

    /// The process at the other end of a Unix socket, where the kernel knows it.
    #[must_use]
    pub fn peer_pid(&self) -> Option<i32> {
        match self {
            Self::Unix(stream) => stream.peer_cred().ok()?.pid(),
            Self::Tcp(_) | Self::Tls(_) | Self::Closed => None,
        }
    }

    /// Ready when there is something to read, or the peer has closed. Holds no buffer.
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) if stream.holds_input() => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.socket().poll_read_ready(cx),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Whether there may be something to read, as far as the runtime has been told; costs no system call. Nobody is woken for what
    /// comes later: that takes [`poll_readable`](Self::poll_readable), which is dearer.
    #[must_use]
    pub fn may_be_read(&self) -> bool {
        let told = |socket: &TcpStream| socket.try_io(Interest::READABLE, || Ok(())).is_ok();
        match self {
            Self::Tcp(stream) => told(stream),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Tls(stream) => stream.holds_input() || told(stream.socket()),
            Self::Closed => true,
        }
    }

    /// Whether the peer has closed its side, as far as the kernel has told us; costs no system call.
    /// True even while bytes that it sent before are still unread.
    #[must_use]
    pub fn read_closed(&self) -> bool {
        let ready = match self {
            Self::Tcp(stream) => stream.ready(Interest::READABLE).now_or_never(),
            Self::Unix(stream) => stream.ready(Interest::READABLE).now_or_never(),
            Self::Tls(stream) => stream.socket().ready(Interest::READABLE).now_or_never(),
            Self::Closed => return true,
        };
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed()) || matches!(ready, Some(Err(_)))
    }

    /// The first byte that waits to be read, if one does; asks the kernel itself, not the runtime's last word of it.
    /// Behind TLS it is the first decrypted one.
    ///
    /// # Errors
    /// If the peer has closed or the socket is dead.
    pub fn glance(&mut self) -> io::Result<Option<u8>> {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd as _;
        let socket = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => return stream.glance(),
            Self::Closed => return Err(closed()),
        };
        let mut first = [0_u8];
        match recv(socket, &mut first, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(first[0])),
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says all that is left to say and closes our side; for TLS with its good-bye. Waits for a peer that does not read for
    /// a second at most.
    pub async fn close(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), tokio::io::AsyncWriteExt::shutdown(self)).await;
    }

    /// Reads into the spare room of `buf`, making at least `room` of it if there is something to read. 0 means that the peer has
    /// closed; `None` that there is nothing. Nobody is woken for what comes later.
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn read_into(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, room: usize) -> Option<io::Result<usize>> {
        match self.read_arrived(cx, buf, room) {
            Some(Poll::Ready(read)) => Some(read),
            Some(Poll::Pending) | None => None,
        }
    }

    /// The same; `None` if nothing has arrived as far as the runtime has been told, so that the socket was not asked.
    pub(super) fn read_arrived(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        room: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        let seen = match self {
            Self::Tcp(socket) => {
                receive((cx, room), buf, |call| socket.try_io(Interest::READABLE, || call(socket.as_fd())))
            }
            Self::Unix(socket) => {
                receive((cx, room), buf, |call| socket.try_io(Interest::READABLE, || call(socket.as_fd())))
            }
            Self::Tls(_) | Self::Closed if self.may_be_read() => Seen::Large,
            Self::Tls(_) | Self::Closed => Seen::Nothing,
        };
        match seen {
            Seen::Nothing => None,
            Seen::Large => Some(self.poll_read_now(cx, buf, room)),
            Seen::Tried(read) => Some(read),
        }
    }

    fn poll_read_now(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        // Only where there is something: making room is a copy of what is in the buffer.
        buf.reserve(room);
        tokio_util::io::poll_read_buf(Pin::new(self), cx, buf)
    }
}

/// A system call for a socket, made by tokio where it knows the socket to be ready.
type Call<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<usize>;

/// Whether a read with so much room is a small one: not into the rest of a large block, which is had back by asking for room.
fn is_small(buf: &mut BytesMut, room: usize) -> bool {
    let spare = buf.capacity() - buf.len();
    room <= SMALL_READ && spare <= SMALL_READ && (spare > 0 || !buf.try_reclaim(SMALL_READ + 1))
}

/// What has come of a look into a socket.
enum Seen {
    /// Nothing has arrived.
    Nothing,
    /// Something has, for a large block.
    Large,
    /// It was read from, or could not be now.
    Tried(Poll<io::Result<usize>>),
}

/// Reads up to `room` bytes, which are not many, behind those in `buf`: by the system call itself, as libc's first sees to it that
/// the thread may be cancelled, and into the stack, as most reads bring a fraction of what there has to be room for. Pending: there
/// is nothing to be had now, or the task has had its share of the worker's time; nobody is woken for it.
fn receive(
    (cx, room): (&mut Context<'_>, usize),
    buf: &mut BytesMut,
    arrived: impl FnOnce(Call<'_>) -> io::Result<usize>,
) -> Seen {
    let mut seen = Seen::Nothing;
    // What it returns is for tokio, which asks only where it knows of something, and has no errors of its own.
    let _ = arrived(&mut |socket| {
        if !is_small(buf, room) {
            seen = Seen::Large;
            return Ok(0);
        }
        seen = Seen::Tried(Poll::Pending);
        let Poll::Ready(share) = poll_proceed(cx) else { return Ok(0) };
        let mut scratch = [MaybeUninit::<u8>::uninit(); SMALL_READ];
        let scratch = scratch.get_mut(..room).unwrap_or_default();
        let read = match rustix::net::recv(socket, scratch, RecvFlags::empty()).map_err(io::Error::from) {
            Err(error) if is_for_later(&error) => return Err(error),
            Err(error) => Err(error),
            Ok(((bytes, _), n)) => {
                if buf.capacity() - buf.len() < n {
                    // For what comes later too: it need not grow with each answer that is a little longer.
                    buf.reserve(room);
                }
                buf.extend_from_slice(bytes);
                Ok(n)
            }
        };
        share.made_progress();
        // As tokio does: less than there was room for is all that there was, and the next look needs no system call.
        let all = matches!(read, Ok(n) if n > 0 && n < room);
        seen = Seen::Tried(Poll::Ready(read));
        if all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(0) }
    });
    seen
}

/// Writes what is not large, by the system call itself; see [`receive`]. `None`: the socket takes nothing now.
fn send(buf: &[u8], ready: impl FnOnce(Call<'_>) -> io::Result<usize>) -> Option<io::Result<usize>> {
    if buf.len() > SMALL {
        return None;
    }
    match ready(&mut |socket| rustix::net::send(socket, buf, SendFlags::NOSIGNAL).map_err(io::Error::from)) {
        Err(error) if is_for_later(&error) => None,
        written => Some(written),
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => match send(buf, |call| stream.try_io(Interest::WRITABLE, || call(stream.as_fd()))) {
                Some(written) => Poll::Ready(written),
                None => Pin::new(stream).poll_write(cx, buf),
            },
            Self::Unix(stream) => match send(buf, |call| stream.try_io(Interest::WRITABLE, || call(stream.as_fd()))) {
                Some(written) => Poll::Ready(written),
                None => Pin::new(stream).poll_write(cx, buf),
            },
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Nothing to do: what was written is with the kernel, for TLS too.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::net::watched::Watched;

    /// Two ends of a connection.
    fn pair() -> (Watched, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Watched::new(Stream::Unix(ours)), theirs)
    }

    async fn read(stream: &mut Watched, buf: &mut BytesMut, room: usize) -> usize {
        std::future::poll_fn(|cx| stream.poll_read_into(cx, buf, room)).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_small_is_read_piece_by_piece_to_the_end() {
        let (mut ours, mut theirs) = pair();
        let mut buf = BytesMut::new();
        theirs.write_all(&[7; 2500]).await.unwrap();
        for expected in [1000, 1000, 500] {
            assert_eq!(read(&mut ours, &mut buf, 1000).await, expected);
        }
        assert!(std::future::poll_fn(|cx| Poll::Ready(ours.read_into(cx, &mut buf, 1000))).await.is_none());
        assert_eq!((buf.len(), buf.iter().all(|byte| *byte == 7)), (2500, true));
        // What comes behind a read that was short is noticed, and so is the end.
        for byte in 0..3 {
            theirs.write_all(&[byte]).await.unwrap();
            assert_eq!(read(&mut ours, &mut buf, 1000).await, 1);
            assert_eq!(buf.last(), Some(&byte));
        }
        drop(theirs);
        assert_eq!(read(&mut ours, &mut buf, 1000).await, 0);
    }

    #[tokio::test]
    async fn a_large_block_is_read_into_as_a_whole_again() {
        let (mut ours, mut theirs) = pair();
        let mut buf = BytesMut::with_capacity(64 << 10);
        theirs.write_all(&[7; 20_000]).await.unwrap();
        // As after a read that has filled it and was written out.
        buf.resize(64 << 10, 0);
        bytes::Buf::advance(&mut buf, 64 << 10);
        assert_eq!(read(&mut ours, &mut buf, 1000).await, 20_000);
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_lets_others_have_their_turn() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&[7; 2000]).await.unwrap();
        assert_eq!(read(&mut ours, &mut BytesMut::new(), 1000).await, 1000);
        let stopped = std::future::poll_fn(|cx| {
            let mut buf = BytesMut::new();
            for n in 0..10_000 {
                assert!(Pin::new(&mut theirs).poll_write(cx, &[7; 1000]).is_ready());
                if ours.poll_read_into(cx, &mut buf, 1000).is_pending() {
                    return Poll::Ready(n);
                }
                buf.clear();
            }
            Poll::Ready(0)
        });
        let reads = stopped.await;
        assert!((1..=128).contains(&reads), "{reads}");
    }

    #[tokio::test]
    async fn a_connection_is_watched_as_it_is_configured() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = async |watch: TcpWatch| {
            let Stream::Tcp(stream) = Stream::tcp(TcpStream::connect(addr).await.unwrap(), &watch).unwrap() else {
                panic!("TCP");
            };
            let socket = socket2::SockRef::from(&stream);
            let seconds = |time: io::Result<Duration>| time.unwrap().as_secs();
            let probes = (
                seconds(socket.tcp_keepalive_time()),
                seconds(socket.tcp_keepalive_interval()),
                socket.tcp_keepalive_retries().unwrap(),
            );
            (socket.keepalive().unwrap(), probes, socket.tcp_user_timeout().unwrap())
        };
        let (_, kernels, _) = seen(TcpWatch::default()).await;
        let all = TcpWatch {
            keepalive: true,
            idle: Some(Duration::from_secs(30)),
            interval: Some(Duration::from_millis(10)),
            probes: Some(4),
            user_timeout: Some(Duration::from_millis(12_500)),
        };
        assert_eq!(seen(all).await, (true, (30, 1, 4), all.user_timeout));
        let by_kernel = TcpWatch { keepalive: true, ..TcpWatch::default() };
        assert_eq!(seen(by_kernel).await, (true, kernels, None));
        assert_eq!(seen(TcpWatch { keepalive: false, ..all }).await, (false, kernels, all.user_timeout));
        // Far too much is as much as can be.
        let endless = Some(Duration::from_secs(365 * 24 * 3600));
        let most = TcpWatch { idle: endless, probes: Some(1_000_000), user_timeout: endless, ..all };
        assert_eq!(seen(most).await, (true, (32_767, 1, 127), Some(USER_TIMEOUT_MAX)));
    }
}
