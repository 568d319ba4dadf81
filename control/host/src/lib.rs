//! The machine that dpvsd runs on, or is to run on: what [`examine`] finds right and wrong with it, and which drivers its
//! network cards have ([`Nic`], [`bind`](bind()), [`unbind`]).
//!
//! Everything is read from `/proc` and `/sys` below a root, so that the tests can describe machines. Neither a running
//! daemon nor DPDK is needed.
#![forbid(unsafe_code)]

mod bind;
mod cpulist;
mod doctor;
#[cfg(test)]
mod machines;
mod nic;
mod root;
mod routes;

pub use bind::{BindError, BindOptions, Bound, Kernel, Linux, bind, unbind};
pub use cpulist::CpuList;
pub use doctor::{Finding, Plan, State, examine};
pub use nic::Nic;
pub use root::Root;
