//! A fair queue in front of a number of places that can change: first come, first served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// The size of a gate that lets everybody in.
pub(super) const UNLIMITED: usize = Semaphore::MAX_PERMITS;

/// So many may be inside at one time.
#[derive(Debug)]
pub struct Gate {
    semaphore: Semaphore,
    size: AtomicUsize,
    /// Places that are open: `size`, or none while it is held.
    open: AtomicUsize,
    /// Nobody is let in. The lock is for those who change the number of places.
    held: Mutex<bool>,
    /// Places that were taken away while somebody was inside; paid by those who leave.
    debt: AtomicUsize,
    waiting: AtomicUsize,
    /// How many of those inside are listeners, which stay.
    listeners: AtomicUsize,
}

/// Being inside; leaving is dropping it.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
}

impl Gate {
    /// A gate with `size` places.
    pub fn new(size: usize) -> Arc<Self> {
        let size = size.min(UNLIMITED);
        Arc::new(Self {
            semaphore: Semaphore::new(size),
            size: AtomicUsize::new(size),
            open: AtomicUsize::new(size),
            held: Mutex::new(false),
            debt: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
        })
    }

    /// A place, if one is free and nobody waits for it.
    #[inline]
    pub fn try_enter(self: &Arc<Self>) -> Option<Place> {
        loop {
            self.semaphore.try_acquire().ok()?.forget();
            if !self.pay() {
                return Some(Place { gate: self.clone() });
            }
        }
    }

    /// Waits for a place. Cancel-safe: dropped, it leaves the queue.
    pub async fn enter(self: &Arc<Self>) -> Place {
        if let Some(place) = self.try_enter() {
            return place;
        }
        let _waiting = Waiting::new(&self.waiting);
        // The semaphore is never closed; an error would mean that nobody limits us any more, so wait for good.
        loop {
            match self.semaphore.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => std::future::pending().await,
            }
            if !self.pay() {
                return Place { gate: self.clone() };
            }
        }
    }

    /// Changes the number of places. Nobody inside is disturbed.
    pub fn resize(&self, size: usize) {
        let size = size.min(UNLIMITED);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.size.store(size, Ordering::Release);
        if !*held {
            self.set_open(size);
        }
    }

    /// Lets nobody in from now on, or as many as there are places again. Who waits keeps its turn, and nobody inside is
    /// disturbed.
    pub fn hold(&self, hold: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = hold;
        self.set_open(if hold { 0 } else { self.size() });
    }

    fn set_open(&self, open: usize) {
        let old = self.open.swap(open, Ordering::AcqRel);
        if open < old {
            let missing = old - open;
            let taken = self.semaphore.forget_permits(missing);
            self.debt.fetch_add(missing - taken, Ordering::AcqRel);
        } else {
            let more = open - old;
            let pay = |debt: usize| Some(debt.saturating_sub(more));
            let debt = self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay).unwrap_or_default();
            self.semaphore.add_permits(more - debt.min(more));
        }
    }

    /// Pays a debt or lets the next one in.
    fn leave(&self) {
        if !self.pay() {
            self.semaphore.add_permits(1);
        }
    }

    /// Pays one place of a debt, if there is one. Who comes does that, too: a place that came free just before it was taken
    /// away, or a turn that its waiter gave up, is in nobody's hands.
    #[inline]
    fn pay(&self) -> bool {
        self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, |debt| debt.checked_sub(1)).is_ok()
    }

    /// Whether there is a limit at all.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.size() < UNLIMITED
    }

    /// The number of places.
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        (self.open.load(Ordering::Acquire) + self.debt.load(Ordering::Acquire))
            .saturating_sub(self.semaphore.available_permits())
    }

    /// How many of those inside are listeners.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Acquire)
    }

    /// A listener comes, or goes.
    pub(super) fn count_listener(&self, comes: bool) {
        match comes {
            true => self.listeners.fetch_add(1, Ordering::AcqRel),
            false => self.listeners.fetch_sub(1, Ordering::AcqRel),
        };
    }

    /// How many wait outside.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave();
    }
}

/// Counts itself while it lives.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn is_fair_and_resizable() {
        let gate = Gate::new(2);
        let a = gate.enter().await;
        let _b = gate.enter().await;
        assert!(gate.try_enter().is_none());
        assert_eq!(gate.inside(), 2);

        gate.resize(1);
        drop(a);
        assert!(gate.try_enter().is_none(), "the place that was left paid the debt");
        assert_eq!((gate.size(), gate.inside()), (1, 1));

        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for name in 0..3 {
            let (gate, order) = (gate.clone(), order.clone());
            waiters.push(tokio::spawn(async move {
                let place = gate.enter().await;
                order.lock().unwrap().push(name);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.waiting(), 3);
        gate.resize(2);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), vec![0, 1, 2]);
        assert_eq!((gate.inside(), gate.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn who_waits_while_it_is_held_keeps_its_turn() {
        let gate = Gate::new(2);
        let inside = gate.enter().await;
        gate.hold(true);
        assert!(gate.try_enter().is_none());
        assert_eq!((gate.size(), gate.inside()), (2, 1));
        let waiter = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await }
        });
        tokio::task::yield_now().await;
        drop(inside);
        // Its size may change meanwhile.
        gate.resize(1);
        tokio::task::yield_now().await;
        assert_eq!((gate.size(), gate.inside(), gate.waiting()), (1, 0, 1));
        gate.hold(false);
        let place = waiter.await.unwrap();
        assert!(gate.try_enter().is_none(), "one place");
        drop(place);
        assert!(gate.try_enter().is_some());
    }

    #[tokio::test]
    async fn a_turn_that_is_given_up_while_it_is_held_is_nobody_elses() {
        for given_up in [true, false] {
            let gate = Gate::new(1);
            let inside = gate.enter().await;
            let mut waiter = Box::pin(gate.enter());
            assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // It is the waiter's turn, but it does not know yet.
            drop(inside);
            gate.hold(true);
            match given_up {
                true => drop(waiter),
                false => assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()),
            }
            assert!(gate.try_enter().is_none(), "given up: {given_up}");
            assert_eq!(gate.inside(), 0);
            gate.hold(false);
        }
    }
}
