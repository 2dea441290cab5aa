//! Users who are not listed: what the rows of `auth_query` mean, and their memory. The query itself is run elsewhere.
//!
//! A row is (user name, secret[, valid until]). The third column, if there is one, may be text of a `timestamptz` in
//! DateStyle ISO, seconds since 1970 (`extract(epoch from rolvaliduntil)`), `infinity` or NULL.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use hashlink::LruCache;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::time::Instant;

use super::lock;
use crate::auth::scram::BadVerifier;
use crate::config::Secret;
use crate::error::Error;

/// How long a found user is believed: a changed password takes effect after this (or at once for the user who fails
/// with it, see [`AuthQueryCache::doubt`]).
const FOUND_TTL: Duration = Duration::from_secs(30);

/// How long a missing user is believed to be missing: a new one waits so long, guessing costs a query per name at most
/// every so often.
const ABSENT_TTL: Duration = Duration::from_secs(5);

/// How long a failed query answers for those who come after: 500 clients that wait for one answer must not each run
/// into the same time limit, one after the other.
const FAILED_TTL: Duration = Duration::from_secs(1);

/// Users remembered per process. A guesser of names pushes out the longest unused, who then cost one query.
const CAPACITY: usize = 10_000;

/// `2024-01-31 12:00:00.25+05:30`
const ISO: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]][offset_hour sign:mandatory][optional [:[offset_minute]]]"
);

/// What a lookup says about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// May log in with this secret.
    Found {
        /// What the client must prove.
        secret: Secret,
        /// Not later than this; `None`: always.
        valid_until: Option<SystemTime>,
    },
    /// May not log in. The reason is for the log only: the client sees a wrong password.
    Absent(Absent),
}

/// Why a user may not log in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// No row, as for a user who does not exist.
    #[error("auth_query returns no row for this user")]
    NoRow,
    /// More rows than one: which is meant?
    #[error("auth_query returns {0} rows for this user; one is expected")]
    ManyRows(usize),
    /// The row has fewer than two columns.
    #[error("auth_query returns {0} columns; (user name, secret[, valid until]) are expected")]
    Columns(usize),
    /// The row is of another user: a query that ignores `$1` would let anybody in as anybody.
    #[error("auth_query returns the row of another user")]
    OtherUser,
    /// NULL or empty secret.
    #[error("this user has no password")]
    NoSecret,
    /// A broken verifier.
    #[error("{0}")]
    BadVerifier(#[from] BadVerifier),
    /// VALID UNTIL is in the past.
    #[error("the password of this user has expired (VALID UNTIL)")]
    Expired,
    /// The third column is of none of the forms above.
    #[error("auth_query returns a valid-until that is not understood; make it extract(epoch from rolvaliduntil)")]
    ValidUntil,
}

impl Lookup {
    /// The secret, unless time has run out since.
    pub fn secret(&self, now: SystemTime) -> Result<&Secret, Absent> {
        match self {
            Lookup::Absent(why) => Err(why.clone()),
            Lookup::Found { valid_until: Some(until), .. } if *until < now => Err(Absent::Expired),
            Lookup::Found { secret, .. } => Ok(secret),
        }
    }
}

/// Judges the rows (columns as text) that the query returned for `user`.
pub fn judge(user: &str, rows: &[Vec<Option<String>>], now: SystemTime) -> Lookup {
    judge_rows(user, rows, now).unwrap_or_else(Lookup::Absent)
}

fn judge_rows(user: &str, rows: &[Vec<Option<String>>], now: SystemTime) -> Result<Lookup, Absent> {
    let row = match rows {
        [] => return Err(Absent::NoRow),
        [row] => row.as_slice(),
        more => return Err(Absent::ManyRows(more.len())),
    };
    let [name, secret, rest @ ..] = row else { return Err(Absent::Columns(row.len())) };
    if name.as_deref() != Some(user) {
        return Err(Absent::OtherUser);
    }
    let secret = Secret::classify(secret.as_deref().filter(|secret| !secret.is_empty()).ok_or(Absent::NoSecret)?)?;
    let valid_until = match rest.first() {
        Some(Some(text)) => parse_valid_until(text)?,
        Some(None) | None => None,
    };
    let found = Lookup::Found { secret, valid_until };
    found.secret(now)?;
    Ok(found)
}

/// `None`: for ever.
fn parse_valid_until(text: &str) -> Result<Option<SystemTime>, Absent> {
    /// Far beyond any `timestamptz` (year 294276), far below what a SystemTime can hold.
    const FOR_EVER: f64 = 1e13;
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let time = OffsetDateTime::parse(text, ISO).map_err(|_| Absent::ValidUntil)?;
            time.unix_timestamp() as f64
        }
    };
    match seconds {
        _ if seconds.is_nan() => Err(Absent::ValidUntil),
        _ if seconds > FOR_EVER => Ok(None),
        _ => Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds.max(0.0)))),
    }
}

type Answer = Result<Lookup, Error>;
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Answer)>>>;

/// Answers by (database entry, user). However many ask for the same user at once, the query runs once.
pub struct AuthQueryCache {
    slots: Mutex<LruCache<(String, String), Slot, RandomState>>,
}

impl AuthQueryCache {
    /// Knows nobody.
    pub fn new() -> Self {
        Self { slots: Mutex::new(LruCache::with_hasher(CAPACITY, RandomState::default())) }
    }

    /// The remembered answer, or that of `query`. Cancel-safe: if the asker that runs the query is dropped, the next
    /// one runs it anew.
    ///
    /// # Errors
    /// That of the query, for a second also if another asker ran it.
    pub async fn get<Q>(&self, database: &str, user: &str, query: impl FnOnce() -> Q) -> Result<Lookup, Error>
    where
        Q: Future<Output = Result<Lookup, Error>>,
    {
        let slot = self.slot(database, user);
        let mut entry = slot.lock().await;
        if let Some((_, answer)) = entry.as_ref().filter(|(asked, answer)| asked.elapsed() < ttl(answer)) {
            return answer.clone();
        }
        let answer = query().await;
        *entry = Some((Instant::now(), answer.clone()));
        answer
    }

    /// After a login with a wrong password: perhaps it is the remembered secret that is wrong. Asks anew the next time,
    /// unless the answer is so fresh that guessing would become a query per guess.
    pub fn doubt(&self, database: &str, user: &str) {
        let slot = lock(&self.slots).get(&(database.to_owned(), user.to_owned())).cloned();
        // Held by another: the query is running, what comes is fresh.
        let Some(slot) = slot else { return };
        let Ok(mut entry) = slot.try_lock() else { return };
        if entry.as_ref().is_some_and(|(asked, _)| asked.elapsed() >= ABSENT_TTL) {
            *entry = None;
        }
    }

    /// After a reload.
    pub fn clear(&self) {
        lock(&self.slots).clear();
    }

    fn slot(&self, database: &str, user: &str) -> Slot {
        let key = (database.to_owned(), user.to_owned());
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        slots.insert(key, Arc::clone(&slot));
        slot
    }
}

fn ttl(answer: &Answer) -> Duration {
    match answer {
        Ok(Lookup::Found { .. }) => FOUND_TTL,
        Ok(Lookup::Absent(_)) => ABSENT_TTL,
        Err(_) => FAILED_TTL,
    }
}

impl Default for AuthQueryCache {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AuthQueryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthQueryCache(…)")
    }
}

#[cfg(test)]
#[path = "auth_query_tests.rs"]
mod tests;
