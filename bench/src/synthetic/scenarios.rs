//! Whole situations that a director gets into.

use std::net::Ipv4Addr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::checks::{self, Checking};
use super::churn::{self, Churn};
use super::fill::{self, Fill};
use super::listing::{self, Listing};
use super::lives::{self, Lives};
use super::replace::{self, Replacement};
use super::scenario::Bench;
use super::workers::{self, Scaling};

/// What each is called on the command line.
pub const NAMES: [&str; 7] = ["workers", "fill", "churn", "lives", "listing", "checks", "replace"];

/// What was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Scenarios {
    /// What was left out and why; a sentence each.
    pub notes: Vec<String>,
    /// What failed and how; a sentence each.
    pub failures: Vec<String>,
    /// Several workers.
    pub workers: Vec<Scaling>,
    /// Filling a table.
    pub fills: Vec<Fill>,
    /// Forwarding beside a constant turnover of connections.
    pub churns: Vec<Churn>,
    /// Whole TCP connections.
    pub lives: Vec<Lives>,
    /// Listing and counting connections.
    pub listings: Vec<Listing>,
    /// Health checks.
    pub checks: Vec<Checking>,
    /// Replacing the configuration.
    pub replacements: Vec<Replacement>,
}

/// About how many seconds they take.
pub fn seconds(full: bool, rounds: usize) -> f64 {
    rounds as f64 * if full { 53.0 } else { 11.0 }
}

impl Scenarios {
    /// For people, a line for each result.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = [&self.notes[..], &self.failures].concat();
        lines.extend(self.workers.iter().map(Scaling::line));
        lines.extend(self.fills.iter().map(Fill::line));
        lines.extend(self.churns.iter().map(Churn::line));
        lines.extend(self.lives.iter().map(Lives::line));
        lines.extend(self.listings.iter().map(Listing::line));
        lines.extend(self.checks.iter().map(Checking::line));
        lines.extend(self.replacements.iter().map(Replacement::line));
        lines
    }

    /// A failure of one scenario does not spoil the others.
    fn or_failure<T>(&mut self, what: &str, outcome: Result<T>) -> Option<T> {
        let failure = |e| {
            let failure = format!("{what} failed: {e:#}.");
            println!("{failure}");
            self.failures.push(failure);
        };
        outcome.map_err(failure).ok()
    }
}

/// Runs all scenarios or one, small or large, and prints a line for each result.
pub fn run(bench: &Bench, full: bool, rounds: usize, only: Option<&str>) -> Scenarios {
    let mut scenarios = Scenarios::default();
    let is_wanted = |name| only.is_none_or(|only| only == name);
    if is_wanted("workers") {
        let cpus = bench.cpus.len();
        let numbers = if cpus > 2 { vec![2, cpus] } else { vec![2] };
        for number in numbers {
            if number > cpus {
                let note = format!("{number} workers were not measured: there is 1 CPU, and each worker needs one.");
                println!("{note}");
                scenarios.notes.push(note);
                continue;
            }
            for flows in [100_000, 1_000_000] {
                let scaling = workers::measure(bench, number, flows, rounds);
                if let Some(scaling) = scenarios.or_failure("Several workers", scaling) {
                    println!("{}", scaling.line());
                    scenarios.workers.push(scaling);
                }
            }
        }
    }
    if is_wanted("fill") {
        let sizes: &[u32] = if full { &[1_000_000, 10_000_000] } else { &[1_000_000] };
        for &size in sizes {
            let fill = fill::measure::<Ipv4Addr>(bench, size, rounds);
            if let Some(fill) = scenarios.or_failure("Filling a table", fill) {
                println!("{}", fill.line());
                scenarios.fills.push(fill);
            }
        }
    }
    if is_wanted("churn") {
        let milliseconds = if full { 400 } else { 150 };
        let churns = churn::measure::<Ipv4Addr>(bench, 1_000_000, rounds, milliseconds);
        scenarios.churns = scenarios.or_failure("Turnover", churns).unwrap_or_default();
        scenarios.churns.iter().for_each(|churn| println!("{}", churn.line()));
    }
    if is_wanted("lives") {
        let lives = lives::measure::<Ipv4Addr>(bench, rounds, if full { 16 } else { 8 });
        if let Some(lives) = scenarios.or_failure("Whole connections", lives) {
            println!("{}", lives.line());
            scenarios.lives.push(lives);
        }
    }
    let has_control_cpu = bench.cpus.len() > 1;
    if !has_control_cpu && (is_wanted("listing") || is_wanted("checks") || is_wanted("replace")) {
        let note = "Listing connections, health checks and replacing the configuration were not measured: there is 1 CPU, and \
                    worker and control thread need one each.";
        println!("{note}");
        scenarios.notes.push(note.to_owned());
    }
    if has_control_cpu && is_wanted("listing") {
        let flows = if full { 10_000_000 } else { 1_000_000 };
        let listing = listing::measure::<Ipv4Addr>(bench, flows, 3 * rounds);
        if let Some(listing) = scenarios.or_failure("Listing connections", listing) {
            println!("{}", listing.line());
            scenarios.listings.push(listing);
        }
    }
    if has_control_cpu && is_wanted("checks") {
        let checking = checks::measure::<Ipv4Addr>(bench, 100_000, rounds);
        if let Some(checking) = scenarios.or_failure("Health checks", checking) {
            println!("{}", checking.line());
            scenarios.checks.push(checking);
        }
    }
    if has_control_cpu && is_wanted("replace") {
        let milliseconds = if full { 2_000 } else { 500 };
        let replacement = replace::measure::<Ipv4Addr>(bench, 10_000, 100_000, rounds, milliseconds);
        if let Some(replacement) = scenarios.or_failure("Replacing the configuration", replacement) {
            println!("{}", replacement.line());
            scenarios.replacements.push(replacement);
        }
    }
    scenarios
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_failure_is_kept_with_its_causes() {
        let mut scenarios = Scenarios::default();
        assert_eq!(scenarios.or_failure("One", Ok(1)), Some(1));
        assert_eq!(scenarios.or_failure::<u32>("Two", Err(anyhow!("no memory")).context("a table")), None);
        assert_eq!(scenarios.lines(), ["Two failed: a table: no memory."]);
    }
}
