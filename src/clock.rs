//! Time for the hot path: a moment is one number, read once and then only compared and subtracted, and an alarm is moved
//! only when it rings.

use std::future::Future;
use std::num::NonZeroU64;
use std::ops::Add;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;

/// When the process began to look at the clock, by `Instant` and by what [`clock`] says.
static START: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), clock()));

/// The clock of `Instant`, as one number of nanoseconds: that computes with seconds and nanoseconds, and checks each.
#[inline]
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both are positive, and the sum is good for 584 years.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A moment: nanoseconds since the process began to look at the clock, and one, so that none costs no room besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

/// The first one.
impl Default for Moment {
    fn default() -> Self {
        Self(NonZeroU64::MIN)
    }
}

impl Moment {
    /// Now.
    #[inline]
    pub fn now() -> Self {
        let start = START.1;
        Self(NonZeroU64::MIN.saturating_add(clock().saturating_sub(start)))
    }

    /// The same for those who measure by `Instant`.
    pub fn instant(self) -> Instant {
        START.0 + Duration::from_nanos(self.nanos())
    }

    /// Nanoseconds since the clock began.
    #[inline]
    pub fn nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// How long ago `earlier` was; zero if it is later.
    #[inline]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanos().saturating_sub(earlier.nanos()))
    }

    /// The same in seconds.
    #[inline]
    pub fn seconds_since(self, earlier: Moment) -> f64 {
        self.nanos().saturating_sub(earlier.nanos()) as f64 / 1e9
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wakes a task at a moment. One for each task that has deadlines: most are never reached, so the runtime's timer is
/// left where it is as long as it rings no later than it must.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it rings.
    rings: Moment,
}

impl Alarm {
    /// Whether it is `at` already; otherwise the task is woken then. Always polled by the same task.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>, at: Moment) -> Poll<()> {
        match &self.sleep {
            Some(sleep) if self.rings <= at && !sleep.is_elapsed() => Poll::Pending,
            _ => self.set(cx, at),
        }
    }

    fn set(&mut self, cx: &mut Context<'_>, at: Moment) -> Poll<()> {
        let left = at.since(Moment::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        let deadline = tokio::time::Instant::now() + left;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        sleep.as_mut().reset(deadline);
        self.rings = at;
        if sleep.as_mut().poll(cx).is_ready() {
            // Over in the meantime: looked at once more.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Gives its memory back if it has rung: nothing is waited for.
    pub fn put_away(&mut self) {
        self.sleep.take_if(|sleep| sleep.is_elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_when_it_must() {
        let mut alarm = Alarm::default();
        let start = Moment::now();
        for (wanted, limit) in [(60, 400), (20, 400), (30, 400)] {
            let at = Moment::now() + Duration::from_millis(wanted);
            std::future::poll_fn(|cx| alarm.poll(cx, at)).await;
            assert!(Moment::now() >= at && Moment::now() < at + Duration::from_millis(limit));
        }
        assert!(Moment::now().since(start) >= Duration::from_millis(110));
        let later = Moment::now() + Duration::from_secs(60);
        let pending = std::future::poll_fn(|cx| Poll::Ready(alarm.poll(cx, later).is_pending())).await;
        alarm.put_away();
        assert!(pending && alarm.sleep.is_some(), "it is still to ring");
        let sooner = Moment::now() + Duration::from_millis(20);
        std::future::poll_fn(|cx| alarm.poll(cx, sooner)).await;
        alarm.put_away();
        assert!(alarm.sleep.is_none());
    }

    #[test]
    fn moments_differ_by_durations() {
        let now = Moment::now();
        let later = now + Duration::from_millis(1500);
        assert_eq!((later.since(now), now.since(later)), (Duration::from_millis(1500), Duration::ZERO));
        assert_eq!(later.seconds_since(now), 1.5);
        assert!(Moment::now() >= now);
    }
}
