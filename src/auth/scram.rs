//! The server's side of SCRAM-SHA-256, as values: RFC 5802 and RFC 7677, as `auth-scram.c` of Postgres does it.
//!
//! Pure but for the randomness that is passed in. An unknown user takes the same steps with a secret that nothing
//! can match, so that neither text nor count of steps tells whether the name exists.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

/// The longest SASL message that is read from a client (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MESSAGE_MAX: usize = 1024;
/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

const KEY: usize = digest::SHA256_OUTPUT_LEN;

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

    /// Computes it from a plain password: thousands of hash rounds, so not on a thread that serves clients.
    #[must_use]
    pub fn of_password(password: &str) -> Option<Self> {
        Self::parse(&postgres_protocol::password::scram_sha_256(password.as_bytes()))
    }

    /// For a user that does not exist: the salt is the same each time that this name is tried, and nothing matches.
    #[must_use]
    pub fn of_nobody(user: &str, process_secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, process_secret);
        let salt = hmac::sign(&key, user.as_bytes()).as_ref().get(..16).unwrap_or_default().to_vec();
        // A stored key of the wrong size equals no hash.
        Self { iterations: 4096, salt, stored_key: Vec::new(), server_key: vec![0; KEY] }
    }
}

/// Why an exchange failed. The client is told the same in each case but the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// A message is not what RFC 5802 says.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The proof does not fit.
    #[error("password authentication failed")]
    Mismatch,
}

/// An exchange whose first message has been answered.
pub struct Exchange {
    verifier: Verifier,
    /// The client's header, which its last message must repeat.
    header: String,
    nonce: String,
    /// `client-first-message-bare,server-first-message`.
    so_far: String,
}

impl Exchange {
    /// Answers the client's first message: the exchange to go on with, and server-first-message.
    ///
    /// # Errors
    /// [`Rejection::Malformed`], also for channel binding, which needs TLS and was not offered.
    pub fn begin(verifier: Verifier, client_first: &[u8], random: &[u8]) -> Result<(Self, String), Rejection> {
        let text = printable(client_first)?;
        // gs2-header: the flag, and an authorization identity, which must be empty.
        let (flag, rest) = text.split_once(',').ok_or(Rejection::Malformed)?;
        let bare = rest.strip_prefix(',').ok_or(Rejection::Malformed)?;
        if !matches!(flag, "n" | "y") {
            return Err(Rejection::Malformed);
        }
        let mut attributes = bare.split(',');
        // The user's name was in the start-up packet; what stands here is ignored, as Postgres does.
        attributes.next().and_then(|name| name.strip_prefix("n=")).ok_or(Rejection::Malformed)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(Rejection::Malformed)?;
        if nonce.is_empty() || attributes.next().is_some() {
            return Err(Rejection::Malformed);
        }
        let nonce = format!("{nonce}{}", BASE64.encode(random));
        let answer = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let exchange = Self { verifier, header: format!("{flag},,"), nonce, so_far: format!("{bare},{answer}") };
        Ok((exchange, answer))
    }

    /// Checks the client's last message and gives server-final-message.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn finish(self, client_final: &[u8]) -> Result<String, Rejection> {
        let text = printable(client_final)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Rejection::Malformed)?;
        let proof = BASE64.decode(proof).map_err(|_| Rejection::Malformed)?;
        let expected = format!("c={},r={}", BASE64.encode(&self.header), self.nonce);
        if without_proof != expected || proof.len() != KEY {
            return Err(Rejection::Malformed);
        }
        let message = format!("{},{without_proof}", self.so_far);
        let signature = sign(&self.verifier.stored_key, message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let hashed = digest::digest(&digest::SHA256, &client_key);
        if !bool::from(hashed.as_ref().ct_eq(self.verifier.stored_key.as_slice())) {
            return Err(Rejection::Mismatch);
        }
        Ok(format!("v={}", BASE64.encode(sign(&self.verifier.server_key, message.as_bytes()))))
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
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
        let mut client = client(password);
        let (exchange, first) = Exchange::begin(verifier, client.message(), &[7; 18])?;
        client.update(first.as_bytes()).unwrap();
        let last = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).expect("the client believes us");
        Ok(())
    }

    #[test]
    fn the_right_password_and_only_that() {
        let verifier = Verifier::of_password("s3cret").unwrap();
        assert_eq!(attempt(verifier.clone(), "s3cret"), Ok(()));
        for wrong in ["S3cret", "", "s3cret "] {
            assert_eq!(attempt(verifier.clone(), wrong), Err(Rejection::Mismatch));
        }
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_rfc_example() {
        let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let verifier = Verifier::parse(stored).unwrap();
        // Our part of the nonce is base64 of random bytes; the RFC's is not, so only the client's half is its.
        let (exchange, first) = Exchange::begin(verifier, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", b"abc").unwrap();
        assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqOYWJj,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        assert_eq!(exchange.finish(b"c=biws,r=rOprNGfwEbeRWgbNEkqOYWJj,p=AAAA"), Err(Rejection::Malformed));
    }

    #[test]
    fn nobody_takes_the_same_steps_and_fails() {
        let a = Verifier::of_nobody("ghost", b"k");
        assert_eq!(a.salt, Verifier::of_nobody("ghost", b"k").salt);
        assert_ne!(a.salt, Verifier::of_nobody("other", b"k").salt);
        assert_eq!(attempt(a, "anything"), Err(Rejection::Mismatch));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let verifier = Verifier::of_password("x").unwrap();
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
            assert!(Exchange::begin(verifier.clone(), first, b"r").is_err(), "{first:?}");
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
            let (exchange, _) = Exchange::begin(verifier.clone(), b"n,,n=a,r=x", b"r").unwrap();
            assert_eq!(exchange.finish(last), Err(Rejection::Malformed), "{last:?}");
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
