//! The bounds on a pool's backends: its own, its database's, the process's. A backend has a place in each of them from
//! before its first connect until the server has closed its side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gate::{Gate, Place, Waiting};

/// Where a listener counts beside its place.
#[derive(Debug)]
pub(super) struct Seat(Vec<Arc<Gate>>);

impl Seat {
    /// Whether all of these gates have room for others than listeners.
    pub(super) fn fits(&self) -> bool {
        self.0.iter().all(|gate| gate.listeners() < gate.size())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.iter().for_each(|gate| gate.count_listener(false));
    }
}

/// Gates in the order in which they are entered.
#[derive(Debug)]
pub(super) struct Bounds([Bound; 3]);

#[derive(Debug)]
struct Bound {
    gate: Arc<Gate>,
    /// Attempts of this pool that wait there.
    waiting: AtomicUsize,
}

impl Bounds {
    /// The narrow one first, so that who waits there does not keep others out.
    pub(super) fn new(own: Arc<Gate>, database: Arc<Gate>, process: Arc<Gate>) -> Self {
        Self([own, database, process].map(|gate| Bound { gate, waiting: AtomicUsize::new(0) }))
    }

    /// A place behind every gate; `make_room` is called for one that is full. Cancel-safe.
    pub(super) async fn enter(&self, make_room: impl Fn(&Arc<Gate>)) -> Vec<Place> {
        let mut places = Vec::with_capacity(self.0.len());
        for bound in &self.0 {
            places.push(match bound.gate.try_enter() {
                Some(place) => place,
                None => {
                    let _waiting = Waiting::new(&bound.waiting);
                    make_room(&bound.gate);
                    bound.gate.enter().await
                }
            });
        }
        places
    }

    /// The pool's own.
    pub(super) fn own(&self) -> &Gate {
        let [own, ..] = &self.0;
        &own.gate
    }

    /// Takes a listener's seat behind every gate; `None`: one of them would have no place left for clients.
    pub(super) fn take_seat(&self) -> Option<Seat> {
        let seat = Seat(self.0.iter().map(|bound| bound.gate.clone()).collect());
        seat.0.iter().for_each(|gate| gate.count_listener(true));
        seat.fits().then_some(seat)
    }

    pub(super) fn has(&self, gate: &Arc<Gate>) -> bool {
        self.0.iter().any(|bound| Arc::ptr_eq(&bound.gate, gate))
    }

    /// Whether somebody else waits behind one of these gates.
    #[inline]
    pub(super) fn others_wait(&self) -> bool {
        self.0.iter().any(|bound| bound.gate.waiting() > bound.waiting.load(Ordering::Acquire))
    }
}
