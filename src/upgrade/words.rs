//! What the two processes tell each other. They may be of different versions: words are only ever added. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::auth::credential::Credential;
use crate::auth::scram::Keys;
use crate::config::Secret;
use crate::session::passport::{Octets, Passport};

/// What the elder says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHeir {
    /// The sockets that listen come with this word, in the same order.
    Doors(Vec<Door>),
    /// What servers of a pool are logged in to with, where a client has brought it.
    Pool(PoolKey),
    /// That is all there is to know: begin to serve.
    Begin,
    /// A client; its socket comes with this word.
    Client(Box<Passport>),
    /// The elder takes nobody in any more: what is written in files is the heir's.
    Yours,
}

/// What the heir says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToElder {
    /// It has started.
    Hello {
        /// Its version.
        version: String,
    },
    /// It serves.
    Ready,
    /// It cannot: why.
    Failed(String),
    /// It has the client that was sent last, and goes on with it from here.
    Taken,
    /// A cancel request that is for none of its clients.
    Cancel {
        /// Process id.
        pid: i32,
        /// The rest of the key.
        secret: Octets,
    },
    /// It has been told to end: so has the elder, then.
    Ending(Last),
}

/// How a process is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Last {
    /// When its clients have left.
    WaitForClients,
    /// When their transactions have ended.
    WaitForServers,
    /// At once.
    Now,
}

/// What the lock of the state_dir is called among the sockets.
pub const STATE: &str = "state";

/// One socket that listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Door {
    /// What it is for: `admin`, `metrics`, or anything else for clients.
    pub(super) name: String,
    /// Its file, of a Unix socket.
    #[serde(default)]
    pub(super) path: Option<PathBuf>,
    /// The elder has made its file, and would have removed it.
    pub(super) ours: bool,
}

/// The credential of a pool's servers.
#[derive(Serialize, Deserialize)]
pub struct PoolKey {
    /// The pool's database.
    pub database: String,
    /// Its role.
    pub role: String,
    /// What it logs in with.
    pub key: Key,
}

impl std::fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolKey({}, {}, [redacted])", self.database, self.role)
    }
}

/// A credential in words.
#[derive(Serialize, Deserialize)]
pub enum Key {
    /// A password.
    Password(String),
    /// The stored md5 hash.
    Md5(String),
    /// The keys of a SCRAM secret.
    Scram {
        /// How often the hash is taken.
        iterations: u32,
        /// The salt.
        salt: Octets,
        /// ClientKey.
        client: Octets,
        /// ServerKey.
        server: Octets,
    },
}

impl From<&Credential> for Key {
    fn from(credential: &Credential) -> Self {
        match credential {
            Credential::Password(secret) => Self::Password(secret.expose().to_owned()),
            Credential::Md5(secret) => Self::Md5(secret.expose().to_owned()),
            Credential::Keys(keys) => {
                let (iterations, salt, client, server) = keys.parts();
                Self::Scram { iterations, salt: salt.into(), client: client.into(), server: server.into() }
            }
        }
    }
}

impl From<Key> for Credential {
    fn from(key: Key) -> Self {
        match key {
            Key::Password(text) => Self::Password(Secret::new(text)),
            Key::Md5(text) => Self::Md5(Secret::new(text)),
            Key::Scram { iterations, salt, client, server } => {
                Self::Keys(Keys::of_parts(iterations, &salt.0, &client.0, &server.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_through_and_are_not_printed() {
        let keys = Keys::of_parts(4096, b"salt", b"client", b"server");
        let secret = || Secret::new("pw".to_owned());
        for credential in [Credential::Password(secret()), Credential::Md5(secret()), Credential::Keys(keys)] {
            let word = ToHeir::Pool(PoolKey { database: "d".into(), role: "r".into(), key: Key::from(&credential) });
            assert!(!format!("{word:?}").contains("pw"));
            let text = serde_json::to_string(&word).unwrap();
            let Ok(ToHeir::Pool(PoolKey { key, .. })) = serde_json::from_str(&text) else { panic!("{text}") };
            assert!(Credential::from(key).same(&credential));
        }
    }
}
