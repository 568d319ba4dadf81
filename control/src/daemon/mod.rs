//! The daemon: from the configuration file to the last packet.
//!
//! Order of the start: configuration, cores, the API's socket (which shows whether another daemon runs), DPDK, the
//! kernel's side, services, workers, API. Warnings wait until all of that has worked, so that a failure is one line.
//! Order of the end: API, workers, mirror interfaces, ports.

mod arguments;
pub mod cores;
#[cfg(feature = "dpdk")]
mod error;
pub mod log;
#[cfg(feature = "dpdk")]
mod memory;
pub mod notify;
pub mod repeats;
#[cfg(feature = "dpdk")]
mod run;
pub mod watchdog;
pub mod workers;

pub use arguments::Arguments;
#[cfg(feature = "dpdk")]
pub use error::DaemonError;
#[cfg(feature = "dpdk")]
pub use run::{Options, run};
