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

/// Compares every lane with `value`: bit `i` of the result is set exactly if `lanes[i] == value`.
#[inline(always)]
pub fn equal_lanes(lanes: &[u16; 10], value: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 belongs to x86_64. The two unaligned loads read lanes 0 to 7 and 8 to 9, all within the array.
    unsafe {
        use core::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
            _mm_set1_epi16,
        };
        let first = _mm_loadu_si128(lanes.as_ptr().cast::<__m128i>());
        let last = _mm_cvtsi32_si128(lanes.as_ptr().add(8).cast::<i32>().read_unaligned());
        let value = _mm_set1_epi16(value.cast_signed());
        // Saturation turns a lane of ones into a byte of ones; the six bytes that `last` does not fill are masked off.
        let equal = _mm_packs_epi16(_mm_cmpeq_epi16(first, value), _mm_cmpeq_epi16(last, value));
        _mm_movemask_epi8(equal).cast_unsigned() & 0x3ff
    }
    #[cfg(not(target_arch = "x86_64"))]
    lanes.iter().enumerate().fold(0, |mask, (i, &lane)| mask | u32::from(lane == value) << i)
}

#[cfg(test)]
mod tests {
    use super::equal_lanes;

    #[test]
    fn equal_lanes_are_found_one_by_one_and_together() {
        for value in [0, 1, 0x7fff, 0x8000, 0xffff] {
            assert_eq!(equal_lanes(&[value; 10], value), 0x3ff);
            assert_eq!(equal_lanes(&[value ^ 1; 10], value), 0);
            assert_eq!(equal_lanes(&[value ^ 0x0100; 10], value), 0);
            assert_eq!(equal_lanes(&[value ^ 0x8000; 10], value), 0);
            for i in 0..10 {
                let mut lanes = [value ^ 0x00ff; 10];
                lanes[i] = value;
                assert_eq!(equal_lanes(&lanes, value), 1 << i, "lane {i}, value {value:#x}");
                lanes[(i + 3) % 10] = value;
                assert_eq!(equal_lanes(&lanes, value), 1 << i | 1 << ((i + 3) % 10), "lane {i}, value {value:#x}");
            }
        }
    }
}
