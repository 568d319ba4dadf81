//! Measurements that nobody has made.

use super::Parts;
use crate::facts::Facts;
use crate::stats::Spread;
use crate::synthetic::{Checking, Connections, Listing, Measured, Memory, Replacement, Scaling, Scenarios, Synthetic};
use crate::wire::result::{Latency, Program, Rate, Verification, WireResults, Wiring, Workload};

/// Values about a median, in five rounds.
fn rounds(median: f64) -> Vec<f64> {
    [0.98, 1.0, 0.97, 1.05, 1.01].map(|factor| factor * median).to_vec()
}

fn spread(median: f64) -> Spread {
    Spread::of(rounds(median))
}

/// A cycle is a nanosecond. The swap takes 20 ns, the director `cost` more.
fn measured(mode: &str, family: &str, protocol: &str, flows: u32, services: u32, cost: f64) -> Measured {
    Measured {
        mode: mode.to_owned(),
        family: family.to_owned(),
        protocol: protocol.to_owned(),
        way: "in".to_owned(),
        flows,
        choice: "uniform".to_owned(),
        services,
        wire_len: 64,
        nominal_len: 64,
        length: "64".to_owned(),
        bare: spread(10.0),
        swap: spread(20.0),
        director: spread(20.0 + cost),
        cost: spread(cost),
        cost_of_means: spread(cost),
        director_rounds: rounds(20.0 + cost),
        cost_rounds: rounds(cost),
        verified: 1000,
    }
}

fn workload(mode: &str, flows: u32) -> Workload {
    Workload {
        mode: mode.to_owned(),
        way: "in".to_owned(),
        family: "IPv4".to_owned(),
        protocol: "UDP".to_owned(),
        length: "64".to_owned(),
        wire_len: 64.0,
        flows,
        choice: "uniform".to_owned(),
        workers: 1,
    }
}

fn rate(wiring: Wiring, program: Program, mode: &str, flows: u32, mpps: f64) -> Rate {
    let verification = Verification { checked: 500, ..Verification::default() };
    Rate {
        group: 1,
        wiring,
        program,
        workload: workload(mode, flows),
        mpps: spread(mpps),
        mpps_runs: rounds(mpps),
        idle_runs: if wiring == Wiring::Memif { vec![0.25] } else { Vec::new() },
        core_to_core_ns_runs: Vec::new(),
        gbps: spread(mpps * 0.512),
        ns: spread(1000.0 / mpps),
        loss: (wiring == Wiring::Memif).then_some(0.25),
        verification: (wiring == Wiring::Memif).then_some(verification),
    }
}

fn latency(program: Program, mode: &str, load: f64, p99: f64) -> Latency {
    Latency {
        group: 1,
        program,
        workload: workload(mode, 1_000),
        load,
        offered_mpps: 20.0 * load,
        achieved_mpps: 19.9 * load,
        p50: spread(p99 / 2.0),
        p99: spread(p99),
        p999: spread(3.0 * p99),
        p99_runs: rounds(p99),
        max: 100.0,
        sent: 1_000_000,
        lost: 0,
    }
}

fn scaling(flows_of_each: u32) -> Scaling {
    Scaling {
        workers: 2,
        cpus: vec![1, 0],
        flows_of_each,
        one: spread(20.0),
        all: spread(39.0),
        scaling: spread(1.95),
        source_scaling: spread(2.0),
        swap_scaling: spread(1.98),
        sprayed: spread(25.0),
        passed_on: 0.5,
        steer_full: 0.0,
        replies_owned: 1_000,
        verified: 1_000,
    }
}

fn listing() -> Listing {
    Listing {
        family: "IPv4".to_owned(),
        flows: 1_000_000,
        control_cpu: 0,
        undisturbed: spread(20.0),
        list_slowdown: spread(0.015),
        list_slowdown_of_means: spread(0.016),
        count_slowdown: spread(0.005),
        count_slowdown_of_means: spread(0.006),
        listed_per_s: 1.0,
        lists: 21,
        counted_per_ms: 30.0,
        verified: 1_000,
    }
}

fn checking() -> Checking {
    Checking {
        family: "IPv4".to_owned(),
        flows: 100_000,
        checks: 5_000,
        interval_s: 5.0,
        control_cpu: 0,
        undisturbed: spread(20.0),
        slowdown: spread(0.01),
        runs_per_s: 999.0,
        verified: 1_000,
    }
}

fn replacement() -> Replacement {
    Replacement {
        family: "IPv4".to_owned(),
        services: 10_000,
        servers_of_each: 10,
        flows: 100_000,
        replacements: 12,
        request_ms: spread(100.0),
        undisturbed: spread(20.0),
        slowdown: spread(0.02),
        longest_around: spread(30.0),
        first_turn: 5.0,
        longest_undisturbed: spread(20.0),
        median_turn: 2.0,
        verified: 1_000,
    }
}

/// All parts, with what the targets want.
pub fn parts() -> Parts {
    let mut forwarding = Vec::new();
    for (flows, cost) in [(1_000, 20.0), (100_000, 24.0), (1_000_000, 33.0)] {
        for (mode, factor) in [("FULLNAT", 1.0), ("NAT", 1.01), ("DR", 0.7), ("TUN", 0.95)] {
            forwarding.push(measured(mode, "IPv4", "UDP", flows, 1, factor * cost));
        }
        forwarding.push(measured("FULLNAT", "IPv6", "UDP", flows, 1, 1.1 * cost));
        forwarding.push(measured("FULLNAT", "IPv4", "TCP", flows, 1, 1.05 * cost));
    }
    forwarding.push(measured("FULLNAT", "IPv4", "UDP", 100_000, 10_000, 24.5));
    forwarding.push(measured("FULLNAT", "IPv4", "UDP", 10_000_000, 1, 45.0));
    let connections = Connections {
        family: "IPv4".to_owned(),
        total: spread(200.0),
        bare: spread(12.0),
        live: 500_000,
        in_balance: 491_520,
        losses: None,
    };
    let mut rates = Vec::new();
    for (flows, testpmd, director) in [(1_000, 36.0, 22.0), (100_000, 34.0, 18.0)] {
        rates.push(rate(Wiring::Memif, Program::Dpvsd, "FULLNAT", flows, director));
        rates.push(rate(Wiring::Memif, Program::Testpmd, "5tswap", flows, testpmd));
        rates.push(rate(Wiring::ZeroWire, Program::Dpvsd, "FULLNAT", flows, 1.2 * director));
        rates.push(rate(Wiring::ZeroWire, Program::Testpmd, "5tswap", flows, 1.4 * testpmd));
    }
    let loads = [(0.1, 3.0), (0.5, 5.0), (0.9, 30.0)];
    let ours = loads.map(|(load, p99)| latency(Program::Dpvsd, "FULLNAT", load, p99));
    let theirs = loads.map(|(load, p99)| latency(Program::Testpmd, "io", load, p99 / 2.0));
    Parts {
        facts: Facts {
            date: "2026-01-31".to_owned(),
            revision: "0123456".to_owned(),
            cpu: "Some CPU".to_owned(),
            tsc_ghz: 1.0,
            ..Facts::default()
        },
        synthetic: Some(Synthetic {
            core: 1,
            packet_memory: "hugepages".to_owned(),
            forwarding,
            connections: vec![connections],
            memory: Memory { per_connection_v4: 85.3, per_connection_v6: 149.3, ten_million_v4: 853_000_000 },
            scenarios: Scenarios {
                listings: vec![listing()],
                checks: vec![checking()],
                replacements: vec![replacement()],
                workers: [100_000, 1_000_000].map(scaling).to_vec(),
                ..Scenarios::default()
            },
        }),
        wire: Some(WireResults {
            tsc_ghz: 1.0,
            rates,
            latencies: ours.into_iter().chain(theirs).collect(),
            ..WireResults::default()
        }),
    }
}
