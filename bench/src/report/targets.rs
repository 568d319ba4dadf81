//! What was to be reached, and whether it was.

use serde::Serialize;

use super::Parts;
use super::figures::Figure;
use crate::stats::Spread;
use crate::synthetic::count;

/// DPVS 1.10-2, FULLNAT, UDP over IPv4, 64 bytes, one worker on memif: flows, and its rate as a share of `dpdk-testpmd`'s
/// in 5tswap mode beside it. Medians of seven runs on two cores of an AMD EPYC "Turin" with a TSC of 2.6 GHz.
pub const DPVS_OF_CEILING: [(u32, f64); 2] = [(1_000, 0.20), (100_000, 0.036)];

/// The side of the goal on which a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Bound {
    /// The goal or less.
    AtMost,
    /// The goal or more.
    AtLeast,
}
use Bound::{AtLeast, AtMost};

/// One or several targets about the same figure.
struct Row {
    title: &'static str,
    /// Where the goals come from, or what is behind them.
    because: &'static str,
    bound: Bound,
    unit: &'static str,
    /// By number of flows, or 0 where the figure has its own.
    goals: &'static [(u32, f64)],
    figure: fn(&Parts, u32) -> Result<Figure, String>,
}

const ROWS: &[Row] = &[
    Row {
        title: "cost above swap, FULLNAT IPv4 UDP",
        because: "a bare loop of lookup and rewriting takes 17, 20, 29 and 39 ns",
        bound: AtMost,
        unit: " ns",
        goals: &[(1_000, 23.0), (100_000, 27.0), (1_000_000, 38.0), (10_000_000, 50.0)],
        figure: Parts::cost_above_swap,
    },
    Row {
        title: "cost above 5tswap, zero-wire, FULLNAT IPv4 UDP",
        because: "the same, with a driver on both sides",
        bound: AtMost,
        unit: " ns",
        goals: &[(1_000, 23.0), (100_000, 27.0), (1_000_000, 38.0), (10_000_000, 50.0)],
        figure: Parts::cost_above_testpmd,
    },
    Row {
        title: "rate to 5tswap, memif, FULLNAT IPv4 UDP",
        because: "DPVS reaches 0.20 and 0.036",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 0.55), (100_000, 0.50)],
        figure: Parts::share_of_testpmd,
    },
    Row {
        title: "rate to DPVS, as shares of 5tswap, memif, FULLNAT IPv4 UDP",
        because: "DPVS reaches 0.20 and 0.036 of 5tswap beside it",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 2.7), (100_000, 10.0)],
        figure: |parts, flows| {
            let dpvs = DPVS_OF_CEILING.iter().find(|(of, _)| *of == flows).map(|(_, share)| *share);
            let dpvs = dpvs.ok_or("DPVS was not measured with so many flows")?;
            let share = parts.share_of_testpmd(flows)?;
            Ok(Figure { spread: share.spread.scaled(1.0 / dpvs), ..share })
        },
    },
    Row {
        title: "rate of NAT to FULLNAT, IPv4 UDP",
        because: "not slower; 2 % are noise",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 0.98), (100_000, 0.98), (1_000_000, 0.98)],
        figure: |parts, flows| parts.rate_to_fullnat("NAT", "IPv4", "UDP", flows),
    },
    Row {
        title: "rate of TUN to FULLNAT, IPv4 UDP",
        because: "not slower; 2 % are noise",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 0.98), (100_000, 0.98), (1_000_000, 0.98)],
        figure: |parts, flows| parts.rate_to_fullnat("TUN", "IPv4", "UDP", flows),
    },
    Row {
        title: "cost of DR to FULLNAT, IPv4 UDP",
        because: "no addresses are rewritten",
        bound: AtMost,
        unit: "",
        goals: &[(1_000, 0.8), (100_000, 0.8), (1_000_000, 0.8)],
        figure: |parts, flows| parts.cost_to_fullnat("DR", flows),
    },
    Row {
        title: "rate of IPv6 to IPv4, FULLNAT UDP",
        because: "longer addresses, no header checksum",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 0.85), (100_000, 0.85), (1_000_000, 0.85)],
        figure: |parts, flows| parts.rate_to_fullnat("FULLNAT", "IPv6", "UDP", flows),
    },
    Row {
        title: "rate of TCP to UDP, FULLNAT IPv4",
        because: "state tracking looks at flags of packets that are in the cache",
        bound: AtLeast,
        unit: "",
        goals: &[(1_000, 0.95), (100_000, 0.95), (1_000_000, 0.95)],
        figure: |parts, flows| parts.rate_to_fullnat("FULLNAT", "IPv4", "TCP", flows),
    },
    Row {
        title: "new TCP connections, FULLNAT IPv4, as many expiring",
        because: "DPVS reaches 0.9 million/s on memif",
        bound: AtLeast,
        unit: " M/s",
        goals: &[(0, 4.0)],
        figure: |parts, _| parts.new_connections("IPv4"),
    },
    Row {
        title: "rate of two workers to one, FULLNAT IPv4 UDP",
        because: "workers share nothing that they write",
        bound: AtLeast,
        unit: "",
        goals: &[(100_000, 1.9), (1_000_000, 1.9)],
        figure: Parts::two_workers,
    },
    Row {
        title: "memory of an IPv4 connection",
        because: "both directions, index and timer included; DPVS takes 576 bytes and the index",
        bound: AtMost,
        unit: " bytes",
        goals: &[(0, 128.0)],
        figure: |parts, _| parts.memory(|memory| memory.per_connection_v4),
    },
    Row {
        title: "memory of 10M IPv4 connections",
        because: "a small machine",
        bound: AtMost,
        unit: " GiB",
        goals: &[(0, 2.0)],
        figure: |parts, _| parts.memory(|memory| memory.ten_million_v4 as f64 / f64::from(1 << 30)),
    },
    Row {
        title: "slowdown while connections are listed, FULLNAT IPv4 UDP",
        because: "a list is made in slices between bursts",
        bound: AtMost,
        unit: " %",
        goals: &[(0, 2.0)],
        figure: |parts, _| parts.listing(|listing| listing.list_slowdown),
    },
    Row {
        title: "slowdown while connections are counted, FULLNAT IPv4 UDP",
        because: "the number is known without looking",
        bound: AtMost,
        unit: " %",
        goals: &[(0, 2.0)],
        figure: |parts, _| parts.listing(|listing| listing.count_slowdown),
    },
    Row {
        title: "slowdown beside 5,000 health checks in 5 s, FULLNAT IPv4 UDP",
        because: "checks run on the control thread's core",
        bound: AtMost,
        unit: " %",
        goals: &[(0, 2.0)],
        figure: |parts, _| parts.checking(),
    },
    Row {
        title: "rate with 10k services of 10 servers to that with one service, FULLNAT IPv4 UDP",
        because: "services are looked up for new connections only",
        bound: AtLeast,
        unit: "",
        goals: &[(100_000, 0.97)],
        figure: Parts::many_services,
    },
    Row {
        title: "packets lost while 10k services are replaced, FULLNAT IPv4 UDP",
        because: "a new configuration is in force from one burst to the next",
        bound: AtMost,
        unit: " packets",
        goals: &[(0, 0.0)],
        figure: |parts, _| parts.lost_by_replacement(),
    },
    Row {
        title: "p99 of the latency at 50 % load, memif, FULLNAT IPv4 UDP",
        because: "all of the way to the director and back",
        bound: AtMost,
        unit: " us",
        goals: &[(0, 10.0)],
        figure: |parts, _| parts.latency_at_half_load(),
    },
];

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It was.
    #[serde(rename = "met")]
    Met,
    /// It was not.
    #[serde(rename = "missed")]
    Missed,
    /// Nobody knows.
    #[serde(rename = "not measured")]
    NotMeasured,
}

/// What was to be reached, and what was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// What it is about; targets of the same title differ in the flows.
    pub title: &'static str,
    /// Flows, if that distinguishes it.
    pub flows: Option<u32>,
    /// To be reached.
    pub goal: f64,
    /// On which side of it.
    pub bound: Bound,
    /// Unit of goal and measurement.
    pub unit: &'static str,
    /// Where the goal comes from.
    pub because: &'static str,
    /// Measured; the median counts.
    pub measured: Option<Spread>,
    /// Whether it was reached.
    pub verdict: Verdict,
    /// Why there is no measurement or why it does not count, or what must be known beside it.
    pub remark: Option<String>,
}

impl Target {
    /// What distinguishes it from all others.
    pub fn name(&self) -> String {
        self.flows.map_or(self.title.to_owned(), |flows| format!("{}, {} flows", self.title, count(flows)))
    }

    /// The goal with its unit.
    pub fn goal(&self) -> String {
        format!("{}{}", self.goal, self.unit)
    }

    /// What was measured, with its unit.
    pub fn measured(&self) -> Option<String> {
        self.measured.map(|spread| format!("{}{}", number(spread.median), self.unit))
    }

    /// Whether it was reached, in words.
    pub fn verdict(&self) -> &'static str {
        match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::NotMeasured => "not measured",
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        let (name, goal, verdict) = (self.name(), self.goal(), self.verdict());
        let remark = self.remark.as_deref();
        match self.measured() {
            Some(measured) => {
                let remark = remark.map_or(String::new(), |remark| format!(" ({remark})"));
                format!("target {name}: {measured} (goal {goal}) {verdict}{remark}")
            }
            None => format!("target {name}: {verdict} (goal {goal}): {}", remark.unwrap_or("nobody knows why")),
        }
    }
}

/// A number with as many digits as mean something: at least two behind the point, more for small ones.
pub fn number(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        _ if x.abs() < 2.0 => format!("{x:.3}"),
        _ => format!("{x:.2}"),
    }
}

/// Compares all that was measured with all that was to be reached.
pub fn judge(parts: &Parts) -> Vec<Target> {
    ROWS.iter().flat_map(|row| row.goals.iter().map(|&(flows, goal)| row.judge(parts, flows, goal))).collect()
}

impl Row {
    fn judge(&self, parts: &Parts, flows: u32, goal: f64) -> Target {
        let figure = (self.figure)(parts, flows);
        let target = |measured, verdict, remark| Target {
            title: self.title,
            flows: (flows > 0).then_some(flows),
            goal,
            bound: self.bound,
            unit: self.unit,
            because: self.because,
            measured,
            verdict,
            remark,
        };
        match figure {
            Err(reason) => target(None, Verdict::NotMeasured, Some(reason)),
            Ok(figure) if !figure.spread.median.is_finite() => {
                target(None, Verdict::NotMeasured, Some("the measurement gave no number".to_owned()))
            }
            Ok(Figure { spread, objection: Some(objection), .. }) => {
                target(Some(spread), Verdict::Missed, Some(objection))
            }
            Ok(Figure { spread, remark, .. }) => {
                let is_met = match self.bound {
                    AtMost => spread.median <= goal,
                    AtLeast => spread.median >= goal,
                };
                target(Some(spread), if is_met { Verdict::Met } else { Verdict::Missed }, remark)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::synthetic::Scenarios;
    use crate::wire::result::Program;

    fn line(parts: &Parts, name: &str) -> String {
        let targets = judge(parts);
        let target = targets.iter().find(|target| target.name() == name);
        target.unwrap_or_else(|| panic!("no target '{name}'")).line()
    }

    #[test]
    fn figures_are_found_and_met() {
        let parts = fixture::parts();
        for (name, outcome) in [
            ("cost above swap, FULLNAT IPv4 UDP, 1k flows", "20.00 ns (goal 23 ns) met"),
            ("cost above swap, FULLNAT IPv4 UDP, 10M flows", "45.00 ns (goal 50 ns) met"),
            // 1000 / 26.4 - 1000 / 50.4
            ("cost above 5tswap, zero-wire, FULLNAT IPv4 UDP, 1k flows", "18.04 ns (goal 23 ns) met"),
            (
                "rate to 5tswap, memif, FULLNAT IPv4 UDP, 1k flows",
                "0.611 (goal 0.55) met (the generator waits 25 % of the time for dpvsd, 25 % for testpmd)",
            ),
            (
                "rate to DPVS, as shares of 5tswap, memif, FULLNAT IPv4 UDP, 1k flows",
                "3.06 (goal 2.7) met (the generator waits 25 % of the time for dpvsd, 25 % for testpmd)",
            ),
            (
                "rate to DPVS, as shares of 5tswap, memif, FULLNAT IPv4 UDP, 100k flows",
                "14.71 (goal 10) met (the generator waits 25 % of the time for dpvsd, 25 % for testpmd)",
            ),
            ("rate of NAT to FULLNAT, IPv4 UDP, 1k flows", "0.995 (goal 0.98) met"),
            ("cost of DR to FULLNAT, IPv4 UDP, 1M flows", "0.700 (goal 0.8) met"),
            ("rate of IPv6 to IPv4, FULLNAT UDP, 1k flows", "0.952 (goal 0.85) met"),
            ("rate of TCP to UDP, FULLNAT IPv4, 100k flows", "0.973 (goal 0.95) met"),
            ("new TCP connections, FULLNAT IPv4, as many expiring", "5.00 M/s (goal 4 M/s) met"),
            (
                "rate of two workers to one, FULLNAT IPv4 UDP, 1M flows",
                "1.950 (goal 1.9) met (swap 1.98, source alone 2.00)",
            ),
            (
                "slowdown while connections are listed, FULLNAT IPv4 UDP",
                "1.500 % (goal 2 %) met (1M connections, 21 whole lists)",
            ),
            (
                "slowdown while connections are counted, FULLNAT IPv4 UDP",
                "0.500 % (goal 2 %) met (1M connections, 21 whole lists)",
            ),
            (
                "packets lost while 10k services are replaced, FULLNAT IPv4 UDP",
                "0 packets (goal 0 packets) met (12 replacements, each of 10k services with 10 servers)",
            ),
            ("memory of an IPv4 connection", "85.30 bytes (goal 128 bytes) met"),
            ("memory of 10M IPv4 connections", "0.794 GiB (goal 2 GiB) met"),
            (
                "p99 of the latency at 50 % load, memif, FULLNAT IPv4 UDP",
                "5.00 us (goal 10 us) met (testpmd io at the same rate: 2.50 us)",
            ),
        ] {
            assert_eq!(line(&parts, name), format!("target {name}: {outcome}"));
        }
    }

    #[test]
    fn what_is_on_the_wrong_side_of_the_goal_is_missed() {
        let mut parts = fixture::parts();
        parts.facts.tsc_ghz = 0.5;
        let lines = [
            line(&parts, "cost above swap, FULLNAT IPv4 UDP, 1k flows"),
            line(&parts, "new TCP connections, FULLNAT IPv4, as many expiring"),
        ];
        assert!(lines[0].ends_with(": 40.00 ns (goal 23 ns) missed"), "{}", lines[0]);
        assert!(lines[1].ends_with(": 2.50 M/s (goal 4 M/s) missed"), "{}", lines[1]);
    }

    #[test]
    fn a_good_figure_of_a_faulty_run_is_missed() {
        let mut parts = fixture::parts();
        let synthetic = parts.synthetic.as_mut().unwrap();
        synthetic.connections[0].losses = Some("table_full: 3".to_owned());
        for rate in &mut parts.wire.as_mut().unwrap().rates {
            rate.verification.iter_mut().for_each(|verification| verification.wrong = 1);
        }
        let lines = [
            line(&parts, "new TCP connections, FULLNAT IPv4, as many expiring"),
            line(&parts, "rate to DPVS, as shares of 5tswap, memif, FULLNAT IPv4 UDP, 1k flows"),
        ];
        assert!(lines[0].ends_with(": 5.00 M/s (goal 4 M/s) missed (table_full: 3)"), "{}", lines[0]);
        assert!(lines[1].contains(": 3.06 (goal 2.7) missed (of 500 packets checked 1 were wrong"), "{}", lines[1]);
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let mut parts = fixture::parts();
        let wire = parts.wire.as_mut().unwrap();
        wire.notes = vec!["There is no dpdk-testpmd: install dpdk.".to_owned()];
        wire.rates.retain(|rate| rate.program != Program::Testpmd);
        let name = "rate to 5tswap, memif, FULLNAT IPv4 UDP, 1k flows";
        let reason = "There is no dpdk-testpmd: install dpdk.";
        assert_eq!(line(&parts, name), format!("target {name}: not measured (goal 0.55): {reason}"));

        let scenarios = &mut parts.synthetic.as_mut().unwrap().scenarios;
        *scenarios = Scenarios {
            notes: vec!["There is 1 CPU for workers.".to_owned()],
            failures: vec!["Listing connections failed: no answer.".to_owned()],
            ..Scenarios::default()
        };
        let name = "rate of two workers to one, FULLNAT IPv4 UDP, 1M flows";
        assert_eq!(line(&parts, name), format!("target {name}: not measured (goal 1.9): There is 1 CPU for workers."));
        let listing = line(&parts, "slowdown while connections are counted, FULLNAT IPv4 UDP");
        assert!(listing.ends_with(": not measured (goal 2 %): Listing connections failed: no answer."), "{listing}");

        let none = Parts { synthetic: None, wire: None, ..fixture::parts() };
        let targets = judge(&none);
        assert_eq!(targets.len(), judge(&parts).len());
        for target in targets {
            let line = target.line();
            assert!(line.contains(": not measured (goal ") && line.contains("this part was not run"), "{line}");
        }
    }
}
