//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

use super::{Failure, Result};

/// How long anything may take before a test gives up: generous, since the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds; fails after [`PATIENCE`], naming `what`.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::from(format!("gave up waiting until {what}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The median of some durations (the upper one of two).
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
