//! Authentication of a client. Unknown users take the same steps and get the same words as wrong passwords.

use aws_lc_rs::rand;
use bytes::{Bytes, BytesMut};
use pgwire::messages::startup::Authentication;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::front::Front;
use super::greet::{Guest, Refusal};
use crate::auth::scram::{self, Exchange, Rejection};
use crate::auth::users::{Challenge, md5_matches};
use crate::wire::frame;
use crate::wire::reply::{self, Report, sqlstate};
use crate::wire::tags::client;

/// The longest password message: a SASL message with its mechanism's name and lengths.
const PASSWORD_MAX: usize = scram::MESSAGE_MAX + 64;

fn failed(user: &str) -> Refusal {
    let text = format!("password authentication failed for user \"{user}\"");
    Refusal::Say(Report::new(sqlstate::INVALID_PASSWORD, text), "bad_password")
}

fn violation(text: &str) -> Refusal {
    Refusal::Say(Report::new(sqlstate::PROTOCOL_VIOLATION, text), "protocol_error")
}

/// Makes the client prove who it is, and tells it that it has.
pub(super) async fn authenticate(guest: &mut Guest, front: &Front, user: &str) -> Result<(), Refusal> {
    match front.users.challenge(user).await {
        Challenge::Trust => {
            if front.config().auth_file.is_some() && !front.users.knows(user) {
                return Err(failed(user));
            }
        }
        Challenge::Md5(salt, expected) => {
            let answer = guest.ask(&Authentication::MD5Password(salt.to_vec())).await?;
            let answer = answer.strip_suffix(&[0]).ok_or_else(|| violation("malformed password message"))?;
            if !md5_matches(expected.as_deref(), answer) {
                return Err(failed(user));
            }
        }
        Challenge::Scram(verifier) => {
            let asked = Authentication::SASL(vec![scram::MECHANISM.to_owned()]);
            let first = initial_response(guest.ask(&asked).await?)?;
            let mut random = [0_u8; 18];
            rand::fill(&mut random).map_err(|_| violation("no random bytes"))?;
            let outcome = |rejection| match rejection {
                Rejection::Malformed => violation("malformed SCRAM message"),
                Rejection::Mismatch => failed(user),
            };
            let (exchange, answer) = Exchange::begin(verifier, &first, &random).map_err(outcome)?;
            let last = guest.ask(&Authentication::SASLContinue(Bytes::from(answer))).await?;
            let proof = exchange.finish(&last).map_err(outcome)?;
            guest.tell(&Authentication::SASLFinal(Bytes::from(proof))).await?;
        }
    }
    Ok(())
}

/// Takes a SASLInitialResponse apart: mechanism, length, message.
fn initial_response(mut body: Bytes) -> Result<Bytes, Refusal> {
    use bytes::Buf as _;
    let bad = || violation("malformed SASL response");
    let end = body.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
    let mechanism = body.split_to(end);
    if mechanism != scram::MECHANISM.as_bytes() {
        return Err(violation("client selected an invalid SASL authentication mechanism"));
    }
    body.advance(1);
    let length = body.try_get_i32().map_err(|_| bad())?;
    if usize::try_from(length) != Ok(body.len()) {
        return Err(bad());
    }
    Ok(body)
}

impl Guest {
    async fn tell(&mut self, message: &Authentication) -> Result<(), Refusal> {
        let mut out = BytesMut::new();
        reply::authentication(message, &mut out);
        Ok(self.stream.write_all(&out).await?)
    }

    /// Sends an authentication request and reads the answer to it: a password message, of whatever meaning.
    async fn ask(&mut self, request: &Authentication) -> Result<Bytes, Refusal> {
        self.tell(request).await?;
        loop {
            match frame::take(&mut self.buf, PASSWORD_MAX).map_err(|bad| violation(&bad.to_string()))? {
                Some((client::PASSWORD, body)) => return Ok(body.freeze()),
                Some((client::TERMINATE, _)) => return Err(Refusal::Gone),
                Some((tag, _)) => {
                    return Err(violation(&format!("expected password response, got message type {tag:#04x}")));
                }
                None => {
                    self.buf.reserve(256);
                    if self.stream.read_buf(&mut self.buf).await? == 0 {
                        return Err(Refusal::Gone);
                    }
                }
            }
        }
    }
}
