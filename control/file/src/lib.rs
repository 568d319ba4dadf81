//! The configuration file as text: what daemon and clients both do with it, and no more.
//!
//! * [`read`] gathers a file, those it includes, and the environment variables they name. What they mean is the daemon's
//!   business, wherever they were gathered.
//! * [`expand`] puts environment variables into a string.
//! * [`write`](write()) makes the text of a configuration.
#![forbid(unsafe_code)]

mod environment;
mod sources;
mod write;

pub use environment::{ExpandError, expand};
pub use sources::{INCLUDE, MAX_BYTES, MAX_FILES, read, read_from};
pub use write::{service_defaults, write};
