//! Opening a plain connection to where PostgreSQL listens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::Plain;

/// How long an unreachable server may keep a backend connection that nobody reads or writes. Also ends a wait for an
/// answer that a vanished host will never send.
const BACKEND_PATIENCE: Duration = Duration::from_secs(60);

/// Where a PostgreSQL server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp {
        /// Host name or IP address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The Unix socket file.
    Unix(PathBuf),
}

impl Endpoint {
    /// As libpq reads `host`: an absolute path is the directory that holds the Unix socket.
    pub fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') {
            Endpoint::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}")))
        } else {
            Endpoint::Tcp { host: host.to_owned(), port }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Connects; every address of a name is tried in turn. Cancel-safe.
///
/// # Errors
/// The last address's error.
pub async fn dial(endpoint: &Endpoint) -> io::Result<Plain> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => return Ok(Plain::Unix(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let plain = Plain::tcp(stream)?;
                plain.watch_peer(Some(BACKEND_PATIENCE));
                return Ok(plain);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
