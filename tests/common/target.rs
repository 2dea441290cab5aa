//! Whom to log in as, and the login itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use rustls::ClientConfig;

use super::{Fields, Result, Say, Wire, startup};

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Addr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// A Unix socket (the file itself).
    Unix(PathBuf),
}

/// Whom to log in as, and where.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub addr: Addr,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// More startup parameters.
    pub parameters: Vec<(String, String)>,
    /// Protocol version.
    pub version: i32,
    /// TLS, asked for with an SSLRequest.
    pub tls: Option<Arc<ClientConfig>>,
    /// The hash of the server's certificate, for SCRAM-SHA-256-PLUS.
    pub binding: Option<Vec<u8>>,
    /// Bytes sent before anything else (a PROXY header).
    pub preamble: Vec<u8>,
}

impl Target {
    /// A target without TLS, protocol 3.0.
    pub fn new(addr: Addr, user: &str, password: &str, database: &str) -> Self {
        let (user, password, database) = (user.into(), password.into(), database.into());
        let (parameters, tls, binding, preamble) = (Vec::new(), None, None, Vec::new());
        Self { addr, user, password, database, parameters, version: 0x0003_0000, tls, binding, preamble }
    }

    /// The same for another role.
    pub fn user(&self, user: &str, password: &str) -> Self {
        Self { user: user.into(), password: password.into(), ..self.clone() }
    }

    /// The same for another database.
    pub fn database(&self, database: &str) -> Self {
        Self { database: database.into(), ..self.clone() }
    }

    /// The same with one more startup parameter.
    pub fn parameter(&self, name: &str, value: &str) -> Self {
        let mut target = self.clone();
        target.parameters.push((name.into(), value.into()));
        target
    }

    /// The same in another protocol version.
    pub fn version(&self, version: i32) -> Self {
        Self { version, ..self.clone() }
    }

    /// The same over TLS.
    pub fn tls(&self, config: Arc<ClientConfig>) -> Self {
        Self { tls: Some(config), ..self.clone() }
    }

    /// The keyword/value connection string of it, for drivers.
    pub fn dsn(&self) -> String {
        let (host, port) = match &self.addr {
            Addr::Tcp(addr) => (addr.ip().to_string(), addr.port()),
            Addr::Unix(path) => (path.parent().unwrap_or(path).display().to_string(), 0),
        };
        format!("host={host} port={port} user={} password={} dbname={}", self.user, self.password, self.database)
    }

    /// The URL of it, for drivers.
    pub fn url(&self) -> String {
        let Addr::Tcp(addr) = &self.addr else { return String::new() };
        format!("postgres://{}:{}@{addr}/{}", self.user, self.password, self.database)
    }

    /// Connects, logs in, and waits for ReadyForQuery.
    pub fn connect(&self) -> Result<Wire> {
        match self.login()? {
            Ok(wire) => Ok(wire),
            Err(fields) => Err(format!("login refused: {fields:?}").into()),
        }
    }

    /// The error with which the server refuses this login; fails if it does not.
    pub fn refusal(&self) -> Result<Fields> {
        match self.login()? {
            Ok(_) => Err("the login was not refused".into()),
            Err(fields) => Ok(fields),
        }
    }

    /// The error that a client meets, at its login or at its first query; `Fields::default()` if it meets none.
    pub fn first_error(&self) -> Result<Fields> {
        match self.login()? {
            Err(error) => Ok(error),
            Ok(mut client) => client.first_error(&Say::new().query("select 1")),
        }
    }

    /// Connects and logs in: the client, or the error of the server.
    pub fn login(&self) -> Result<std::result::Result<Wire, Fields>> {
        let mut wire = Wire::open(self)?;
        let mut parameters = vec![("user", self.user.as_str()), ("database", self.database.as_str())];
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        wire.send(&startup(self.version, &parameters))?;
        Ok(wire.authenticate(self)?.map(|()| wire))
    }
}

impl Wire {
    /// Answers the server's authentication requests until ReadyForQuery or an error.
    fn authenticate(&mut self, target: &Target) -> Result<std::result::Result<(), Fields>> {
        let mut scram = None;
        loop {
            let message = self.read()?;
            match message.tag {
                b'R' => self.authenticate_step(target, &message.body, &mut scram)?,
                b'K' => {
                    let (pid, key) = message.body.split_first_chunk().ok_or("a short BackendKeyData")?;
                    self.key = (i32::from_be_bytes(*pid), key.to_vec());
                }
                b'v' => self.negotiated = Some(message.body),
                b'E' => return Ok(Err(message.fields().unwrap_or_default())),
                b'Z' => return Ok(Ok(())),
                b'S' | b'N' => {}
                _ => return Err(format!("{message:?} during the login").into()),
            }
        }
    }

    fn authenticate_step(&mut self, target: &Target, body: &[u8], scram: &mut Option<ScramSha256>) -> Result {
        let (kind, data) = body.split_first_chunk().ok_or("a short Authentication message")?;
        let password = target.password.as_bytes();
        let response = match i32::from_be_bytes(*kind) {
            0 => return Ok(()),
            3 => [password, b"\0"].concat(),
            5 => {
                let salt = data.try_into()?;
                [md5_hash(target.user.as_bytes(), password, salt).as_bytes(), b"\0"].concat()
            }
            10 => {
                let offered: Vec<_> = data.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
                let plus = target.binding.clone().filter(|_| offered.iter().any(|name| name == SCRAM_SHA_256_PLUS));
                let (mechanism, binding) = match plus {
                    Some(hash) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)),
                    None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
                };
                let client = scram.insert(ScramSha256::new(password, binding));
                let first = client.message();
                let length = i32::try_from(first.len())?.to_be_bytes();
                [mechanism.as_bytes(), b"\0", &length, first].concat()
            }
            11 => {
                let client = scram.as_mut().ok_or("SASL went on before it began")?;
                client.update(data)?;
                client.message().to_vec()
            }
            12 => return Ok(scram.as_mut().ok_or("SASL ended before it began")?.finish(data)?),
            other => return Err(format!("authentication request {other}").into()),
        };
        Ok(self.say(&Say::new().raw(b'p', &response))?)
    }
}
