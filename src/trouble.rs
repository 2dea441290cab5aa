//! The last errors that clients were told by pgfunnel, or that ended them, for those who look: the live page. What repeats is
//! counted, so that a storm of one error does not push out the others.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::{Error, Side};

/// So many different ones are kept.
const KEPT: usize = 50;

/// An error, and how often it came.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// When it came last.
    pub at: SystemTime,
    /// How often it came since it is kept.
    pub count: u64,
    /// Whose fault it is.
    pub side: Side,
    /// The SQLSTATE.
    pub code: Box<str>,
    /// What the client was told last; never a secret.
    pub message: Box<str>,
    /// The pool; empty: the client was not logged in yet.
    pub pool: Box<str>,
    /// The client's `application_name`.
    pub application: Box<str>,
}

static TROUBLES: Mutex<VecDeque<Trouble>> = Mutex::new(VecDeque::new());

/// Keeps an error. `pool` is empty for a client that is not logged in.
pub fn note(error: &Error, pool: &dyn Display, application: &str) {
    let trouble = Trouble {
        at: SystemTime::now(),
        count: 1,
        side: error.side,
        code: error.code.code().into(),
        message: error.shown().into(),
        pool: pool.to_string().into(),
        application: application.into(),
    };
    keep(&mut TROUBLES.lock().unwrap_or_else(PoisonError::into_inner), trouble);
}

/// Those that are kept, the latest first.
pub fn last() -> Vec<Trouble> {
    TROUBLES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

fn keep(troubles: &mut VecDeque<Trouble>, mut new: Trouble) {
    let same = |old: &Trouble| {
        (&old.code, &old.pool, &old.application, old.side) == (&new.code, &new.pool, &new.application, new.side)
    };
    if let Some(old) = troubles.iter().position(same).and_then(|at| troubles.remove(at)) {
        new.count += old.count;
    }
    troubles.truncate(KEPT - 1);
    troubles.push_front(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: &str, application: &str) -> Trouble {
        Trouble {
            at: SystemTime::now(),
            count: 1,
            side: Side::Proxy,
            code: code.into(),
            message: "m".into(),
            pool: "app/app".into(),
            application: application.into(),
        }
    }

    #[test]
    fn what_repeats_is_counted_and_the_oldest_is_forgotten() {
        let mut troubles = VecDeque::new();
        keep(&mut troubles, trouble("08006", "a"));
        for _ in 0..1000 {
            keep(&mut troubles, trouble("53300", "storm"));
        }
        assert_eq!(troubles.iter().map(|one| one.count).collect::<Vec<_>>(), [1000, 1]);
        (0..2 * KEPT).for_each(|n| keep(&mut troubles, trouble("53300", &n.to_string())));
        assert_eq!(troubles.len(), KEPT);
        assert_eq!(&*troubles[0].application, "99");
    }
}
