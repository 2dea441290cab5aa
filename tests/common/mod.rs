//! What the integration tests share: a throwaway PostgreSQL ([`Cluster`]), the real binary ([`Proxy`]), a client that
//! says and hears single protocol messages ([`Wire`]), the same script run directly and through the proxy
//! ([`Script`]), and a scripted PostgreSQL ([`Fake`]). Everything blocks, and everything ends by a deadline.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test file uses its own part of the harness")]

mod cluster;
pub mod console;
mod exposition;
mod failure;
mod fake;
mod hostile;
pub mod http;
mod message;
mod port;
mod program;
mod proxy;
mod say;
mod script;
mod target;
mod tls;
mod wait;
mod wire;

pub use cluster::{APP, Cluster, PASSWORD, Settings};
pub use console::{answered, later};
pub use exposition::exposition;
pub use failure::{Failure, Result};
pub use fake::{Conversation, Fake, reply};
pub use hostile::{LENGTHS, Random, unharmed};
pub use message::{Answer, Fields, Message};
pub use port::Port;
pub use program::{Manner, Step, agree, programs};
pub use proxy::{Config, Proxy};
pub use say::{Say, cancel_request, startup};
pub use script::{Script, compare, compare_answers, compare_crowd, crowd};
pub use target::{Addr, Target};
pub use tls::Authority;
pub use wait::{PATIENCE, eventually, median};
pub use wire::Wire;
