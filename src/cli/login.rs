//! The client's half of a log-in: it answers what the console asks for.
//!
//! Nothing is asked over the console's own socket, where the kernel vouches for the user; over TCP it is a
//! password, plain, as md5 or as SCRAM-SHA-256. The password is in no error and no log.

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;

use super::client::{ClientError, Login};

/// A log-in under way.
pub(crate) struct Exchange<'a> {
    login: &'a Login,
    scram: Option<sasl::ScramSha256>,
}

impl<'a> Exchange<'a> {
    /// A log-in of this user.
    pub(crate) const fn new(login: &'a Login) -> Self {
        Self { login, scram: None }
    }

    /// Writes the answer to the request of this kind into `out`; some need none.
    pub(crate) fn answer(&mut self, kind: u32, body: &[u8], out: &mut BytesMut) -> Result<(), ClientError> {
        let refused = |_| ClientError::Login("the console's SCRAM messages are not in order".to_owned());
        match kind {
            0 => Ok(()),
            3 => Ok(frontend::password_message(self.password()?, out)?),
            5 => {
                let salt = <[u8; 4]>::try_from(body)
                    .map_err(|_| ClientError::Login("the md5 salt has a wrong length".to_owned()))?;
                let answer = md5_hash(self.login.user.as_bytes(), self.password()?, salt);
                Ok(frontend::password_message(answer.as_bytes(), out)?)
            }
            10 => {
                let offered = body.split(|&b| b == 0).any(|name| name == sasl::SCRAM_SHA_256.as_bytes());
                if !offered {
                    return Err(ClientError::Login("the console does not offer SCRAM-SHA-256".to_owned()));
                }
                let scram = sasl::ScramSha256::new(self.password()?, sasl::ChannelBinding::unsupported());
                frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), out)?;
                self.scram = Some(scram);
                Ok(())
            }
            11 => {
                let scram = self.scram()?;
                scram.update(body).map_err(refused)?;
                Ok(frontend::sasl_response(scram.message(), out)?)
            }
            12 => self.scram()?.finish(body).map_err(refused),
            other => Err(ClientError::Login(format!("the console asks for method {other}, which is not known here"))),
        }
    }

    fn password(&self) -> Result<&'a [u8], ClientError> {
        let missing = || ClientError::Login("the console asks for a password".to_owned());
        self.login.password.as_deref().map(str::as_bytes).ok_or_else(missing)
    }

    fn scram(&mut self) -> Result<&mut sasl::ScramSha256, ClientError> {
        self.scram.as_mut().ok_or_else(|| ClientError::Login("SCRAM goes on before it has begun".to_owned()))
    }
}
