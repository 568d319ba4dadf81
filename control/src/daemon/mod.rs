//! The daemon: from the configuration file to the last packet.
//!
//! Order of the start: configuration, cores, the API's socket (which shows whether another daemon runs), DPDK, the
//! kernel's side, services, workers, API. Nothing is logged before all of that has worked except at level `debug`, so
//! that a failure is one line. Order of the end: API, workers, mirror interfaces, ports.

mod cores;
mod log;
mod notify;
#[cfg(feature = "dpdk")]
mod run;
#[cfg(feature = "dpdk")]
mod workers;

pub use cores::{CoreError, Cores};
#[cfg(feature = "dpdk")]
pub use run::{DaemonError, Options, run};
