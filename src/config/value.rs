//! One value as it was written (TOML or an environment variable's text) and the kinds of value there are. Every kind
//! says what would have been right; none looks at more than the value itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::{Password, PoolSize, without_login};

/// PostgreSQL's own upper bound of backends (`MAX_BACKENDS`, src/include/postmaster/postmaster.h).
pub(super) const MOST_BACKENDS: usize = 262_143;
/// A bound on clients that no machine reaches and no counter overflows.
pub(super) const MOST_CLIENTS: usize = 1_000_000;
/// Longer than any setting makes sense, and short enough that adding it to a clock never overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A value before anything is known about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) data: Data<'a>,
    /// What relative paths are relative to: the directory of the file, or of the process.
    pub(super) base: &'a Path,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Data<'a> {
    Toml(&'a DeValue<'a>),
    Variable(&'a str),
}

impl<'a> Written<'a> {
    /// A string of the file, or the variable's text.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.data {
            Data::Toml(value) => value.as_str(),
            Data::Variable(text) => Some(text),
        }
    }

    fn integer(&self) -> Option<i64> {
        match self.data {
            Data::Toml(DeValue::Integer(value)) => i64::from_str_radix(value.as_str(), value.radix()).ok(),
            Data::Toml(_) => None,
            Data::Variable(text) => text.trim().parse().ok(),
        }
    }

    /// An array of strings, one string, or a variable's comma-separated text.
    pub(super) fn list(&self) -> Option<Vec<&'a str>> {
        match self.data {
            Data::Toml(DeValue::Array(items)) => items.iter().map(|item| item.get_ref().as_str()).collect(),
            Data::Toml(value) => value.as_str().map(|text| vec![text]),
            Data::Variable(text) => Some(text.split(',').map(str::trim).collect()),
        }
    }

    /// `right`, and which entry of a list is not: `None` if what was written is none.
    pub(super) fn entries<T>(&self, right: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
        let items = self.list().filter(|items| !items.is_empty()).ok_or(right)?;
        let several = items.len() > 1;
        let entry = |item: &str| {
            let which = if several { format!(", which {:?} is not", without_login(item)) } else { String::new() };
            read(item).ok_or_else(|| format!("{right}{which}"))
        };
        items.into_iter().map(entry).collect()
    }

    fn is_off(&self) -> bool {
        matches!(self.data, Data::Toml(DeValue::Boolean(false)))
            || self.integer() == Some(0)
            || self.text().is_some_and(|text| matches!(text.trim(), "off" | "0"))
    }

    /// The value as an environment variable would have it. Never call it for a secret.
    pub(super) fn plain(&self) -> String {
        match (self.text(), self.list()) {
            (Some(text), _) => without_login(text).into_owned(),
            (None, Some(list)) => without_login(&list.join(", ")).into_owned(),
            (None, None) => self.show(),
        }
    }

    /// The value for a message. Never call it for a secret.
    pub(super) fn show(&self) -> String {
        match self.data {
            Data::Variable(text) => format!("{:?}", without_login(text)),
            Data::Toml(DeValue::String(text)) => format!("{:?}", without_login(text)),
            Data::Toml(DeValue::Integer(value)) => value.to_string(),
            Data::Toml(DeValue::Float(value)) => value.to_string(),
            Data::Toml(DeValue::Boolean(value)) => value.to_string(),
            Data::Toml(DeValue::Datetime(value)) => value.to_string(),
            Data::Toml(DeValue::Array(items)) => {
                let shown = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::Array(_) => "[…]".to_owned(),
                    value => Written { data: Data::Toml(value), base: self.base }.show(),
                };
                format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
            Data::Toml(DeValue::Table(_)) => "{…}".to_owned(),
        }
    }
}

/// A kind of value: how it is read, and what would be right (the error, a phrase that follows "must be").
pub(super) trait Kind {
    type Value: Clone + std::fmt::Debug;
    /// Never show the value in a message.
    const SECRET: bool = false;
    fn read(written: &Written<'_>) -> Result<Self::Value, String>;
}

/// A whole number within bounds.
pub(super) struct Count<const MIN: usize, const MAX: usize>;

impl<const MIN: usize, const MAX: usize> Kind for Count<MIN, MAX> {
    type Value = usize;
    fn read(written: &Written<'_>) -> Result<usize, String> {
        written
            .integer()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (MIN..=MAX).contains(number))
            .ok_or_else(|| format!("a whole number from {MIN} to {MAX}"))
    }
}

/// A bound that can be switched off.
pub(super) struct Bound<const MAX: usize>;

impl<const MAX: usize> Kind for Bound<MAX> {
    type Value = Option<usize>;
    fn read(written: &Written<'_>) -> Result<Option<usize>, String> {
        if written.is_off() {
            return Ok(None);
        }
        Count::<1, MAX>::read(written)
            .map(Some)
            .map_err(|_| format!("a whole number from 1 to {MAX}, or \"off\" for no bound"))
    }
}

/// A span of time; a bare number is seconds.
pub(super) struct Span;

impl Kind for Span {
    type Value = Duration;
    fn read(written: &Written<'_>) -> Result<Duration, String> {
        duration(written)
            .filter(|span| *span >= Duration::from_millis(1))
            .ok_or_else(|| "a span of time from 1ms to 365d, such as \"250ms\", \"5s\", \"2min\" or \"1h\"".to_owned())
    }
}

/// A span of time that can be switched off.
pub(super) struct OptionalSpan;

impl Kind for OptionalSpan {
    type Value = Option<Duration>;
    fn read(written: &Written<'_>) -> Result<Option<Duration>, String> {
        if written.is_off() || duration(written) == Some(Duration::ZERO) {
            return Ok(None);
        }
        Span::read(written).map(Some).map_err(|right| format!("{right}, or \"off\""))
    }
}

/// A span of time between two reports.
pub(super) struct Interval;

impl Kind for Interval {
    type Value = Duration;
    fn read(written: &Written<'_>) -> Result<Duration, String> {
        duration(written)
            .filter(|span| *span >= Duration::from_secs(1))
            .ok_or_else(|| "a span of time from 1s to 365d, such as \"60s\"".to_owned())
    }
}

fn duration(written: &Written<'_>) -> Option<Duration> {
    let (number, unit) = match written.data {
        Data::Toml(DeValue::Integer(_)) => return seconds(written.integer()? as f64),
        Data::Toml(DeValue::Float(value)) => return seconds(value.as_str().parse().ok()?),
        _ => {
            let text = written.text()?.trim();
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            text.split_at_checked(end)?
        }
    };
    let unit = match unit.trim_start() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    seconds(number.parse::<f64>().ok()? * unit)
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok().filter(|span| *span <= LONGEST)
}

/// `true` or `false`.
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;
    fn read(written: &Written<'_>) -> Result<bool, String> {
        match written.data {
            Data::Toml(DeValue::Boolean(value)) => Ok(*value),
            Data::Variable("true" | "on" | "yes" | "1") => Ok(true),
            Data::Variable("false" | "off" | "no" | "0") => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }
}

/// A string that is not empty.
pub(super) struct Text;

impl Kind for Text {
    type Value = String;
    fn read(written: &Written<'_>) -> Result<String, String> {
        let right = match written.text() {
            None => "a string, in quotes",
            Some("") => "a string that is not empty",
            Some(text) if text.contains('\0') => "a string without NUL (\\u0000) in it",
            Some(text) => return Ok(text.to_owned()),
        };
        Err(right.to_owned())
    }
}

/// Names of users.
pub(super) struct Names;

impl Kind for Names {
    type Value = Vec<String>;
    fn read(written: &Written<'_>) -> Result<Vec<String>, String> {
        if written.list().is_some_and(|names| names.is_empty()) {
            return Ok(Vec::new());
        }
        let name = |name: &str| (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned());
        written.entries("a name or a list of names", name)
    }
}

/// A name that CloudWatch takes as the value of a dimension.
pub(super) struct Printable;

impl Kind for Printable {
    type Value = String;
    fn read(written: &Written<'_>) -> Result<String, String> {
        let fits = |text: &&str| {
            text.len() <= 255 && !text.trim().is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic())
        };
        let text = written.text().filter(fits);
        text.map(str::to_owned).ok_or_else(|| "1 to 255 printable ASCII characters".to_owned())
    }
}

/// A namespace of CloudWatch's that is ours to write to.
pub(super) struct Namespace;

impl Kind for Namespace {
    type Value = String;
    fn read(written: &Written<'_>) -> Result<String, String> {
        let text = Printable::read(written).ok().filter(|text| {
            let fits = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
            text.chars().all(fits) && !text.starts_with(':') && !text.starts_with("AWS/")
        });
        text.ok_or_else(|| {
            "1 to 255 letters, digits, spaces and any of . - _ / # : (not first), and must not begin with \"AWS/\", which \
             is Amazon's own"
                .to_owned()
        })
    }
}

/// A string that no message may show.
pub(super) struct Hidden;

impl Kind for Hidden {
    type Value = Password;
    const SECRET: bool = true;
    fn read(written: &Written<'_>) -> Result<Password, String> {
        Text::read(written).map(Password)
    }
}

/// A file; relative to the configuration file that names it.
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;
    fn read(written: &Written<'_>) -> Result<PathBuf, String> {
        // A URL would be shown with its login wherever the file is named.
        let text = Text::read(written).ok().filter(|text| !text.contains("://"));
        text.map(|text| written.base.join(text)).ok_or_else(|| "the path of a file".to_owned())
    }
}

/// Backends of one pool: a number, or a share of what the server has.
impl Kind for PoolSize {
    type Value = PoolSize;
    fn read(written: &Written<'_>) -> Result<PoolSize, String> {
        let right = || {
            format!("a whole number from 1 to {MOST_BACKENDS}, or a percentage such as \"80%\" (above 0, up to 100)")
        };
        if let Some(percent) = written.text().and_then(|text| text.trim().strip_suffix('%')) {
            let percent: f64 = percent.trim_end().parse().map_err(|_| right())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(PoolSize::Share(percent / 100.0)) } else { Err(right()) };
        }
        Count::<1, MOST_BACKENDS>::read(written).map(PoolSize::Count).map_err(|_| right())
    }
}

/// One word of a few.
macro_rules! words {
    ($type:ty { $($word:literal => $value:ident),* $(,)? }) => {
        impl Kind for $type {
            type Value = $type;
            fn read(written: &Written<'_>) -> Result<$type, String> {
                match written.text() {
                    $(Some($word) => Ok(<$type>::$value),)*
                    _ => Err(format!("one of {}", [$(concat!("\"", $word, "\"")),*].join(", "))),
                }
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
