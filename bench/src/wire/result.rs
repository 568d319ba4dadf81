//! What the part with two processes measured: the contents of `wire.json`.

use serde::{Deserialize, Serialize};

use crate::stats::Spread;

/// Everything that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WireResults {
    /// TSC cycles per nanosecond.
    pub tsc_ghz: f64,
    /// What was left out and why, with the remedy, and what the reader must know; a sentence each.
    pub notes: Vec<String>,
    /// Forwarding rates.
    pub rates: Vec<Rate>,
    /// Latency by load.
    pub latencies: Vec<Latency>,
    /// New connections by second.
    pub connections: Vec<NewConnections>,
    /// Passes at a moderate rate in which every packet was checked.
    pub verified: Vec<Verified>,
}

/// How the device under test gets its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wiring {
    /// The generator is another process on another core; packets are received, sent back and counted there.
    #[serde(rename = "memif")]
    Memif,
    /// The device's own port repeats the packets of a file and drops what is sent: one core does only the work.
    #[serde(rename = "zero-wire")]
    ZeroWire,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Program {
    /// The director of this project.
    #[serde(rename = "dpvsd")]
    Dpvsd,
    /// DPDK's own example forwarder, which is the ceiling.
    #[serde(rename = "testpmd")]
    Testpmd,
    /// A program named on the command line.
    #[serde(rename = "external")]
    External,
}

/// What the packets are like. Everything of a name is as it is shown in tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// What the program does to them: "FULLNAT", "NAT", "DR", "TUN" for a director, "io", "macswap", "5tswap" for testpmd.
    pub mode: String,
    /// "in": from clients to servers; "in+out": the generator's servers answer, and both ways are counted.
    pub way: String,
    /// "IPv4" or "IPv6".
    pub family: String,
    /// "UDP" or "TCP".
    pub protocol: String,
    /// Length of frames, frame check sequence included: "64", "512", "1500" or "IMIX".
    pub length: String,
    /// Mean length of the frames that were sent, frame check sequence included, in bytes.
    pub wire_len: f64,
    /// Number of flows.
    pub flows: u32,
    /// How flows are chosen: "uniform" or "Zipf".
    pub choice: String,
    /// Worker threads of the program.
    pub workers: u32,
}

/// A forwarding rate. Runs with the same number were made one after the other, in rows with the same `group`: compare those
/// run by run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Rows with the same number were interleaved.
    pub group: u32,
    /// The wiring.
    pub wiring: Wiring,
    /// The program.
    pub program: Program,
    /// The packets.
    pub workload: Workload,
    /// Millions of packets per second that came back (memif) or were sent (zero-wire).
    pub mpps: Spread,
    /// The same, run by run.
    pub mpps_runs: Vec<f64>,
    /// Share of the time in which the generator had to wait for the program, run by run; near 0 the generator is the limit.
    /// Empty on zero-wire.
    pub idle_runs: Vec<f64>,
    /// Nanoseconds that a cache line takes from core to core and back, just before each run; likewise.
    pub core_to_core_ns_runs: Vec<f64>,
    /// Gigabits per second of those frames, frame check sequence included, preamble and gap not.
    pub gbps: Spread,
    /// Nanoseconds per packet: the inverse of the rate.
    pub ns: Spread,
    /// Share of the packets offered that the program did not send back, of all runs; the generator offers more than
    /// the program can take, so this is no fault. `None` on zero-wire.
    pub loss: Option<f64>,
    /// What the sampled packets were like; `None` on zero-wire.
    pub verification: Option<Verification>,
}

impl Rate {
    /// Share of the time in which the generator had to wait, in the median run; `None` on zero-wire.
    pub fn idle(&self) -> Option<f64> {
        (!self.idle_runs.is_empty()).then(|| Spread::of(self.idle_runs.clone()).median)
    }
}

/// Outcome of checking packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Packets checked from the first byte to the last, checksums computed anew.
    pub checked: u64,
    /// Those that were not as they must be.
    pub wrong: u64,
    /// Packets that came twice.
    pub duplicated: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// What was wrong with the first wrong one.
    pub example: Option<String>,
}

impl Verification {
    /// True when packets were checked and none was wrong, duplicated or out of order.
    pub fn is_clean(&self) -> bool {
        self.checked > 0 && self.wrong == 0 && self.duplicated == 0 && self.reordered == 0
    }
}

/// A pass at a moderate rate in which every packet was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The program.
    pub program: Program,
    /// The packets.
    pub workload: Workload,
    /// Offered rate in millions of packets per second.
    pub offered_mpps: f64,
    /// Packets sent, answers of the generator's servers included.
    pub sent: u64,
    /// Packets that did not come back.
    pub lost: u64,
    /// What the others were like.
    pub verification: Verification,
}

/// Latency at one load, from the call that sends a packet to the one that receives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Rows with the same number were interleaved.
    pub group: u32,
    /// The program.
    pub program: Program,
    /// The packets.
    pub workload: Workload,
    /// Share of dpvsd's (or the external program's) largest rate, such as 0.5; testpmd is offered the same packets per second.
    pub load: f64,
    /// Offered rate in millions of packets per second.
    pub offered_mpps: f64,
    /// Rate that was reached, likewise; lower when the generator was kept from sending in time.
    pub achieved_mpps: f64,
    /// Microseconds that half of the packets took at most, over the runs.
    pub p50: Spread,
    /// Microseconds that 99 % took at most.
    pub p99: Spread,
    /// Microseconds that 99.9 % took at most.
    pub p999: Spread,
    /// The 99th percentile, run by run.
    pub p99_runs: Vec<f64>,
    /// Largest, over all runs.
    pub max: f64,
    /// Packets sent, in all runs.
    pub sent: u64,
    /// Packets that did not come back, in all runs.
    pub lost: u64,
}

/// New connections by second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewConnections {
    /// The wiring.
    pub wiring: Wiring,
    /// The program.
    pub program: Program,
    /// The packets; `flows` is the number of connections of a run.
    pub workload: Workload,
    /// "first packets" (one of each connection) or "whole lives" (handshake, data, both FINs).
    pub kind: String,
    /// Packets of each connection, both ways.
    pub packets: u32,
    /// Millions of connections per second.
    pub million_per_s: Spread,
    /// The same, run by run.
    pub runs: Vec<f64>,
    /// Share of the connections offered of which not all packets came back.
    pub loss: f64,
}
