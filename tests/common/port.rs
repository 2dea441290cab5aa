//! Ports that no other test process takes at the same time.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::Result;

/// A TCP port on 127.0.0.1, reserved among all test processes of this machine by a locked file. Below the ephemeral
/// range, so that no outgoing connection can have it either.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nobody listens.
    pub fn reserve() -> Result<Self> {
        let dir = std::env::temp_dir().join("pgfunnel-test-ports");
        fs::create_dir_all(&dir)?;
        let first = u16::try_from(std::process::id() % 10_000)?;
        for offset in 0..10_000 {
            let number = 20_000 + (first + offset) % 10_000;
            let lock = File::create(dir.join(number.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err("no free port".into())
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
