//! Which plots there are, and what they show.

use super::Parts;
use super::chart::{Chart, GREY, Line, Panel};
use super::targets::DPVS_OF_CEILING;
use crate::stats::Spread;
use crate::synthetic::{Measured, Scaling, count};
use crate::wire::result::{Latency, Program, Rate, Wiring, Workload};

/// Modes; the position is that of their colour.
pub const MODES: [&str; 4] = ["FULLNAT", "NAT", "DR", "TUN"];
const RATE: &str = "million packets per second";

/// All that can be drawn: a name for the file, and the chart.
pub fn plots(parts: &Parts) -> Vec<(&'static str, Chart)> {
    let rates = [by_flows_synthetic(parts), by_flows(parts, Wiring::Memif), by_flows(parts, Wiring::ZeroWire)];
    let charts = [
        (
            "flows",
            "Rate of one worker: UDP over IPv4, 64 bytes, client to server",
            rates.into_iter().flatten().collect(),
        ),
        (
            "workers",
            "Rate of several workers: FULLNAT, UDP over IPv4, 64 bytes",
            by_workers(parts).into_iter().collect(),
        ),
        ("latency", "Latency: FULLNAT, UDP over IPv4, 64 bytes, 1k flows, memif", by_load(parts).into_iter().collect()),
    ];
    let chart = |(name, title, panels): (_, &str, Vec<Panel>)| (name, Chart { title: title.to_owned(), panels });
    charts.map(chart).into_iter().filter(|(_, chart)| !chart.panels.is_empty()).collect()
}

/// A line of rates by number of flows.
struct RatesByFlows {
    name: String,
    colour: usize,
    is_dashed: bool,
    rates: Vec<(u32, Spread)>,
}

/// A panel of lines by flows; `None` when there is nothing to draw.
fn flows_panel(title: &str, lines: Vec<RatesByFlows>) -> Option<Panel> {
    let mut ticks: Vec<u32> = lines.iter().flat_map(|line| &line.rates).map(|(flows, _)| *flows).collect();
    ticks.sort_unstable();
    ticks.dedup();
    let at = |flows: &u32| ticks.iter().position(|tick| tick == flows).unwrap_or(0);
    let line = |mut line: RatesByFlows| {
        line.rates.sort_by_key(|(flows, _)| *flows);
        // Repeated in other groups: the first is as good as any.
        line.rates.dedup_by_key(|(flows, _)| *flows);
        let points = line.rates.iter().map(|(flows, rate)| (at(flows), *rate)).collect();
        Line { name: line.name, colour: line.colour, is_dashed: line.is_dashed, points }
    };
    let lines: Vec<Line> = lines.into_iter().map(line).filter(|line| !line.points.is_empty()).collect();
    (!lines.is_empty()).then(|| Panel {
        title: title.to_owned(),
        ticks: ticks.iter().map(|&flows| count(flows)).collect(),
        x_label: "flows".to_owned(),
        y_label: RATE.to_owned(),
        is_log: false,
        lines,
    })
}

fn by_flows_synthetic(parts: &Parts) -> Option<Panel> {
    let forwarding = &parts.synthetic.as_ref()?.forwarding;
    let rate = |cycles: Spread| cycles.reciprocal(1000.0 * parts.facts.tsc_ghz);
    let of_mode = |mode| {
        let is_it = move |m: &&Measured| {
            (&*m.mode, &*m.family, &*m.protocol, &*m.way) == (mode, "IPv4", "UDP", "in") && m.is_plain()
        };
        forwarding.iter().filter(is_it)
    };
    let line = |name: &str, colour, rates| RatesByFlows { name: name.to_owned(), colour, is_dashed: false, rates };
    let of_modes = (0..).zip(MODES).map(|(colour, mode)| {
        let rates = of_mode(mode).map(|m| (m.flows, rate(m.director))).collect();
        line(mode, colour, rates)
    });
    let mut lines: Vec<_> = of_modes.collect();
    lines.push(line("swap", GREY, of_mode("FULLNAT").map(|m| (m.flows, rate(m.swap))).collect()));
    flows_panel("synthetic source, whose work is included", lines)
}

fn by_flows(parts: &Parts, wiring: Wiring) -> Option<Panel> {
    let rates = &parts.wire.as_ref()?.rates;
    let of = |program: Program, mode: &str| {
        let is_plain = |rate: &&Rate| {
            let Workload { family, protocol, way, length, choice, workers, .. } = &rate.workload;
            (&*rate.workload.mode, &**family, &**protocol, &**way) == (mode, "IPv4", "UDP", "in")
                && (&**length, &**choice, *workers) == ("64", "uniform", 1)
                && rate.program == program
                && rate.wiring == wiring
        };
        rates.iter().filter(is_plain).map(|rate| (rate.workload.flows, rate.mpps)).collect::<Vec<_>>()
    };
    let line = |name: &str, colour, rates| RatesByFlows { name: name.to_owned(), colour, is_dashed: false, rates };
    let ours = (0..).zip(MODES).map(|(colour, mode)| line(mode, colour, of(Program::Dpvsd, mode)));
    let mut lines: Vec<_> = ours.collect();
    lines.extend(MODES.map(|mode| line(&format!("other, {mode}"), MODES.len(), of(Program::External, mode))));
    let ceiling = of(Program::Testpmd, "5tswap");
    if wiring == Wiring::Memif {
        let dpvs = DPVS_OF_CEILING.iter().filter_map(|(flows, share)| {
            let (_, rate) = ceiling.iter().find(|(of, _)| of == flows)?;
            let median = rate.median * share;
            Some((*flows, Spread { median, min: median, max: median }))
        });
        lines.push(RatesByFlows { is_dashed: true, ..line("DPVS FULLNAT *", MODES.len() + 1, dpvs.collect()) });
    }
    lines.push(line("testpmd 5tswap", GREY, ceiling));
    let title = match wiring {
        Wiring::Memif => "memif, generator in another process (* its share of 5tswap, not of this run)",
        Wiring::ZeroWire => "zero-wire: a port that repeats a file",
    };
    flows_panel(title, lines)
}

/// A panel of rates by workers.
fn by_workers(parts: &Parts) -> Option<Panel> {
    let scalings = &parts.synthetic.as_ref()?.scenarios.workers;
    let most = scalings.iter().map(|scaling| scaling.workers).max()?;
    let mut flows: Vec<u32> = scalings.iter().map(|scaling| scaling.flows_of_each).collect();
    flows.sort_unstable();
    flows.dedup();
    let mut lines = Vec::new();
    for (colour, flows) in (0..).zip(flows) {
        let of_flows = || scalings.iter().filter(|scaling| scaling.flows_of_each == flows);
        let Some(one) = of_flows().map(|scaling| scaling.one).next() else { continue };
        let position = |workers: u32| workers as usize - 1;
        let points = |of: fn(&Scaling) -> Spread| {
            let several = of_flows().map(|scaling| (position(scaling.workers), of(scaling)));
            std::iter::once((0, one)).chain(several).collect::<Vec<_>>()
        };
        let line = |name: &str, is_dashed, points| {
            let name = format!("{}{name}", count(flows));
            Line { name, colour, is_dashed, points }
        };
        let ideal = (1..=most).map(|workers| {
            let median = f64::from(workers) * one.median;
            (position(workers), Spread { median, min: median, max: median })
        });
        lines.push(line(" flows each", false, points(|scaling| scaling.all)));
        lines.push(line(", in proportion", true, ideal.collect()));
    }
    Some(Panel {
        title: "synthetic source of each worker, whose work is included".to_owned(),
        ticks: (1..=most).map(|workers| workers.to_string()).collect(),
        x_label: "workers".to_owned(),
        y_label: RATE.to_owned(),
        is_log: false,
        lines,
    })
}

/// A panel of latency by load.
fn by_load(parts: &Parts) -> Option<Panel> {
    let latencies = &parts.wire.as_ref()?.latencies;
    let mut loads: Vec<f64> = latencies.iter().map(|l| l.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    type Percentile = fn(&Latency) -> Spread;
    let percentiles: [(&str, Percentile); 3] = [("p50", |l| l.p50), ("p99", |l| l.p99), ("p99.9", |l| l.p999)];
    let programs = [(Program::Dpvsd, "dpvsd"), (Program::External, "other"), (Program::Testpmd, "testpmd")];
    let mut lines = Vec::new();
    for (program, name) in programs {
        for (colour, (percentile, of)) in (0..).zip(percentiles) {
            let is_it =
                |l: &&Latency| (&*l.workload.family, &*l.workload.protocol) == ("IPv4", "UDP") && l.program == program;
            let at = |load: f64| loads.iter().position(|l| *l == load).unwrap_or(0);
            let mut points: Vec<_> = latencies.iter().filter(is_it).map(|l| (at(l.load), of(l))).collect();
            points.sort_by_key(|(load, _)| *load);
            points.dedup_by_key(|(load, _)| *load);
            if !points.is_empty() {
                let is_dashed = program == Program::Testpmd;
                lines.push(Line { name: format!("{name} {percentile}"), colour, is_dashed, points });
            }
        }
    }
    (!lines.is_empty()).then(|| Panel {
        title: "there and back; testpmd (io) at the same packets per second".to_owned(),
        ticks: loads.iter().map(|load| format!("{:.0} %", 100.0 * load)).collect(),
        x_label: "load, as a share of dpvsd's largest rate".to_owned(),
        y_label: "microseconds".to_owned(),
        is_log: true,
        lines,
    })
}
