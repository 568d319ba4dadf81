//! What a measurement depends on besides the program.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::write_json;

/// What the facts cannot be learned from the machine.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Date of the results
    #[arg(long, default_value = "undated")]
    date: String,
    /// Revision of the source
    #[arg(long, default_value = "unknown")]
    revision: String,
    /// File to write the facts to
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Prints the facts, and writes them.
pub fn run(arguments: Arguments) -> Result<()> {
    let facts = Facts::collect(arguments.date, arguments.revision);
    println!("{}\n", facts.line());
    arguments.out.map_or(Ok(()), |path| write_json(&path, &facts))
}

/// Where and what was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
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
    /// Kernel release.
    pub kernel: String,
    /// Version of DPDK.
    pub dpdk: String,
    /// Hugepages of the default size, such as "512 of 2048 kB".
    pub hugepages: String,
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
    pub fn collect(date: String, revision: String) -> Self {
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
            kernel: file("/proc/sys/kernel/osrelease"),
            dpdk: dpdk::Eal::version().to_owned(),
            hugepages: format!("{} of {}", meminfo("HugePages_Total"), meminfo("Hugepagesize")),
            transparent_hugepages: file("/sys/kernel/mm/transparent_hugepage/enabled"),
            glibc_tunables: std::env::var("GLIBC_TUNABLES").unwrap_or_default(),
            tsc_ghz: tsc_ghz(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// All of it in one line.
    pub fn line(&self) -> String {
        format!(
            "{} ({}), {} CPUs, load {}, kernel {}, {}, hugepages {}, transparent hugepages {}, TSC {:.3} GHz, revision {}",
            self.cpu,
            self.cpu_model,
            self.cpus,
            self.load,
            self.kernel,
            self.dpdk,
            self.hugepages,
            self.transparent_hugepages,
            self.tsc_ghz,
            self.revision
        )
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
    let number = |key| meminfo(key).split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    number("HugePages_Free") * number("Hugepagesize") / 1024
}

/// A value of `/proc/meminfo`, with its unit; empty if there is none.
fn meminfo(key: &str) -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

/// TSC cycles per nanosecond, counted for a moment.
pub fn tsc_ghz() -> f64 {
    let (start, cycles) = (Instant::now(), hw::cycles());
    std::thread::sleep(Duration::from_millis(200));
    (hw::cycles() - cycles) as f64 / start.elapsed().as_nanos() as f64
}
