//! Connecting to PostgreSQL: socket, TLS as `sslmode` says, login; and cancel requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error as ThisError;
use tokio_rustls::TlsStream;

use super::login::{Credential, KeySource, LoggedIn, login};
use super::{Backend, Identity};
use crate::clock::Moment;
use crate::config::BackendTlsMode;
use crate::error::{Error, Side, SqlState};
use crate::net::tls::{BackendTls, peer_end_point};
use crate::net::{Endpoint, Io, Plain, Remains, Socket, dial};
use crate::prepared::BackendStatements;
use crate::track::Effects;
use crate::wire::Version;
use crate::wire::backend::Status;

/// How long a cancel request may take, TLS handshake included.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What to connect to, and as whom.
#[derive(Clone)]
pub struct Target {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// Its name for TLS.
    pub host: String,
    /// Database name there.
    pub dbname: String,
    /// Role name.
    pub user: String,
    /// What proves that we are that role.
    pub credential: Credential,
    /// When TLS is used.
    pub tls_mode: BackendTlsMode,
    /// How; `None` only if `tls_mode` is `Disable`.
    pub tls: Option<Arc<BackendTls>>,
    /// Where SCRAM keys come from.
    pub keys: Arc<dyn KeySource>,
    /// For socket, TLS and login together.
    pub timeout: Duration,
}

impl Target {
    /// Its name in the log.
    pub fn pool(&self) -> String {
        format!("{}/{}", self.dbname, self.user)
    }

    /// 08001: there is no connection, and why.
    pub fn unreachable(&self, why: &str) -> Error {
        Error::new(
            Side::Database,
            SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            format!("could not connect to the database server at {}: {why}", self.endpoint),
        )
    }

    /// Whether there is no connection without TLS.
    pub fn demands_tls(&self) -> bool {
        use BackendTlsMode::{Require, VerifyCa, VerifyFull};
        matches!(self.tls_mode, Require | VerifyCa | VerifyFull) && matches!(self.endpoint, Endpoint::Tcp { .. })
    }
}

/// Why there is no backend.
#[derive(Debug, Clone, ThisError)]
pub enum ConnectError {
    /// PostgreSQL, or what we know, says no.
    #[error("{0}")]
    Refused(Error),
    /// The connection cannot be made or broke.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// [`Target::timeout`] passed.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => ConnectError::Refused(error),
            Err(error) => ConnectError::Io(Arc::new(error)),
        }
    }
}

impl ConnectError {
    /// Whether another attempt may well succeed soon: the server is starting, restarting, out of connection slots or
    /// not reachable. A wrong password or name stays wrong.
    pub fn is_passing(&self) -> bool {
        match self {
            ConnectError::Io(_) | ConnectError::Timeout(_) => true,
            ConnectError::Refused(error) => {
                error.side == Side::Database
                    && [
                        SqlState::CANNOT_CONNECT_NOW,
                        SqlState::TOO_MANY_CONNECTIONS,
                        SqlState::ADMIN_SHUTDOWN,
                        SqlState::CRASH_SHUTDOWN,
                    ]
                    .contains(&error.code)
            }
        }
    }

    /// As the client sees it.
    pub fn to_error(&self, target: &Target) -> Error {
        match self {
            ConnectError::Refused(error) => error.clone(),
            ConnectError::Io(error) => target.unreachable(&error.to_string()),
            ConnectError::Timeout(limit) => target
                .unreachable(&format!("no answer within {limit:?}"))
                .hint("The setting connect_timeout limits connecting and logging in."),
        }
    }
}

/// An attempt that came to nothing.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: ConnectError,
    remains: Option<Remains>,
}

impl Failed {
    /// Waits until the server has closed its side: until then it counts there.
    pub async fn closed(self) {
        end(self.remains).await;
    }
}

/// A vanished host is noticed by keepalive, which ends this.
async fn end(remains: Option<Remains>) {
    if let Some(remains) = remains {
        remains.closed().await;
    }
}

/// Connects and logs in. Not cancel-safe: dropped half-way, the connection is closed, but nobody waits until the server
/// has noticed.
///
/// # Errors
/// [`Failed`], whose connection may still count at the server.
pub async fn connect(target: &Target) -> Result<Backend, Failed> {
    let mut remains = None;
    let outcome = match tokio::time::timeout(target.timeout, attempt(target, &mut remains)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(target.timeout)),
    };
    outcome.map_err(|error| Failed { error, remains })
}

/// `remains`: of the connection that is being tried.
async fn attempt(target: &Target, remains: &mut Option<Remains>) -> Result<Backend, ConnectError> {
    let mut with_tls = !matches!(target.tls_mode, BackendTlsMode::Disable | BackendTlsMode::Allow);
    let mut version = Version::V3_2;
    let mut may_change_tls = matches!(target.tls_mode, BackendTlsMode::Allow | BackendTlsMode::Prefer)
        && matches!(target.endpoint, Endpoint::Tcp { .. });
    loop {
        match once(target, with_tls, version, remains).await {
            // libpq's fallbacks: `allow` tries TLS when the server refuses without, `prefer` the other way round.
            Err(ConnectError::Refused(error))
                if may_change_tls && error.code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                may_change_tls = false;
                with_tls = !with_tls;
            }
            // PostgreSQL negotiates; not everything that speaks its protocol does.
            Err(ConnectError::Refused(error)) if version > Version::V3_0 && is_about_version(&error) => {
                version = Version::V3_0;
            }
            result => return result,
        }
        // That one counts until the server has closed it.
        end(remains.take()).await;
    }
}

/// "unsupported frontend protocol", as PostgreSQL's `ProcessStartupPacket` and PgBouncer say it.
fn is_about_version(error: &Error) -> bool {
    [SqlState::FEATURE_NOT_SUPPORTED, SqlState::PROTOCOL_VIOLATION].contains(&error.code)
        && error.message.contains("unsupported")
}

async fn once(
    target: &Target,
    with_tls: bool,
    version: Version,
    remains: &mut Option<Remains>,
) -> Result<Backend, ConnectError> {
    let plain = dial(&target.endpoint).await?;
    *remains = Some(plain.remains()?);
    let (io, binding) = secure(plain, target, with_tls).await?;
    let mut socket = Socket::new(io);
    let LoggedIn { mut identity, reported } = login(&mut socket, target, version, binding.as_deref()).await?;
    if let Some(address) = socket.io().peer_address() {
        identity.target.endpoint = Endpoint::Tcp { host: address.ip().to_string(), port: address.port() };
    }
    socket.give_back();
    let now = Moment::now();
    Ok(Backend {
        socket,
        identity: Arc::new(identity),
        statements: BackendStatements::default(),
        params: None,
        reported,
        status: Status::Idle,
        owner: 0,
        unclean: false,
        foreign_sequences: false,
        notified: false,
        notifications: Vec::new(),
        residue: Effects::NONE,
        has_setters: false,
        has_asks: false,
        expires: None,
        idle_since: now,
        broken: false,
    })
}

/// With TLS if asked for and offered; and the channel binding data.
async fn secure(plain: Plain, target: &Target, with_tls: bool) -> Result<(Io, Option<Vec<u8>>), ConnectError> {
    let Some(tls) = target.tls.as_ref().filter(|_| with_tls && matches!(plain, Plain::Tcp(_))) else {
        return Ok((Io::Plain(plain), None));
    };
    let mut socket = Socket::new(Io::Plain(plain));
    postgres_protocol::message::frontend::ssl_request(socket.output());
    socket.flush().await?;
    let answer = socket.read_exactly(1).await?;
    match (answer.as_slice(), socket.into_io()) {
        (b"S", Io::Plain(plain)) => {
            let stream = tls.connect(&target.host, plain).await?;
            let binding = peer_end_point(stream.get_ref().1);
            Ok((Io::Tls(Box::new(TlsStream::Client(stream))), binding))
        }
        (b"N", io) if matches!(target.tls_mode, BackendTlsMode::Prefer | BackendTlsMode::Allow) => Ok((io, None)),
        _ => Err(ConnectError::Refused(
            Error::new(
                Side::Database,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                format!("the database server at {} does not offer TLS", target.endpoint),
            )
            .hint("The setting tls of this database demands it."),
        )),
    }
}

/// Asks PostgreSQL to cancel what this backend runs, and waits until the server has closed the connection: the signal
/// is out then (manual, "Canceling Requests in Progress").
///
/// # Errors
/// The transport's.
pub async fn cancel(identity: &Identity) -> io::Result<()> {
    let target = &identity.target;
    let request = async {
        let with_tls = !matches!(target.tls_mode, BackendTlsMode::Disable | BackendTlsMode::Allow);
        let plain = dial(&target.endpoint).await?;
        let (io, _) = secure(plain, target, with_tls).await.map_err(|error| io::Error::other(error.to_string()))?;
        let mut socket = Socket::new(io);
        let output = socket.output();
        output.extend_from_slice(&(12 + identity.key.len() as u32).to_be_bytes());
        output.extend_from_slice(&80_877_102_u32.to_be_bytes());
        output.extend_from_slice(&identity.pid.to_be_bytes());
        output.extend_from_slice(&identity.key);
        socket.flush().await?;
        match socket.fill_to(1).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        }
    };
    tokio::time::timeout(CANCEL_TIMEOUT, request).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}
