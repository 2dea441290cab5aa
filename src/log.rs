//! Lines that repeat: the first is logged at once, those like it within a second are counted and told in one line, so
//! that a storm of refused clients does not become a storm of lines.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// How often repeats are told.
const INTERVAL: Duration = Duration::from_secs(1);

/// Kinds of line that are told apart; what comes beyond is counted as one.
const MOST_KINDS: usize = 64;

static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// What makes lines alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    event: &'static str,
    pool: String,
    code: String,
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
    fn is_first(&mut self, kind: Kind, message: &dyn Display) -> bool {
        let kind = if self.kinds.len() < MOST_KINDS || self.kinds.contains_key(&kind) {
            kind
        } else {
            Kind { event: "other lines", pool: String::new(), code: String::new() }
        };
        let Some(seen) = self.kinds.get_mut(&kind) else {
            self.kinds.insert(kind, Seen::default());
            return true;
        };
        seen.more += 1;
        seen.latest = message.to_string();
        false
    }

    /// Those that came again, from now on counted anew; the others are forgotten.
    fn take(&mut self) -> Vec<(Kind, Seen)> {
        self.kinds.retain(|_, seen| seen.more > 0);
        self.kinds.iter_mut().map(|(kind, seen)| (kind.clone(), std::mem::take(seen))).collect()
    }
}

/// Whether a line is to be logged: not if one of the same event, pool and SQLSTATE was, within the last second. Then it
/// is counted, and the latest is told with the count.
pub fn is_first(event: &'static str, pool: &str, code: &str, message: &dyn Display) -> bool {
    let kind = Kind { event, pool: pool.to_owned(), code: code.to_owned() };
    REPEATS.lock().unwrap_or_else(PoisonError::into_inner).is_first(kind, message)
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
    for (Kind { event, pool, code }, Seen { more, latest }) in told {
        tracing::info!(pool, code, repeated = more, "{event}: {more} more, the latest: {latest}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: usize) -> Kind {
        Kind { event: "refused", pool: "app".to_owned(), code: code.to_string() }
    }

    #[test]
    fn repeats_are_counted_once_and_then_forgotten() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_first(kind(1), &"a") && repeats.is_first(kind(2), &"b"));
        assert!((0..400).all(|n| !repeats.is_first(kind(1), &n)));
        let told = repeats.take();
        assert_eq!((told.len(), told[0].1.more, told[0].1.latest.as_str()), (1, 400, "399"));
        assert!(!repeats.is_first(kind(1), &"still in a storm") && repeats.is_first(kind(2), &"b"));
        assert_eq!(repeats.take().len(), 1);
        assert!(repeats.take().is_empty() && repeats.is_first(kind(1), &"a"));
    }

    #[test]
    fn kinds_are_bounded() {
        let mut repeats = Repeats::default();
        let logged = (0..10_000).filter(|&n| repeats.is_first(kind(n), &n)).count();
        assert_eq!((logged, repeats.kinds.len()), (MOST_KINDS + 1, MOST_KINDS + 1));
    }
}
