//! Where a configured value came from, and the errors and warnings that name it. Owns no values and never holds a
//! secret: messages are built from keys, sources and values that are allowed to be seen.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The place that gave a value, as an operator would look it up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A line of the configuration file.
    Line(Arc<Path>, usize),
    /// A whole file: the configuration file, a user list, a certificate.
    File(Arc<Path>),
    /// An environment variable.
    Variable(String),
    /// `SET` on the admin console.
    Console,
    /// Nothing in particular: something is missing everywhere.
    Configuration,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Variable(name) => f.write_str(name),
            Source::Console => f.write_str("SET"),
            Source::Configuration => f.write_str("configuration"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) source: Source,
    /// As it was written; nothing for a secret.
    pub(super) shown: Box<str>,
}

/// One thing that is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where it is wrong.
    pub source: Source,
    /// Key, value (never a secret's) and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// Everything that is wrong with a configuration, one line each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors: those of the file first, by line, then those of the environment.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors and warnings, so that one start shows all of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Report {
    pub(super) fn error(&mut self, source: &Source, message: impl Into<String>) {
        self.errors.push(ConfigError { source: source.clone(), message: message.into() });
    }

    pub(super) fn warning(&mut self, source: &Source, message: impl Into<String>) {
        self.warnings.push(ConfigError { source: source.clone(), message: message.into() });
    }

    /// All errors in order.
    pub(super) fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort();
        self.errors.dedup();
        ConfigErrors(self.errors)
    }

    /// The warnings if nothing is wrong, else all errors.
    pub(super) fn finish(mut self) -> Result<Vec<String>, ConfigErrors> {
        if !self.errors.is_empty() {
            return Err(self.into_errors());
        }
        self.warnings.sort();
        self.warnings.dedup();
        Ok(self.warnings.iter().map(ToString::to_string).collect())
    }
}
