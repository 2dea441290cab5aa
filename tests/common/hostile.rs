//! What the tests of hostile peers share.

use super::{Cluster, Proxy, Result};

/// Lengths that no message may have.
pub const LENGTHS: [i32; 9] = [0, 1, 3, -1, i32::MIN, i32::MAX, i32::MAX - 4, 0x4000_0000, -2];

/// A stream of numbers that looks random and is the same in every run.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap_or(1)).unwrap_or_default()
    }

    /// Some bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

/// After all that was done to it: alive, no larger, and at somebody's service.
pub fn unharmed(cluster: &Cluster, proxy: &mut Proxy, memory: usize) -> Result {
    assert!(proxy.alive()?);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = proxy.target().connect()?;
        assert_eq!(client.value("begin; select count(*) from t")?, "0");
        clients.push(client);
    }
    assert!(cluster.backends()? <= 2);
    let grown = proxy.memory()?.saturating_sub(memory);
    assert!(grown < 8192, "{grown} KiB more");
    Ok(())
}
