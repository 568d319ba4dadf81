//! Tables for people, in Markdown.

use super::Parts;
use super::targets::{Bound, Target, number};
use crate::synthetic::{count, table};
use crate::wire::result::{Program, Verification, WireResults, Wiring, Workload};

/// All that was measured. `plots` are names of files beside this one.
pub fn report(parts: &Parts, targets: &[Target], plots: &[String]) -> String {
    let facts = &parts.facts;
    let mut text = format!("# Measured on {}\n\n{}.\n\n", facts.date, facts.line());
    text += "Medians over the rounds, with the smallest and the largest. [README.md](../README.md) says what is measured, and how, \
             and where micro benchmarks and instruction counts are.\n";
    plots.iter().for_each(|plot| text += &format!("\n![]({plot})\n"));
    text += "\n## Targets\n\n";
    text += &targets_table(targets, true);
    if let Some(synthetic) = &parts.synthetic {
        text += "\n## Packets made in the worker's own loop\n\n";
        text += &format!("One worker on CPU {}, packets in {}.\n\n", synthetic.core, synthetic.packet_memory);
        text += table::HEADER;
        text += "\n";
        for measured in &synthetic.forwarding {
            text += &format!("{}\n", table::row(measured, facts.tsc_ghz));
        }
        text += "\n";
        let memory = synthetic.memory;
        let mut lines = table::connection_lines(&synthetic.connections, facts.tsc_ghz);
        lines.push(format!(
            "memory of a connection: {:.1} bytes (IPv4), {:.1} bytes (IPv6); of ten million: {:.2} GiB (IPv4)",
            memory.per_connection_v4,
            memory.per_connection_v6,
            memory.ten_million_v4 as f64 / f64::from(1 << 30)
        ));
        lines.extend(synthetic.scenarios.lines());
        lines.iter().for_each(|line| text += &format!("* {line}\n"));
    }
    if let Some(wire) = &parts.wire {
        text += "\n## Director and generator in two processes\n";
        text += &wire_tables(wire);
    }
    text
}

/// The targets and what became of them, with the range of the measurements or without; those that differ in the flows
/// share a row.
pub fn targets_table(targets: &[Target], with_range: bool) -> String {
    let mut rows = Vec::new();
    for group in targets.chunk_by(|a, b| a.title == b.title) {
        // In the order of the flows, or once for all of them.
        let join = |of: &dyn Fn(&Target) -> String| {
            let mut texts: Vec<String> = group.iter().map(of).collect();
            if texts.iter().all(|text| *text == texts[0]) {
                texts.truncate(1);
            }
            texts.join("; ")
        };
        let measured = |target: &Target| {
            let text = target.measured().unwrap_or_else(|| "-".to_owned());
            let range = target.measured.map(|spread| (number(spread.min), number(spread.max)));
            match range.filter(|(min, max)| with_range && min != max) {
                Some((min, max)) => format!("{text} [{min}-{max}]"),
                None => text,
            }
        };
        let mut remarks: Vec<&str> = group.iter().filter_map(|target| target.remark.as_deref()).collect();
        remarks.dedup();
        let verdict = join(&|target| target.verdict().to_owned());
        let side = if group[0].bound == Bound::AtLeast { "≥" } else { "≤" };
        rows.push(vec![
            group[0].title.to_owned(),
            join(&|target| target.flows.map_or(String::new(), count)),
            join(&measured),
            format!("{side} {}", join(&Target::goal)),
            if remarks.is_empty() { verdict } else { format!("{verdict} ({})", remarks.join("; ")) },
        ]);
    }
    table(&["target", "flows", "measured", "goal", "verdict"], &rows)
}

fn wire_tables(wire: &WireResults) -> String {
    let mut text = String::new();
    for (i, note) in wire.notes.iter().enumerate() {
        text += &format!("{}* {note}\n", if i == 0 { "\n" } else { "" });
    }
    let rates = wire.rates.iter().map(|rate| {
        let wiring = match rate.wiring {
            Wiring::Memif => "memif",
            Wiring::ZeroWire => "zero-wire",
        };
        let mut row = vec![wiring.to_owned()];
        row.extend(workload(&rate.program, &rate.workload));
        row.extend([
            rate.mpps.text(2),
            format!("{:.2}", rate.gbps.median),
            rate.ns.text(1),
            format!("{:.0}", rate.ns.median * wire.tsc_ghz),
            rate.loss.map_or("-".to_owned(), percent),
            rate.idle().map_or("-".to_owned(), |idle| format!("{:.0} %", 100.0 * idle)),
            rate.verification.as_ref().map_or("-".to_owned(), verification),
        ]);
        row
    });
    let mut header = vec!["wiring"];
    header.extend(WORKLOAD);
    header.extend(["Mpps", "Gbit/s", "ns", "cycles", "not sent back", "generator waits", "checked packets"]);
    section(&mut text, "Rates", &header, rates.collect());

    let latencies = wire.latencies.iter().map(|l| {
        let mut row = workload(&l.program, &l.workload);
        row.extend([
            format!("{:.0} %", 100.0 * l.load),
            format!("{:.2} of {:.2}", l.achieved_mpps, l.offered_mpps),
            l.p50.text(1),
            l.p99.text(1),
            l.p999.text(1),
            format!("{:.0}", l.max),
            format!("{} of {}", l.lost, l.sent),
        ]);
        row
    });
    let mut header = WORKLOAD.to_vec();
    header.extend(["load", "Mpps sent", "p50 us", "p99 us", "p99.9 us", "largest us", "lost"]);
    section(&mut text, "Latency, there and back", &header, latencies.collect());

    let connections = wire.connections.iter().map(|c| {
        let mut row = workload(&c.program, &c.workload);
        row.extend([c.kind.clone(), c.packets.to_string(), c.million_per_s.text(2), percent(c.loss)]);
        row
    });
    let mut header = WORKLOAD.to_vec();
    header.extend(["what", "packets of each", "million/s", "incomplete"]);
    section(&mut text, "New connections", &header, connections.collect());

    let verified = wire.verified.iter().map(|v| {
        let mut row = workload(&v.program, &v.workload);
        row.extend([
            format!("{:.2}", v.offered_mpps),
            v.sent.to_string(),
            v.lost.to_string(),
            verification(&v.verification),
        ]);
        row
    });
    let mut header = WORKLOAD.to_vec();
    header.extend(["Mpps", "sent", "lost", "checked packets"]);
    section(&mut text, "Passes in which every packet was checked", &header, verified.collect());
    text
}

const WORKLOAD: [&str; 9] = ["program", "mode", "way", "family", "proto", "bytes", "flows", "choice", "workers"];

fn workload(program: &Program, w: &Workload) -> Vec<String> {
    let program = match program {
        Program::Dpvsd => "dpvsd",
        Program::Testpmd => "testpmd",
        Program::External => "other",
    };
    let [mode, way, family, protocol, length] =
        [&w.mode, &w.way, &w.family, &w.protocol, &w.length].map(|s| s.as_str());
    let (flows, workers) = (count(w.flows), w.workers.to_string());
    [program, mode, way, family, protocol, length, &flows, &w.choice, &workers].map(str::to_owned).to_vec()
}

fn verification(v: &Verification) -> String {
    if v.is_clean() {
        return format!("{}: all right", v.checked);
    }
    let example = v.example.as_ref().map_or(String::new(), |example| format!(" ({example})"));
    format!("{}: {} wrong, {} duplicated, {} reordered{example}", v.checked, v.wrong, v.duplicated, v.reordered)
}

fn percent(share: f64) -> String {
    format!("{:.3} %", 100.0 * share)
}

/// A heading and a table, unless there are no rows.
fn section(text: &mut String, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        *text += &format!("\n### {title}\n\n{}", table(header, &rows));
    }
}

/// A table.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.iter().map(|&cell| cell.to_owned()).collect());
    text += &line(header.iter().map(|_| "---".to_owned()).collect());
    for row in rows {
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, targets};
    use super::*;

    #[test]
    fn tables_have_as_many_cells_in_every_row() {
        let parts = fixture::parts();
        let text = report(&parts, &targets::judge(&parts), &["a-flows.svg".to_owned()]);
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut tables = 0;
        for paragraph in text.split("\n\n").filter(|paragraph| paragraph.starts_with('|')) {
            tables += 1;
            assert!(paragraph.lines().count() > 2, "{paragraph}");
            for line in paragraph.lines() {
                assert_eq!(cells(line), cells(paragraph.lines().next().unwrap()), "{line}");
            }
        }
        // Targets, forwarding, rates and latency.
        assert_eq!(tables, 4, "{text}");
        assert!(text.contains("\n![](a-flows.svg)\n"));
    }

    #[test]
    fn targets_that_differ_in_flows_share_a_row() {
        let mut targets = targets::judge(&fixture::parts());
        let text = targets_table(&targets, true);
        for expected in [
            "| rate to 5tswap, memif, FULLNAT IPv4 UDP | 1k; 100k | 0.611; 0.529 | ≥ 0.55; 0.5 | met (the generator waits 25 % \
             of the time for dpvsd, 25 % for testpmd) |",
            "| new TCP connections, FULLNAT IPv4, as many expiring |  | 5.00 M/s [4.76-5.15] | ≥ 4 M/s | met |",
        ] {
            assert!(text.lines().any(|line| line == expected), "{text}");
        }
        targets.retain(|target| target.title.starts_with("cost above 5tswap"));
        let row = "| cost above 5tswap, zero-wire, FULLNAT IPv4 UDP | 1k; 100k; 1M; 10M | 18.04 ns; 25.29 ns; -; - \
                   | ≤ 23 ns; 27 ns; 38 ns; 50 ns | met; met; not measured; not measured (zero-wire has a packet of every flow in \
                   memory; see the cost above swap) |\n";
        assert!(targets_table(&targets, false).ends_with(row), "{}", targets_table(&targets, false));
    }
}
