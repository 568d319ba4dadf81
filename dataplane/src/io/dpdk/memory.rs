//! How much memory packets need and where it comes from.

use std::fs;
use std::path::Path;

use ::dpdk::PoolConfig;
use ::dpdk::mempool::HEADROOM;

use super::{EalOptions, Hugepages, PortOptions, StartError};
use crate::packet::BURST;

/// Where packets live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In hugepages; this many MiB are set aside at once, or what is needed is taken as it is needed.
    Hugepages(Option<u32>),
    /// In this many MiB of ordinary memory.
    Ordinary(u32),
    /// The user's own arguments for DPDK say.
    Arguments,
}

impl Memory {
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Memory::Hugepages(_) => "free or add hugepages (`sysctl vm.nr_hugepages`), or use fewer descriptors",
            Memory::Ordinary(_) => "raise memory_mb, or use fewer descriptors",
            Memory::Arguments => "raise the memory in the DPDK arguments, or use fewer descriptors",
        }
    }
}

/// Buffers in each worker's cache.
const CACHE: u32 = 256;

/// Ethernet header, two VLAN tags and frame check sequence, which some NICs store.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4 + 4;

/// NICs count the room for a frame in units of this (the largest of any driver, that of ixgbe).
const ROOM_UNIT: u32 = 1024;

/// What DPDK needs besides the pool, in bytes: its heap's bookkeeping, queues, rings of virtual devices.
const OVERHEAD: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

/// The pool for these ports: every descriptor filled, every cache and burst full, and `extra_frames` besides.
pub(super) fn pool_config(ports: &[PortOptions], workers: usize, extra_frames: usize) -> PoolConfig {
    let mut buffers = extra_frames + workers * BURST * (ports.len() + 2);
    for port in ports {
        buffers += usize::from(port.queues) * usize::from(port.rx_descriptors);
        buffers += workers * usize::from(port.tx_descriptors);
    }
    // A cache can grow to one and a half times its size. The control thread has one too.
    buffers += (workers + 1) * (CACHE as usize) * 3 / 2;
    let mtu = ports.iter().map(|port| port.mtu).max().unwrap_or(1500);
    // A frame always fits one buffer, so that the packet path sees it whole.
    let room = (u32::from(mtu) + FRAME_OVERHEAD).next_multiple_of(ROOM_UNIT).max(2048);
    let data_room = u16::try_from(room + u32::from(HEADROOM)).unwrap_or(u16::MAX);
    PoolConfig { buffers: u32::try_from(buffers).unwrap_or(u32::MAX), cache: CACHE, data_room, socket: None }
}

/// Decides where packets live.
pub(super) fn choose(
    options: &EalOptions,
    pool: &PoolConfig,
    warnings: &mut Vec<String>,
) -> Result<Memory, StartError> {
    choose_from(options, pool, free_hugepages(Path::new("/sys/kernel/mm/hugepages")), warnings)
}

fn choose_from(
    options: &EalOptions,
    pool: &PoolConfig,
    free: u64,
    warnings: &mut Vec<String>,
) -> Result<Memory, StartError> {
    const SAYS_MEMORY: &[&str] = &["-m", "--socket-mem", "--numa-mem", "--no-huge", "--memory-size"];
    if options.args.iter().any(|arg| SAYS_MEMORY.iter().any(|name| arg.starts_with(name))) {
        return Ok(Memory::Arguments);
    }
    let asked = options.memory_mb.map(|mb| u64::from(mb) * MIB);
    let needed = asked.unwrap_or_else(|| pool_bytes(pool, 64) + OVERHEAD);
    let ordinary = || {
        let needed = asked.unwrap_or_else(|| pool_bytes(pool, 4096) + OVERHEAD);
        Memory::Ordinary(u32::try_from(needed.div_ceil(MIB)).unwrap_or(u32::MAX))
    };
    match options.hugepages {
        Hugepages::No => Ok(ordinary()),
        _ if free >= needed => Ok(Memory::Hugepages(options.memory_mb)),
        Hugepages::Auto => {
            let (needed_mb, free_mb) = (needed.div_ceil(MIB), free / MIB);
            warnings.push(format!(
                "packets are in ordinary memory, which is slower: {needed_mb} MiB of hugepages are needed, \
                 {free_mb} MiB are free; `sysctl vm.nr_hugepages={}` adds them",
                enough_pages(needed - free)
            ));
            Ok(ordinary())
        }
        Hugepages::Yes => Err(StartError::Hugepages {
            needed_mb: needed.div_ceil(MIB),
            free_mb: free / MIB,
            pages: enough_pages(needed - free),
        }),
    }
}

/// The number of hugepages, of the usual 2 MiB, with which `missing` bytes more would be free.
fn enough_pages(missing: u64) -> u64 {
    let now = fs::read_to_string("/proc/sys/vm/nr_hugepages").ok().and_then(|text| text.trim().parse::<u64>().ok());
    now.unwrap_or(0) + missing.div_ceil(2 * MIB)
}

/// Bytes of a pool: data room, struct rte_mbuf (128), object header (64), and padding to the `alignment` at which a
/// buffer may start. In ordinary memory no buffer crosses a page when it fits one.
fn pool_bytes(pool: &PoolConfig, alignment: u64) -> u64 {
    let buffer = u64::from(pool.data_room) + 128 + 64 + 64;
    u64::from(pool.buffers) * buffer.next_multiple_of(alignment)
}

/// Bytes in free hugepages of all sizes that are not promised to anybody.
fn free_hugepages(root: &Path) -> u64 {
    let Ok(sizes) = fs::read_dir(root) else { return 0 };
    let number = |path: &Path| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    sizes
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free = number(&entry.path().join("free_hugepages"))?;
            let promised = number(&entry.path().join("resv_hugepages")).unwrap_or(0);
            Some(free.saturating_sub(promised) * kib * 1024)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{eal_options, port_options};
    use super::*;

    #[test]
    fn pool_holds_every_frame_that_can_be_under_way() {
        let ports = [
            PortOptions { queues: 2, rx_descriptors: 1024, tx_descriptors: 512, ..port_options("a", "net_null0") },
            PortOptions { queues: 1, rx_descriptors: 100, tx_descriptors: 10, ..port_options("b", "net_null1") },
        ];
        let pool = pool_config(&ports, 2, 1000);
        assert_eq!(pool.buffers, 1000 + 2 * 64 * 4 + 2 * 1024 + 2 * 512 + 100 + 2 * 10 + 3 * 384);
    }

    #[test]
    fn data_room_holds_the_largest_frame() {
        for (mtu, expected) in [(68, 2176), (1500, 2176), (2022, 2176), (2023, 3072 + 128), (9000, 9216 + 128)] {
            let port = PortOptions { mtu, ..port_options("a", "net_null0") };
            assert_eq!(pool_config(&[port], 1, 0).data_room, expected, "MTU {mtu}");
        }
    }

    #[test]
    fn memory_follows_the_option_and_what_is_free() {
        let pool = PoolConfig { buffers: 10_000, cache: 0, data_room: 2176, socket: None };
        // 10 000 buffers of 2432 bytes and 64 MiB; in ordinary memory each takes a page.
        let enough = 24_320_000 + OVERHEAD;
        let ordinary = Memory::Ordinary(104);
        for (hugepages, memory_mb, free, expected, warns) in [
            (Hugepages::Auto, None, enough, Some(Memory::Hugepages(None)), false),
            (Hugepages::Auto, None, enough - 1, Some(ordinary), true),
            (Hugepages::Auto, Some(16), 16 * MIB, Some(Memory::Hugepages(Some(16))), false),
            (Hugepages::Auto, Some(16), 0, Some(Memory::Ordinary(16)), true),
            (Hugepages::Yes, None, enough, Some(Memory::Hugepages(None)), false),
            (Hugepages::Yes, None, enough - 1, None, false),
            (Hugepages::No, None, u64::MAX, Some(ordinary), false),
        ] {
            let options = EalOptions { hugepages, memory_mb, ..eal_options() };
            let mut warnings = Vec::new();
            let memory = choose_from(&options, &pool, free, &mut warnings).ok();
            assert_eq!(memory, expected, "{hugepages:?} {memory_mb:?} {free}");
            assert_eq!(!warnings.is_empty(), warns, "{hugepages:?} {memory_mb:?} {free}");
        }
        let by_hand = EalOptions { args: vec!["--socket-mem=64".into()], ..eal_options() };
        assert_eq!(choose_from(&by_hand, &pool, 0, &mut Vec::new()).ok(), Some(Memory::Arguments));
    }

    #[test]
    fn free_hugepages_of_all_sizes_count() {
        let root = tempfile::tempdir().unwrap();
        for (size, free, promised) in [("hugepages-2048kB", "10\n", "3\n"), ("hugepages-1048576kB", "1\n", "0\n")] {
            let dir = root.path().join(size);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("free_hugepages"), free).unwrap();
            fs::write(dir.join("resv_hugepages"), promised).unwrap();
        }
        assert_eq!(free_hugepages(root.path()), 7 * 2 * MIB + 1024 * MIB);
        assert_eq!(free_hugepages(Path::new("/nonexistent")), 0);
    }
}
