//! Lines that repeat: the first is logged at once, those like it within a second are counted and told in one line, so
//! that a storm of refused clients does not become a storm of lines.

mod stderr;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

pub use stderr::{Flush, Stderr};
use tracing::Level;

/// How often repeats are told.
const INTERVAL: Duration = Duration::from_secs(1);

/// Kinds of line that are told apart; what comes beyond is counted as one.
const MOST_KINDS: usize = 64;

static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// What makes lines alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    level: Level,
    event: &'static str,
    pool: String,
    sqlstate: String,
}

/// How often a kind came since it was last told, and what the latest said.
#[derive(Debug, Default)]
struct Seen {
    more: u64,
    latest: String,
}

#[derive(Debug, Default)]
struct Repeats {
    kinds: HashMap<Kind, Seen>,
}

impl Repeats {
    /// Whether this is the first of its kind in this interval.
    fn is_first(&mut self, kind: Kind, message: &str) -> bool {
        let kind = if self.kinds.len() < MOST_KINDS || self.kinds.contains_key(&kind) {
            kind
        } else {
            Kind { level: Level::WARN, event: "other lines", pool: String::new(), sqlstate: String::new() }
        };
        let Some(seen) = self.kinds.get_mut(&kind) else {
            self.kinds.insert(kind, Seen::default());
            return true;
        };
        seen.more += 1;
        message.clone_into(&mut seen.latest);
        false
    }

    /// Those that came again, from now on counted anew; the others are forgotten.
    fn take(&mut self) -> Vec<(Kind, Seen)> {
        self.kinds.retain(|_, seen| seen.more > 0);
        self.kinds.iter_mut().map(|(kind, seen)| (kind.clone(), std::mem::take(seen))).collect()
    }
}

/// Logs a line, unless one of the same event, pool and SQLSTATE was within the last second: then it is counted, and the
/// latest is told with the count. An empty pool or SQLSTATE is none.
macro_rules! counted {
    ($level:ident, $event:expr, $pool:expr, $sqlstate:expr, { $($field:tt)* }, $($message:tt)+) => {{
        let (event, pool, sqlstate) = ($event, $pool.to_string(), $sqlstate);
        let message = format!($($message)+);
        if $crate::log::is_first(tracing::Level::$level, event, &pool, sqlstate, &message) {
            let (pool, sqlstate) = ($crate::log::given(&pool), $crate::log::given(sqlstate));
            tracing::event!(tracing::Level::$level, $($field)* pool, sqlstate, "{event}: {message}");
        }
    }};
}
pub(crate) use counted;

/// Whether a line is to be logged; otherwise it has been counted.
pub(crate) fn is_first(level: Level, event: &'static str, pool: &str, sqlstate: &str, message: &str) -> bool {
    let kind = Kind { level, event, pool: pool.to_owned(), sqlstate: sqlstate.to_owned() };
    REPEATS.lock().unwrap_or_else(PoisonError::into_inner).is_first(kind, message)
}

/// Where a client comes from.
pub(crate) fn peer_name(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string())
}

/// A field that a line has only if there is something in it.
pub(crate) fn given(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

/// Tells what has been counted, every second.
pub async fn tell_repeats() {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        flush();
    }
}

/// Tells what has been counted.
pub fn flush() {
    let told = REPEATS.lock().unwrap_or_else(PoisonError::into_inner).take();
    for (Kind { level, event, pool, sqlstate }, Seen { more, latest }) in told {
        let (pool, sqlstate) = (given(&pool), given(&sqlstate));
        match level {
            Level::WARN => {
                tracing::warn!(pool, sqlstate, repeated = more, "{event}: {more} more, the latest: {latest}");
            }
            _ => tracing::info!(pool, sqlstate, repeated = more, "{event}: {more} more, the latest: {latest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(number: usize) -> Kind {
        Kind { level: Level::INFO, event: "refused", pool: "app".to_owned(), sqlstate: number.to_string() }
    }

    #[test]
    fn repeats_are_counted_once_and_then_forgotten() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_first(kind(1), "a") && repeats.is_first(kind(2), "b"));
        assert!((0..400).all(|n| !repeats.is_first(kind(1), &n.to_string())));
        let told = repeats.take();
        assert_eq!((told.len(), told[0].1.more, told[0].1.latest.as_str()), (1, 400, "399"));
        assert!(!repeats.is_first(kind(1), "still in a storm") && repeats.is_first(kind(2), "b"));
        assert_eq!(repeats.take().len(), 1);
        assert!(repeats.take().is_empty() && repeats.is_first(kind(1), "a"));
    }

    #[test]
    fn kinds_are_bounded() {
        let mut repeats = Repeats::default();
        let logged = (0..10_000).filter(|&n| repeats.is_first(kind(n), &n.to_string())).count();
        assert_eq!((logged, repeats.kinds.len()), (MOST_KINDS + 1, MOST_KINDS + 1));
    }
}
