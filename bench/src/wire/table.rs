//! Rows for people, while it is measured.

use super::result::{Latency, NewConnections, Rate, Verification, Verified, WireResults, Wiring, Workload};
use crate::stats::Spread;

/// Prints the rows of a group.
pub fn rows(results: &WireResults) {
    results.rates.iter().for_each(|row| println!("{}", rate(row)));
    results.latencies.iter().for_each(|row| println!("{}", latency(row)));
    results.connections.iter().for_each(|row| println!("{}", connections(row)));
}

/// Prints the outcome of passes in which every packet was checked.
pub fn verified(rows: &[Verified]) {
    for row in rows {
        println!(
            "checked: {}: {} sent at {} Mpps, {} lost, {}",
            workload(&row.workload),
            row.sent,
            row.offered_mpps,
            row.lost,
            verdict(&row.verification)
        );
    }
}

/// Prints what the reader must know.
pub fn notes(results: &WireResults) {
    results.notes.iter().for_each(|note| println!("note: {note}"));
}

fn rate(row: &Rate) -> String {
    let wiring = match row.wiring {
        Wiring::Memif => "memif",
        Wiring::ZeroWire => "zero-wire",
    };
    let mut line =
        format!("{wiring}: {}: {} Mpps, {} ns", workload(&row.workload), spread(row.mpps, 2), spread(row.ns, 1));
    if let Some(loss) = row.loss {
        line += &format!(", {:.3} % lost", 100.0 * loss);
    }
    if !row.idle_runs.is_empty() {
        let percent = Spread::of(row.idle_runs.clone()).scaled(100.0);
        line += &format!(", generator waits {} %", spread(percent, 0));
        line += &format!(", core to core {} ns", spread(Spread::of(row.core_to_core_ns_runs.clone()), 0));
    }
    if let Some(verification) = &row.verification {
        line += &format!(", {}", verdict(verification));
    }
    line
}

fn latency(row: &Latency) -> String {
    format!(
        "latency: {} at {:.0} %, {:.2} of {:.2} Mpps: p50 {}, p99 {}, p99.9 {}, largest {:.0} us, {} of {} lost",
        workload(&row.workload),
        100.0 * row.load,
        row.achieved_mpps,
        row.offered_mpps,
        spread(row.p50, 1),
        spread(row.p99, 1),
        spread(row.p999, 1),
        row.max,
        row.lost,
        row.sent
    )
}

fn connections(row: &NewConnections) -> String {
    format!(
        "new connections, {}: {}: {} M/s, {:.3} % incomplete",
        row.kind,
        workload(&row.workload),
        spread(row.million_per_s, 2),
        100.0 * row.loss
    )
}

fn workload(w: &Workload) -> String {
    format!("{} {} {} {} {} bytes {} flows {}", w.mode, w.way, w.family, w.protocol, w.length, w.flows, w.choice)
}

/// The outcome of checks, in words.
pub fn verdict(verification: &Verification) -> String {
    let Verification { checked, wrong, duplicated, reordered, example } = verification;
    if verification.is_clean() {
        return format!("{checked} checked and right");
    }
    let example = example.as_deref().unwrap_or("nothing wrong in itself");
    format!("of {checked} checked {wrong} WRONG, {duplicated} duplicated, {reordered} reordered: {example}")
}

fn spread(spread: Spread, digits: usize) -> String {
    format!("{:.digits$} [{:.digits$}-{:.digits$}]", spread.median, spread.min, spread.max)
}
