//! A backend lent to a client.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bounds::Seat;
use super::store::{Stored, Taken};
use super::{Doing, Places, Pool};
use crate::backend::{Backend, Unfinished};
use crate::clock::Moment;
use crate::track::Effects;
use crate::wire::backend::Status;

/// A backend lent to a client. Dropped without [`Lease::release`], the backend is discarded.
pub struct Lease(Option<Taken>);

/// What a backend is lent under. It stays with the backend, so that a lease is small: each client's task has room for one.
pub(super) struct Terms {
    pool: Arc<Pool>,
    places: Places,
    /// Lent to nobody: the pool's listener.
    listens: Option<Box<Seat>>,
    since: Moment,
}

impl Terms {
    fn count_out(&self, now: Moment) {
        if self.listens.is_some() {
            self.pool.listening.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.end(now);
        }
    }

    /// It is no client's any more.
    fn end(&self, now: Moment) {
        self.pool.active.fetch_sub(1, Ordering::AcqRel);
        self.pool.pressure.end(now);
        self.pool.metrics.lease_held.observe(now.seconds_since(self.since));
    }
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, mut taken: Taken, places: Places, since: Moment) -> Self {
        pool.active.fetch_add(1, Ordering::AcqRel);
        pool.pressure.begin(since);
        taken.terms = Some(Terms { pool, places, listens: None, since });
        Self(Some(taken))
    }

    #[inline]
    fn taken(&self) -> &Stored {
        self.0.as_ref().expect("a lease holds its backend until it is consumed")
    }

    #[inline]
    fn terms(&self) -> &Terms {
        self.taken().terms.as_ref().expect("what is lent has terms")
    }

    fn terms_mut(&mut self) -> Option<&mut Terms> {
        self.0.as_mut()?.terms.as_mut()
    }

    /// Keeps the backend for the pool's listener: it is no client's from now on, and counts for none. `false`: there must
    /// be another place for the clients behind every bound.
    pub fn become_listener(&mut self) -> bool {
        let Some(terms) = self.terms_mut() else { return false };
        let Some(seat) = terms.pool.bounds.take_seat() else { return false };
        (terms.places.application, terms.places.user) = (None, None);
        terms.listens = Some(Box::new(seat));
        terms.pool.listening.fetch_add(1, Ordering::AcqRel);
        terms.end(Moment::now());
        self.show(Doing::Listening);
        true
    }

    /// It listens no more, and counts as lent until it is given back.
    pub fn end_listening(&mut self) {
        let Some(terms) = self.terms_mut() else { return };
        if terms.listens.take().is_some() {
            terms.since = Moment::now();
            terms.pool.pressure.begin(terms.since);
            terms.pool.active.fetch_add(1, Ordering::AcqRel);
            terms.pool.listening.fetch_sub(1, Ordering::AcqRel);
            self.show(Doing::Ready);
        }
    }

    fn show(&self, doing: Doing) {
        self.taken().member.set(doing);
    }

    /// Whether the backend is where the pool connects to now, and there is room for it beside those of clients.
    pub fn may_listen(&self) -> bool {
        let Terms { pool, listens, .. } = self.terms();
        pool.is_current(self.taken()) && listens.as_ref().is_none_or(|seat| seat.fits())
    }

    /// Since when it is held.
    #[inline]
    pub fn since(&self) -> Moment {
        self.terms().since
    }

    /// Gives the backend back, if it is at a known-idle point, still wanted and not needed elsewhere; otherwise it is
    /// closed.
    pub fn release(self) {
        self.release_at(Moment::now());
    }

    /// The same for who has just looked at the clock.
    #[inline]
    pub fn release_at(mut self, now: Moment) {
        let Some(mut taken) = self.0.take() else { return };
        let Some(terms) = taken.terms.take() else { return };
        terms.count_out(now);
        let pool = &terms.pool;
        let unwanted = !pool.is_current(&taken) || pool.bounds.others_wait() || pool.has_surplus();
        if taken.backend.broken || taken.backend.status != Status::Idle || unwanted {
            pool.close(taken);
            return;
        }
        taken.backend.idle_since = now;
        if taken.backend.notifications.capacity() > 0 {
            taken.backend.notifications = Vec::new();
        }
        // Idle first, then the place: in between it counts twice, never not at all.
        pool.store.put_back(taken);
        drop(terms.places);
        pool.note_returned();
    }

    /// Removes what its clients have left behind; if that fails it is marked broken.
    pub async fn clean(&mut self) {
        self.show(Doing::Cleaning);
        self.deref_mut().clean().await;
        self.show(Doing::Ready);
    }

    /// Gets the backend back from a client that vanished, in the background: what runs is cancelled, the transaction
    /// rolled back, what the client left behind removed. If that fails it is closed.
    pub fn recover(mut self, unfinished: Unfinished, residue: Effects) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.show(Doing::Cancelling);
        runtime.spawn(async move {
            self.residue.add(residue);
            // Of what was under way nobody knows what was done: prepared, put in force.
            let unknown = unfinished.outstanding > 0 || unfinished.open_batch;
            let needs_clean = unknown || self.residue != Effects::NONE || self.limits_idleness();
            self.deref_mut().recover(unfinished).await;
            self.show(Doing::Ready);
            if !self.broken && needs_clean {
                self.clean().await;
            }
            self.release();
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut taken) = self.0.take()
            && let Some(terms) = taken.terms.take()
        {
            terms.count_out(Moment::now());
            taken.backend.broken = true;
            terms.pool.close(taken);
        }
    }
}

impl Deref for Lease {
    type Target = Backend;

    #[inline]
    fn deref(&self) -> &Backend {
        &self.taken().backend
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut Backend {
        &mut self.0.as_mut().expect("a lease holds its backend until it is consumed").backend
    }
}
