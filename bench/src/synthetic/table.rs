//! Tables for people.

use super::connect::Connections;
use super::measure::{Measured, count};

/// The header of the table of [`row`]s.
pub const HEADER: &str = "\
| mode | way | family | proto | flows | bytes | source ns | swap ns | director ns | Mpps | Gbit/s | **cost above swap, ns** | cycles |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// A case in the table.
pub fn row(m: &Measured, ghz: f64) -> String {
    let mut flows = count(m.flows);
    if m.choice != "uniform" {
        flows = format!("{flows} {}", m.choice);
    }
    if m.services != 1 {
        flows = format!("{flows}, {} services", count(m.services));
    }
    let bytes = m.wire_len.to_string();
    let mpps = m.director.reciprocal(1000.0 * ghz);
    format!(
        "| {} | {} | {} | {} | {flows} | {} | {:.1} | {:.1} | {} | {} | {:.1} | **{}** | {:.0} |",
        m.mode,
        m.way,
        m.family,
        m.protocol,
        if m.length == "IMIX" { &m.length } else { &bytes },
        m.bare.median / ghz,
        m.swap.median / ghz,
        m.director.scaled(1.0 / ghz).text(1),
        mpps.text(1),
        mpps.median * m.wire_len as f64 * 8.0 / 1000.0,
        m.cost.scaled(1.0 / ghz).text(1),
        m.cost.median,
    )
}

/// New connections, a line each.
pub fn connection_lines(connections: &[Connections], ghz: f64) -> Vec<String> {
    let line = |c: &Connections| {
        format!(
            "new TCP connections, FULLNAT {}: {} ns each, {:.2} M/s (source alone {:.1} ns); {} live, {} in balance; {}",
            c.family,
            c.total.scaled(1.0 / ghz).text(1),
            1000.0 * ghz / c.total.median,
            c.bare.median / ghz,
            c.live,
            c.in_balance,
            c.losses.as_deref().unwrap_or("no drops"),
        )
    };
    connections.iter().map(line).collect()
}
