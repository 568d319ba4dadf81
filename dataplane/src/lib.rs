//! The packet path.
//!
//! [`worker`] is the poll loop, [`pipeline`] the packet's stages. A worker owns its connection tables ([`conn`]),
//! reads one immutable [`snapshot`] per burst, and shares counters and bounded queues with the control thread
//! ([`shared`]). Packets come from [`io`]: DPDK, or plain memory in tests.
#![forbid(unsafe_code)]

pub mod client_address;
mod clock;
pub mod conn;
pub mod conn_log;
pub mod counters;
mod cross;
mod data;
pub mod defence;
pub mod directory;
mod established;
pub mod fib;
pub mod forward;
mod fragment;
pub mod helper;
pub mod icmp;
pub mod io;
pub mod ip;
mod ipsec;
mod lifecycle;
mod limit;
pub mod marks;
mod mss;
mod one_packet;
mod outcome;
mod output;
pub mod packet;
mod persistence;
pub mod pipeline;
mod reap;
pub mod reassembly;
pub mod replies;
mod schedule;
pub mod shared;
pub mod snapshot;
pub mod steer;
pub mod templates;
pub mod verdict;
mod way;
pub mod worker;

/// Index of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// Index of a port: its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Index of a virtual service's counters and scheduler state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Index of a real server's counters. One real server in two services has two ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);
