//! What rows mean, and how long it is believed.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::auth::md5;
use crate::auth::scram::Verifier;
use crate::config::Password;
use crate::error::{Side, SqlState};

/// 2024-01-01 00:00:00 UTC.
const NEW_YEAR: u64 = 1_704_067_200;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NEW_YEAR)
}

fn row(columns: &[&str]) -> Vec<Option<String>> {
    columns.iter().map(|column| (*column != "NULL").then(|| (*column).to_owned())).collect()
}

fn found(secret: Secret) -> Lookup {
    Lookup::Found { secret, valid_until: None }
}

#[test]
fn rows() {
    let verifier = Verifier::from_password(b"p", b"salt".to_vec(), 1).to_string();
    let hash = md5::hash(b"p", "app");
    let plain = Secret::Plain(Password("p".into()));
    let good = row(&["app", "p"]);
    let table = [
        (vec![row(&["app", &verifier])], found(Secret::Scram(verifier.clone()))),
        (vec![row(&["app", &hash, "NULL"])], found(Secret::Md5(hash.clone()))),
        (vec![row(&["app", "p", "infinity", "more"])], found(plain)),
        (vec![], Lookup::Absent(Absent::NoRow)),
        (vec![good.clone(), good], Lookup::Absent(Absent::ManyRows(2))),
        (vec![row(&["app"])], Lookup::Absent(Absent::Columns(1))),
        (vec![row(&["postgres", "p"])], Lookup::Absent(Absent::OtherUser)),
        (vec![row(&["NULL", "p"])], Lookup::Absent(Absent::OtherUser)),
        (vec![row(&["app", "NULL"])], Lookup::Absent(Absent::NoSecret)),
        (vec![row(&["app", ""])], Lookup::Absent(Absent::NoSecret)),
        (vec![row(&["app", "SCRAM-SHA-256$x"])], Lookup::Absent(Absent::BadVerifier(BadVerifier::Form))),
        (vec![row(&["app", "p", "-infinity"])], Lookup::Absent(Absent::Expired)),
        (vec![row(&["app", "p", "tomorrow"])], Lookup::Absent(Absent::ValidUntil)),
    ];
    for (rows, expected) in table {
        assert_eq!(judge("app", &rows, now()), expected, "{rows:?}");
    }
}

#[test]
fn valid_until() {
    let at = |seconds: i64| Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds as f64)));
    let new_year = NEW_YEAR as i64;
    let table = [
        ("infinity", Ok(None)),
        ("Infinity", Ok(None)),
        ("1704067200", at(new_year)),
        ("1704067200.000000", at(new_year)),
        ("2024-01-01 00:00:00+00", at(new_year)),
        ("2024-01-01 05:30:00+05:30", at(new_year)),
        ("2023-12-31 20:00:00.123-04", at(new_year)),
        ("1969-01-01 00:00:00+00", at(0)),
        ("-1e300", at(0)),
        ("1e300", Ok(None)),
        ("NaN", Err(Absent::ValidUntil)),
        ("", Err(Absent::ValidUntil)),
        ("01/02/2024 00:00:00 CET", Err(Absent::ValidUntil)),
        ("2024-01-01 00:00:00", Err(Absent::ValidUntil)),
        ("2024-13-01 00:00:00+00", Err(Absent::ValidUntil)),
    ];
    for (text, expected) in table {
        assert_eq!(parse_valid_until(text), expected, "{text}");
    }
    let expiring = judge("app", &[row(&["app", "p", "1704067201"])], now());
    assert!(expiring.secret(now()).is_ok());
    assert_eq!(expiring.secret(now() + Duration::from_secs(2)), Err(Absent::Expired), "while it is remembered, too");
}

/// Asks `cache`, counting the queries.
async fn ask(cache: &AuthQueryCache, user: &str, queries: &AtomicUsize, answer: Answer) -> Answer {
    cache
        .get("db", user, || async {
            queries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn answers_are_believed_for_their_time() {
    let plain = || found(Secret::Plain(Password("p".into())));
    let failed = || Error::new(Side::Database, SqlState::CONNECTION_FAILURE, "gone");
    let table: [(Answer, Duration); 3] =
        [(Ok(plain()), FOUND_TTL), (Ok(Lookup::Absent(Absent::NoRow)), ABSENT_TTL), (Err(failed()), FAILED_TTL)];
    for (answer, ttl) in table {
        let (cache, queries) = (AuthQueryCache::new(), AtomicUsize::new(0));
        for (wait, expected) in [(Duration::ZERO, 1), (ttl - Duration::from_millis(1), 1), (ttl, 2)] {
            tokio::time::advance(wait).await;
            let got = ask(&cache, "app", &queries, answer.clone()).await;
            assert_eq!(got.is_ok(), answer.is_ok());
            assert_eq!(queries.load(Ordering::Relaxed), expected, "{answer:?} after {wait:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_askers_one_query() {
    let (cache, queries) = (AuthQueryCache::new(), AtomicUsize::new(0));
    let failed = || Err(Error::new(Side::Database, SqlState::CONNECTION_FAILURE, "gone"));
    let (a, b, c) = tokio::join!(
        ask(&cache, "app", &queries, failed()),
        ask(&cache, "app", &queries, failed()),
        ask(&cache, "other", &queries, failed()),
    );
    assert!(a.is_err() && b.is_err() && c.is_err());
    assert_eq!(queries.load(Ordering::Relaxed), 2, "one for each user");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_asker_does_not_block_the_next() {
    let (cache, queries) = (AuthQueryCache::new(), AtomicUsize::new(0));
    let answer = || Ok(Lookup::Absent(Absent::NoRow));
    let limit = Duration::from_millis(1);
    assert!(tokio::time::timeout(limit, ask(&cache, "app", &queries, answer())).await.is_err());
    assert!(ask(&cache, "app", &queries, answer()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn doubt_asks_anew_but_not_for_every_guess() {
    let (cache, queries) = (AuthQueryCache::new(), AtomicUsize::new(0));
    let answer = || Ok(found(Secret::Plain(Password("p".into()))));
    let count = async || {
        ask(&cache, "app", &queries, answer()).await.unwrap();
        queries.load(Ordering::Relaxed)
    };
    cache.doubt("db", "app");
    assert_eq!(count().await, 1);
    cache.doubt("db", "app");
    assert_eq!(count().await, 1, "too fresh to be doubted");
    tokio::time::sleep(ABSENT_TTL).await;
    assert_eq!(count().await, 1);
    cache.doubt("db", "app");
    assert_eq!(count().await, 2);
    cache.clear();
    assert_eq!(count().await, 3);
    for number in 0..=CAPACITY {
        cache.slot("db", &number.to_string());
    }
    assert_eq!(lock(&cache.slots).len(), CAPACITY);
}
