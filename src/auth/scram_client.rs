//! The client's side of SCRAM-SHA-256 with keys instead of a password: what a client proved to us, we prove to Postgres.
//!
//! Pure but for the randomness that is passed in. It works where Postgres holds the same secret: another salt or count of
//! iterations makes other keys (RFC 5802, section 3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::scram::{Keys, hash, sign};

/// Why Postgres cannot be convinced, or does not convince us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failed {
    /// A message is not what RFC 5802 says.
    #[error("malformed SCRAM message from the server")]
    Malformed,
    /// Postgres holds another secret than the one that the client proved itself by.
    #[error("the SCRAM secret of the server has another salt or count of iterations than the one known here")]
    OtherSecret,
    /// It is not the server that it should be.
    #[error("the server could not prove that it knows the SCRAM secret")]
    Impostor,
}

/// An exchange whose first message has been made.
pub struct Client<'a> {
    keys: &'a Keys,
    /// The header with channel binding, and what is bound.
    binding: Vec<u8>,
    nonce: String,
}

/// An exchange whose last message has been made.
pub struct Proved {
    signature: Vec<u8>,
}

impl<'a> Client<'a> {
    /// Makes the first message. `header` is the gs2-header, `bound` the data of the channel binding, if any.
    #[must_use]
    pub fn begin(keys: &'a Keys, (header, bound): (&str, &[u8]), random: &[u8]) -> (Self, String) {
        let nonce = BASE64.encode(random);
        let first = format!("{header}n=,r={nonce}");
        (Self { keys, binding: [header.as_bytes(), bound].concat(), nonce }, first)
    }

    /// Answers server-first-message with client-final-message.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn prove(self, server_first: &[u8]) -> Result<(Proved, String), Failed> {
        let text = std::str::from_utf8(server_first).map_err(|_| Failed::Malformed)?;
        let mut attributes = text.split(',');
        let mut next = |name: &str| attributes.next().and_then(|one| one.strip_prefix(name)).ok_or(Failed::Malformed);
        let (nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || attributes.next().is_some() {
            return Err(Failed::Malformed);
        }
        let salt = BASE64.decode(salt).map_err(|_| Failed::Malformed)?;
        let iterations: u32 = iterations.parse().map_err(|_| Failed::Malformed)?;
        if salt != self.keys.salt || iterations != self.keys.iterations {
            return Err(Failed::OtherSecret);
        }
        let without_proof = format!("c={},r={nonce}", BASE64.encode(&self.binding));
        let message = format!("n=,r={},{text},{without_proof}", self.nonce);
        let signature = sign(&hash(&self.keys.client_key), message.as_bytes());
        let proof: Vec<u8> = self.keys.client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let signature = sign(&self.keys.server_key, message.as_bytes());
        Ok((Proved { signature }, format!("{without_proof},p={}", BASE64.encode(proof))))
    }
}

impl Proved {
    /// Checks server-final-message.
    ///
    /// # Errors
    /// [`Failed::Impostor`] if it does not prove that the server knows the secret too.
    pub fn finish(self, server_final: &[u8]) -> Result<(), Failed> {
        let shown =
            server_final.strip_prefix(b"v=").and_then(|text| BASE64.decode(text).ok()).ok_or(Failed::Impostor)?;
        if bool::from(shown.ct_eq(&self.signature)) { Ok(()) } else { Err(Failed::Impostor) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scram::{Binding, Exchange, Verifier};
    use super::*;

    fn attempt(keys: &Keys, verifier: &Verifier) -> Result<(), Failed> {
        let (client, first) = Client::begin(keys, ("n,,", b""), &[3; 18]);
        let (exchange, answer) =
            Exchange::begin(std::slice::from_ref(verifier), first.as_bytes(), &[7; 18], Binding::Absent).unwrap();
        let (proved, last) = client.prove(answer.as_bytes())?;
        let (answer, _) = exchange.finish(last.as_bytes()).map_err(|_| Failed::Impostor)?;
        proved.finish(answer.as_bytes())
    }

    #[test]
    fn keys_that_were_proved_prove_themselves_on() {
        let verifier = Verifier::of_password("s3cret", b"salt");
        let keys = verifier.check("s3cret").unwrap();
        assert_eq!(attempt(&keys, &verifier), Ok(()));
        let other_salt = Verifier::of_password("s3cret", b"other");
        assert_eq!(attempt(&keys, &other_salt), Err(Failed::OtherSecret));
        let other_password = Verifier::of_password("other", b"salt");
        assert_eq!(attempt(&keys, &other_password), Err(Failed::Impostor));
    }

    #[test]
    fn a_server_is_not_believed_without_a_proof() {
        let keys = Verifier::of_password("x", b"salt").check("x").unwrap();
        let (client, _) = Client::begin(&keys, ("n,,", b""), b"abc");
        let (proved, _) = client.prove(b"r=YWJjX,s=c2FsdA==,i=4096").unwrap();
        assert_eq!(proved.finish(b"e=other-error"), Err(Failed::Impostor));
        for bad in [
            &b""[..],
            b"r=YWJj,s=c2FsdA==,i=4096",
            b"r=other,s=c2FsdA==,i=4096",
            b"r=YWJjX,s=!,i=4096",
            b"r=YWJjX,s=c2FsdA==,i=x",
            b"r=YWJjX,s=c2FsdA==",
            b"r=YWJjX,s=c2FsdA==,i=4096,m=y",
            b"r=YWJjX\xff,s=c2FsdA==,i=4096",
        ] {
            let (client, _) = Client::begin(&keys, ("n,,", b""), b"abc");
            assert_eq!(client.prove(bad).err(), Some(Failed::Malformed), "{bad:?}");
        }
    }
}
