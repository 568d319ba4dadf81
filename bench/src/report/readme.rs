//! The latest results in a README.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Parts;
use super::markdown::{table, targets_table};
use super::plots::MODES;
use super::targets::Target;
use crate::synthetic::count;

const BEGIN: &str = "<!-- results: begin (written by bench/run.sh --readme) -->\n";
const END: &str = "<!-- results: end -->\n";

/// What is shown. `link` is the path of the results' files without what distinguishes them.
pub fn section(parts: &Parts, targets: &[Target], link: &str) -> String {
    let facts = &parts.facts;
    let mut text = format!(
        "Measured on {} on {} CPUs, {} ({}), TSC {:.1} GHz, {}, Linux {}; medians.\n",
        facts.date, facts.cpus, facts.cpu, facts.cpu_model, facts.tsc_ghz, facts.dpdk, facts.kernel
    );
    let costs = costs(parts);
    if !costs.is_empty() {
        text += "\nCost above the swap in nanoseconds, UDP over IPv4, 64 bytes, client to server:\n\n";
        let header = ["flows"].into_iter().chain(MODES).collect::<Vec<_>>();
        text += &table(&header, &costs);
    }
    for (plot, _) in super::plots::plots(parts) {
        text += &format!("\n![{plot}]({link}-{plot}.svg)\n");
    }
    text += &format!(
        "\n{}\nAll figures, with the smallest and the largest of the rounds: [{link}.md]({link}.md).\n",
        targets_table(targets, false)
    );
    text
}

/// By number of flows and mode.
fn costs(parts: &Parts) -> Vec<Vec<String>> {
    let forwarding = parts.synthetic.iter().flat_map(|synthetic| &synthetic.forwarding);
    let plain = forwarding.filter(|m| m.is_plain() && (&*m.family, &*m.protocol, &*m.way) == ("IPv4", "UDP", "in"));
    let plain: Vec<_> = plain.collect();
    let mut flows: Vec<u32> = plain.iter().map(|m| m.flows).collect();
    flows.sort_unstable();
    flows.dedup();
    let row = |flows: u32| {
        let cost = |mode: &str| {
            let measured = plain.iter().find(|m| m.mode == mode && m.flows == flows);
            measured.map_or(String::new(), |m| format!("{:.1}", m.cost.median / parts.facts.tsc_ghz))
        };
        [count(flows)].into_iter().chain(MODES.map(cost)).collect()
    };
    flows.into_iter().map(row).collect()
}

/// Puts a section between the marks of a file.
pub fn update(path: &Path, section: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = replaced(&text, section).with_context(|| format!("{} lacks the marks for results", path.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let readme = format!("# dpvs\n{BEGIN}old\nresults\n{END}more\n");
        let once = replaced(&readme, "new\n").unwrap();
        assert_eq!(once, format!("# dpvs\n{BEGIN}\nnew\n\n{END}more\n"));
        assert_eq!(replaced(&once, "new\n"), Some(once));
        assert_eq!(replaced("# dpvs\n", "new\n"), None);
        assert_eq!(replaced(&format!("{END}{BEGIN}"), "new\n"), None);
    }
}
