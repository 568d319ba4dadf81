//! Collects runs into rows.

use super::inspect::Treatment;
use super::result::{Latency, NewConnections, Program, Rate, Verification, WireResults, Wiring, Workload};
use super::session::{ConnectionsRun, LatencyRun, RateRun};
use crate::stats::Spread;

/// Rows that grow run by run.
#[derive(Debug, Default)]
pub struct Tally {
    rates: Vec<RateRow>,
    latencies: Vec<LatencyRow>,
    connections: Vec<ConnectionsRow>,
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Rows of a group are interleaved.
    pub group: u32,
    /// Wiring.
    pub wiring: Wiring,
    /// Program.
    pub program: Program,
    /// Packets.
    pub workload: Workload,
}

#[derive(Debug)]
struct RateRow {
    key: Key,
    mpps: Vec<f64>,
    gbps: Vec<f64>,
    idle: Vec<f64>,
    core_to_core: Vec<f64>,
    sent: u64,
    lost: u64,
    verification: Option<Verification>,
}

#[derive(Debug)]
struct LatencyRow {
    key: Key,
    load: f64,
    runs: Vec<LatencyRun>,
}

#[derive(Debug)]
struct ConnectionsRow {
    key: Key,
    packets: u32,
    runs: Vec<ConnectionsRun>,
}

/// The row of a key, which is made if there is none.
fn row<T>(rows: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let index = rows.iter().position(is_it).unwrap_or_else(|| {
        rows.push(new());
        rows.len() - 1
    });
    &mut rows[index]
}

impl Tally {
    /// A run at full rate.
    pub fn rate(&mut self, key: Key, run: &RateRun, ghz: f64, core_to_core_ns: f64) {
        let row = self.rate_row(key);
        row.mpps.push(run.traffic.mpps(ghz));
        row.gbps.push(8.0 * ghz * run.traffic.received_bytes as f64 / run.traffic.cycles as f64);
        row.idle.push(run.traffic.idle_cycles as f64 / run.traffic.cycles as f64);
        row.core_to_core.push(core_to_core_ns);
        row.sent += run.sent;
        row.lost += run.lost;
        let sum = row.verification.get_or_insert_default();
        sum.checked += run.verification.checked;
        sum.wrong += run.verification.wrong;
        sum.duplicated += run.verification.duplicated;
        sum.reordered += run.verification.reordered;
        if sum.example.is_none() {
            sum.example.clone_from(&run.verification.example);
        }
    }

    /// A rate that the program itself reports.
    pub fn own_rate(&mut self, key: Key, mpps: f64) {
        let row = self.rate_row(key);
        row.mpps.push(mpps);
        row.gbps.push(mpps * 8.0 * row.key.workload.wire_len / 1000.0);
    }

    fn rate_row(&mut self, key: Key) -> &mut RateRow {
        let found = key.clone();
        row(
            &mut self.rates,
            |row| row.key == found,
            || RateRow {
                key,
                mpps: Vec::new(),
                gbps: Vec::new(),
                idle: Vec::new(),
                core_to_core: Vec::new(),
                sent: 0,
                lost: 0,
                verification: None,
            },
        )
    }

    /// A run at a constant rate.
    pub fn latency(&mut self, key: Key, load: f64, run: LatencyRun) {
        let found = (key.clone(), load);
        row(
            &mut self.latencies,
            |row| (&row.key, row.load) == (&found.0, found.1),
            || LatencyRow { key, load, runs: Vec::new() },
        )
        .runs
        .push(run);
    }

    /// A run of new connections.
    pub fn connections(&mut self, key: Key, packets: u32, run: ConnectionsRun) {
        let found = (key.clone(), packets);
        row(
            &mut self.connections,
            |row| (&row.key, row.packets) == (&found.0, found.1),
            || ConnectionsRow { key, packets, runs: Vec::new() },
        )
        .runs
        .push(run);
    }

    /// Adds everything to the results.
    pub fn finish(self, results: &mut WireResults) {
        results.rates.extend(self.rates.into_iter().map(RateRow::finish));
        results.latencies.extend(self.latencies.into_iter().map(LatencyRow::finish));
        results.connections.extend(self.connections.into_iter().map(ConnectionsRow::finish));
    }
}

impl RateRow {
    fn finish(self) -> Rate {
        let Key { group, wiring, program, workload } = self.key;
        Rate {
            group,
            wiring,
            program,
            workload,
            mpps: Spread::of(self.mpps.clone()),
            gbps: Spread::of(self.gbps),
            ns: Spread::of(self.mpps.iter().map(|mpps| 1000.0 / mpps).collect()),
            loss: self.verification.is_some().then(|| self.lost as f64 / self.sent.max(1) as f64),
            mpps_runs: self.mpps,
            idle_runs: self.idle,
            core_to_core_ns_runs: self.core_to_core,
            verification: self.verification,
        }
    }
}

impl LatencyRow {
    fn finish(self) -> Latency {
        let Key { group, program, workload, .. } = self.key;
        let of = |f: fn(&LatencyRun) -> f64| self.runs.iter().map(f).collect::<Vec<_>>();
        let p99 = of(|run| run.microseconds.p99);
        Latency {
            group,
            program,
            workload,
            load: self.load,
            offered_mpps: Spread::of(of(|run| run.offered_mpps)).median,
            achieved_mpps: Spread::of(of(|run| run.achieved_mpps)).median,
            p50: Spread::of(of(|run| run.microseconds.p50)),
            p99: Spread::of(p99.clone()),
            p999: Spread::of(of(|run| run.microseconds.p999)),
            p99_runs: p99,
            max: of(|run| run.microseconds.max).into_iter().fold(0.0, f64::max),
            sent: self.runs.iter().map(|run| run.sent).sum(),
            lost: self.runs.iter().map(|run| run.lost).sum(),
        }
    }
}

impl ConnectionsRow {
    fn finish(self) -> NewConnections {
        let Key { wiring, program, workload, .. } = self.key;
        let runs: Vec<f64> = self.runs.iter().map(|run| run.million_per_s).collect();
        NewConnections {
            wiring,
            program,
            workload,
            kind: if self.packets == 1 { "first packets" } else { "whole lives" }.to_owned(),
            packets: self.packets,
            million_per_s: Spread::of(runs.clone()),
            runs,
            loss: Spread::of(self.runs.iter().map(|run| run.loss).collect()).max,
        }
    }
}

/// What testpmd does, by its name there.
pub fn treatment(testpmd_mode: &str) -> Treatment {
    match testpmd_mode {
        "io" => Treatment::Io,
        "macswap" => Treatment::MacSwap,
        _ => Treatment::FiveTupleSwap,
    }
}
