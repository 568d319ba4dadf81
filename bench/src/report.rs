//! Tables for people, and what the measurements say about the targets.

use serde::Serialize;

use crate::connect::Connections;
use crate::facts::Facts;
use crate::measure::{Measured, count};
use crate::stats::{Spread, median};

/// Memory of connection tables.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Bytes per IPv4 connection.
    pub per_connection_v4: f64,
    /// Bytes per IPv6 connection.
    pub per_connection_v6: f64,
    /// Bytes of a table of ten million IPv4 connections.
    pub ten_million_v4: usize,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and what.
    pub facts: Facts,
    /// Forwarding.
    pub forwarding: Vec<Measured>,
    /// New connections.
    pub connections: Vec<Connections>,
    /// Memory.
    pub memory: Memory,
    /// What was to be reached.
    pub targets: Vec<Target>,
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

/// The header of the table of [`row`]s.
pub const HEADER: &str = "\
| mode | way | family | proto | flows | bytes | source ns | swap ns | director ns | Mpps | **cost above swap, ns** | cycles |
|---|---|---|---|---|---|---|---|---|---|---|---|";

/// A case in the table.
pub fn row(m: &Measured, ghz: f64) -> String {
    let ns = |spread: &Spread| range(spread.scaled(1.0 / ghz));
    let mut flows = count(m.flows);
    if m.choice != "uniform" {
        flows = format!("{flows} {}", m.choice);
    }
    if m.services != 1 {
        flows = format!("{flows}, {} services", count(m.services));
    }
    format!(
        "| {} | {} | {} | {} | {flows} | {} | {:.1} | {:.1} | {} | {:.1} | **{}** | {:.0} |",
        m.mode,
        m.way,
        m.family,
        m.protocol,
        m.wire_len,
        m.bare.median / ghz,
        m.swap.median / ghz,
        ns(&m.director),
        1000.0 * ghz / m.director.median,
        ns(&m.cost),
        m.cost.median,
    )
}

fn range(spread: Spread) -> String {
    format!("{:.1} [{:.1}-{:.1}]", spread.median, spread.min, spread.max)
}

/// New connections, a line each.
pub fn connection_lines(connections: &[Connections], ghz: f64) -> Vec<String> {
    let line = |c: &Connections| {
        format!(
            "new TCP connections, FULLNAT {}: {} ns each, {:.2} M/s (source alone {:.1} ns); {} live, {} in balance; {}",
            c.family,
            range(c.total.scaled(1.0 / ghz)),
            1000.0 * ghz / c.total.median,
            c.bare.median / ghz,
            c.live,
            c.in_balance,
            c.losses.as_deref().unwrap_or("no drops"),
        )
    };
    connections.iter().map(line).collect()
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
            (m.mode, m.family, m.protocol, m.flows) == (mode, family, protocol, flows) && is_plain
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
            (m.services, m.mode, m.family, m.protocol, m.flows, m.way, m.choice, m.wire_len)
                == (1, many.mode, many.family, many.protocol, many.flows, many.way, many.choice, many.wire_len)
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
