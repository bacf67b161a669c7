//! An idle client goes on in another process of ours: its socket and its [`Passport`] leave this one, or come here.
//!
//! It goes between transactions, with nothing of it half read, and without TLS (whose keys stay where they are). What it sends
//! in the meantime waits in its socket.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::front::Front;
use super::passport::{Octets, Passport};
use super::state::State;
use super::task::Session;
use crate::auth::credential::Credential;
use crate::clients::{Entry, Local};
use crate::net::stream::Stream;
use crate::wire::startup::CancelKey;

/// A client that is about to go. It stays if its socket was not sent.
#[derive(Debug)]
pub struct Departure {
    /// What goes along.
    pub passport: Passport,
    /// The role of its servers and what they log in with, where no file tells: a client has proved to have it.
    pub proved: Option<(String, Credential)>,
    /// Its socket; the client's session has it too until it has gone.
    pub socket: OwnedFd,
    /// Told when both are with the other process, or dropped.
    pub gone: oneshot::Sender<()>,
}

/// Where those go who are to leave.
pub type Way = mpsc::Sender<Departure>;

/// Why a client that another process has sent cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Stranded {
    /// Its socket is dead.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The configuration does not have its database any more.
    #[error("no such database: {0}")]
    NoDatabase(String),
    /// Its statements do not fit.
    #[error("no room for its prepared statements (prepared_statement_memory)")]
    NoRoom,
}

impl Session {
    /// Goes to the other process. Returns false if it stays after all.
    pub(super) async fn departs(&mut self) -> bool {
        let went = async {
            let way = self.front.door.way.load_full()?;
            let departure = self.packed();
            let (gone, word) = oneshot::channel();
            let (passport, socket) = departure?;
            let proved = self.proved();
            way.send(Departure { passport, proved, socket, gone }).await.ok()?;
            word.await.ok()
        };
        let went = went.await.is_some();
        if !went {
            self.presence.client().ask_to_move(false);
        }
        went
    }

    fn proved(&self) -> Option<(String, Credential)> {
        let role = &self.pool.user;
        if self.front.users.credential(role).is_some() {
            return None;
        }
        let credential = self.pool.target().keychain.get()?;
        Some((role.clone(), Credential::clone(&credential)))
    }

    fn packed(&self) -> Option<(Passport, OwnedFd)> {
        let client = self.presence.client();
        let socket = match self.stream.socket() {
            Stream::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
            Stream::Unix(stream) => stream.as_fd().try_clone_to_owned(),
            Stream::Tls(_) | Stream::Closed => return None,
        };
        let passport = Passport {
            user: client.user.clone(),
            database: client.database.clone(),
            application_name: client.application_name(),
            minor: client.minor,
            pid: client.key.pid,
            secret: Octets(client.key.secret.clone()),
            luggage: self.state.pack()?,
        };
        Some((passport, socket.ok()?))
    }

    /// Takes in a client that has come from another process.
    ///
    /// # Errors
    /// [`Stranded`]: its socket is closed then.
    pub fn arrive(front: &Front, passport: Passport, socket: OwnedFd) -> Result<Self, Stranded> {
        let stream = Stream::adopt(socket, &front.config().tcp_watch())?;
        let none = || Stranded::NoDatabase(passport.database.clone());
        let database = front.databases.find(&passport.database).ok_or_else(none)?;
        let entry = Entry {
            pool_user: front.config().role(&database.name, &passport.user).to_owned(),
            user: passport.user,
            database: database.name.clone(),
            peer: stream.peer()?,
            tls: None,
            local: Local::of(&stream),
            connected_at: front.clock.now(),
            application_name: passport.application_name,
            minor: passport.minor,
        };
        let user = entry.user.clone();
        let key = CancelKey { pid: passport.pid, secret: passport.secret.0 };
        let presence = front.clients.take_over(entry, key);
        let pool = front.databases.pool(&database, &user, None, |role| front.users.credential(role));
        let pool = pool.filter(|_| !database.is_removed()).ok_or(Stranded::NoDatabase(passport.database))?;
        let state = State::unpack(Arc::clone(&front.catalog), &pool, passport.luggage).ok_or(Stranded::NoRoom)?;
        Ok(Self::with_state(front.clone(), presence, pool, (stream, state)))
    }
}
