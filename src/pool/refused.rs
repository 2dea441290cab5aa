//! What a client is told where PostgreSQL refuses pgfunnel's own login: PostgreSQL's words alone read as if the client's
//! had been refused, which succeeded. Says which key of the configuration to look at.

use super::Pool;
use crate::backend::{ConnectError, Credential, Target};
use crate::error::{Error, Side, SqlState};

impl Pool {
    /// Why there is no backend, as a client of this pool is told.
    pub(super) fn told(&self, error: &ConnectError, target: &Target) -> Error {
        let registry = self.registry.upgrade();
        let is_listed = registry.is_some_and(|registry| registry.config().users.contains_key(&self.key.user));
        explain(error.to_error(target), target, &self.key.database, is_listed)
    }
}

fn explain(mut error: Error, target: &Target, asked_for: &str, is_listed: bool) -> Error {
    let Some(hint) = hint(&error, target, asked_for, is_listed).filter(|_| error.side == Side::Database) else {
        return error;
    };
    error.detail.get_or_insert_with(|| {
        let Target { endpoint, user, .. } = target;
        format!("PostgreSQL at {endpoint} refused pgfunnel's own login as \"{user}\", not the client's to pgfunnel.")
            .into()
    });
    error.hint.get_or_insert_with(|| hint.into());
    error
}

fn hint(error: &Error, target: &Target, asked_for: &str, is_listed: bool) -> Option<String> {
    let Target { user, dbname, .. } = target;
    if error.code == SqlState::INVALID_CATALOG_NAME {
        return Some(format!(
            "Look at dbname of the entry for \"{asked_for}\" in [databases]: \"{dbname}\" is the name on the server."
        ));
    }
    if error.code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        return Some(
            "Look at the server's pg_hba.conf, which sees pgfunnel's address, at tls of the database in [databases], and \
             whether the role may log in."
                .to_owned(),
        );
    }
    (error.code == SqlState::INVALID_PASSWORD).then(|| match &target.credential {
        Credential::Password(_) if is_listed => format!(
            "PostgreSQL knows another password: look at backend_password of [users.{user}], or, where there is none, at \
             its password, its line in the userlist, or DATABASE_URL."
        ),
        Credential::Password(_) => "The password of a user that is not listed is that of its last login, or what auth_query \
             returns: log in again if it has changed."
            .to_owned(),
        Credential::Keys(_) | Credential::Md5(_) => format!(
            "PostgreSQL has another secret: renew the one stored for \"{user}\", or set backend_password of [users.{user}]."
        ),
        Credential::None => format!("pgfunnel has no password for it: set backend_password of [users.{user}]."),
    })
}
