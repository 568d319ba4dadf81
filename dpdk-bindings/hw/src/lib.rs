//! Processor primitives that need `unsafe` but not DPDK: cache prefetch and the time stamp counter.
//!
//! They live below `dpdk-bindings` because all unsafe code of the workspace does, and in a crate of
//! their own because the pure part of the packet path uses them on machines without DPDK.

/// Asks the processor to load the cache line of `value`. Never faults and changes nothing else.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it is defined for every address and `value` is a live reference.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// The processor's time stamp counter, in cycles of a constant rate; 0 where there is none.
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86_64 processor and has no memory effects.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}
