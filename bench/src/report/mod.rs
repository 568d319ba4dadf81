//! Puts the results of all parts together, and says what they mean for the targets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::facts::Facts;
use crate::stats::median;
use crate::synthetic::{Connections, Measured, Memory, Synthetic, count};
use crate::write_json;

/// Where results come from and go to.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Directory with a file for each part: facts.json, and those there are of synthetic.json, ...
    #[arg(long)]
    parts: PathBuf,
    /// Directory to write the results to
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// Where and what.
    facts: Facts,
    /// With packets made in the worker's own loop.
    #[serde(flatten)]
    synthetic: Option<Synthetic>,
    /// What was to be reached.
    targets: Vec<Target>,
}

/// Prints the verdicts, and writes the results where they are wanted.
pub fn run(arguments: &Arguments) -> Result<()> {
    let facts: Facts = part(&arguments.parts, "facts")?.context("there is no facts.json")?;
    let synthetic: Option<Synthetic> = part(&arguments.parts, "synthetic")?;
    let judge = |s: &Synthetic| targets(&s.forwarding, &s.connections, &s.memory, facts.tsc_ghz);
    let targets = synthetic.as_ref().map(judge).unwrap_or_default();
    targets.iter().for_each(|target| println!("{}", target.line()));

    if let Some(directory) = &arguments.results {
        // No result replaces another: they differ, and which is right is not for the last one to say.
        let name = format!("{}-{}", facts.date, facts.slug());
        let names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
        let mut paths = names.map(|name| directory.join(name).with_extension("json"));
        let path = paths.find(|path| !path.exists()).context("no name is free for the results")?;
        write_json(&path, &Report { facts, synthetic, targets })?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

/// The result of a part, if it was measured.
fn part<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>> {
    let path = directory.join(name).with_extension("json");
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("{} is not understood", path.display()))?))
}

/// A figure that was to be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// What.
    pub name: String,
    /// Measured.
    pub measured: f64,
    /// To be reached.
    pub goal: f64,
    /// True when more is better.
    pub is_minimum: bool,
    /// Unit of both.
    pub unit: &'static str,
    /// Why it counts as missed although the figure may be reached.
    pub objection: Option<String>,
}

impl Target {
    fn is_met(&self) -> bool {
        let reached = if self.is_minimum { self.measured >= self.goal } else { self.measured <= self.goal };
        reached && self.objection.is_none()
    }

    /// One line.
    pub fn line(&self) -> String {
        let Target { name, measured, goal, unit, .. } = self;
        let verdict = if self.is_met() { "met" } else { "missed" };
        let objection = self.objection.as_ref().map_or(String::new(), |objection| format!(" ({objection})"));
        format!("target {name}: {measured:.2}{unit} (goal {goal}{unit}) {verdict}{objection}")
    }
}

/// Judges what was measured. Of both ways the dearer counts.
pub fn targets(forwarding: &[Measured], connections: &[Connections], memory: &Memory, ghz: f64) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |name: String, measured: Option<f64>, goal: f64, is_minimum: bool, unit: &'static str| {
        if let Some(measured) = measured {
            targets.push(Target { name, measured, goal, is_minimum, unit, objection: None });
        }
    };
    let worst = |mode: &str, family: &str, protocol: &str, flows: u32| {
        let is_it = |m: &&Measured| {
            let is_plain = m.choice == "uniform" && m.services == 1 && m.nominal_len == 64;
            (&*m.mode, &*m.family, &*m.protocol, m.flows) == (mode, family, protocol, flows) && is_plain
        };
        forwarding.iter().filter(is_it).max_by(|a, b| a.cost.median.total_cmp(&b.cost.median))
    };
    // Round by round, because they were measured at the same time; then the median.
    type Rounds = fn(&Measured) -> &[f64];
    let ratio = |a: Option<&Measured>, b: Option<&Measured>, rounds: Rounds| {
        let mut ratios: Vec<f64> = rounds(a?).iter().zip(rounds(b?)).map(|(a, b)| a / b).collect();
        Some(median(&mut ratios))
    };
    let cost: Rounds = |m| &m.cost_rounds;
    let whole: Rounds = |m| &m.director_rounds;

    for (flows, goal) in [(1_000, 23.0), (100_000, 27.0), (1_000_000, 38.0), (10_000_000, 50.0)] {
        let name = format!("cost above swap, FULLNAT IPv4 UDP, {} flows", count(flows));
        add(name, worst("FULLNAT", "IPv4", "UDP", flows).map(|m| m.cost.median / ghz), goal, false, " ns");
    }
    for flows in [1_000, 100_000, 1_000_000] {
        let udp = |mode, family| worst(mode, family, "UDP", flows);
        let base = udp("FULLNAT", "IPv4");
        // "Not slower": 2 % are noise.
        for (mode, goal) in [("NAT", 1.02), ("DR", 0.8), ("TUN", 1.02)] {
            let name = format!("cost of {mode} to FULLNAT, IPv4 UDP, {} flows", count(flows));
            add(name, ratio(udp(mode, "IPv4"), base, cost), goal, false, "");
        }
        let name = format!("rate of IPv6 to IPv4, FULLNAT UDP, {} flows", count(flows));
        add(name, ratio(base, udp("FULLNAT", "IPv6"), whole), 0.85, true, "");
        let name = format!("rate of TCP to UDP, FULLNAT IPv4, {} flows", count(flows));
        add(name, ratio(base, worst("FULLNAT", "IPv4", "TCP", flows), whole), 0.95, true, "");
    }
    for many in forwarding.iter().filter(|m| m.services != 1) {
        let is_one = |m: &&Measured| {
            (m.services, &m.mode, &m.family, &m.protocol, m.flows, &m.way, &m.choice, m.wire_len)
                == (1, &many.mode, &many.family, &many.protocol, many.flows, &many.way, &many.choice, many.wire_len)
        };
        let services = count(many.services);
        let name =
            format!("rate with {services} services to that with one, {}, {} flows", many.mode, count(many.flows));
        add(name, ratio(forwarding.iter().find(is_one), Some(many), whole), 0.97, true, "");
    }
    add("memory of an IPv4 connection".to_owned(), Some(memory.per_connection_v4), 128.0, false, " bytes");
    add("memory of an IPv6 connection".to_owned(), Some(memory.per_connection_v6), 128.0, false, " bytes");
    let gib = memory.ten_million_v4 as f64 / f64::from(1 << 30);
    add("memory of 10M IPv4 connections".to_owned(), Some(gib), 2.0, false, " GiB");
    for c in connections {
        targets.push(Target {
            name: format!("new TCP connections, FULLNAT {}", c.family),
            measured: 1000.0 * ghz / c.total.median,
            goal: 4.0,
            is_minimum: true,
            unit: " M/s",
            objection: c.losses.clone(),
        });
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(measured: f64, is_minimum: bool, objection: Option<&str>) -> String {
        let objection = objection.map(str::to_owned);
        Target { name: "x".to_owned(), measured, goal: 2.0, is_minimum, unit: " ns", objection }.line()
    }

    #[test]
    fn targets_are_met_on_the_right_side() {
        assert_eq!(target(1.5, false, None), "target x: 1.50 ns (goal 2 ns) met");
        assert_eq!(target(1.5, true, None), "target x: 1.50 ns (goal 2 ns) missed");
        assert_eq!(target(2.5, false, None), "target x: 2.50 ns (goal 2 ns) missed");
        assert_eq!(target(2.5, true, Some("drops: 1")), "target x: 2.50 ns (goal 2 ns) missed (drops: 1)");
    }
}
