//! Read buffers, lent from a small per-thread store while bytes are under way and given back when a connection goes
//! idle, so that an idle client costs none.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a lent buffer: a TLS record, and enough for one system call per 16 KiB of a large result.
pub(super) const SIZE: usize = 16 * 1024;

/// Buffers kept per thread; more are freed.
const KEPT: usize = 64;

thread_local! {
    static STORE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of at least [`SIZE`] bytes.
pub(super) fn lend() -> BytesMut {
    STORE.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes back a buffer. One that grew or was split is freed instead.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    // `reserve` rewinds a buffer that was only advanced, without allocating.
    if buffer.try_reclaim(SIZE) && buffer.capacity() < 2 * SIZE {
        STORE.with_borrow_mut(|store| {
            if store.len() < KEPT {
                store.push(buffer);
            }
        });
    }
}
