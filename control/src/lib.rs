//! The control thread and the kernel's: everything slow that a director does.
//!
//! * [`config`]: the configuration file, and what its changes mean for a running daemon.
//! * [`core`]: the owner of the configuration and the statistics, and the handle by which others reach it.
//! * [`registry`]: the model of services and servers; turns operations into the packet path's service table.
//! * [`stats`]: totals and rates from the workers' counters; [`connections`]: listings of the workers' tables.
//! * [`reconcile`]: a configuration compared with what runs, and applied.
//! * [`kernel`]: mirror interfaces, and the forwarding table as the kernel has it; on a thread of its own.
//! * [`health`]: health checks of servers; they run on a thread of their own.
//! * [`detour`]: the way of checks to virtual addresses.
//! * [`events`]: what happened lately; `trouble` finds what workers do not tell.
//! * [`server`]: the API on a Unix socket.
//! * [`connection_log`]: JSON lines about connections that begin and end.
//! * [`metrics`]: the metrics for Prometheus.
//! * [`daemon`]: start, life and end of the process.
#![forbid(unsafe_code)]

pub mod config;
pub mod connection_log;
pub mod connections;
pub mod core;
pub mod daemon;
pub mod detour;
pub mod events;
pub mod health;
pub mod kernel;
mod local;
pub mod metrics;
pub mod reconcile;
pub mod registry;
pub mod server;
mod settings;
pub mod stats;
mod trouble;
