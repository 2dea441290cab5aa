//! One value at a time, while pgfunnel runs: what the admin console shows (`SHOW CONFIG`) and changes (`SET`). Everything is
//! judged as a whole again, from what was written when it was read last; no file is read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::FIXED;
use super::raw::{Raw, Scope};
use super::source::{ConfigErrors, Report, Source};
use super::url::UrlUser;
use super::value::{self, Data};
use super::{Config, suggest, validate};

/// Every key with its default; a test holds it against the code.
const REFERENCE: &str = include_str!("../../config/pgfunnel.toml");

/// What a configuration is made from.
pub(super) struct Written {
    pub(super) raw: Raw,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) url_user: Option<UrlUser>,
    pub(super) source: Option<PathBuf>,
}

/// It holds secrets.
impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

/// A key of the top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// What is in force; nothing for a secret.
    pub value: String,
    /// What is in force if nobody says anything; `None`: nothing.
    pub default: Option<&'static str>,
    /// It can be changed without a restart.
    pub changeable: bool,
}

impl Config {
    /// Every key of the top level.
    pub fn settings(&self) -> Vec<Setting> {
        let setting = |key: &'static str| {
            let default = default(key);
            let value = self.written.raw.shown(key).or(default).unwrap_or_default().to_owned();
            Setting { key, value, default, changeable: !is_fixed(key) && !Scope::Top.is_secret(key) }
        };
        Scope::Top.keys().into_iter().map(setting).collect()
    }

    /// The same configuration with another value of one key: of the top level (`pool_size`), or of a database or user
    /// (`databases.app.pool_size`).
    ///
    /// # Errors
    /// What is wrong with it; an unknown key, one that only a restart changes, a secret.
    pub fn set(&self, key: &str, text: &str) -> Result<Self, ConfigErrors> {
        let (mut report, source) = (Report::default(), Source::Console);
        let (scope, key) = scope(key);
        let mut raw = self.written.raw.clone();
        let of_url = |name: &str| self.written.url_user.as_ref().is_some_and(|user| user.name == name);
        let missing = match &scope {
            Scope::Top => false,
            Scope::Database(name) => !raw.databases.contains_key(name),
            Scope::User(name) => !raw.users.contains_key(name) && !of_url(name),
        };
        if !scope.keys().contains(&key) {
            report
                .error(&source, format!("unknown key \"{key}\"{}{}", scope.place(), suggest::hint(key, &scope.keys())));
        } else if scope.is_secret(key) {
            report.error(&source, format!("{key}{}: secrets are not set here", scope.place()));
        } else if missing {
            report.error(&source, format!("there is nothing{} to change", scope.place()));
        } else if scope == Scope::Top && is_fixed(key) {
            report.error(&source, format!("{key} can only be changed by a restart"));
        } else {
            let written = value::Written { data: Data::Variable(text), base: self.base() };
            raw.assign(&scope, key, &written, &source, &mut report);
        }
        let Written { variables, url_user, source, .. } = &*self.written;
        let written = Written { raw, variables: variables.clone(), url_user: url_user.clone(), source: source.clone() };
        validate::config(Arc::new(written), report)
    }

    /// What relative paths are relative to.
    fn base(&self) -> &Path {
        self.source.as_deref().and_then(Path::parent).unwrap_or(Path::new(""))
    }
}

/// Whether only a restart changes it.
fn is_fixed(key: &str) -> bool {
    FIXED.contains(&key) || key.starts_with("cloudwatch_")
}

/// `databases.NAME.KEY`, `users.NAME.KEY` or `KEY`.
fn scope(path: &str) -> (Scope, &str) {
    let within = |table: &str| path.strip_prefix(table)?.rsplit_once('.');
    match (within("databases."), within("users.")) {
        (Some((name, key)), _) => (Scope::Database(name.to_owned()), key),
        (_, Some((name, key))) => (Scope::User(name.to_owned()), key),
        (None, None) => (Scope::Top, path),
    }
}

/// `#key = value`, at the top level of the reference.
fn default(key: &str) -> Option<&'static str> {
    let top = REFERENCE.split("# ---- Databases").next().unwrap_or_default();
    let written = top.lines().find_map(|line| line.strip_prefix('#')?.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(written.trim_matches(['"', '[', ']']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PoolSize;

    fn config() -> Config {
        let variables = [
            ("DATABASE_URL", "postgres://app:s3cret@127.0.0.1/app"),
            ("PGFUNNEL_POOL_SIZE", "7"),
            ("PGFUNNEL_HTTP_TOKEN", "t0ken"),
        ];
        Config::load(None, variables.into_iter().map(|(name, value)| (name.into(), value.into()))).expect("valid")
    }

    #[test]
    fn every_key_is_shown_with_its_value_and_no_secret() {
        let settings = config().settings();
        let find = |key: &str| settings.iter().find(|setting| setting.key == key).expect(key);
        assert_eq!((find("pool_size").value.as_str(), find("pool_size").default), ("7", Some("20")));
        assert_eq!((find("borrow_timeout").value.as_str(), find("borrow_timeout").changeable), ("5s", true));
        assert_eq!((find("listen").value.as_str(), find("listen").changeable), ("127.0.0.1:6432", false));
        assert_eq!((find("http_token").value.as_str(), find("http_token").changeable), ("", false));
        assert!(!format!("{settings:?}{:?}", config()).contains("s3cret"));
        assert!(settings.len() > 30, "{}", settings.len());
    }

    #[test]
    fn one_value_is_changed_and_all_is_judged() {
        let config = config();
        assert_eq!(config.set("pool_size", "9").unwrap().databases["app"].pool.size, PoolSize::Count(9));
        let own = config.set("databases.app.pool_size", "11").unwrap();
        assert_eq!(own.databases["app"].pool.size, PoolSize::Count(11));
        assert_eq!(own.set("pool_size", "9").unwrap().databases["app"].pool.size, PoolSize::Count(11));
        for (key, value, wrong) in [
            ("pool_size", "many", "SET: pool_size = \"many\": must be a whole number"),
            ("min_idle", "8", "must not be above pool_size"),
            ("pol_size", "8", "did you mean \"pool_size\"?"),
            ("listen", "0.0.0.0:1", "only be changed by a restart"),
            ("cloudwatch_interval", "5s", "only be changed by a restart"),
            ("http_token", "x", "secrets are not set here"),
            ("users.app.password", "x", "secrets are not set here"),
            ("databases.other.pool_size", "1", "there is nothing in [databases.other]"),
        ] {
            let errors = config.set(key, value).expect_err(key).to_string();
            assert!(errors.contains(wrong), "{key}: {errors}");
        }
    }
}
