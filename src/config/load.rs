//! The way in: file, then environment over it, then `DATABASE_URL` where both are silent, then validation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::raw::Raw;
use super::set::Written;
use super::source::{ConfigErrors, Report};
use super::{Config, env, environment, file, url, validate};

/// What only a restart changes.
pub(super) const FIXED: [&str; 5] = ["listen", "http_listen", "worker_threads", "cloudwatch", "otlp_endpoint"];

impl Config {
    /// Read the file at `path` (if any) and the environment `env`, and validate them as a whole. Opens no socket.
    ///
    /// # Errors
    /// Everything that is wrong, at once; nothing is half applied.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        let variables: BTreeMap<String, String> = env.collect();
        let mut report = Report::default();
        let mut raw = Raw::default();
        let readable = path.is_none_or(|path| file::read(path, &mut raw, &mut report));
        env::read(&variables, &mut raw, &mut report);
        if !readable {
            // Half a configuration would only give misleading errors about what is missing.
            return Err(report.into_errors());
        }
        let url_user = url::read(&variables, &mut raw, &mut report);
        let written = Written { raw, variables, url_user, source: path.map(Path::to_owned) };
        validate::config(Arc::new(written), report)
    }

    /// Read the same file and the process's environment again. What only a restart can change (`listen`,
    /// `http_listen`, `worker_threads`, `cloudwatch`, `otlp_endpoint`) keeps its value, with a warning if it was to change.
    ///
    /// # Errors
    /// As [`Config::load`]; the caller then keeps the configuration that it has.
    pub fn reload(&self) -> Result<Self, ConfigErrors> {
        let mut new = Self::load(self.source.as_deref(), environment())?;
        new.keep_fixed(self);
        Ok(new)
    }

    fn keep_fixed(&mut self, old: &Self) {
        let changed = [
            self.listen != old.listen,
            self.http_listen != old.http_listen,
            self.worker_threads != old.worker_threads,
            self.cloudwatch != old.cloudwatch,
            self.otlp_endpoint != old.otlp_endpoint,
        ];
        for (key, _) in FIXED.into_iter().zip(changed).filter(|(_, changed)| *changed) {
            self.warnings.push(format!("{key} was changed; the old value holds until a restart"));
        }
        self.listen.clone_from(&old.listen);
        self.http_listen = old.http_listen;
        self.worker_threads = old.worker_threads;
        self.cloudwatch.clone_from(&old.cloudwatch);
        self.otlp_endpoint.clone_from(&old.otlp_endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(None, variables).expect("valid")
    }

    #[test]
    fn a_reload_keeps_what_only_a_restart_changes() {
        let url = ("DATABASE_URL", "postgres://app:secret@127.0.0.1/app");
        let old = load(&[url]);
        let mut new = load(&[url, ("PGFUNNEL_LISTEN", "127.0.0.1:7000"), ("PGFUNNEL_POOL_SIZE", "7")]);
        new.keep_fixed(&old);
        assert_eq!(new.listen, old.listen);
        assert_eq!(new.databases["app"].pool.size, super::super::PoolSize::Count(7));
        assert_eq!(new.warnings, ["listen was changed; the old value holds until a restart"]);
    }
}
