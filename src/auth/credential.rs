//! What a server is logged in to with. It may come later than the pool (a client proves its key to us), and change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq as _;

use super::scram::Keys;
use crate::config::{Secret, UserSecret};

/// What proves to Postgres that we are a role.
#[derive(Clone)]
pub enum Credential {
    /// Its password: good for every method.
    Password(Secret),
    /// The stored md5 hash: good where Postgres asks for md5.
    Md5(Secret),
    /// The keys of a SCRAM secret: good where Postgres has the same salt and iterations.
    Keys(Keys),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password([redacted])",
            Self::Md5(_) => "Md5([redacted])",
            Self::Keys(_) => "Keys([redacted])",
        })
    }
}

impl Credential {
    /// What a stored secret is worth towards Postgres. A SCRAM secret alone is nothing: it proves others, not us.
    #[must_use]
    pub fn of_secret(secret: &UserSecret) -> Option<Self> {
        match secret {
            UserSecret::Plain(secret) => Some(Self::of_password(secret)),
            UserSecret::Several(secrets) => secrets.first().map(Self::of_password),
            UserSecret::Md5(secret) => Some(Self::Md5(secret.clone())),
            UserSecret::Scram(_) => None,
        }
    }

    /// A password as a configuration holds it.
    #[must_use]
    pub fn of_password(password: &Secret) -> Self {
        Self::Password(password.clone())
    }

    /// Are both the same? Takes the same time whatever the answer is.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let text = |a: &Secret, b: &Secret| bool::from(a.expose().as_bytes().ct_eq(b.expose().as_bytes()));
        match (self, other) {
            (Self::Password(a), Self::Password(b)) | (Self::Md5(a), Self::Md5(b)) => text(a, b),
            (Self::Keys(a), Self::Keys(b)) => a.same(b),
            _ => false,
        }
    }
}

/// The credential of a pool's servers, as it is known by now.
#[derive(Debug, Default)]
pub struct Keychain(Mutex<Option<Arc<Credential>>>);

impl Keychain {
    /// With this credential, if there is one yet.
    #[must_use]
    pub fn new(credential: Option<Credential>) -> Self {
        Self(Mutex::new(credential.map(Arc::new)))
    }

    /// The credential to log in with now.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Credential>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a credential over. Returns whether it is another than before.
    pub fn learn(&self, credential: Credential) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| known.same(&credential)) {
            return false;
        }
        *known = Some(Arc::new(credential));
        true
    }
}
