//! Primitives of processor and memory that need `unsafe` but not DPDK: cache prefetch, the time stamp counter, vector
//! comparison, huge pages.
//!
//! They live below `dpdk-bindings` because all unsafe code of the workspace does, and in a crate of
//! their own because the pure part of the packet path uses them on machines without DPDK.

use core::mem::MaybeUninit;

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

/// Below this size huge pages gain nothing, and their alignment would waste some.
const HUGE_PAGE: usize = 2 << 20;

/// Readies a large allocation for a packet path that must not wait for page faults: asks the kernel for huge pages and
/// for every page to be present. Returns whether all are.
///
/// It is advice that costs nothing but time when it is not followed; pages then come on first use. The kernel's
/// `transparent_hugepage/enabled` must not be `never`. Memory below 2 MiB is left alone. Call it before the first use.
pub fn populate<T>(memory: &mut [MaybeUninit<T>]) -> bool {
    let range = memory.as_mut_ptr_range();
    let bytes = size_of_val(memory);
    if bytes < HUGE_PAGE {
        return false;
    }
    #[cfg(target_os = "linux")]
    // SAFETY: sysconf has no preconditions. madvise gets whole pages inside of memory that the caller holds exclusively,
    // and neither advice changes its contents: MADV_HUGEPAGE selects a page size, MADV_POPULATE_WRITE faults pages in.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let skipped = range.start.cast::<u8>().align_offset(page);
        let pages = bytes.saturating_sub(skipped) / page * page;
        let start = range.start.cast::<u8>().wrapping_add(skipped).cast();
        libc::madvise(start, pages, libc::MADV_HUGEPAGE);
        libc::madvise(start, pages, libc::MADV_POPULATE_WRITE) == 0
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = range;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{equal_lanes, populate};

    #[cfg(target_os = "linux")]
    #[test]
    fn populated_memory_is_resident_and_keeps_its_contents() {
        /// Resident pages of 4 KiB (proc(5), /proc/PID/statm).
        fn resident() -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse().unwrap()
        }
        const SIZE: usize = 64 << 20;
        let mut memory = Vec::<u8>::with_capacity(SIZE);
        memory.extend_from_slice(b"kept");
        let before = resident();
        let populated = populate(memory.spare_capacity_mut());
        let grown = resident() - before;
        assert!(!populated || grown > SIZE / 4096 / 2, "{grown} pages are not 64 MiB");
        assert_eq!(memory, b"kept");
        memory.resize(SIZE, 7);
        assert!(memory[4..].iter().all(|&byte| byte == 7));
        assert!(!populate(Vec::<u64>::with_capacity(100).spare_capacity_mut()), "too small to matter");
    }

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
