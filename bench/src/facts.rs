//! What a measurement depends on besides the program.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Where and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// As given, such as "2026-01-31".
    pub date: String,
    /// Revision of the source, as given.
    pub revision: String,
    /// The processor's name for itself.
    pub cpu: String,
    /// Family, model and stepping of the processor.
    pub cpu_model: String,
    /// Processors of the machine.
    pub cpus: usize,
    /// The one that was used.
    pub core: usize,
    /// Kernel release.
    pub kernel: String,
    /// Version of DPDK.
    pub dpdk: String,
    /// Memory of the packets.
    pub packet_memory: &'static str,
    /// Transparent hugepages, as `/sys/kernel/mm/transparent_hugepage/enabled` has it; the connection table may use them.
    pub transparent_hugepages: String,
    /// How glibc asks for them, if it was told to.
    pub glibc_tunables: String,
    /// TSC cycles per nanosecond.
    pub tsc_ghz: f64,
    /// Tasks that wanted to run, at the start, over one minute.
    pub load: String,
}

impl Facts {
    /// Collects the facts.
    pub fn collect(date: String, revision: String, core: usize, packet_memory: &'static str) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key));
            line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
        };
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let load = file("/proc/loadavg");
        Self {
            date,
            revision,
            cpu: value("model name"),
            cpu_model: format!(
                "family {} model {} stepping {}",
                value("cpu family"),
                value("model"),
                value("stepping")
            ),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            core,
            kernel: file("/proc/sys/kernel/osrelease"),
            dpdk: dpdk::Eal::version().to_owned(),
            packet_memory,
            transparent_hugepages: file("/sys/kernel/mm/transparent_hugepage/enabled"),
            glibc_tunables: std::env::var("GLIBC_TUNABLES").unwrap_or_default(),
            tsc_ghz: tsc_ghz(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// The processor's name as part of a file name.
    pub fn slug(&self) -> String {
        let words = self.cpu.to_lowercase();
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-")
    }
}

/// Free hugepages of the default size, in MiB.
pub fn free_hugepage_mib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |key| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    value("HugePages_Free:").unwrap_or(0) * value("Hugepagesize:").unwrap_or(0) / 1024
}

fn tsc_ghz() -> f64 {
    let (start, cycles) = (Instant::now(), hw::cycles());
    std::thread::sleep(Duration::from_millis(200));
    (hw::cycles() - cycles) as f64 / start.elapsed().as_nanos() as f64
}
