//! Counters of the slow path.

use std::sync::atomic::{AtomicU64, Ordering};

/// What passed between the wire and the kernel, and what became of it. All counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Punted frames that were handed to the kernel.
    pub to_kernel: u64,
    /// Punted frames that the mirror interface did not take: it is down, deleted, or its queue is full.
    pub to_kernel_dropped: u64,
    /// Frames of the kernel that were queued for the first worker.
    pub from_kernel: u64,
    /// Frames of the kernel that were dropped because the queue to the worker was full.
    pub from_kernel_no_buffer: u64,
    /// Frames of the kernel that were dropped because they exceed the queue's buffers, or, of health checks, because they do
    /// not fit through the server's tunnel.
    pub from_kernel_too_long: u64,
    /// Next hops that workers asked to have resolved.
    pub resolve_requests: u64,
    /// Times the kernel was made to resolve or verify a neighbour.
    pub neighbour_kicks: u64,
    /// Times it refused to, or the queue of such requests was full.
    pub neighbour_kicks_failed: u64,
    /// Compiled FIBs, which is the generation of the last one.
    pub fib_generation: u64,
    /// Times that change notifications were lost and everything was read anew.
    pub resyncs: u64,
}

/// A counter that several tasks of the control thread write.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters where they are written.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub to_kernel: Counter,
    pub to_kernel_dropped: Counter,
    pub from_kernel: Counter,
    pub from_kernel_no_buffer: Counter,
    pub from_kernel_too_long: Counter,
    pub resolve_requests: Counter,
    pub neighbour_kicks: Counter,
    pub neighbour_kicks_failed: Counter,
    pub fib_generation: Counter,
    pub resyncs: Counter,
}

impl Counters {
    /// The values now.
    pub fn read(&self) -> KernelCounters {
        KernelCounters {
            to_kernel: self.to_kernel.get(),
            to_kernel_dropped: self.to_kernel_dropped.get(),
            from_kernel: self.from_kernel.get(),
            from_kernel_no_buffer: self.from_kernel_no_buffer.get(),
            from_kernel_too_long: self.from_kernel_too_long.get(),
            resolve_requests: self.resolve_requests.get(),
            neighbour_kicks: self.neighbour_kicks.get(),
            neighbour_kicks_failed: self.neighbour_kicks_failed.get(),
            fib_generation: self.fib_generation.get(),
            resyncs: self.resyncs.get(),
        }
    }
}
