//! Authentication of a client. Unknown users take the same steps and get the same words as wrong passwords.

use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::Bytes;
use pgwire::messages::startup::Authentication;
use tokio::io::AsyncReadExt as _;

use super::front::Front;
use super::greet::{Guest, Refusal};
use super::lookup::LookupFailed;
use crate::auth::credential::Credential;
use crate::auth::rules::{Asked, Transport, Way};
use crate::auth::scram::{self, Binding, Exchange, Rejection};
use crate::auth::users::{Account, Challenge, md5_matches};
use crate::config::Secret;
use crate::net::stream::Peer;
use crate::wire::frame;
use crate::wire::reply::{self, Report, sqlstate};
use crate::wire::tags::client;

/// The longest password message: a SASL message with its mechanism's name and lengths.
const PASSWORD_MAX: usize = scram::MESSAGE_MAX + 64;

/// What a client has proved.
pub(super) struct Proven {
    /// What servers can be logged in to with as this user.
    pub(super) credential: Option<Credential>,
    /// Whether it did not have to say who it is: its name means nothing.
    pub(super) anonymous: bool,
}

impl Proven {
    const fn user(credential: Option<Credential>) -> Self {
        Self { credential, anonymous: false }
    }
}

fn failed(user: &str) -> Refusal {
    let text = format!("password authentication failed for user \"{user}\"");
    Refusal::Say(Report::new(sqlstate::INVALID_PASSWORD, text), "bad_password")
}

fn violation(text: &str) -> Refusal {
    Refusal::Say(Report::new(sqlstate::PROTOCOL_VIOLATION, text), "protocol_error")
}

/// Refused for another reason than a password. `why` is for the log only: it may tell whether the user exists.
fn denied(text: String, why: &str) -> Refusal {
    if !why.is_empty() {
        tracing::info!(why, "authentication failed");
    }
    Refusal::Say(Report::new(sqlstate::INVALID_AUTHORIZATION, text), "not_allowed")
}

/// Makes the client prove who it is, and tells it that it has.
pub(super) async fn authenticate(guest: &mut Guest, front: &Front, asked: Asked<'_>) -> Result<Proven, Refusal> {
    let transport = guest.transport();
    let book = front.users.book();
    let Some(way) = book.rules.way(asked, &transport) else { return Err(no_rule(asked, &transport)) };
    match way {
        Way::Reject => return Err(denied("login rejected".to_owned(), "")),
        Way::Any => return Ok(Proven { credential: None, anonymous: true }),
        Way::Trust if !book.is_listed() => return Ok(Proven::user(None)),
        _ => {}
    }
    let user = asked.user;
    let account = match book.account(user) {
        Some(account) => Some(Arc::clone(account)),
        None => front
            .lookups
            .find((&front.config(), &front.databases.connector()), asked.database, user)
            .await
            .map_err(|failed| look_up_failed(&failed))?,
    };
    let account = account.as_ref();
    let credential = account.and_then(|account| account.credential());
    match way {
        Way::Scram => by_challenge(guest, (user, credential), front.users.scram(user, account).await).await,
        Way::Md5 => by_challenge(guest, (user, credential), front.users.md5(user, account).await).await,
        Way::Plain => {
            let answer = guest.ask(&Authentication::CleartextPassword).await?;
            let password = answer.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
            let password = Secret::new(password.ok_or_else(|| violation("malformed password message"))?);
            let right = front.users.check_plain(user, account, password).await;
            right.map(|credential| Proven::user(Some(credential))).ok_or_else(|| failed(user))
        }
        Way::Cert(map) => {
            let known = transport.peer_cn.as_deref();
            let is = known.is_some_and(|name| book.rules.is(name, user, map.as_deref()));
            by_name(is, account, format!("certificate authentication failed for user \"{user}\""))
        }
        Way::Peer(map) => {
            let known = name_of(transport.peer_uid).await;
            let is = known.is_some_and(|name| book.rules.is(&name, user, map.as_deref()));
            by_name(is, account, format!("Peer authentication failed for user \"{user}\""))
        }
        Way::Trust | Way::Any | Way::Reject => account.map(|_| Proven::user(credential)).ok_or_else(|| failed(user)),
    }
}

/// The client is somebody; is that the user, and is there such a user here? Both failures sound alike.
fn by_name(is: bool, account: Option<&Arc<Account>>, text: String) -> Result<Proven, Refusal> {
    match account {
        Some(account) if is => Ok(Proven::user(account.credential())),
        Some(_) => Err(denied(text, "the name outside is not the user's, nor mapped to it")),
        None => Err(denied(text, "the user is not known")),
    }
}

/// The name of a user of this machine. The look-up may read files or ask the network: not on a thread that serves clients.
async fn name_of(uid: Option<u32>) -> Option<String> {
    let uid = nix::unistd::Uid::from_raw(uid?);
    let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid)).await;
    Some(found.ok()?.ok()??.name)
}

fn no_rule(asked: Asked<'_>, transport: &Transport) -> Refusal {
    let from = transport.addr.map_or_else(|| "[local]".to_owned(), |addr| addr.to_string());
    let tls = if transport.tls { "TLS" } else { "no encryption" };
    let Asked { user, database, .. } = asked;
    let report = Report::new(sqlstate::INVALID_AUTHORIZATION, "no authentication method is found").detail(format!(
        "No line of auth_hba_file is for host \"{from}\", user \"{user}\", database \"{database}\", {tls}."
    ));
    Refusal::Say(report, "not_allowed")
}

fn look_up_failed(failed: &LookupFailed) -> Refusal {
    let report = Report::new(sqlstate::CONNECTION_FAILURE, failed.to_string());
    Refusal::Say(report.hint("The reason is in the log of pglull."), "server_unreachable")
}

async fn by_challenge(
    guest: &mut Guest,
    (user, credential): (&str, Option<Credential>),
    challenge: Challenge,
) -> Result<Proven, Refusal> {
    match challenge {
        Challenge::Md5(salt, expected) => {
            let answer = guest.ask(&Authentication::MD5Password(salt.to_vec())).await?;
            let answer = answer.strip_suffix(&[0]).ok_or_else(|| violation("malformed password message"))?;
            if md5_matches(&expected, answer) { Ok(Proven::user(credential)) } else { Err(failed(user)) }
        }
        Challenge::Scram(verifiers) => {
            let end_point = guest.stream.tls().and_then(|tls| tls.end_point.clone());
            let plus = end_point.as_ref().map(|_| scram::MECHANISM_PLUS.to_owned());
            let offered: Vec<String> = plus.into_iter().chain([scram::MECHANISM.to_owned()]).collect();
            let asked = Authentication::SASL(offered);
            let (chosen, first) = initial_response(guest.ask(&asked).await?)?;
            let binding = match (&chosen[..], &end_point) {
                (scram::MECHANISM, None) => Binding::Absent,
                (scram::MECHANISM, Some(_)) => Binding::Offered,
                (scram::MECHANISM_PLUS, Some(hash)) => Binding::Chosen(hash),
                _ => return Err(violation("client selected an invalid SASL authentication mechanism")),
            };
            let mut random = [0_u8; 18];
            rand::fill(&mut random).map_err(|_| violation("no random bytes"))?;
            let outcome = |rejection: Rejection| match rejection {
                Rejection::Malformed => violation("malformed SCRAM message"),
                Rejection::Mismatch => failed(user),
                Rejection::Downgrade | Rejection::OtherChannel => {
                    Refusal::Say(Report::new(sqlstate::INVALID_AUTHORIZATION, rejection.to_string()), "protocol_error")
                }
            };
            let (exchange, answer) = Exchange::begin(&verifiers, &first, &random, binding).map_err(outcome)?;
            let last = guest.ask(&Authentication::SASLContinue(Bytes::from(answer))).await?;
            let (proof, keys) = exchange.finish(&last).map_err(outcome)?;
            reply::authentication(&Authentication::SASLFinal(Bytes::from(proof)), &mut guest.unsent);
            Ok(Proven::user(Some(credential.unwrap_or(Credential::Keys(keys)))))
        }
    }
}

/// Takes a SASLInitialResponse apart: mechanism, length, message.
fn initial_response(mut body: Bytes) -> Result<(String, Bytes), Refusal> {
    use bytes::Buf as _;
    let bad = || violation("malformed SASL response");
    let end = body.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
    let mechanism = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    let length = body.try_get_i32().map_err(|_| bad())?;
    if usize::try_from(length) != Ok(body.len()) {
        return Err(bad());
    }
    Ok((mechanism, body))
}

impl Guest {
    /// What the connection is known to come over.
    fn transport(&self) -> Transport {
        match self.peer {
            Peer::Tcp(ip, _) => Transport {
                tls: self.stream.tls().is_some(),
                peer_cn: self.stream.tls().and_then(|tls| tls.peer_cert_cn.clone()),
                peer_uid: None,
                addr: Some(ip),
            },
            Peer::Unix { uid } => Transport { peer_uid: Some(uid), ..Transport::default() },
        }
    }

    /// Sends an authentication request and reads the answer to it: a password message, of whatever meaning.
    async fn ask(&mut self, request: &Authentication) -> Result<Bytes, Refusal> {
        reply::authentication(request, &mut self.unsent);
        self.flush().await?;
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
