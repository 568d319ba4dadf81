//! Health checks of real servers.
//!
//! [`Engine`] is a thread that runs checks (`probe/`) and the programs that are told of changes. The monitor, part of the
//! core, knows which servers of which services each check is about, decides what follows from its verdicts (quorum, slow
//! start), or from what became of clients' connections (`outlier.rs`), and hands that to the registry as
//! [`Effect`](crate::registry::Effect)s. The two share nothing but the checks' records: a thread of checks never waits for the
//! core, nor the core for it.

mod counter;
mod engine;
mod monitor;
mod notify;
mod outlier;
mod probe;
mod program;
mod service;
mod target;
mod watched;

pub use engine::Engine;
pub(crate) use monitor::{CheckedServer, Effects, Monitor};
pub(crate) use target::{body_pattern, checks_of, target};
