//! Time for the hot path: one number, so that a moment is read once and then only compared and subtracted.

use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment: nanoseconds since the process began to look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[inline]
    pub fn now() -> Self {
        // For 584 years.
        Self(START.elapsed().as_nanos() as u64)
    }

    /// Nanoseconds since the clock began.
    #[inline]
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is later.
    #[inline]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same in seconds.
    #[inline]
    pub fn seconds_since(self, earlier: Moment) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e9
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_differ_by_durations() {
        let now = Moment::now();
        let later = now + Duration::from_millis(1500);
        assert_eq!((later.since(now), now.since(later)), (Duration::from_millis(1500), Duration::ZERO));
        assert_eq!(later.seconds_since(now), 1.5);
        assert!(Moment::now() >= now);
    }
}
