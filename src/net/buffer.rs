//! What a connection has received and nobody has used yet. The memory is lent from a small per-thread store while bytes
//! are under way and given back when a connection goes idle, so that an idle client costs none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes of a lent buffer: a TLS record, and enough for one system call per 16 KiB of a large result.
pub(super) const SIZE: usize = 16 * 1024;

/// A read is not worth its system call with less room than this, while the rest of a message is awaited.
const ROOM: usize = SIZE / 4;

/// Buffers kept per thread; more are freed.
const KEPT: usize = 64;

thread_local! {
    static STORE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Empty: no memory is held.
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Drops the first `n` bytes.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where to read to; [`Buffer::add`] tells how much was.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = lend();
        } else if self.memory.len() - self.end < ROOM {
            self.make_room();
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// `n` bytes of [`Buffer::room`] have been filled.
    #[inline]
    pub(super) fn add(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.memory.len());
    }

    /// Moves what there is to the front, or, where that does not make enough room, to twice the memory.
    #[cold]
    fn make_room(&mut self) {
        let len = self.len();
        if self.memory.len() - len >= ROOM {
            self.memory.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = vec![0; 2 * self.memory.len()].into_boxed_slice();
            larger[..len].copy_from_slice(self);
            self.memory = larger;
        }
        (self.start, self.end) = (0, len);
    }

    /// Returns the memory if nothing is in it.
    #[inline]
    pub(super) fn give_back(&mut self) {
        // Nothing is in it: the end goes back to the start then.
        if self.end == 0 && !self.memory.is_empty() {
            give_back(std::mem::take(&mut self.memory));
        }
    }
}

impl Drop for Buffer {
    /// A connection that ends with something in it leaves its memory to the next one.
    fn drop(&mut self) {
        if !self.memory.is_empty() {
            give_back(std::mem::take(&mut self.memory));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }
}

#[inline]
fn lend() -> Box<[u8]> {
    STORE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

/// One that grew is freed instead.
#[inline]
fn give_back(memory: Box<[u8]>) {
    if memory.len() == SIZE {
        // Where the thread is ending, there is no store any more.
        let _ = STORE.try_with(|store| {
            let mut store = store.borrow_mut();
            if store.len() < KEPT {
                store.push(memory);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut Buffer, bytes: &[u8]) {
        for &byte in bytes {
            buffer.room()[0] = byte;
            buffer.add(1);
        }
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::default();
        let bytes: Vec<u8> = (0..5 * SIZE).map(|n| (n % 251) as u8).collect();
        let (mut put, mut taken) = (0, 0);
        // Takes less than it gets, so that it moves its bytes, and then grows.
        while put < bytes.len() {
            let more = 1000.min(bytes.len() - put);
            fill(&mut buffer, &bytes[put..put + more]);
            put += more;
            assert_eq!(*buffer, bytes[taken..put]);
            let less = if put < 2 * SIZE { more } else { more / 2 };
            buffer.advance(less);
            taken += less;
        }
        assert!(buffer.memory.len() > SIZE);
        buffer.advance(put - taken);
        buffer.give_back();
        assert!(buffer.memory.is_empty() && buffer.is_empty());
    }

    #[test]
    fn memory_is_lent_and_given_back() {
        let kept = || STORE.with_borrow(Vec::len);
        let before = kept();
        let mut buffer = Buffer::default();
        fill(&mut buffer, b"x");
        buffer.give_back();
        assert!(!buffer.memory.is_empty(), "it is in use");
        buffer.advance(1);
        buffer.give_back();
        assert_eq!(kept(), (before + 1).min(KEPT));
        let mut many: Vec<Buffer> = (0..2 * KEPT).map(|_| Buffer::default()).collect();
        many.iter_mut().for_each(|buffer| fill(buffer, b"x"));
        for mut buffer in many {
            buffer.advance(1);
            buffer.give_back();
        }
        assert_eq!(kept(), KEPT);
    }
}
