//! From the StartupMessage to the first ReadyForQuery: who it is, and whether that is true. An unknown user is told the
//! same as for a wrong password; by SCRAM and cleartext it is asked the same, too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::startup::Arrival;
use super::{Access, Refusal, Shared, begin, console};
use crate::auth::scram::{self, SaltedKeys, ServerExchange, ServerStep};
use crate::auth::{AuthFailure, md5};
use crate::backend::Credential;
use crate::cancel::Entry;
use crate::config::{Config, Password, Secret, UnlistedUsers};
use crate::counts::KeyCount;
use crate::error::{Error, Side, SqlState};
use crate::log::counted;
use crate::metrics::metrics;
use crate::net::Socket;
use crate::pool::{Pool, PoolKey, configured_credential, no_database};
use crate::secrets::{Proof, auth_query};
use crate::session::no_replication;
use crate::track::{Params, Settings};
use crate::wire::backend;
use crate::wire::startup::Startup;
use crate::wire::{HEADER, Version, frontend, split_cstr};

/// What a login yields.
pub(super) enum Outcome {
    /// A client.
    Client(Client),
    /// Somebody for the console, with the length that its cancel key may have.
    Console { user: String, access: Access, key_length: usize },
}

/// A client.
pub(super) struct Client {
    pub(super) pool: Arc<Pool>,
    pub(super) entry: Entry,
    pub(super) params: Arc<Params>,
    /// Boxed: few have a limit, and each client has the room for it.
    pub(super) user_count: Option<Box<KeyCount<String>>>,
}

/// Messages of a login are small: `PG_MAX_SASL_MESSAGE_LENGTH` and `PG_MAX_AUTH_TOKEN_LENGTH` of
/// `src/include/libpq/{sasl,auth}.h`.
fn limit(_tag: u8) -> usize {
    65_535
}

/// Logs a client in, up to and with ReadyForQuery.
pub(super) async fn login(shared: &Arc<Shared>, socket: &mut Socket, arrival: Arrival) -> Result<Outcome, Refusal> {
    let config = shared.config.load_full();
    let startup = &arrival.startup;
    let version = negotiate(socket, startup);
    let user = startup.get("user").filter(|user| !user.is_empty()).ok_or_else(no_user)?;
    let database = startup.get("database").filter(|name| !name.is_empty()).unwrap_or(user);
    if startup.get("replication").is_some_and(|value| !is_false(value)) {
        return Err(no_replication().into());
    }
    if let (Some(tls), crate::net::Io::Tls(stream)) = (&arrival.tls, socket.io()) {
        tls.check_user(stream.get_ref().1, user)?;
    }
    let key = PoolKey { database: database.to_owned(), user: user.to_owned() };
    let key_length = if version >= Version::V3_2 { 32 } else { 4 };
    if config.console.is(database) {
        let access = console::login(shared, &config, socket, &arrival, &key).await?;
        return Ok(Outcome::Console { user: key.user, access, key_length });
    }
    // The console is open when nothing else is.
    if shared.count.load(Ordering::Acquire) > config.max_clients {
        return Err(too_many("pgfunnel", "max_clients", config.max_clients).into());
    }
    let credential = authenticate(shared, &config, socket, &arrival, &key).await?;
    if config.database(database).is_none() {
        return Err(no_database(database).into());
    }
    if shared.registry.is_disabled(database) {
        return Err(disabled(database).into());
    }
    let user_count = match config.users.get(user).and_then(|user| user.max_clients) {
        Some(limit) => {
            let too_many = || too_many(&format!("user \"{user}\""), "max_clients", limit);
            Some(Box::new(shared.by_user.enter(&key.user, limit).ok_or_else(too_many)?))
        }
        None => None,
    };
    let pool = shared.registry.pool(&key, credential)?;
    let (entry, params) = begin::enter(shared, &pool, &arrival, key_length).await?;
    greet(socket, &entry, &params);
    socket.flush().await?;
    socket.give_back();
    Ok(Outcome::Client(Client { pool, entry, params, user_count }))
}

/// Agrees on a version; what is not known is said.
fn negotiate(socket: &mut Socket, startup: &Startup) -> Version {
    let (version, say) = startup.negotiated();
    if say {
        backend::negotiate_version(socket.output(), version, &startup.protocol_options());
    }
    version
}

/// As PostgreSQL reads a boolean.
fn is_false(value: &str) -> bool {
    ["false", "off", "no", "0", "f", "n"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Finds out whether the client is who it says; returns what proves to PostgreSQL that we are that user.
async fn authenticate(
    shared: &Arc<Shared>,
    config: &Config,
    socket: &mut Socket,
    arrival: &Arrival,
    key: &PoolKey,
) -> Result<Credential, Refusal> {
    let listed = config.users.get(&key.user).and_then(|user| user.secret.clone());
    let unlisted = config.database(&key.database).map(|database| &database.unlisted_users);
    let secret = match (listed, unlisted) {
        (Some(secret), _) => Some(secret),
        (None, Some(UnlistedUsers::PassThrough)) => {
            let password = ask_password(socket, arrival.is_local()).await?;
            return Ok(shared.passed_through.prove(&shared.registry, key, password).await?);
        }
        (None, Some(UnlistedUsers::AuthQuery { user, query })) => {
            let lookup = || look_up(shared, config, key, user, query);
            let found = shared.auth_query.get(&key.database, &key.user, lookup).await?;
            match found.secret(SystemTime::now()) {
                Ok(secret) => Some(secret.clone()),
                Err(why) => {
                    counted!(INFO, "login cannot succeed", "", "", { user = key.user, }, "{why}");
                    None
                }
            }
        }
        (None, _) => None,
    };
    let proved = prove(shared, config, socket, arrival, key, secret.as_ref()).await;
    let keys = proved.inspect_err(|_| shared.auth_query.doubt(&key.database, &key.user))?;
    Ok(configured_credential(config, &key.user).unwrap_or_else(|| match (keys, secret) {
        (_, Some(Secret::Plain(password))) => Credential::Password(password),
        (_, Some(Secret::Md5(hash))) => Credential::Md5(hash),
        (Some(keys), _) => Credential::Keys(keys),
        (None, _) => Credential::None,
    }))
}

/// Lets the client prove that it knows the secret; what SCRAM reveals of it is returned.
pub(super) async fn prove(
    shared: &Shared,
    config: &Config,
    socket: &mut Socket,
    arrival: &Arrival,
    key: &PoolKey,
    secret: Option<&Secret>,
) -> Result<Option<SaltedKeys>, Refusal> {
    let user = key.user.as_str();
    let failed = |failure: AuthFailure| Refusal::Told(failure.to_error(user));
    match shared.verifiers.proof(config.auth, user, secret).await {
        Proof::Trust => Ok(None),
        Proof::Scram { verifier, doom } => {
            if let Some(doom) = &doom {
                counted!(INFO, "login cannot succeed", "", "", { user, }, "{doom}");
            }
            let binding = arrival.tls.as_ref().and_then(|tls| tls.end_point());
            backend::authentication_sasl(socket.output(), scram::mechanisms(binding.is_some()));
            let first = answer(socket).await?;
            let (mechanism, rest) = split_cstr(&first).ok_or_else(malformed)?;
            let (length, data) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
            // -1: no initial response; the exchange asks for it as for any empty message.
            let data = if i32::from_be_bytes(*length) < 0 { &[][..] } else { data };
            let exchange = ServerExchange::new(mechanism, verifier, doom.is_none(), binding).map_err(failed)?;
            exchange_scram(socket, exchange, data.to_vec()).await?.map(Some).map_err(failed)
        }
        Proof::Md5(hash) => {
            let salt = md5::new_salt().ok_or_else(no_randomness)?;
            backend::authentication_md5(socket.output(), salt);
            let response = answer(socket).await?;
            let response = response.strip_suffix(b"\0").unwrap_or(&response);
            if md5::verify(&hash, salt, response) { Ok(None) } else { Err(failed(AuthFailure::InvalidProof)) }
        }
        Proof::Password => {
            let password = ask_password(socket, arrival.is_local()).await?;
            let right = shared.verifiers.check_password(user, secret, password.0.as_bytes()).await;
            if right { Ok(None) } else { Err(failed(AuthFailure::InvalidProof)) }
        }
    }
}

async fn exchange_scram(
    socket: &mut Socket,
    mut exchange: ServerExchange,
    mut data: Vec<u8>,
) -> Result<Result<SaltedKeys, AuthFailure>, Refusal> {
    loop {
        match exchange.step(&data) {
            ServerStep::Continue(challenge) => {
                backend::authentication_sasl_continue(socket.output(), &challenge);
                data = answer(socket).await?;
            }
            ServerStep::Success { final_message, recovered } => {
                // Not sent yet: it goes out with AuthenticationOk and all that follows.
                backend::authentication_sasl_final(socket.output(), &final_message);
                return Ok(Ok(recovered));
            }
            ServerStep::Failure(failure) => return Ok(Err(failure)),
        }
    }
}

/// Sends what waits and returns the body of the client's answer.
async fn answer(socket: &mut Socket) -> Result<Vec<u8>, Refusal> {
    socket.flush().await?;
    let header = socket.message(limit).await?;
    if header.tag != frontend::PASSWORD {
        return Err(
            Error::protocol(format!("expected authentication response, got message type {}", header.tag)).into()
        );
    }
    let body = socket.unseen().get(HEADER..header.total).unwrap_or_default().to_vec();
    socket.consume(header.total);
    Ok(body)
}

/// Asks for the password itself, which only goes over TLS or does not leave this machine.
async fn ask_password(socket: &mut Socket, local: bool) -> Result<Password, Refusal> {
    if !socket.io().is_tls() && !local {
        return Err(Error::new(
            Side::Client,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "this login needs the password itself, which is only accepted over TLS",
        )
        .hint("Connect with sslmode=require or better.")
        .into());
    }
    backend::authentication_cleartext(socket.output());
    let body = answer(socket).await?;
    let (password, _) = split_cstr(&body).ok_or_else(malformed)?;
    let password = String::from_utf8(password.to_vec()).map_err(|_| malformed())?;
    if password.is_empty() {
        return Err(Error::new(Side::Client, SqlState::INVALID_PASSWORD, "empty password returned by client").into());
    }
    Ok(Password(password))
}

/// Asks the database about a user that nobody lists.
async fn look_up(
    shared: &Arc<Shared>,
    config: &Config,
    key: &PoolKey,
    asker: &str,
    query: &str,
) -> Result<auth_query::Lookup, Error> {
    let credential = configured_credential(config, asker).unwrap_or(Credential::None);
    let pool = shared.registry.pool(&PoolKey { database: key.database.clone(), user: asker.to_owned() }, credential)?;
    let mut lease = pool.borrow_for_errand().await?;
    // Nothing that a client of this user did to its session may bend the query.
    let mut safe = Settings::default();
    safe.set("search_path", "pg_catalog".to_owned());
    let answer = async {
        lease.clean().await;
        lease.apply(&safe).await?;
        lease.ask(query, &[&key.user]).await
    };
    let answer = answer.await;
    lease.params = None;
    lease.release();
    match answer {
        Ok(answer) => Ok(auth_query::judge(&key.user, &answer.rows, SystemTime::now())),
        Err(error) => {
            counted!(WARN, "auth_query failed", pool.key, "", {}, "{error}");
            Err(Error::new(Side::Proxy, SqlState::CONFIG_FILE_ERROR, "the user could not be looked up")
                .hint("pgfunnel's log says why auth_query failed."))
        }
    }
}

/// AuthenticationOk to ReadyForQuery, in one write.
fn greet(socket: &mut Socket, entry: &Entry, params: &Params) {
    let out = socket.output();
    backend::authentication_ok(out);
    for (name, value) in &params.reported {
        backend::put_parameter_status(out, name, value);
    }
    backend::key_data(out, entry.handle.pid, entry.handle.key());
    backend::ready_idle(out);
}

#[cold]
fn no_user() -> Error {
    Error::new(
        Side::Client,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        "no PostgreSQL user name specified in startup packet",
    )
}

/// 55000, as for a database with `datallowconn = false`.
#[cold]
fn disabled(database: &str) -> Error {
    Error::new(
        Side::Proxy,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("database \"{database}\" is not currently accepting connections"),
    )
    .hint("It was disabled on pgfunnel's console; ENABLE lets clients in again.")
}

#[cold]
fn malformed() -> Error {
    Error::protocol("malformed authentication message")
}

#[cold]
fn no_randomness() -> Error {
    Error::new(Side::Proxy, SqlState::INTERNAL_ERROR, "no randomness from the system")
}

#[cold]
pub(super) fn too_many(whose: &str, setting: &str, limit: usize) -> Error {
    metrics().count_refusal(setting);
    Error::new(
        Side::Proxy,
        SqlState::TOO_MANY_CONNECTIONS,
        format!("too many clients for {whose} ({setting} = {limit})"),
    )
    .hint(format!("Raise {setting} in pgfunnel's configuration."))
}
