//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677; PostgreSQL manual, "SASL Authentication";
//! `src/backend/libpq/auth-scram.c`, `src/interfaces/libpq/fe-auth-scram.c`).
//!
//! * A [`Verifier`] is what a server stores: it can check a password but not log in with it.
//! * [`Keys`] are what a client needs: derived from a password (slow), or recovered from a client's proof by a
//!   server that holds the verifier (free). The latter is what makes pass-through possible.
//! * [`ServerExchange`] logs a client in: `step` per message, a [`ServerStep`] each.
//! * [`ClientExchange`] logs us into PostgreSQL: `challenge` → `respond` → `finish`, one type per state.
//!
//! One difference from the RFC that PostgreSQL makes and we share: the user name inside the exchange is ignored (it is
//! in the startup packet). Optional extensions are ignored as the RFC asks; mandatory ones (`m=`) are refused.

mod client;
mod keys;
mod message;
mod server;
mod verifier;

pub use client::{Challenge, Challenged, ClientExchange, ClientFailure, Responded};
pub use keys::{Keys, SaltedKeys};
pub use server::{ServerExchange, ServerStep};
pub use verifier::{BadVerifier, Verifier};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The only channel binding type that PostgreSQL knows (RFC 5929, section 4).
const BINDING_TYPE: &[u8] = b"tls-server-end-point";

/// Bytes of SHA-256 output, and so of every key here.
pub const KEY_LEN: usize = 32;

/// Bytes of a new salt, as PostgreSQL's `SCRAM_DEFAULT_SALT_LEN`.
pub const SALT_LEN: usize = 16;

/// PBKDF2 rounds of a verifier made here: PostgreSQL's default (`scram_iterations`), the RFC's minimum.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// The most PBKDF2 rounds that a server may ask of us. A hostile one could ask for 2^31 and keep a core busy for
/// a quarter of an hour per login. OWASP's advice for PBKDF2-HMAC-SHA256 is 600,000; one million leaves room above it
/// and costs well under a second of one helper thread, once per password.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Mechanisms to offer a client, best first: with channel binding only over TLS (and a certificate that has one).
pub fn mechanisms(binding: bool) -> &'static [&'static str] {
    if binding { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
}
