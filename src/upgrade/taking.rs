//! The heir's side: takes over what the elder sends.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};

use super::link::{Receiver, Sender, link};
use super::words::{Door, Last, PoolKey, STATE, ToElder, ToHeir};
use crate::auth::credential::Credential;
use crate::net::stream::Stream;
use crate::process::handed::Handed;
use crate::session::front::{Elder, Front};
use crate::session::journey::Stranded;
use crate::session::passport::{Octets, Passport};
use crate::session::task::Session;
use crate::wire::reply::{Report, Severity, sqlstate};
use crate::wire::startup::CancelKey;

/// In the environment of the heir.
const MARK: &str = "PGLULL_HEIR";

/// How long somebody who cannot be taken over may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Cancel requests that wait to be passed back.
const QUEUE: usize = 64;

/// How this process ends, and who is told when the elder has been told.
pub type Parting = (Last, oneshot::Sender<()>);

/// What the elder has sent first, and the way to it.
#[derive(Debug)]
pub struct Inheritance {
    /// What listens; taken out by whoever listens.
    pub doors: Vec<Handed>,
    /// The lock of the state_dir; taken out by whoever opens that.
    pub state: Option<OwnedFd>,
    owned: Vec<bool>,
    pools: Vec<PoolKey>,
    sender: Sender,
    receiver: Receiver,
}

/// Makes a command's process an heir.
pub fn mark(command: &mut std::process::Command) {
    command.env(MARK, "1");
}

/// The link to the elder, if this process is an heir. Call it once, at the start.
///
/// # Errors
/// The kernel's: standard input is not what it should be.
pub fn elder() -> io::Result<Option<UnixStream>> {
    if std::env::var_os(MARK).is_none() {
        return Ok(None);
    }
    let link = io::stdin().as_fd().try_clone_to_owned()?;
    // The only copy is the one that closes when we say so.
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Some(UnixStream::from(link)))
}

/// Hears what the elder has to say before this process serves. **Not cancel-safe.**
///
/// # Errors
/// The elder has died, or says what cannot be understood.
pub async fn inherit(elder: UnixStream) -> io::Result<Inheritance> {
    let (mut sender, mut receiver) = link(elder)?;
    sender.send(&ToElder::Hello { version: env!("CARGO_PKG_VERSION").to_owned() }, &[]).await?;
    let (mut doors, mut owned, mut state, mut pools) = (Vec::new(), Vec::new(), None, Vec::new());
    loop {
        match receiver.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)? {
            (ToHeir::Doors(named), sockets) => {
                for (Door { name, path, ours }, socket) in named.into_iter().zip(sockets) {
                    if name == STATE {
                        state = Some(socket);
                    } else {
                        owned.push(ours);
                        doors.push(Handed { name, socket, path });
                    }
                }
            }
            (ToHeir::Pool(key), _) => pools.push(key),
            (ToHeir::Begin, _) => return Ok(Inheritance { doors, state, owned, pools, sender, receiver }),
            (ToHeir::Client(_) | ToHeir::Yours, _) => return Err(io::Error::other("the elder is ahead of its time")),
        }
    }
}

impl Inheritance {
    /// Of each socket that listens, whether its file will be this process's to remove.
    #[must_use]
    pub fn owned(&self) -> Vec<bool> {
        self.owned.clone()
    }

    /// Tells the elder why this process cannot serve.
    pub async fn fail(mut self, why: String) {
        let _ = self.sender.send(&ToElder::Failed(why), &[]).await;
    }

    /// This process can serve: takes clients over until the elder has ended. `yours` is called when the elder lets nobody in
    /// any more, or is dead, and `alone` when it has ended. The elder is told of what comes through `lasts`.
    ///
    /// # Errors
    /// The elder has died.
    pub async fn serve(
        mut self,
        front: Front,
        yours: impl FnOnce() + Send + 'static,
        alone: impl FnOnce() + Send + 'static,
        lasts: mpsc::Receiver<Parting>,
    ) -> io::Result<()> {
        self.pools.into_iter().for_each(|key| learn(&front, key));
        let (cancels, asked) = mpsc::channel(QUEUE);
        front.door.elder.send_replace(Some(Elder { cancels }));
        self.sender.send(&ToElder::Ready, &[]).await?;
        let (acks, taken) = mpsc::channel(1);
        tokio::spawn(pass_back(self.sender, asked, taken, lasts));
        let receiver = self.receiver;
        tokio::spawn(async move {
            take_over(receiver, &front, acks, yours).await;
            alone();
            front.door.elder.send_replace(None);
        });
        Ok(())
    }
}

/// Notes what servers of a pool log in with.
fn learn(front: &Front, PoolKey { database, role, key }: PoolKey) {
    if let Some(database) = front.databases.find(&database) {
        let key = Some(Credential::from(key));
        let _ = front.databases.pool(&database, &role, key, |role| front.users.credential(role));
    }
}

/// Whoever waits until the elder has been told something.
type Sent = oneshot::Sender<()>;

/// Sends the elder the cancel requests that are for nobody here, that a client has been taken, and that this process was told
/// to end.
async fn pass_back(
    mut sender: Sender,
    mut asked: mpsc::Receiver<CancelKey>,
    mut taken: mpsc::Receiver<Sent>,
    mut lasts: mpsc::Receiver<Parting>,
) {
    loop {
        let (word, sent) = tokio::select! {
            Some((last, sent)) = lasts.recv() => (ToElder::Ending(last), Some(sent)),
            Some(sent) = taken.recv() => (ToElder::Taken, Some(sent)),
            key = asked.recv() => match key {
                Some(CancelKey { pid, secret }) => (ToElder::Cancel { pid, secret: Octets(secret) }, None),
                None => return,
            },
        };
        if sender.send(&word, &[]).await.is_err() {
            return;
        }
        if let Some(sent) = sent {
            let _ = sent.send(());
        }
    }
}

/// Tells the elder that its client is here. Returns whether it knows.
async fn acknowledge(acks: &mpsc::Sender<Sent>) -> bool {
    let (sent, word) = oneshot::channel();
    acks.send(sent).await.is_ok() && word.await.is_ok()
}

async fn take_over(mut receiver: Receiver, front: &Front, acks: mpsc::Sender<Sent>, yours: impl FnOnce()) {
    let (mut yours, mut taken) = (Some(yours), 0_u64);
    loop {
        match receiver.receive().await {
            Ok(Some((ToHeir::Client(passport), sockets))) => {
                // Before anything of it is read here: a client whose elder has not heard of it is the elder's still.
                if let Some(socket) = sockets.into_iter().next()
                    && acknowledge(&acks).await
                {
                    taken += 1;
                    welcome(front, *passport, socket);
                }
            }
            Ok(Some((ToHeir::Pool(key), _))) => learn(front, key),
            Ok(Some((ToHeir::Yours, _))) => yours.take().into_iter().for_each(|yours| yours()),
            Ok(Some((word, _))) => tracing::debug!(?word, "unexpected"),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "lost the process that came before");
                break;
            }
        }
    }
    yours.take().into_iter().for_each(|yours| yours());
    tracing::info!(clients = taken, "the process that came before has ended");
}

/// Goes on with a client, or tells it why not.
fn welcome(front: &Front, passport: Passport, socket: OwnedFd) {
    let spare = socket.try_clone();
    match Session::arrive(front, passport, socket) {
        Ok(session) => drop(tokio::spawn(session.run())),
        Err(error) => {
            tracing::warn!(%error, "cannot go on with a client of the process that came before");
            let watch = front.config().tcp_watch();
            if let Ok(stream) = spare.and_then(|spare| Stream::adopt(spare, &watch)) {
                tokio::spawn(turn_away(stream, error));
            }
        }
    }
}

async fn turn_away(mut stream: Stream, error: Stranded) {
    let mut out = BytesMut::new();
    Report::new(sqlstate::ADMIN_SHUTDOWN, error.to_string()).write(Severity::Fatal, &mut out);
    let _ = tokio::time::timeout(FAREWELL, stream.write_all(&out)).await;
    stream.close().await;
}
