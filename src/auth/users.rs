//! The users who may log in, with what proves them, as one value that a reload swaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use tokio::sync::{OnceCell, Semaphore};

use super::credential::Credential;
use super::rules::Rules;
use super::scram::{self, ITERATIONS, Verifier};
use crate::config::{Config, Secret, UserSecret};

/// How a client has to prove itself.
pub enum Challenge {
    /// By SCRAM-SHA-256, for any of these, which have one salt.
    Scram(Arc<[Verifier]>),
    /// By md5, with this salt; any of these answers is right.
    Md5([u8; 4], Vec<String>),
}

/// A user that is known, from `auth_file` or by a look-up. Verifiers of plain passwords are computed once and kept.
pub struct Account {
    secret: UserSecret,
    verifiers: OnceCell<Arc<[Verifier]>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account([redacted])")
    }
}

impl Account {
    /// A user with this secret; an empty one proves nothing.
    #[must_use]
    pub fn new(secret: UserSecret) -> Arc<Self> {
        Arc::new(Self { secret, verifiers: OnceCell::new() })
    }

    /// What servers are logged in to with as this user, as far as its secret tells.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        if self.passwords().any(|secret| secret.expose().is_empty()) {
            return None;
        }
        Credential::of_secret(&self.secret)
    }

    fn passwords(&self) -> impl Iterator<Item = &Secret> {
        let all = match &self.secret {
            UserSecret::Plain(secret) => std::slice::from_ref(secret),
            UserSecret::Several(secrets) => secrets,
            UserSecret::Md5(_) | UserSecret::Scram(_) => &[],
        };
        all.iter()
    }

    const fn is_scram(&self) -> bool {
        matches!(self.secret, UserSecret::Scram(_))
    }
}

/// The users and rules of a configuration.
#[derive(Debug)]
pub struct Book {
    /// Which way each client has to take.
    pub rules: Rules,
    accounts: BTreeMap<String, Arc<Account>>,
    /// Is there an `auth_file`? Without one, `trust` trusts everybody.
    listed: bool,
    /// How an unknown user is challenged: as most of the known ones are.
    mock_scram: bool,
    mock_iterations: u32,
}

impl Book {
    fn of(config: &Config) -> Self {
        let Config { auth_type, hba, ident_maps, users, .. } = config;
        let looks_up = config.auth_user.is_some() || config.databases.values().any(|entry| entry.auth_user.is_some());
        let stored = users.values().find_map(|secret| match secret {
            UserSecret::Scram(secret) => Verifier::parse(secret.expose()),
            _ => None,
        });
        Self {
            rules: Rules { auth_type: *auth_type, hba: hba.clone(), ident_maps: ident_maps.clone() },
            accounts: users.iter().map(|(name, secret)| (name.clone(), Account::new(secret.clone()))).collect(),
            listed: config.auth_file.is_some() || looks_up,
            mock_scram: looks_up || stored.is_some(),
            mock_iterations: stored.map_or(ITERATIONS, |verifier| verifier.iterations()),
        }
    }

    /// The user of this name in `auth_file`.
    #[must_use]
    pub fn account(&self, user: &str) -> Option<&Arc<Account>> {
        self.accounts.get(user)
    }

    /// Whether users must be known even where they are trusted.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        self.listed
    }
}

/// The users. See the module's text.
pub struct Users {
    book: ArcSwap<Book>,
    process_secret: [u8; 32],
    /// Places for hashing passwords: it is slow on purpose, and must not take the whole machine.
    hashing: Arc<Semaphore>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("book", &self.book()).finish_non_exhaustive()
    }
}

impl Users {
    /// The users of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        let mut process_secret = [0; 32];
        if rand::fill(&mut process_secret).is_err() {
            tracing::error!("no random bytes for the salts of unknown users");
        }
        let places = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Arc::new(Self {
            book: ArcSwap::from_pointee(Book::of(config)),
            process_secret,
            hashing: Arc::new(Semaphore::new(places)),
        })
    }

    /// Takes over the users and rules of another configuration; log-ins under way go on with what they began with.
    pub fn reload(self: &Arc<Self>, config: &Config) {
        self.book.store(Arc::new(Book::of(config)));
        self.warm_up();
    }

    /// The users and rules of now.
    #[must_use]
    pub fn book(&self) -> Arc<Book> {
        self.book.load_full()
    }

    /// Computes the verifiers of all plain passwords in the background, so that no log-in has to wait for its own, and the
    /// time that one takes does not tell whether its user exists.
    pub fn warm_up(self: &Arc<Self>) {
        let (users, book) = (Arc::clone(self), self.book());
        tokio::spawn(async move {
            for (name, account) in &book.accounts {
                if Arc::strong_count(&book) == 1 {
                    return; // Another has taken its place.
                }
                users.verifiers(name, account).await;
            }
        });
    }

    /// What a pool logs in to Postgres with as this user, if its entry in `auth_file` tells.
    #[must_use]
    pub fn credential(&self, user: &str) -> Option<Credential> {
        self.book().account(user)?.credential()
    }

    /// The user whose plain password is known, if there is just one.
    #[must_use]
    pub fn only_with_password(&self) -> Option<String> {
        let book = self.book();
        let with_password = |account: &Account| matches!(account.credential(), Some(Credential::Password(_)));
        let mut known = book.accounts.iter().filter(|(_, account)| with_password(account));
        let (name, _) = known.next()?;
        known.next().is_none().then(|| name.clone())
    }

    /// The challenge of SCRAM for a user, or for nobody. May hash, off the threads that serve clients. Cancel-safe.
    pub async fn scram(&self, user: &str, account: Option<&Arc<Account>>) -> Challenge {
        Challenge::Scram(match account {
            Some(account) => self.verifiers(user, account).await,
            None => self.nobody(user),
        })
    }

    /// The challenge of md5; of SCRAM where the stored secret is one, which cannot answer md5, as PgBouncer does.
    pub async fn md5(&self, user: &str, account: Option<&Arc<Account>>) -> Challenge {
        let scram = account.map_or_else(|| self.book().mock_scram, |account| account.is_scram());
        if scram {
            return self.scram(user, account).await;
        }
        let mut salt = [0; 4];
        if rand::fill(&mut salt).is_err() {
            return Challenge::Md5(salt, Vec::new());
        }
        Challenge::Md5(salt, account.map(|account| md5_answers(user, account, salt)).unwrap_or_default())
    }

    /// Checks a plain password. Hashes once for everybody, whatever is stored, so that the time tells nothing. Gives what
    /// servers can be logged in to with, if it is right. Cancel-safe.
    pub async fn check_plain(
        &self,
        user: &str,
        account: Option<&Arc<Account>>,
        password: Secret,
    ) -> Option<Credential> {
        let verifiers = match account {
            Some(account) => self.verifiers(user, account).await,
            None => self.nobody(user),
        };
        let md5 = match account.map(|account| &account.secret) {
            Some(UserSecret::Md5(stored)) => {
                let made = postgres_protocol::password::md5(password.expose().as_bytes(), user);
                bool::from(made.as_bytes().ct_eq(stored.expose().to_ascii_lowercase().as_bytes()))
            }
            _ => false,
        };
        let credential = account.and_then(|account| account.credential());
        let hashed = self.hash(move || {
            let right = verifiers.iter().find_map(|verifier| verifier.check(password.expose()));
            // An empty password is no password (CVE-2017-7546).
            let right = (right.is_some() || md5) && !password.expose().is_empty();
            right.then_some(password)
        });
        hashed.await.flatten().map(|password| match credential {
            // The first of several, whichever the client knows.
            Some(Credential::Password(first)) => Credential::Password(first),
            _ => Credential::Password(password),
        })
    }

    fn nobody(&self, user: &str) -> Arc<[Verifier]> {
        [Verifier::of_nobody(user, &self.process_secret, self.book().mock_iterations)].into()
    }

    async fn verifiers(&self, user: &str, account: &Arc<Account>) -> Arc<[Verifier]> {
        let compute = async || {
            let passwords: Vec<Secret> =
                account.passwords().filter(|secret| !secret.expose().is_empty()).cloned().collect();
            match &account.secret {
                UserSecret::Scram(secret) => Verifier::parse(secret.expose()).map(|one| [one].into()),
                _ if passwords.is_empty() => None,
                _ => {
                    let salt = scram::salt_for(user, &self.process_secret);
                    self.hash(move || passwords.iter().map(|one| Verifier::of_password(one.expose(), &salt)).collect())
                        .await
                }
            }
            .unwrap_or_else(|| self.nobody(user))
        };
        Arc::clone(account.verifiers.get_or_init(compute).await)
    }

    /// Runs what is slow on purpose where it keeps nobody waiting, at most one at a time for each core.
    async fn hash<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.hashing).acquire_owned().await.ok()?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        worked.await.ok()
    }
}

/// `md5(md5(password + user) + salt)` of each password, as the protocol chapter has it.
fn md5_answers(user: &str, account: &Account, salt: [u8; 4]) -> Vec<String> {
    let of_plain = |password: &Secret| {
        postgres_protocol::authentication::md5_hash(user.as_bytes(), password.expose().as_bytes(), salt)
    };
    match &account.secret {
        UserSecret::Md5(stored) => md5_of_stored(stored, salt).into_iter().collect(),
        // An empty password is no password (CVE-2017-7546).
        _ => account.passwords().filter(|secret| !secret.expose().is_empty()).map(of_plain).collect(),
    }
}

/// The same, where only the inner hash is known.
#[must_use]
pub fn md5_of_stored(stored: &Secret, salt: [u8; 4]) -> Option<String> {
    let inner = stored.expose().strip_prefix("md5")?.to_ascii_lowercase();
    let outer = Md5::new().chain_update(inner).chain_update(salt).finalize();
    Some(outer.iter().fold("md5".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// Whether an answer to an md5 challenge is one of the right ones; constant time for each.
#[must_use]
pub fn md5_matches(expected: &[String], answer: &[u8]) -> bool {
    expected.iter().fold(false, |found, one| found | bool::from(one.as_bytes().ct_eq(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn users(of: &[(&str, UserSecret)]) -> Arc<Users> {
        let users = of.iter().map(|(name, secret)| ((*name).to_owned(), secret.clone())).collect();
        Users::new(&Config { users, ..Config::default() })
    }

    #[test]
    fn both_forms_of_an_md5_secret_give_one_answer() {
        let stored = postgres_protocol::password::md5(b"pw", "joe");
        let plain = md5_answers("joe", &Account::new(UserSecret::Plain(secret("pw"))), [1, 2, 3, 4]);
        for stored in [stored.clone(), format!("md5{}", stored[3..].to_ascii_uppercase())] {
            assert_eq!(md5_answers("joe", &Account::new(UserSecret::Md5(secret(&stored))), [1, 2, 3, 4]), plain);
        }
        assert!(md5_matches(&plain, plain[0].as_bytes()));
        assert!(!md5_matches(&plain, b"md5") && !md5_matches(&[], b""));
        let several = Account::new(UserSecret::Several(vec![secret("old"), secret("pw")]));
        assert!(md5_matches(&md5_answers("joe", &several, [1, 2, 3, 4]), plain[0].as_bytes()));
    }

    #[tokio::test]
    async fn empty_passwords_and_unknown_users_match_nothing() {
        let users = users(&[("empty", UserSecret::Plain(secret("")))]);
        let book = users.book();
        for name in ["empty", "ghost"] {
            let account = book.account(name);
            assert!(matches!(users.md5(name, account).await, Challenge::Md5(_, answers) if answers.is_empty()));
            let Challenge::Scram(verifiers) = users.scram(name, account).await else { panic!("scram") };
            assert!(verifiers.iter().all(|one| one.check("").is_none()));
            for password in ["", "x"] {
                assert!(users.check_plain(name, account, secret(password)).await.is_none());
            }
        }
        assert!(users.credential("empty").is_none());
    }

    #[tokio::test]
    async fn plain_passwords_are_checked_against_every_form() {
        let stored = |text: &str| secret(text);
        let users = users(&[
            ("plain", UserSecret::Plain(secret("pw"))),
            ("several", UserSecret::Several(vec![secret("first"), secret("pw")])),
            ("md5", UserSecret::Md5(stored(&postgres_protocol::password::md5(b"pw", "md5")))),
            ("scram", UserSecret::Scram(stored(&postgres_protocol::password::scram_sha_256(b"pw")))),
        ]);
        let book = users.book();
        for (name, worth) in [("plain", "pw"), ("several", "first"), ("md5", "pw"), ("scram", "pw")] {
            let right = users.check_plain(name, book.account(name), secret("pw")).await;
            assert!(matches!(right, Some(Credential::Password(one)) if one.expose() == worth), "{name}");
            for wrong in ["", "Pw", "pw "] {
                assert!(users.check_plain(name, book.account(name), secret(wrong)).await.is_none(), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn md5_is_raised_to_scram_where_the_secret_is_one_and_for_nobody_then_too() {
        let scram = UserSecret::Scram(secret(&postgres_protocol::password::scram_sha_256(b"pw")));
        let md5 = UserSecret::Md5(secret(&postgres_protocol::password::md5(b"pw", "b")));
        let users = users(&[("a", scram), ("b", md5)]);
        let book = users.book();
        for (name, raised) in [("a", true), ("b", false), ("ghost", true)] {
            assert_eq!(matches!(users.md5(name, book.account(name)).await, Challenge::Scram(_)), raised, "{name}");
        }
    }

    #[tokio::test]
    async fn a_reload_swaps_everything_at_once() {
        let users = users(&[("a", UserSecret::Plain(secret("pw")))]);
        let before = users.book();
        users
            .reload(&Config { users: [("b".to_owned(), UserSecret::Plain(secret("pw")))].into(), ..Config::default() });
        assert!(users.book().account("a").is_none() && users.book().account("b").is_some());
        assert!(before.account("a").is_some());
        assert!(!format!("{users:?}").contains("pw"));
    }
}
