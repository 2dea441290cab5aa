//! What a client's session consists of and what pins it to its backend: parameters, and the effects of its
//! statements. Pure: bytes in, decisions out.

pub mod certificate;
pub mod channels;
mod command;
mod control;
pub mod effects;
pub mod names;
pub mod options;
pub mod params;
pub mod sql_names;
mod statements;
mod suspects;
mod tokens;

pub use certificate::Certificate;
pub use command::{Command, Said};
pub use control::Control;
pub use effects::{Effects, PinReason};
pub use params::{Params, Settings};
pub use suspects::prepare;
pub use tokens::parameters;
