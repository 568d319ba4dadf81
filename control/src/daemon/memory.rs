//! What kind of pages the connection tables are in.

/// Tables smaller than this many bytes gain nothing from huge pages, and lose a large share at their unaligned ends.
const LARGE: u64 = 64 << 20;
/// Below this share of their bytes in huge pages, large tables are slower than they could be.
const ENOUGH_PERCENT: u64 = 75;

/// Bytes of this process in transparent huge pages; `None` where the kernel does not say.
pub fn in_huge_pages() -> Option<u64> {
    anon_huge_pages(&std::fs::read_to_string("/proc/self/smaps_rollup").ok()?)
}

/// AnonHugePages in the text of a `smaps_rollup` (proc_pid_smaps(5)), in bytes.
fn anon_huge_pages(smaps: &str) -> Option<u64> {
    let value = smaps.lines().find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Logs where large tables are: `tables` bytes, of which huge pages hold `huge`.
pub fn report(tables: u64, huge: u64) {
    if tables < LARGE {
        return;
    }
    let percent = huge.min(tables) * 100 / tables;
    let mib = tables >> 20;
    match percent {
        ENOUGH_PERCENT.. => tracing::info!("connection tables: {mib} MiB, {percent} % of it in huge pages"),
        _ => tracing::warn!(
            "connection tables: only {percent} % of {mib} MiB is in huge pages, which makes large tables slower; \
             /sys/kernel/mm/transparent_hugepage/enabled must say 'madvise' or 'always', and memory must not be fragmented"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_read() {
        let text =
            "55d0c0000000-7ffd00000000 ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nAnonHugePages:   2048 kB\n";
        assert_eq!(anon_huge_pages(text), Some(2 << 20));
        assert_eq!(anon_huge_pages("Rss: 9000 kB\n"), None);
        assert_eq!(anon_huge_pages("AnonHugePages: many kB\n"), None);
    }
}
