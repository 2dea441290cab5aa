//! Where the storm goes and as whom: taken from the URL, resolved and read once for all environments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_rustls::TlsStream;

use super::failure::Failure;
use super::keys::KeyCache;
use super::url;
use crate::config::BackendTlsMode;
use crate::net::tls::{BackendTls, peer_end_point};
use crate::net::{Io, Plain};

/// libpq's default port.
const DEFAULT_PORT: u16 = 5432;

/// A server, a database on it, and who logs in there.
pub(super) struct Target {
    address: Address,
    /// As the URL says it; what certificates are compared with.
    host: String,
    sslmode: BackendTlsMode,
    /// `None` if `sslmode` is `disable`.
    tls: Option<BackendTls>,
    pub(super) user: String,
    password: Option<Vec<u8>>,
    /// SCRAM keys of this user.
    pub(super) keys: KeyCache,
    database: String,
    options: Option<String>,
    application_name: String,
}

enum Address {
    /// What the host name resolved to, tried in this order.
    Tcp(Vec<SocketAddr>),
    /// The socket file itself.
    Unix(PathBuf),
}

impl Target {
    /// Takes a URL apart, resolves its host within `timeout`, and reads the certificates that it names.
    pub(super) async fn resolve(url: &str, timeout: Duration) -> Result<Self, String> {
        let (config, tls) = url::parse(url)?;
        let user = config.get_user().ok_or("the connection URL names no user")?.to_owned();
        let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
        let (host, address) = match config.get_hosts() {
            [Host::Tcp(host)] => (host.clone(), Address::Tcp(lookup(host, port, timeout).await?)),
            [Host::Unix(directory)] => (String::new(), Address::Unix(directory.join(format!(".s.PGSQL.{port}")))),
            [] => return Err("the connection URL names no host".to_owned()),
            _ => return Err("the connection URL names several hosts; a storm needs one".to_owned()),
        };
        let built = BackendTls::build(&tls).map_err(|e| e.to_string())?;
        Ok(Self {
            address,
            host,
            sslmode: tls.mode,
            // Every environment is a machine of its own: none could resume another's session.
            tls: built.map(|tls| tls.without_resumption()),
            password: config.get_password().map(<[u8]>::to_vec),
            keys: KeyCache::default(),
            database: config.get_dbname().unwrap_or(&user).to_owned(),
            options: config.get_options().map(str::to_owned),
            application_name: config.get_application_name().unwrap_or("pgfunnel storm").to_owned(),
            user,
        })
    }

    /// When TLS is used; never on a Unix socket, as with libpq.
    pub(super) fn sslmode(&self) -> BackendTlsMode {
        match self.address {
            Address::Tcp(_) => self.sslmode,
            Address::Unix(_) => BackendTlsMode::Disable,
        }
    }

    /// The password, for a server that asks for it.
    pub(super) fn password(&self) -> Result<&[u8], Failure> {
        self.password.as_deref().ok_or_else(|| Failure::protocol("the server asks for a password, the URL has none"))
    }

    /// The parameters of the startup message.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("user", self.user.as_str()),
            ("database", &self.database),
            ("application_name", &self.application_name),
            ("client_encoding", "UTF8"),
        ]
        .into_iter()
        .chain(self.options.as_deref().map(|options| ("options", options)))
    }

    /// A connected socket, with TLS if asked for and offered; and the channel binding data then.
    pub(super) async fn open(&self, with_tls: bool) -> Result<(Io, Option<Vec<u8>>), Failure> {
        let mut tcp = match &self.address {
            Address::Unix(path) => return Ok((Io::Plain(Plain::Unix(UnixStream::connect(path).await?)), None)),
            Address::Tcp(addresses) => TcpStream::connect(addresses.as_slice()).await?,
        };
        let Some(tls) = self.tls.as_ref().filter(|_| with_tls) else {
            return Ok((Io::Plain(Plain::tcp(tcp)?), None));
        };
        let mut request = BytesMut::with_capacity(8);
        frontend::ssl_request(&mut request);
        tcp.write_all(&request).await?;
        // Exactly one byte: what follows it must belong to TLS.
        let answer = tcp.read_u8().await?;
        let plain = Plain::tcp(tcp)?;
        match (answer, self.sslmode) {
            (b'S', _) => {
                let stream = tls.connect(&self.host, plain).await.map_err(Failure::tls)?;
                let binding = peer_end_point(stream.get_ref().1);
                Ok((Io::Tls(Box::new(TlsStream::Client(stream))), binding))
            }
            (b'N', BackendTlsMode::Prefer | BackendTlsMode::Allow) => Ok((Io::Plain(plain), None)),
            (b'N', _) => Err(Failure::protocol("the server does not support TLS, but sslmode requires it")),
            _ => Err(Failure::protocol("the answer to SSLRequest is neither S nor N")),
        }
    }
}

async fn lookup(host: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(timeout, tokio::net::lookup_host((host, port))).await;
    let found = found.map_err(|_| format!("host {host:?} could not be resolved within {timeout:?}"))?;
    let addresses: Vec<_> = found.map_err(|e| format!("host {host:?} could not be resolved: {e}"))?.collect();
    if addresses.is_empty() { Err(format!("host {host:?} has no address")) } else { Ok(addresses) }
}
