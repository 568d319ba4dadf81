//! Tables for people.

use super::connect::Connections;
use super::measure::{Measured, count};
use crate::stats::Spread;

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
    let bytes = m.wire_len.to_string();
    format!(
        "| {} | {} | {} | {} | {flows} | {} | {:.1} | {:.1} | {} | {:.1} | **{}** | {:.0} |",
        m.mode,
        m.way,
        m.family,
        m.protocol,
        if m.length == "IMIX" { &m.length } else { &bytes },
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
