//! The login of a backend, from the startup packet to the first ReadyForQuery.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::connect::{ConnectError, Target};
use super::{Identity, note_parameter};
use crate::auth::md5;
use crate::auth::scram::{Challenge, ClientExchange, Keys, SaltedKeys};
use crate::config::Password;
use crate::error::{Error, Side, SqlState};
use crate::net::Socket;
use crate::wire::backend::{self as tag, ErrorFields};
use crate::wire::{HEADER, Version, split_cstr};

/// What pgfunnel proves to PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A password, for any mechanism.
    Password(Password),
    /// SCRAM keys taken from a client's own proof.
    Keys(SaltedKeys),
    /// A password's md5 hash (`md5…`), for md5 only.
    Md5(String),
    /// Nothing: the server trusts us, or checks our certificate.
    None,
}

/// Where SCRAM keys come from: PBKDF2 takes milliseconds and must not run on an IO thread.
pub trait KeySource: Send + Sync {
    /// The keys of a password.
    fn keys<'a>(
        &'a self,
        password: &'a Password,
        challenge: &'a Challenge,
    ) -> Pin<Box<dyn Future<Output = Keys> + Send + 'a>>;
}

/// Messages before ReadyForQuery are small; anything larger is not PostgreSQL.
fn limit(_tag: u8) -> usize {
    64 * 1024
}

/// The longest cancel key that protocol 3.2 allows (manual, "Message Formats", BackendKeyData).
const LONGEST_KEY: usize = 256;

/// What a login yields.
pub(super) struct LoggedIn {
    pub(super) identity: Identity,
    pub(super) reported: BTreeMap<String, String>,
}

/// Logs in on a fresh (possibly TLS) socket, asking for protocol `version`; an older minor version that the server
/// speaks instead differs in nothing that a proxy would have to know. `binding` is the channel binding data of a TLS
/// connection.
pub(super) async fn login(
    socket: &mut Socket,
    target: &Target,
    version: Version,
    binding: Option<&[u8]>,
) -> Result<LoggedIn, ConnectError> {
    put_startup(target, version, socket.output())?;
    let identity = Identity { target: target.clone(), pid: 0, key: Vec::new(), proved: false };
    let mut login = LoggedIn { identity, reported: BTreeMap::new() };
    loop {
        socket.flush().await?;
        let (tag, body) = next(socket).await?;
        match tag {
            tag::AUTHENTICATION => login.identity.proved |= authenticate(socket, target, binding, &body).await?,
            tag::PARAMETER_STATUS => note_parameter(&mut login.reported, &body),
            tag::KEY_DATA => {
                let (pid, key) = body
                    .split_first_chunk::<4>()
                    .filter(|(_, key)| key.len() <= LONGEST_KEY)
                    .ok_or_else(|| malformed("BackendKeyData"))?;
                login.identity.pid = i32::from_be_bytes(*pid);
                login.identity.key = key.to_vec();
            }
            tag::READY => return Ok(login),
            tag::NOTICE | tag::NEGOTIATE_VERSION => {}
            tag::ERROR => return Err(refused(&body)),
            _ => return Err(malformed("message during login")),
        }
    }
}

/// StartupMessage; postgres-protocol only writes version 3.0.
fn put_startup(target: &Target, version: Version, out: &mut BytesMut) -> io::Result<()> {
    let length = out.len();
    frontend::startup_message([("user", target.user.as_str()), ("database", target.dbname.as_str())], out)?;
    let number = (u32::from(version.major) << 16) | u32::from(version.minor);
    if let Some(field) = out.get_mut(length + 4..length + 8) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    Ok(())
}

async fn next(socket: &mut Socket) -> io::Result<(u8, Vec<u8>)> {
    let header = socket.message(limit).await?;
    let body = socket.unseen().get(HEADER..header.total).unwrap_or_default().to_vec();
    socket.consume(header.total);
    Ok((header.tag, body))
}

/// An ErrorResponse as an error.
pub(super) fn refused(body: &[u8]) -> ConnectError {
    ConnectError::Refused(ErrorFields::decode(body).into_error())
}

fn malformed(what: &str) -> ConnectError {
    ConnectError::Refused(Error::new(
        Side::Database,
        SqlState::PROTOCOL_VIOLATION,
        format!("the database server sent a malformed or unexpected {what}"),
    ))
}

fn cannot(target: &Target, mechanism: &str) -> ConnectError {
    ConnectError::Refused(
        Error::new(
            Side::Proxy,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            format!("cannot log in to the database as \"{}\" by {mechanism}", target.user),
        )
        .hint("Set backend_password for this user, or store a secret that fits the server's method."),
    )
}

/// Answers one authentication request (manual, "Message Formats": Authentication…). `false`: it was none.
async fn authenticate(
    socket: &mut Socket,
    target: &Target,
    binding: Option<&[u8]>,
    body: &[u8],
) -> Result<bool, ConnectError> {
    let (code, rest) = body.split_first_chunk::<4>().ok_or_else(|| malformed("authentication request"))?;
    match (u32::from_be_bytes(*code), &target.credential) {
        (0, _) => return Ok(false),
        (3, Credential::Password(password)) if socket.io().is_tls() || socket.io().is_local() => {
            Ok(frontend::password_message(password.0.as_bytes(), socket.output())?)
        }
        (3, Credential::Password(_)) => Err(cannot(target, "a cleartext password without TLS")),
        (5, Credential::Password(Password(password))) => {
            answer_md5(socket, &md5::hash(password.as_bytes(), &target.user), rest)
        }
        (5, Credential::Md5(hash)) => answer_md5(socket, hash, rest),
        (10, Credential::Password(_) | Credential::Keys(_)) => scram(socket, target, binding, rest).await,
        (3, _) => Err(cannot(target, "a cleartext password")),
        (5, _) => Err(cannot(target, "md5")),
        (10, _) => Err(cannot(target, "SCRAM")),
        (code, _) => Err(cannot(target, &format!("authentication method {code}"))),
    }
    .map(|()| true)
}

fn answer_md5(socket: &mut Socket, hash: &str, salt: &[u8]) -> Result<(), ConnectError> {
    let salt = salt.try_into().map_err(|_| malformed("md5 salt"))?;
    Ok(frontend::password_message(md5::response(hash, salt).as_bytes(), socket.output())?)
}

async fn scram(
    socket: &mut Socket,
    target: &Target,
    binding: Option<&[u8]>,
    offered: &[u8],
) -> Result<(), ConnectError> {
    let mut mechanisms = Vec::new();
    let mut rest = offered;
    while let Some((name, behind)) = split_cstr(rest).filter(|(name, _)| !name.is_empty()) {
        mechanisms.push(String::from_utf8_lossy(name));
        rest = behind;
    }
    let mechanisms: Vec<&str> = mechanisms.iter().map(AsRef::as_ref).collect();
    let hostile = |failure: crate::auth::scram::ClientFailure| {
        ConnectError::Refused(Error::new(
            Side::Database,
            SqlState::PROTOCOL_VIOLATION,
            format!("SCRAM login to the database failed: {failure}"),
        ))
    };
    let exchange = ClientExchange::new(&mechanisms, binding).map_err(hostile)?;
    let (mechanism, first) = exchange.initial();
    frontend::sasl_initial_response(mechanism, &first, socket.output())?;
    let challenged = exchange.challenge(&sasl(socket, 11).await?).map_err(hostile)?;
    let keys = match &target.credential {
        Credential::Password(password) => target.keys.keys(password, challenged.challenge()).await,
        Credential::Keys(keys) => keys
            .for_challenge(challenged.challenge())
            .cloned()
            .ok_or_else(|| cannot(target, "the client's SCRAM keys: the server's verifier is another"))?,
        Credential::Md5(_) | Credential::None => return Err(cannot(target, "SCRAM")),
    };
    let (answer, responded) = challenged.respond(&keys);
    frontend::sasl_response(&answer, socket.output())?;
    responded.finish(&sasl(socket, 12).await?).map_err(hostile)
}

/// Sends what waits and returns the data of the SASL message `code` that must come next.
async fn sasl(socket: &mut Socket, code: u32) -> Result<Vec<u8>, ConnectError> {
    socket.flush().await?;
    loop {
        let (tag, body) = next(socket).await?;
        match (tag, body.split_first_chunk::<4>()) {
            (tag::AUTHENTICATION, Some((found, data))) if u32::from_be_bytes(*found) == code => {
                return Ok(data.to_vec());
            }
            (tag::ERROR, _) => return Err(refused(&body)),
            (tag::NOTICE, _) => {}
            _ => return Err(malformed("SASL message")),
        }
    }
}
