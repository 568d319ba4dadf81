//! The control thread: everything slow that a director does.
//!
//! * [`core`]: the owner of the configuration and the statistics, and the handle by which others reach it.
//! * [`registry`]: the model of services and servers; turns operations into the packet path's service table.
//! * [`stats`]: totals and rates from the workers' counters.
#![forbid(unsafe_code)]

pub mod core;
pub mod server;
pub mod registry;
pub mod stats;
