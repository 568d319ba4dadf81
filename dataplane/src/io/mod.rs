//! Where packets come from and go to: implementations of [`WorkerIo`](crate::packet::WorkerIo).

pub mod memory;
