//! Measures the packet path on one core: packets come from a synthetic source in the worker's own loop.

mod checks;
mod churn;
mod connect;
mod control;
mod director;
mod fill;
mod listing;
mod lives;
mod measure;
mod plan;
mod replace;
mod scenario;
mod scenarios;
mod source;
pub mod table;
mod workers;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use dataplane::conn::{ConnTable, Tick};
use dpdk::{Eal, Mempool, PoolConfig};
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub use self::checks::Checking;
pub use self::connect::Connections;
use self::director::Program;
pub use self::listing::Listing;
use self::measure::{Case, Effort};
pub use self::measure::{Measured, count};
#[cfg(test)]
pub use self::replace::Replacement;
use self::scenario::Bench;
pub use self::scenarios::Scenarios;
pub use self::workers::Scaling;
use crate::flows::Family;
use crate::{facts, stats, write_json};

/// Result of this part. Its durations are in TSC cycles per packet or connection.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Synthetic {
    /// CPU that it ran on.
    pub core: usize,
    /// Memory of the packets: "hugepages" or "ordinary pages".
    pub packet_memory: String,
    /// Forwarding.
    pub forwarding: Vec<Measured>,
    /// New connections.
    pub connections: Vec<Connections>,
    /// Memory.
    pub memory: Memory,
    /// Whole situations.
    #[serde(default)]
    pub scenarios: Scenarios,
}

/// Memory of connection tables.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Memory {
    /// Bytes per IPv4 connection.
    pub per_connection_v4: f64,
    /// Bytes per IPv6 connection.
    pub per_connection_v6: f64,
    /// Bytes of a table of ten million IPv4 connections.
    pub ten_million_v4: usize,
}

/// What to measure.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Measure all combinations instead of those that show the targets
    #[arg(long)]
    full: bool,
    /// CPU to run on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Repetitions of each case, at least 5 for a result that counts
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Chunks of 4096 packets that each program handles per repetition
    #[arg(long, default_value_t = 48)]
    chunks: usize,
    /// Room for connections; more when a case has more flows. The default is the daemon's
    #[arg(long, default_value_t = 1 << 20)]
    capacity: usize,
    /// Only cases whose name has all of these words, such as "FULLNAT IPv4 1k"; "connections": only new connections;
    /// "workers", "fill", "churn", "lives", "listing", "checks" or "replace": only that scenario
    #[arg(long)]
    only: Option<String>,
    /// Instead of measuring run the director alone for so many seconds on every case and way, to be profiled
    #[arg(long)]
    spin: Option<u64>,
    /// File to write the result to
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Packet buffers, more than are ever under way: a burst at the source and one on the way out, and with several workers
/// what is in their caches and between them.
const BUFFERS: u32 = 8191;

/// Measures, prints and writes the result.
pub fn run(arguments: Arguments) -> Result<()> {
    // Before DPDK binds this thread to one of them.
    let mut cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id).collect();
    cpus.retain(|&cpu| cpu != arguments.core);
    cpus.insert(0, arguments.core);
    let packet_memory = if facts::free_hugepage_mib() >= 64 { "hugepages" } else { "ordinary pages" };
    let mut eal_arguments = vec![
        "dpvs-bench".to_owned(),
        "--file-prefix=dpvs-bench".to_owned(),
        "--no-pci".to_owned(),
        "--no-telemetry".to_owned(),
        format!("--lcores=0@{}", arguments.core),
    ];
    match packet_memory {
        "hugepages" => eal_arguments.push("--in-memory".to_owned()),
        _ => eal_arguments.extend(["--no-huge", "--no-shconf", "-m", "64"].map(str::to_owned)),
    }
    let eal = Eal::init(eal_arguments).context("DPDK does not start")?;
    let pool = PoolConfig { buffers: BUFFERS, cache: 512, data_room: 128 + 2048, socket: None };
    let pool = Mempool::new(&eal, &pool).context("no memory for packets")?;

    let words: Vec<&str> = arguments.only.as_deref().unwrap_or_default().split_whitespace().collect();
    let is_chosen = |case: &Case| {
        let name = case.name();
        words.iter().all(|word| name.split(' ').any(|part| part == *word))
    };
    let mut groups = plan::groups(arguments.full);
    groups.iter_mut().for_each(|cases| cases.retain(is_chosen));
    groups.retain(|cases| !cases.is_empty());
    let only_connections = words == ["connections"];
    let only_scenario = words.iter().copied().find(|word| words.len() == 1 && scenarios::NAMES.contains(word));
    let is_none = groups.is_empty() && !only_connections && only_scenario.is_none();
    anyhow::ensure!(!is_none, "no case has all of the words '{}'", words.join(" "));
    let effort = Effort { rounds: arguments.rounds, chunks: arguments.chunks, capacity: arguments.capacity };
    if let Some(seconds) = arguments.spin {
        return groups.concat().iter().try_for_each(|case| match case.is_v6 {
            false => spin::<Ipv4Addr>(&pool, case, &effort, seconds),
            true => spin::<Ipv6Addr>(&pool, case, &effort, seconds),
        });
    }

    let ghz = facts::tsc_ghz();
    let seconds = plan::seconds(&groups, effort.rounds, effort.chunks)
        + if words.is_empty() { scenarios::seconds(arguments.full, effort.rounds) } else { 0.0 };
    println!("{} cases, about {:.0} minutes", groups.concat().len(), (seconds / 60.0).ceil());
    println!("CPU {}, packets in {packet_memory}\n", arguments.core);
    if !groups.is_empty() {
        println!("{}", table::HEADER);
    }
    let mut forwarding = Vec::new();
    for cases in &groups {
        let measured = measure::measure(&pool, cases, &effort)?;
        measured.iter().for_each(|m| println!("{}", table::row(m, ghz)));
        forwarding.extend(measured);
    }
    let mut connections = Vec::new();
    if words.is_empty() || only_connections {
        connections.push(connect::measure::<Ipv4Addr>(&pool, effort.rounds)?);
        connections.push(connect::measure::<Ipv6Addr>(&pool, effort.rounds)?);
    }
    let memory = memory();
    if !forwarding.is_empty() {
        let verified: u64 = forwarding.iter().map(|m| m.verified).sum();
        println!("\nNo packet was lost; {verified} were checked byte by byte besides those that opened connections.");
        let source = stats::Spread::of(forwarding.iter().map(|m| m.bare.median / ghz).collect());
        println!(
            "The source took {:.1} ns [{:.1}-{:.1}]; where it took longer, the machine was slower, in all columns.\n",
            source.median, source.min, source.max
        );
    }
    table::connection_lines(&connections, ghz).iter().for_each(|line| println!("{line}"));
    let bench = Bench { eal, pool, cpus, ghz };
    let scenarios = match (only_scenario, words.is_empty()) {
        (None, false) => Scenarios::default(),
        (only, _) => scenarios::run(&bench, arguments.full, arguments.rounds, only),
    };
    let failures = scenarios.failures.join(" ");
    if let Some(path) = arguments.out {
        let packet_memory = packet_memory.to_owned();
        write_json(
            &path,
            &Synthetic { core: arguments.core, packet_memory, forwarding, connections, memory, scenarios },
        )?;
    }
    anyhow::ensure!(failures.is_empty(), "{failures}");
    Ok(())
}

/// Runs the director alone.
fn spin<A: Family>(pool: &Mempool, case: &Case, effort: &Effort, seconds: u64) -> Result<()> {
    let mut director = measure::prepare::<A>(pool, case, effort)?;
    for &way in case.ways() {
        director.source_mut().send_in_turn(way, &case.length.shapes::<A>(case.protocol));
        println!("{} {way:?}", case.name());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..1000 {
                director.turn(Program::Director);
            }
        }
    }
    director.check_no_loss()
}

fn memory() -> Memory {
    let capacity = 1_000_000;
    let v4 = ConnTable::<Ipv4Addr>::new(capacity, [0; 2], Tick(1)).memory_bytes();
    let v6 = ConnTable::<Ipv6Addr>::new(capacity, [0; 2], Tick(1)).memory_bytes();
    let ten_million = ConnTable::<Ipv4Addr>::new(10 * capacity, [0; 2], Tick(1)).memory_bytes();
    Memory {
        per_connection_v4: v4 as f64 / capacity as f64,
        per_connection_v6: v6 as f64 / capacity as f64,
        ten_million_v4: ten_million,
    }
}
