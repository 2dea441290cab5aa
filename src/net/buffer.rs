//! What a connection has received and nobody has used yet: first what was passed, then what is unseen. The memory is lent
//! from a small per-thread store while bytes are under way and given back when a connection goes idle, so that an idle
//! client costs none.

use std::cell::RefCell;

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
    /// Where what was passed begins,
    start: usize,
    /// where what is unseen does,
    seen: usize,
    /// and where it ends. All three are 0 when nothing is left.
    end: usize,
}

impl Buffer {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// What was passed.
    #[inline]
    pub(super) fn passed(&self) -> &[u8] {
        self.memory.get(self.start..self.seen).unwrap_or_default()
    }

    #[inline]
    pub(super) fn has_passed(&self) -> bool {
        self.seen > self.start
    }

    /// What was not.
    #[inline]
    pub(super) fn unseen(&self) -> &[u8] {
        self.memory.get(self.seen..self.end).unwrap_or_default()
    }

    #[inline]
    pub(super) fn unseen_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.seen..self.end).unwrap_or_default()
    }

    /// Passes the next `n` unseen bytes.
    #[inline]
    pub(super) fn pass(&mut self, n: usize) {
        self.seen += n;
        debug_assert!(self.seen <= self.end);
    }

    /// Drops the first `n` bytes, what was passed first.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.start += n;
        self.seen = self.seen.max(self.start);
        debug_assert!(self.seen <= self.end);
        if self.start >= self.end {
            (self.start, self.seen, self.end) = (0, 0, 0);
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
        let len = self.end - self.start;
        if self.memory.len() - len >= ROOM {
            self.memory.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = vec![0; 2 * self.memory.len()].into_boxed_slice();
            larger[..len].copy_from_slice(&self.memory[self.start..self.end]);
            self.memory = larger;
        }
        (self.start, self.seen, self.end) = (0, self.seen - self.start, len);
    }

    /// Returns the memory if nothing is in it.
    #[inline]
    pub(super) fn give_back(&mut self) {
        if self.is_empty() && !self.memory.is_empty() {
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
            assert_eq!(buffer.unseen(), &bytes[taken..put]);
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
