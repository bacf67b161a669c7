//! The elder's side: starts the heir, and sends it what it is to go on with.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot};

use super::link::{Receiver, Sender, link};
use super::words::{Door, Key, Last, PoolKey, ToElder, ToHeir};
use crate::net::listen::Share;
use crate::session::front::Front;
use crate::session::greet;
use crate::session::journey::Departure;
use crate::wire::startup::CancelKey;

/// How long the heir may take until it serves.
const START: Duration = Duration::from_secs(30);

/// How long the heir may take to take one client.
const STUCK: Duration = Duration::from_secs(5);

/// Departures that wait to be sent.
const QUEUE: usize = 64;

/// Why there is no heir. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum NoHeir {
    /// The program could not be started.
    #[error("cannot start {0}: {1}")]
    Start(String, io::Error),
    /// It has said why.
    #[error("the new process cannot serve: {0}")]
    Failed(String),
    /// It has ended, or talks nonsense.
    #[error("the new process has ended at its start ({0}): what it has printed says why")]
    Died(String),
    /// It takes too long.
    #[error("the new process did not serve within {} s", START.as_secs())]
    Late,
}

/// A process that serves beside this one and waits for its clients. Dropping it ends it.
#[derive(Debug)]
pub struct Heir {
    /// Its version.
    pub version: String,
    process: Process,
    sender: Sender,
    receiver: Receiver,
}

/// Killed on drop, unless it is let go.
#[derive(Debug)]
struct Process(Option<Child>);

impl Process {
    /// Waits for its end where nobody is kept waiting; no process stays undead.
    fn reap(mut child: Child) {
        drop(tokio::task::spawn_blocking(move || child.wait()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            Self::reap(child);
        }
    }
}

impl Heir {
    /// Starts a process by this command, which is the program itself, and waits until it serves from the same sockets.
    /// Cancel-safe: the process is killed.
    ///
    /// # Errors
    /// [`NoHeir`].
    pub async fn start(mut command: Command, shares: &[Share], pools: Vec<PoolKey>) -> Result<Self, NoHeir> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (ours, theirs) = UnixStream::pair().map_err(|error| NoHeir::Start(program.clone(), error))?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().map_err(|error| NoHeir::Start(program.clone(), error))?;
        // Its copy of the other end is closed with it: the link breaks when the heir does.
        drop(command);
        let process = Process(Some(child));
        let (sender, receiver) = link(ours).map_err(|error| NoHeir::Start(program, error))?;
        let heir = Self { version: String::new(), process, sender, receiver };
        tokio::time::timeout(START, heir.prepare(shares, pools)).await.unwrap_or(Err(NoHeir::Late))
    }

    async fn prepare(mut self, shares: &[Share], pools: Vec<PoolKey>) -> Result<Self, NoHeir> {
        let died = |error: io::Error| NoHeir::Died(error.to_string());
        let door = |share: &Share| Door { name: share.name.clone(), path: share.path.clone(), ours: share.is_ours() };
        let doors = shares.iter().map(door).collect();
        let sockets: Vec<_> = shares.iter().map(|share| share.socket.as_fd()).collect();
        self.sender.send(&ToHeir::Doors(doors), &sockets).await.map_err(died)?;
        for pool in pools {
            self.sender.send(&ToHeir::Pool(pool), &[]).await.map_err(died)?;
        }
        self.sender.send(&ToHeir::Begin, &[]).await.map_err(died)?;
        loop {
            match self.receiver.receive().await.map_err(died)? {
                None => return Err(NoHeir::Died("it has closed the link".to_owned())),
                Some((ToElder::Hello { version }, _)) => self.version = version,
                Some((ToElder::Ready, _)) => return Ok(self),
                Some((ToElder::Failed(why), _)) => return Err(NoHeir::Failed(why)),
                Some((word @ (ToElder::Cancel { .. } | ToElder::Taken | ToElder::Ending(_)), _)) => {
                    tracing::debug!(?word, "before its time");
                }
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.as_ref().map_or(0, Child::id)
    }

    /// From here on it is in charge: clients that are [asked to move](crate::clients::Client::ask_to_move) go to it. What is
    /// returned ends when it has died; [`Front`]'s way to it is closed then. `last` is told when it was told to end.
    ///
    /// # Errors
    /// It has died already.
    pub async fn lead(
        mut self,
        front: &Front,
        last: impl Fn(Last) + Send + Sync + 'static,
    ) -> io::Result<oneshot::Receiver<()>> {
        self.sender.send(&ToHeir::Yours, &[]).await?;
        let (way, departures) = mpsc::channel(QUEUE);
        front.door.way.store(Some(Arc::new(way)));
        let (lost, word) = oneshot::channel();
        let Self { mut process, sender, receiver, .. } = self;
        let child = process.0.take();
        let (acks, taken) = mpsc::channel(1);
        let heir = child.as_ref().map_or(0, Child::id);
        tokio::spawn(see_off(sender, departures, taken, heir));
        let front = front.clone();
        tokio::spawn(async move {
            listen(receiver, &front, acks, last).await;
            front.door.way.store(None);
            child.into_iter().for_each(Process::reap);
            let _ = lost.send(());
        });
        Ok(word)
    }
}

/// Sends those who go, one by one. Whoever cannot be sent stays. A heir that does not take them is killed: it serves nobody.
async fn see_off(
    mut sender: Sender,
    mut departures: mpsc::Receiver<Departure>,
    mut taken: mpsc::Receiver<()>,
    heir: u32,
) {
    // The link stays open as long as anybody may still go: its end means that there is nobody here any more.
    while let Some(Departure { passport, proved, socket, gone }) = departures.recv().await {
        let pool = proved.map(|(role, credential)| PoolKey {
            database: passport.database.clone(),
            role,
            key: Key::from(&credential),
        });
        let sending = async {
            if let Some(pool) = pool {
                sender.send(&ToHeir::Pool(pool), &[]).await?;
            }
            sender.send(&ToHeir::Client(Box::new(passport)), &[socket.as_fd()]).await?;
            taken.recv().await.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        match tokio::time::timeout(STUCK, sending).await {
            Ok(Ok(())) => _ = gone.send(()),
            Ok(Err(error)) => tracing::debug!(%error, "cannot send a client to the new process"),
            Err(_) => {
                tracing::error!(pid = heir, "the new process takes no clients: killing it");
                // Not waited for yet, so the number is its own.
                let _ = kill(Pid::from_raw(i32::try_from(heir).unwrap_or(i32::MAX)), Signal::SIGKILL);
            }
        }
    }
}

/// Passes on the cancel requests that are for clients who are still here, and the wish to end, until the heir has died.
async fn listen(mut receiver: Receiver, front: &Front, acks: mpsc::Sender<()>, last: impl Fn(Last)) {
    loop {
        match receiver.receive().await {
            Ok(Some((ToElder::Cancel { pid, secret }, _))) => {
                let front = front.clone();
                tokio::spawn(async move { greet::cancel(&CancelKey { pid, secret: secret.0 }, &front).await });
            }
            Ok(Some((ToElder::Ending(how), _))) => last(how),
            Ok(Some((ToElder::Taken, _))) => _ = acks.send(()).await,
            Ok(Some((word, _))) => tracing::debug!(?word, "unexpected"),
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "lost the new process"),
        }
    }
}
