//! DPDK can be started once per process, so each test that starts it is a file of its own.

use dpdk::{Eal, Mempool, PoolConfig};

/// DPDK without hugepages, PCI devices and files, on the first CPU this process may use.
pub fn eal() -> Eal {
    let lcores = format!("--lcores=0@{}", first_cpu());
    Eal::init(["test", "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "64", &lcores]).unwrap()
}

/// A small pool.
pub fn pool(eal: &Eal) -> Mempool {
    Mempool::new(eal, &PoolConfig { buffers: 4095, cache: 64, data_room: 2176, socket: None }).unwrap()
}

fn first_cpu() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    list.split(['-', ',']).next().unwrap().parse().unwrap()
}
