//! The list of clients, and the way from a cancel key to the client that it was given to.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::rand;
use bytes::Bytes;
use dashmap::DashMap;
use subtle::ConstantTimeEq as _;

use super::seat::Seat;
use super::{Client, State, Statement, View};
use crate::ids::{Moment, SessionId};
use crate::net::stream::{Peer, Stream};
use crate::wire::startup::CancelKey;

/// All clients that are logged in, by the process id that they were given.
#[derive(Debug, Default)]
pub struct Clients {
    by_pid: DashMap<i32, Arc<Client>>,
    count: AtomicUsize,
    /// How many there are of each database, and of each user; names without a client are not in it.
    of_database: DashMap<String, usize>,
    of_user: DashMap<String, usize>,
    last_id: Arc<AtomicU64>,
    operators: OnceLock<Arc<Self>>,
}

/// Why no more clients are taken. The texts are PgBouncer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// There are as many as there may be.
    #[error("no more connections allowed (max_client_conn)")]
    Process,
    /// This database has as many as it may have.
    #[error("client connections exceeded (max_db_client_connections)")]
    Database,
    /// This user has as many as it may have.
    #[error("client connections exceeded (max_user_client_connections)")]
    User,
}

/// How many clients there may be; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// In all.
    pub process: usize,
    /// Of the client's database.
    pub database: Option<usize>,
    /// Of the client's user.
    pub user: Option<usize>,
}

/// Counts one more of a name, unless there are `cap` already.
fn take(counts: &DashMap<String, usize>, name: &str, cap: Option<usize>) -> bool {
    let mut count = counts.entry(name.to_owned()).or_insert(0);
    let room = cap.is_none_or(|cap| *count < cap);
    *count += usize::from(room);
    room
}

fn give(counts: &DashMap<String, usize>, name: &str) {
    if let dashmap::Entry::Occupied(mut count) = counts.entry(name.to_owned()) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// A client's place in the list; it leaves the list when this is dropped.
#[derive(Debug)]
pub struct Presence {
    client: Arc<Client>,
    clients: Arc<Clients>,
}

impl Presence {
    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.clients.by_pid.remove(&self.client.key.pid);
        give(&self.clients.of_user, &self.client.user);
        give(&self.clients.of_database, &self.client.database);
        self.clients.count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Clients {
    /// Those who are at the console: a list of their own, for they count for no limit, but of the same row of ids.
    #[must_use]
    pub fn operators(&self) -> &Arc<Self> {
        self.operators.get_or_init(|| Arc::new(Self { last_id: Arc::clone(&self.last_id), ..Self::default() }))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn make_room(&self, caps: Caps, who: &Entry) -> Result<(), Full> {
        let one_more = |count| (count < caps.process).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).map_err(|_| Full::Process)?;
        let full = if !take(&self.of_database, &who.database, caps.database) {
            Full::Database
        } else if !take(&self.of_user, &who.user, caps.user) {
            give(&self.of_database, &who.database);
            Full::User
        } else {
            return Ok(());
        };
        self.count.fetch_sub(1, Ordering::AcqRel);
        Err(full)
    }

    /// Takes a client in, unless there are as many as `caps` allow already.
    ///
    /// # Errors
    /// [`Full`], and of what.
    pub fn enter(self: &Arc<Self>, caps: Caps, who: Entry) -> Result<Presence, Full> {
        self.make_room(caps, &who)?;
        Ok(self.place(who))
    }

    /// Takes a client in without a limit.
    #[must_use]
    pub fn take_in(self: &Arc<Self>, who: Entry) -> Presence {
        self.count.fetch_add(1, Ordering::AcqRel);
        let _ = take(&self.of_database, &who.database, None) && take(&self.of_user, &who.user, None);
        self.place(who)
    }

    fn place(self: &Arc<Self>, who: Entry) -> Presence {
        let id = SessionId(self.last_id.fetch_add(1, Ordering::AcqRel) + 1);
        loop {
            let key = random_key(who.minor);
            // An `entry` holds its shard's lock, so no two clients get one process id.
            if let dashmap::Entry::Vacant(place) = self.by_pid.entry(key.pid) {
                let client = Arc::new(who.into_client(id, key));
                place.insert(Arc::clone(&client));
                return Presence { client, clients: Arc::clone(self) };
            }
        }
    }

    /// Takes a client in that has logged in to another process of ours and was given this key there, without a limit. If its
    /// number is somebody else's here, nobody can cancel its requests any more.
    #[must_use]
    pub fn take_over(self: &Arc<Self>, who: Entry, key: CancelKey) -> Presence {
        self.count.fetch_add(1, Ordering::AcqRel);
        let _ = take(&self.of_database, &who.database, None) && take(&self.of_user, &who.user, None);
        if let dashmap::Entry::Vacant(place) = self.by_pid.entry(key.pid) {
            let id = SessionId(self.last_id.fetch_add(1, Ordering::AcqRel) + 1);
            let client = Arc::new(who.into_client(id, key));
            place.insert(Arc::clone(&client));
            return Presence { client, clients: Arc::clone(self) };
        }
        self.place(who)
    }

    /// The client that was given this key; compared in constant time.
    #[must_use]
    pub fn by_key(&self, key: &CancelKey) -> Option<Arc<Client>> {
        let client = Arc::clone(self.by_pid.get(&key.pid)?.value());
        bool::from(client.key.secret.ct_eq(&key.secret)).then_some(client)
    }

    /// All of them, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.by_pid.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_by_key(|client| client.id);
        all
    }
}

/// Our end of a client's connection, and who is at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local {
    /// Our address and port, over TCP.
    pub addr: Option<(IpAddr, u16)>,
    /// The process at the other end, over a Unix socket.
    pub peer_pid: Option<i32>,
}

impl Local {
    /// Of a connected socket.
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        Self { addr: stream.local(), peer_pid: stream.peer_pid() }
    }
}

/// What is known of a client when it enters.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who it is.
    pub user: String,
    /// The database that it asked for.
    pub database: String,
    /// The user whose pool it is in.
    pub pool_user: String,
    /// Where it comes from.
    pub peer: Peer,
    /// Version and cipher of its TLS, if it has any.
    pub tls: Option<String>,
    /// Our end of its connection.
    pub local: Local,
    /// When it connected.
    pub connected_at: Moment,
    /// The name that the application gives itself.
    pub application_name: String,
    /// The minor version of the protocol that it speaks; it decides how long its cancel key is.
    pub minor: u16,
}

impl Entry {
    fn into_client(self, id: SessionId, key: CancelKey) -> Client {
        let view = View {
            state: State::Idle,
            since: self.connected_at,
            transaction: None,
            statement: Statement::default(),
            link: None,
            group: super::UNKNOWN,
        };
        Client {
            id,
            user: self.user,
            database: self.database,
            pool_user: self.pool_user,
            peer: self.peer,
            tls: self.tls,
            local: self.local,
            connected_at: self.connected_at,
            key,
            minor: self.minor,
            application_name: Mutex::new(self.application_name),
            group: AtomicU32::new(super::UNKNOWN),
            view: Mutex::new(view),
            statements: AtomicU64::new(0),
            keeps: AtomicU16::new(0),
            told: AtomicU8::new(0),
            seat: Seat::default(),
            farewell: Mutex::new(None),
        }
    }
}

/// Bytes of a secret in protocol 3.0, and from 3.2 on: as many as Postgres sends.
const SECRET: (usize, usize) = (4, 32);
/// What a long secret begins with: the number of this layout, two bytes for the number of the process that made it (0:
/// the only one) and one of reserve, so that several processes behind one address can tell whose a key is.
const LAYOUT: [u8; 4] = [1, 0, 0, 0];

/// A key that nobody can guess. The process id is positive, as drivers expect.
fn random_key(minor: u16) -> CancelKey {
    let length = if minor >= 2 { SECRET.1 } else { SECRET.0 };
    let (mut pid, mut secret) = ([0_u8; 4], vec![0_u8; length]);
    // It fails only where the kernel has no randomness; then a key that is refused by everybody is the safe one.
    if rand::fill(&mut pid).and_then(|()| rand::fill(&mut secret)).is_err() {
        tracing::error!("no random bytes for a cancel key");
        return CancelKey { pid: i32::MIN, secret: Bytes::new() };
    }
    if minor >= 2 {
        secret.splice(..LAYOUT.len(), LAYOUT);
    }
    CancelKey { pid: (i32::from_be_bytes(pid) & i32::MAX).max(1), secret: Bytes::from(secret) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    use super::super::{Cancel, Doing, Told};
    use super::*;
    use crate::wire::reply::Report;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn client() -> Client {
        let entry = Entry {
            user: String::new(),
            database: String::new(),
            pool_user: String::new(),
            application_name: String::new(),
            peer: Peer::Tcp(Ipv4Addr::LOCALHOST.into(), 1),
            tls: None,
            local: Local::default(),
            connected_at: Moment(0),
            minor: 0,
        };
        entry.into_client(SessionId(1), random_key(0))
    }

    #[test]
    fn what_is_told_while_the_task_looks_wakes_it() {
        // Two threads that meet: one of so many times a word comes between the look and the waker, if there is a between.
        for _ in 0..20_000 {
            let (client, woken, here) = (client(), Arc::new(Woken::default()), AtomicUsize::new(0));
            client.ask_to_move(true);
            let meet = || {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            };
            let heard = std::thread::scope(|scope| {
                scope.spawn(|| {
                    meet();
                    client.dismiss(Report::new("57P01", "go"));
                });
                meet();
                let waker = Waker::from(Arc::clone(&woken));
                client.poll_told(&mut Context::from_waker(&waker), Doing::Resting).is_ready()
            });
            assert!(heard || woken.0.load(Ordering::SeqCst) > 0, "it was told, and nobody woke its task");
        }
    }

    #[test]
    fn every_word_wakes_a_task_that_listens() {
        let (client, woken) = (client(), Arc::new(Woken::default()));
        client.listen(&Waker::from(Arc::clone(&woken)));
        client.ask_to_move(true);
        client.dismiss_at_rest(Report::new("57P01", "go"));
        client.dismiss(Report::new("57P01", "go"));
        assert_eq!(woken.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_cancel_is_for_the_request_that_waits_and_for_no_other() {
        let client = client();
        let cancelled = || {
            client.waits(Moment(1));
            assert!(matches!(client.cancel(), Cancel::Told));
        };
        cancelled();
        client.rests(Moment(2));
        assert_eq!(client.told(Doing::Waiting), None, "the request has never begun");
        cancelled();
        assert!(!client.ends(Moment(2)));
        assert_eq!(client.told(Doing::Waiting), None, "the request has never begun");
        cancelled();
        // Its server was of no use, and it waits for another.
        client.waits(Moment(2));
        assert_eq!(client.told(Doing::Waiting), Some(Told::Cancel));
    }

    #[test]
    fn keys_are_as_long_as_their_protocol_says_and_random() {
        for (minor, length, fixed) in [(0, 4, 0), (1, 4, 0), (2, 32, 4)] {
            let keys: Vec<_> = (0..64).map(|_| random_key(minor)).collect();
            assert!(keys.iter().all(|key| key.pid > 0 && key.secret.len() == length));
            for byte in 0..length {
                let values: std::collections::BTreeSet<_> = keys.iter().map(|key| key.secret[byte]).collect();
                assert!(if byte < fixed { values.len() == 1 } else { values.len() > 30 }, "3.{minor}, byte {byte}");
            }
        }
    }
}
