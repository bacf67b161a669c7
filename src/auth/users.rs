//! The users who may log in, with what proves them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

use super::scram::Verifier;
use crate::config::{AuthType, Secret, UserSecret};

/// How a client has to prove itself.
pub enum Challenge {
    /// Not at all.
    Trust,
    /// By SCRAM-SHA-256.
    Scram(Verifier),
    /// By md5, with this salt. The second is the answer that is right; none is for a user that does not exist.
    Md5([u8; 4], Option<String>),
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("names", &self.book.load().secrets.keys()).finish_non_exhaustive()
    }
}

/// The users as one configuration has them; a reload puts another book in its place.
struct Book {
    auth_type: AuthType,
    secrets: BTreeMap<String, UserSecret>,
    verifiers: Mutex<BTreeMap<String, Verifier>>,
}

impl Book {
    fn new(auth_type: AuthType, secrets: BTreeMap<String, UserSecret>) -> Self {
        Self { auth_type, secrets, verifiers: Mutex::default() }
    }

    fn cached(&self, user: &str) -> Option<Verifier> {
        self.verifiers.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }
}

/// The users. Verifiers of plain passwords are computed once and kept.
pub struct Users {
    book: ArcSwap<Book>,
    process_secret: [u8; 32],
}

impl Users {
    /// The users of a configuration.
    #[must_use]
    pub fn new(auth_type: AuthType, secrets: BTreeMap<String, UserSecret>) -> Arc<Self> {
        let mut process_secret = [0; 32];
        if rand::fill(&mut process_secret).is_err() {
            tracing::error!("no random bytes for the salts of unknown users");
        }
        Arc::new(Self { book: ArcSwap::from_pointee(Book::new(auth_type, secrets)), process_secret })
    }

    /// Takes the users of another configuration. Those who are logged in stay; a log-in that has begun ends with the
    /// users with whom it began.
    pub fn reload(&self, auth_type: AuthType, secrets: BTreeMap<String, UserSecret>) {
        self.book.store(Arc::new(Book::new(auth_type, secrets)));
    }

    /// The plain password of a user, if it is known: what a pool logs in to Postgres with.
    #[must_use]
    pub fn password(&self, user: &str) -> Option<Secret> {
        match self.book.load().secrets.get(user)? {
            UserSecret::Plain(secret) => Some(secret.clone()),
            UserSecret::Md5(_) | UserSecret::Scram(_) => None,
        }
    }

    /// The user whose plain password is known, if there is just one.
    #[must_use]
    pub fn only_with_password(&self) -> Option<String> {
        let book = self.book.load();
        let mut known = book.secrets.iter().filter(|(_, secret)| matches!(secret, UserSecret::Plain(_)));
        let (name, _) = known.next()?;
        known.next().is_none().then(|| name.clone())
    }

    /// Whether this user is in the list.
    #[must_use]
    pub fn knows(&self, user: &str) -> bool {
        self.book.load().secrets.contains_key(user)
    }

    /// How this user has to prove itself. May compute a verifier, off the threads that serve clients. Cancel-safe.
    pub async fn challenge(&self, user: &str) -> Challenge {
        let book = self.book.load_full();
        match (book.auth_type, book.secrets.get(user)) {
            (AuthType::Trust, _) => Challenge::Trust,
            // A SCRAM secret cannot answer an md5 challenge; the better method is used, as PgBouncer does.
            (AuthType::Md5, Some(UserSecret::Scram(_))) | (AuthType::ScramSha256, _) => {
                Challenge::Scram(self.verifier(&book, user).await)
            }
            (AuthType::Md5, secret) => {
                let mut salt = [0; 4];
                if rand::fill(&mut salt).is_err() {
                    return Challenge::Md5(salt, None);
                }
                Challenge::Md5(salt, secret.and_then(|secret| md5_answer(user, secret, salt)))
            }
        }
    }

    async fn verifier(&self, book: &Arc<Book>, user: &str) -> Verifier {
        let nobody = || Verifier::of_nobody(user, &self.process_secret);
        match book.secrets.get(user) {
            Some(UserSecret::Scram(secret)) => Verifier::parse(secret.expose()).unwrap_or_else(nobody),
            // An empty password is no password (CVE-2017-7546).
            Some(UserSecret::Plain(secret)) if !secret.expose().is_empty() => {
                if let Some(known) = book.cached(user) {
                    return known;
                }
                let (book, name, secret) = (Arc::clone(book), user.to_owned(), secret.clone());
                let computed = tokio::task::spawn_blocking(move || {
                    let verifier = Verifier::of_password(secret.expose())?;
                    book.verifiers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, verifier.clone());
                    Some(verifier)
                });
                computed.await.ok().flatten().unwrap_or_else(nobody)
            }
            _ => nobody(),
        }
    }
}

/// `md5(md5(password + user) + salt)`, as the protocol chapter has it.
fn md5_answer(user: &str, secret: &UserSecret, salt: [u8; 4]) -> Option<String> {
    match secret {
        UserSecret::Plain(password) if password.expose().is_empty() => None,
        UserSecret::Plain(password) => {
            Some(postgres_protocol::authentication::md5_hash(user.as_bytes(), password.expose().as_bytes(), salt))
        }
        UserSecret::Md5(stored) => {
            let inner = stored.expose().strip_prefix("md5")?;
            let outer = Md5::new().chain_update(inner).chain_update(salt).finalize();
            Some(outer.iter().fold("md5".to_owned(), |text, byte| format!("{text}{byte:02x}")))
        }
        UserSecret::Scram(_) => None,
    }
}

/// Whether an answer to an md5 challenge is the right one; constant time.
#[must_use]
pub fn md5_matches(expected: Option<&str>, answer: &[u8]) -> bool {
    expected.is_some_and(|expected| bool::from(expected.as_bytes().ct_eq(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn both_forms_of_an_md5_secret_give_one_answer() {
        let stored = postgres_protocol::password::md5(b"pw", "joe");
        let plain = md5_answer("joe", &UserSecret::Plain(secret("pw")), [1, 2, 3, 4]).unwrap();
        assert_eq!(md5_answer("joe", &UserSecret::Md5(secret(&stored)), [1, 2, 3, 4]).as_deref(), Some(plain.as_str()));
        assert!(md5_matches(Some(&plain), plain.as_bytes()));
        assert!(!md5_matches(Some(&plain), b"md5"));
        assert!(!md5_matches(None, b""));
    }

    #[tokio::test]
    async fn empty_passwords_and_unknown_users_match_nothing() {
        let secrets = BTreeMap::from([("empty".to_owned(), UserSecret::Plain(secret("")))]);
        let users = Users::new(AuthType::Md5, secrets.clone());
        for name in ["empty", "ghost"] {
            assert!(matches!(users.challenge(name).await, Challenge::Md5(_, None)));
        }
        let users = Users::new(AuthType::ScramSha256, secrets);
        for name in ["empty", "ghost"] {
            assert!(matches!(users.challenge(name).await, Challenge::Scram(_)));
        }
    }
}
