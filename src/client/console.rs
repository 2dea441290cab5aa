//! Who asks for the admin console: only listed users may, whatever a database does with others.

use std::net::SocketAddr;

use super::login::prove;
use super::startup::Arrival;
use super::{Refusal, Shared};
use crate::config::{Config, Console};
use crate::error::{Error, Side, SqlState};
use crate::net::Socket;
use crate::pool::PoolKey;

/// What somebody may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look.
    Stats,
    /// Everything.
    Admin,
}

impl Access {
    /// What a user may do; `None`: it has no business there.
    pub fn of(console: &Console, user: &str) -> Option<Self> {
        let is_in = |names: &[String]| names.iter().any(|name| name == user);
        match (is_in(&console.admins), is_in(&console.stats)) {
            (true, _) => Some(Access::Admin),
            (false, true) => Some(Access::Stats),
            (false, false) => None,
        }
    }
}

/// Somebody who asked for the console, has proved who it is, and may use it. The next that it is told is AuthenticationOk.
pub struct Operator {
    /// The connection.
    pub socket: Socket,
    /// Who it is.
    pub user: String,
    /// What it may do as it comes.
    pub access: Access,
    /// Where it comes from; `None`: a Unix socket.
    pub peer: Option<SocketAddr>,
    /// How long its cancel key may be.
    pub key_length: usize,
}

/// Lets an operator prove who it is.
pub(super) async fn login(
    shared: &Shared,
    config: &Config,
    socket: &mut Socket,
    arrival: &Arrival,
    key: &PoolKey,
) -> Result<Access, Refusal> {
    let secret = config.users.get(&key.user).and_then(|user| user.secret.as_ref());
    prove(shared, config, socket, arrival, key, secret).await?;
    Access::of(&config.console, &key.user).ok_or_else(|| not_allowed(&key.user).into())
}

/// 28000.
#[cold]
pub fn not_allowed(user: &str) -> Error {
    Error::new(
        Side::Client,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("user \"{user}\" may not use the admin console"),
    )
    .hint("Only users in admin_users or stats_users of pgfunnel's configuration may.")
}
