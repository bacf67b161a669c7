//! The floor: a forwarder that reads and writes and knows nothing, on one tokio thread, with one server connection for
//! every client. No proxy on tokio can cost less than this.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// What one read takes at most, in bytes; one buffer for everybody, since nobody keeps it over a wait.
const SCRATCH: usize = 64 << 10;

type Scratch = Arc<Mutex<Vec<u8>>>;

/// Forwards to 127.0.0.1:`backend` until the process ends.
pub(crate) async fn serve(listener: TcpListener, backend: u16) -> Result<()> {
    let scratch: Scratch = Arc::new(Mutex::new(vec![0; SCRATCH]));
    loop {
        let (client, _) = listener.accept().await?;
        let scratch = Arc::clone(&scratch);
        tokio::spawn(async move {
            let _ = forward(client, backend, scratch).await;
        });
    }
}

async fn forward(client: TcpStream, backend: u16, scratch: Scratch) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, backend)).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::spawn(copy(from_client, to_server, Arc::clone(&scratch)));
    tokio::spawn(copy(from_server, to_client, scratch));
    Ok(())
}

/// One direction; dropping the writing half tells the other side that this one has ended.
async fn copy(mut from: OwnedReadHalf, to: OwnedWriteHalf, scratch: Scratch) -> io::Result<()> {
    loop {
        // Not `try_read`: that asks the kernel once more after each read, to find out that there is no more.
        let rest = poll_fn(|cx| {
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut from).poll_read(cx, &mut buf))?;
            let read = buf.filled();
            Poll::Ready(if read.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { rest_of(&to, read) })
        })
        .await?;
        write(&to, &rest).await?;
    }
}

/// Writes what goes at once, and gives back the rest.
fn rest_of(to: &OwnedWriteHalf, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match to.try_write(bytes) {
        Ok(n) => Ok(bytes[n..].to_vec()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(bytes.to_vec()),
        Err(error) => Err(error),
    }
}

async fn write(to: &OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        to.writable().await?;
        match to.try_write(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers whatever clients say as a null backend would, from one task each that keeps nothing but its socket.
pub(crate) async fn answer(listener: TcpListener) -> Result<()> {
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    const ROW: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x010C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
    let scratch: Scratch = Arc::new(Mutex::new(vec![0; SCRATCH]));
    loop {
        let (client, _) = listener.accept().await?;
        let scratch = Arc::clone(&scratch);
        tokio::spawn(async move {
            let mut reply = WELCOME;
            loop {
                client.readable().await?;
                match client.try_read(&mut scratch.lock().unwrap_or_else(PoisonError::into_inner)) {
                    Ok(0) => return Ok(()),
                    Ok(_) => client.try_write(reply)?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                reply = ROW;
            }
        });
    }
}
