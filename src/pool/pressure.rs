//! Pressure: demand for a pool's backends against what there is. Three counters on the hot path, two more where a client
//! has to wait, a sample of them each second, and what follows from two samples.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// How long samples are kept.
const KEPT: usize = 15 * 60;

/// A pool that makes its clients wait for less than this on average is large enough.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// Samples over which the mean length of leases is taken.
const RECENT: usize = 10;

/// Parts of a lease are counted by the millionth.
const MILLION: f64 = 1e6;

/// More backends than this are not looked for.
const MOST: usize = 10_000;

/// A pool's counters, and their past.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Clients that asked for a lease.
    asked: AtomicU64,
    /// Leases that have ended.
    ended: AtomicU64,
    /// Nanoseconds at which leases ended, less those at which leases began: with those that run, how long backends were
    /// lent altogether.
    lent: AtomicI64,
    /// Millionths of leases that clients would have asked for besides, had they not waited.
    missed: AtomicU64,
    /// The most clients that held or wanted a lease at one time, since the last sample; only known where some waited.
    peak: AtomicUsize,
    /// How long a lease is, in nanoseconds: the mean of the last samples.
    mean: AtomicU64,
    samples: Mutex<VecDeque<Sample>>,
}

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When, since the process began.
    pub at: Duration,
    /// Clients that had asked for a lease until then.
    pub asked: u64,
    /// Leases that had ended.
    pub ended: u64,
    /// For how long backends had been lent, all together.
    pub lent: Duration,
    /// Leases that clients would have asked for besides, had they not waited.
    pub missed: f64,
    /// The most clients that held or wanted a lease at one time since the sample before; 0: nobody waited.
    pub peak: usize,
    /// Clients that held a lease.
    pub active: usize,
    /// Clients that waited for one.
    pub waiting: usize,
    /// Backends that may be.
    pub size: usize,
}

impl Pressure {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            lent: AtomicI64::new(0),
            missed: AtomicU64::new(0),
            peak: AtomicUsize::new(0),
            mean: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }

    /// A client begins to wait, one of so many that hold or want a lease.
    pub(super) fn wait(&self, demand: usize) {
        self.peak.fetch_max(demand, Ordering::Relaxed);
    }

    /// A wait has ended, of a client whose last lease had ended so long before it asked. Without the wait it would have
    /// come back that much earlier, and asked again: a closed loop asks the oftener the faster it is served.
    pub(super) fn waited(&self, wait: Duration, pause: Duration) {
        let mean = self.mean.load(Ordering::Relaxed);
        if mean > 0 {
            let missed = wait.as_secs_f64() / (pause + Duration::from_nanos(mean)).as_secs_f64();
            self.missed.fetch_add((missed * MILLION) as u64, Ordering::Relaxed);
        }
    }

    /// A client asks for a lease.
    #[inline]
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// A lease begins.
    #[inline]
    pub(super) fn begin(&self, now: Moment) {
        self.lent.fetch_sub(nanos(now), Ordering::Relaxed);
    }

    /// A lease ends.
    #[inline]
    pub(super) fn end(&self, now: Moment) {
        self.lent.fetch_add(nanos(now), Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// What is now.
    pub(super) fn now(&self, active: usize, waiting: usize, size: usize) -> Sample {
        let now = Moment::now();
        let running = nanos(now).saturating_mul(i64::try_from(active).unwrap_or(i64::MAX));
        // A lease that begins or ends right now may be half counted.
        let lent = self.lent.load(Ordering::Relaxed).saturating_add(running).max(0);
        Sample {
            at: now.since(Moment::default()),
            asked: self.asked.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            lent: Duration::from_nanos(lent.unsigned_abs()),
            missed: self.missed.load(Ordering::Relaxed) as f64 / MILLION,
            peak: self.peak.load(Ordering::Relaxed),
            active,
            waiting,
            size,
        }
    }

    /// Keeps a sample; one comes each second.
    pub(super) fn keep(&self, sample: Sample) {
        self.peak.store(0, Ordering::Relaxed);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let before = samples.iter().rev().nth(RECENT).or(samples.front());
        let (lent, leases) = before.map_or((sample.lent, sample.ended), |before| before.lent_until(&sample));
        if leases > 0 {
            let mean = lent / u32::try_from(leases).unwrap_or(u32::MAX);
            self.mean.store(u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The kept samples, the oldest first.
    pub(super) fn history(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// How many backends would have served the demand of the last `window` until `now` without making clients wait.
    pub(super) fn needed(&self, now: &Sample, window: Duration) -> usize {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let within = samples.iter().rev().take_while(|sample| sample.at + window > now.at);
        // With as many as ever wanted one at a time nobody would have waited.
        let most = within.map(|sample| sample.peak).max().unwrap_or(0).max(now.peak).max(now.size);
        let from = samples.iter().rev().find(|sample| sample.at + window <= now.at).or_else(|| samples.front());
        from.map_or(0, |from| from.needed_until(now).min(most))
    }
}

fn nanos(now: Moment) -> i64 {
    i64::try_from(now.nanos()).unwrap_or(i64::MAX)
}

impl Sample {
    /// For how long backends were lent since this sample, and in how many leases: those that ended, and those that run.
    fn lent_until(&self, now: &Sample) -> (Duration, u64) {
        (now.lent.saturating_sub(self.lent), now.ended.saturating_sub(self.ended) + now.active as u64)
    }

    /// How many backends would have served the demand since this sample with less than [`SHORT_WAIT`] on average.
    fn needed_until(&self, now: &Sample) -> usize {
        let seconds = now.at.saturating_sub(self.at).as_secs_f64();
        let (lent, leases) = self.lent_until(now);
        let (lent, leases) = (lent.as_secs_f64(), leases as f64);
        // Who had to wait already when it began wants to be served, too.
        let asked = (now.asked - self.asked) as f64 + self.waiting as f64;
        let missed = (now.missed - self.missed).max(0.0);
        if seconds <= 0.0 || leases <= 0.0 || lent <= 0.0 {
            return 0;
        }
        let mean = lent / leases;
        // Little's law: so many leases at one time, if none had to wait.
        let load = (asked.max(leases.min(asked + self.active as f64)) + missed) / seconds * mean;
        backends_for(load, mean)
    }
}

/// The fewest servers that make the mean wait shorter than [`SHORT_WAIT`] when `load` servers are busy on average and a
/// customer takes `mean` seconds: Erlang's C formula, by the recursion of his B formula.
fn backends_for(load: f64, mean: f64) -> usize {
    let mut blocked = 1.0;
    for servers in 1..=MOST {
        blocked = load * blocked / (servers as f64 + load * blocked);
        let free = servers as f64 - load;
        if free > 0.0 {
            let waits = blocked / (1.0 - load / servers as f64 * (1.0 - blocked));
            if waits * mean / free < SHORT_WAIT.as_secs_f64() {
                return servers;
            }
        }
    }
    MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_erlang_says() {
        // Load 2, 3 servers: 4/9 of the customers wait, on average 0.444 of a service time (Erlang's tables).
        assert_eq!(backends_for(2.0, 0.010), 3, "4.4 ms");
        assert_eq!(backends_for(2.0, 0.012), 4, "5.3 ms is too long");
        assert_eq!(backends_for(0.1, 0.001), 1);
        assert_eq!(backends_for(10.0, 1.0), 17, "3.1 % wait, on average a seventh of a second");
        assert_eq!(backends_for(1e9, 1.0), MOST);
    }

    fn sample(seconds: u64, asked: u64, ended: u64, lent: f64, active: usize, waiting: usize) -> Sample {
        let at = Duration::from_secs(seconds);
        let lent = Duration::from_secs_f64(lent);
        Sample { at, asked, ended, lent, missed: 0.0, peak: 0, active, waiting, size: 20 }
    }

    #[test]
    fn demand_counts_those_who_wait() {
        let nothing = sample(0, 0, 0, 0.0, 0, 0);
        // 100 leases of 10 ms each second.
        assert_eq!(nothing.needed_until(&sample(10, 1_000, 1_000, 10.0, 0, 0)), 2);
        // 500 ask at once for a second each, of which 20 at a time are served.
        let storm = nothing.needed_until(&sample(10, 500, 180, 200.0, 20, 300));
        assert!((50..75).contains(&storm), "{storm}");
        // Nothing ends: as many as run, and as wait.
        assert!(nothing.needed_until(&sample(10, 30, 0, 180.0, 20, 10)) >= 27);
        assert_eq!(nothing.needed_until(&sample(10, 0, 0, 0.0, 0, 0)), 0);
    }

    #[test]
    fn closed_loops_would_have_asked_oftener() {
        // 64 clients, 20 backends, leases of 100 ms: in ten seconds 2,000 leases, and each lease is waited for for
        // (64 - 20) / 20 * 100 ms. Those who come back at once would have asked for 2.2 leases more meanwhile.
        let after = |pause: f64| {
            let pressure = Pressure::new();
            pressure.keep(sample(0, 0, 0, 0.0, 0, 0));
            pressure.keep(sample(1, 200, 180, 20.0, 20, 44));
            (0..2_000).for_each(|_| pressure.waited(Duration::from_millis(220), Duration::from_secs_f64(pause)));
            pressure.wait(64);
            let now =
                Sample { missed: pressure.now(0, 0, 0).missed, peak: 64, ..sample(10, 2_044, 1_980, 200.0, 20, 44) };
            pressure.needed(&now, Duration::from_secs(10))
        };
        assert_eq!(after(0.0), 64, "each has one of its own");
        // With a pause of 10 s before each the wait makes no difference to how often they ask: the load is 20.
        assert!((20..30).contains(&after(10.0)), "{}", after(10.0));
        assert!((40..64).contains(&after(0.1)), "{}", after(0.1));
    }

    #[test]
    fn how_long_backends_are_lent() {
        let pressure = Pressure::new();
        let at = |seconds: u64| Moment::default() + Duration::from_secs(seconds);
        pressure.begin(at(1));
        pressure.begin(at(2));
        pressure.end(at(5));
        pressure.end(at(7));
        let sample = pressure.now(0, 0, 20);
        assert_eq!((sample.lent, sample.ended), (Duration::from_secs(9), 2));
        (0..2 * KEPT).for_each(|_| pressure.keep(sample));
        assert_eq!(pressure.history().len(), KEPT);
    }
}
