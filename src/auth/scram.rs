//! The server's side of SCRAM-SHA-256, as values: RFC 5802 and RFC 7677, as `auth-scram.c` of Postgres does it.
//!
//! Pure but for the randomness that is passed in. An unknown user takes the same steps with a secret that nothing
//! can match, so that neither text nor count of steps tells whether the name exists.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

/// The longest SASL message that is read from a client (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MESSAGE_MAX: usize = 1024;
/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// Its name with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The header of a client that binds to the server's certificate.
const BOUND: &str = "p=tls-server-end-point";

const KEY: usize = digest::SHA256_OUTPUT_LEN;
/// The iterations of a secret that we make ourselves; Postgres' default.
pub const ITERATIONS: u32 = 4096;
/// The most iterations that are computed for a password; more is a slip or an attack on the processor.
const ITERATIONS_MAX: u32 = 1_000_000;
/// The length of a salt, as Postgres makes them.
const SALT: usize = 16;

/// What a client is known by after it has proved itself: with it, we can prove to Postgres what the client proved to us.
#[derive(Clone)]
pub struct Keys {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) client_key: Vec<u8>,
    pub(super) server_key: Vec<u8>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Keys {
    /// Iterations, salt, ClientKey, ServerKey.
    #[must_use]
    pub fn parts(&self) -> (u32, &[u8], &[u8], &[u8]) {
        (self.iterations, &self.salt, &self.client_key, &self.server_key)
    }

    /// From the same.
    #[must_use]
    pub fn of_parts(iterations: u32, salt: &[u8], client_key: &[u8], server_key: &[u8]) -> Self {
        Self { iterations, salt: salt.into(), client_key: client_key.into(), server_key: server_key.into() }
    }

    /// Are both the same?
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let public = self.iterations == other.iterations && self.salt == other.salt;
        let client_key = bool::from(self.client_key.ct_eq(&other.client_key));
        public & client_key & bool::from(self.server_key.ct_eq(&other.server_key))
    }
}

/// What proves a password without being one: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
#[derive(Clone)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    /// Reads the form that `pg_authid.rolpassword` and `userlist.txt` hold. `None` if it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split('$');
        let (iterations, salt) = parts.next()?.split_once(':')?;
        let (stored_key, server_key) = parts.next()?.split_once(':')?;
        let verifier = Self {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored_key).ok()?,
            server_key: BASE64.decode(server_key).ok()?,
        };
        let sizes_fit = verifier.stored_key.len() == KEY && verifier.server_key.len() == KEY;
        (parts.next().is_none() && sizes_fit).then_some(verifier)
    }

    /// Computes one of a plain password with this salt: thousands of hash rounds, so not on a thread that serves clients.
    #[must_use]
    pub fn of_password(password: &str, salt: &[u8]) -> Self {
        let keys = derive(password, salt, ITERATIONS);
        let stored_key = hash(&keys.client_key);
        Self { iterations: ITERATIONS, salt: keys.salt, stored_key, server_key: keys.server_key }
    }

    /// For a user that does not exist: the salt is the same each time that this name is tried, and nothing matches.
    #[must_use]
    pub fn of_nobody(user: &str, process_secret: &[u8], iterations: u32) -> Self {
        // A stored key of the wrong size equals no hash.
        Self { iterations, salt: salt_for(user, process_secret), stored_key: Vec::new(), server_key: vec![0; KEY] }
    }

    /// How many hash rounds it takes.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The keys of a password, if it is the right one. As slow as [`Verifier::of_password`], right or wrong.
    #[must_use]
    pub fn check(&self, password: &str) -> Option<Keys> {
        if self.iterations > ITERATIONS_MAX {
            return None;
        }
        let keys = derive(password, &self.salt, self.iterations);
        bool::from(hash(&keys.client_key).ct_eq(&self.stored_key)).then_some(keys)
    }
}

/// The salt for a name: the same each time in this process, unpredictable from outside.
#[must_use]
pub fn salt_for(user: &str, process_secret: &[u8]) -> Vec<u8> {
    sign(process_secret, user.as_bytes()).get(..SALT).unwrap_or_default().to_vec()
}

/// ClientKey and ServerKey of a password (RFC 5802, section 3).
fn derive(password: &str, salt: &[u8], iterations: u32) -> Keys {
    // As Postgres and libpq do: a password that SASLprep does not allow is taken as it is.
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let mut salted = [0; KEY];
    let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, prepared.as_bytes(), &mut salted);
    let (client_key, server_key) = (sign(&salted, b"Client Key"), sign(&salted, b"Server Key"));
    Keys { iterations, salt: salt.to_vec(), client_key, server_key }
}

pub(super) fn hash(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// What was agreed on channel binding, before the first message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding<'a> {
    /// It was not offered: there is no TLS, or its certificate has no hash to bind to.
    Absent,
    /// It was offered, and the client chose the mechanism without it.
    Offered,
    /// The client chose the mechanism with it; this is the certificate's hash.
    Chosen(&'a [u8]),
}

/// Why an exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// A message is not what RFC 5802 says.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The proof does not fit.
    #[error("password authentication failed")]
    Mismatch,
    /// The client says that we do not offer channel binding, and we do: somebody in between took the offer away.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client is bound to another certificate than ours: somebody in between has shown it.
    #[error("SCRAM channel binding check failed")]
    OtherChannel,
}

/// An exchange whose first message has been answered.
pub struct Exchange {
    /// Any of them; they have the same salt and iterations.
    verifiers: Vec<Verifier>,
    /// The client's header and what it is bound to, which its last message must repeat.
    channel: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare,server-first-message`.
    so_far: String,
}

impl Exchange {
    /// Answers the client's first message: the exchange to go on with, and server-first-message.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] or [`Rejection::Downgrade`].
    pub fn begin(
        verifiers: &[Verifier],
        client_first: &[u8],
        random: &[u8],
        binding: Binding<'_>,
    ) -> Result<(Self, String), Rejection> {
        let verifier = verifiers.first().ok_or(Rejection::Mismatch)?;
        let text = printable(client_first)?;
        // gs2-header: the flag, and an authorization identity, which must be empty.
        let (flag, rest) = text.split_once(',').ok_or(Rejection::Malformed)?;
        let bare = rest.strip_prefix(',').ok_or(Rejection::Malformed)?;
        let data = match (flag, binding) {
            ("n", Binding::Absent | Binding::Offered) | ("y", Binding::Absent) => &[],
            ("y", Binding::Offered) => return Err(Rejection::Downgrade),
            (BOUND, Binding::Chosen(data)) => data,
            _ => return Err(Rejection::Malformed),
        };
        let channel = [flag.as_bytes(), b",,", data].concat();
        let mut attributes = bare.split(',');
        // The user's name was in the start-up packet; what stands here is ignored, as Postgres does.
        attributes.next().and_then(|name| name.strip_prefix("n=")).ok_or(Rejection::Malformed)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(Rejection::Malformed)?;
        if nonce.is_empty() || attributes.next().is_some() {
            return Err(Rejection::Malformed);
        }
        let nonce = format!("{nonce}{}", BASE64.encode(random));
        let answer = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let verifiers = verifiers.to_vec();
        let exchange = Self { verifiers, channel, nonce, so_far: format!("{bare},{answer}") };
        Ok((exchange, answer))
    }

    /// Checks the client's last message and gives server-final-message, and the keys that the client has shown to have.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn finish(self, client_final: &[u8]) -> Result<(String, Keys), Rejection> {
        let text = printable(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Rejection::Malformed)?;
        let proof = BASE64.decode(proof).map_err(|_| Rejection::Malformed)?;
        let (channel, nonce) = without_proof.split_once(",r=").ok_or(Rejection::Malformed)?;
        let channel =
            channel.strip_prefix("c=").and_then(|text| BASE64.decode(text).ok()).ok_or(Rejection::Malformed)?;
        if nonce != self.nonce || proof.len() != KEY {
            return Err(Rejection::Malformed);
        }
        if channel != self.channel {
            let bound = self.channel.starts_with(BOUND.as_bytes());
            return Err(if bound { Rejection::OtherChannel } else { Rejection::Malformed });
        }
        let message = format!("{},{without_proof}", self.so_far);
        let keys = self.verifiers.into_iter().find_map(|verifier| proved(verifier, &proof, message.as_bytes()));
        let keys = keys.ok_or(Rejection::Mismatch)?;
        Ok((format!("v={}", BASE64.encode(sign(&keys.server_key, message.as_bytes()))), keys))
    }
}

/// The keys of the client, if the proof is one for this verifier.
fn proved(verifier: Verifier, proof: &[u8], message: &[u8]) -> Option<Keys> {
    let signature = sign(&verifier.stored_key, message);
    let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    let right = bool::from(hash(&client_key).ct_eq(&verifier.stored_key));
    let Verifier { iterations, salt, server_key, .. } = verifier;
    right.then_some(Keys { iterations, salt, client_key, server_key })
}

pub(super) fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn printable(message: &[u8]) -> Result<&str, Rejection> {
    if message.len() > MESSAGE_MAX {
        return Err(Rejection::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| Rejection::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    fn client(password: &str) -> ScramSha256 {
        ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported())
    }

    fn attempt(verifier: Verifier, password: &str) -> Result<(), Rejection> {
        exchange(verifier, client(password), Binding::Absent)
    }

    fn exchange(verifier: Verifier, mut client: ScramSha256, binding: Binding<'_>) -> Result<(), Rejection> {
        let (exchange, first) = Exchange::begin(&[verifier], client.message(), &[7; 18], binding)?;
        client.update(first.as_bytes()).unwrap();
        let (last, _) = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).expect("the client believes us");
        Ok(())
    }

    #[test]
    fn the_right_password_and_only_that() {
        let verifier = Verifier::of_password("s3cret", b"salt");
        assert_eq!(attempt(verifier.clone(), "s3cret"), Ok(()));
        for wrong in ["S3cret", "", "s3cret "] {
            assert_eq!(attempt(verifier.clone(), wrong), Err(Rejection::Mismatch));
        }
    }

    #[test]
    fn trap_44_the_channel_is_bound_or_nobody_gets_in() {
        let verifier = || Verifier::of_password("x", b"salt");
        let with = |binding| ScramSha256::new(b"x", binding);
        let bound = |hash: &[u8]| with(ChannelBinding::tls_server_end_point(hash.to_vec()));
        let (unrequested, unsupported) = (ChannelBinding::unrequested, ChannelBinding::unsupported);
        for (client, binding, expected) in [
            (bound(b"hash"), Binding::Chosen(b"hash"), Ok(())),
            (bound(b"other"), Binding::Chosen(b"hash"), Err(Rejection::OtherChannel)),
            (bound(b"hash"), Binding::Offered, Err(Rejection::Malformed)),
            (bound(b"hash"), Binding::Absent, Err(Rejection::Malformed)),
            (with(unrequested()), Binding::Absent, Ok(())),
            (with(unrequested()), Binding::Offered, Err(Rejection::Downgrade)),
            (with(unrequested()), Binding::Chosen(b"hash"), Err(Rejection::Malformed)),
            (with(unsupported()), Binding::Absent, Ok(())),
            (with(unsupported()), Binding::Offered, Ok(())),
            (with(unsupported()), Binding::Chosen(b"hash"), Err(Rejection::Malformed)),
        ] {
            assert_eq!(exchange(verifier(), client, binding), expected, "{binding:?}");
        }
        let other = b"p=tls-unique,,n=,r=x";
        assert!(Exchange::begin(&[verifier()], other, b"r", Binding::Chosen(b"hash")).is_err());
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_rfc_example() {
        let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let verifier = Verifier::parse(stored).unwrap();
        // Our part of the nonce is base64 of random bytes; the RFC's is not, so only the client's half is its.
        let (exchange, first) =
            Exchange::begin(&[verifier], b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", b"abc", Binding::Absent).unwrap();
        assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqOYWJj,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = exchange.finish(b"c=biws,r=rOprNGfwEbeRWgbNEkqOYWJj,p=AAAA");
        assert_eq!(last.err(), Some(Rejection::Malformed));
    }

    #[test]
    fn a_password_is_checked_against_a_stored_secret_as_postgres_made_it() {
        for password in ["s3cret", "pencil", "p\u{e4}ss\u{ad}word", "\u{7}odd", "\u{2168}"] {
            let stored = postgres_protocol::password::scram_sha_256(password.as_bytes());
            let verifier = Verifier::parse(&stored).unwrap();
            let keys = verifier.check(password).expect("the right one");
            assert!(verifier.check(&format!("{password}x")).is_none() && verifier.check("").is_none());
            assert_eq!(hash(&keys.client_key), verifier.stored_key);
            assert_eq!(keys.server_key, verifier.server_key);
            // SASLprep: a Roman nine is the two letters.
            assert_eq!(verifier.check("IX").is_some(), password == "\u{2168}");
        }
        let nobody = Verifier::of_nobody("x", b"k", ITERATIONS);
        assert!(nobody.check("").is_none() && nobody.check("x").is_none());
        let greedy = Verifier { iterations: u32::MAX, ..nobody };
        assert!(greedy.check("x").is_none());
    }

    #[test]
    fn any_of_several_passwords_is_right() {
        let verifiers = ["old", "new"].map(|password| Verifier::of_password(password, b"same salt"));
        for (password, right) in [("old", true), ("new", true), ("newer", false), ("", false)] {
            let mut client = client(password);
            let (exchange, first) = Exchange::begin(&verifiers, client.message(), &[7; 18], Binding::Absent).unwrap();
            client.update(first.as_bytes()).unwrap();
            assert_eq!(exchange.finish(client.message()).is_ok(), right, "{password}");
        }
    }

    #[test]
    fn nobody_takes_the_same_steps_and_fails() {
        let a = Verifier::of_nobody("ghost", b"k", 4096);
        assert_eq!(a.salt, Verifier::of_nobody("ghost", b"k", 4096).salt);
        assert_ne!(a.salt, Verifier::of_nobody("other", b"k", 4096).salt);
        let stored = Verifier::parse(&postgres_protocol::password::scram_sha_256(b"x")).unwrap();
        assert_eq!(a.salt.len(), stored.salt.len());
        assert_eq!(attempt(a, "anything"), Err(Rejection::Mismatch));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let verifier = [Verifier::of_password("x", b"salt")];
        for first in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=",
            b"n,,n=a",
            b"n,,n=a,r=",
            b"n,a=b,n=a,r=x",
            b"p=tls-server-end-point,,n=a,r=x",
            b"z,,n=a,r=x",
            b"n,,r=x,n=a",
            b"n,,n=a,r=x,m=y",
            b"n,,\xff=a,r=x",
            &[b'n'; 2000],
        ] {
            assert!(Exchange::begin(&verifier, first, b"r", Binding::Absent).is_err(), "{first:?}");
        }
        for last in [
            &b""[..],
            b"p=",
            b",p=",
            b"c=biws,r=x,p=AAAA",
            b"c=biws,p=",
            b"c=eSws,r=xcg==,p=AAAA",
            b"c=biws,r=xcg==,p=!",
            b"c=biws,r=xcg==",
        ] {
            let (exchange, _) = Exchange::begin(&verifier, b"n,,n=a,r=x", b"r", Binding::Absent).unwrap();
            assert_eq!(exchange.finish(last).err(), Some(Rejection::Malformed), "{last:?}");
        }
    }

    #[test]
    fn stored_secrets_are_read_strictly() {
        for bad in [
            "",
            "SCRAM-SHA-256",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:AA==$AA==:AA==",
            "SCRAM-SHA-256$0:AA==$x:y",
            "md5abc",
        ] {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
    }
}
