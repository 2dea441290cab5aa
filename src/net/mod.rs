//! One socket and its buffers: TCP, Unix or TLS; dialling; PROXY protocol. Owns every byte between the kernel and the
//! protocol code, and knows nothing of that protocol.

mod buffer;
mod dial;
mod io;
pub mod proxy_protocol;
mod socket;
pub mod tls;

pub use dial::{Endpoint, dial};
pub use io::{Io, Plain, Remains};
pub use socket::{Socket, poll_forward};
