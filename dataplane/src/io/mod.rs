//! Where packets come from and go to: implementations of [`WorkerIo`](crate::packet::WorkerIo).

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod memory;
