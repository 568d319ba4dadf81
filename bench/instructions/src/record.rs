//! The record of earlier counts, and how new ones compare with it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// How much more than recorded is accepted, in percent.
const TOLERANCE: f64 = 3.0;
/// The same when the compiler is another than the record's.
const OTHER_COMPILER_TOLERANCE: f64 = 10.0;
const UPDATE: &str = "cargo run --release -p dpvs-instructions -- --record";

/// The result of a scenario.
#[derive(Clone, Debug)]
pub struct Count {
    /// The scenario.
    pub name: String,
    /// Instructions per packet, or per connection that ended.
    pub each: f64,
}

/// Counts that were found acceptable.
#[derive(Debug, Default, Deserialize)]
pub struct Record {
    rustc: String,
    instructions: BTreeMap<String, f64>,
}

impl Record {
    /// A record of these counts.
    pub fn new(rustc: String, counts: &[Count]) -> Self {
        Self { rustc, instructions: counts.iter().map(|count| (count.name.clone(), count.each)).collect() }
    }

    /// The record in a file; an empty one if there is none.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            text => text.map_err(anyhow::Error::from).and_then(|text| Ok(toml::from_str(&text)?)),
        }
        .with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes the record to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!(
            "# Instructions that the packet path takes per packet (\"expiry\": per connection that ended), as valgrind counts.\n\
             # After a change that is meant to be so: {UPDATE}\n\
             rustc = \"{}\"\n\n[instructions]\n",
            self.rustc
        );
        for (name, each) in &self.instructions {
            writeln!(text, "\"{name}\" = {each:.1}")?;
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Compares counts of a program that was built by `rustc`. If they are of all scenarios, none of the record may be
    /// missing.
    pub fn compare(&self, counts: &[Count], rustc: &str, are_all: bool) -> Comparison {
        let tolerance = if self.rustc == rustc { TOLERANCE } else { OTHER_COMPILER_TOLERANCE };
        let rows = counts.iter().map(|count| (count.clone(), self.instructions.get(&count.name).copied())).collect();
        let is_missing = |name: &&String| are_all && counts.iter().all(|count| count.name != **name);
        let missing = self.instructions.keys().filter(is_missing).cloned().collect();
        Comparison { rows, missing, tolerance, compilers: [self.rustc.clone(), rustc.to_owned()] }
    }
}

/// New counts beside the record.
#[derive(Debug)]
pub struct Comparison {
    rows: Vec<(Count, Option<f64>)>,
    /// Names in the record that no scenario has.
    missing: Vec<String>,
    tolerance: f64,
    /// The record's, and the one in use.
    compilers: [String; 2],
}

impl Comparison {
    /// True when no count is above what is accepted, and the record has all scenarios.
    pub fn is_acceptable(&self) -> bool {
        self.missing.is_empty() && self.rows.iter().all(|row| change(row).is_some_and(|c| c <= self.tolerance))
    }
}

/// The difference from the record in percent.
fn change((count, recorded): &(Count, Option<f64>)) -> Option<f64> {
    recorded.map(|recorded| (count.each / recorded - 1.0) * 100.0)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:>12} {:>12} {:>12}", "", "instructions", "recorded", "difference")?;
        for row in &self.rows {
            let (count, recorded) = row;
            write!(f, "{:<24} {:>12.1}", count.name, count.each)?;
            match (recorded, change(row)) {
                (Some(recorded), Some(change)) => writeln!(f, " {recorded:>12.1} {change:>+10.1} %")?,
                _ => writeln!(f, " {:>12}", "none")?,
            }
        }
        let [recorded, used] = &self.compilers;
        if recorded != used {
            let tolerance = self.tolerance;
            writeln!(f, "\nThe record is for rustc {recorded}, this is {used}: differences up to {tolerance} % pass.")?;
        }
        let with = |test: &dyn Fn(f64) -> bool| {
            let line = |row: &(Count, Option<f64>)| {
                let change = change(row).filter(|&change| test(change))?;
                let recorded = row.1.unwrap_or_default();
                Some(format!("  {}: {recorded:.1} became {:.1} ({change:+.1} %)\n", row.0.name, row.0.each))
            };
            self.rows.iter().filter_map(line).collect::<String>()
        };
        let worse = with(&|change| change > self.tolerance);
        if !worse.is_empty() {
            writeln!(f, "\nMore than {} % above the record:\n{worse}", self.tolerance)?;
            writeln!(f, "If the change is worth it, record it: {UPDATE}")?;
        }
        let better = with(&|change| change < -self.tolerance);
        if !better.is_empty() {
            writeln!(f, "\nMore than {} % below the record:\n{better}", self.tolerance)?;
            writeln!(f, "Record it, so that it is not lost again: {UPDATE}")?;
        }
        if !self.missing.is_empty() || self.rows.iter().any(|(_, recorded)| recorded.is_none()) {
            writeln!(f, "\nThe record has other scenarios than there are: {UPDATE}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(each: [f64; 2]) -> Vec<Count> {
        ["a", "b"].into_iter().zip(each).map(|(name, each)| Count { name: name.to_owned(), each }).collect()
    }

    fn record() -> Record {
        Record::new("1.95.0".to_owned(), &counts([100.0, 200.0]))
    }

    #[test]
    fn more_than_the_tolerance_is_refused() {
        let compare = |each, rustc| record().compare(&counts(each), rustc, true);
        assert!(compare([102.9, 205.9], "1.95.0").is_acceptable());
        let worse = compare([100.0, 206.2], "1.95.0");
        assert!(!worse.is_acceptable());
        assert!(worse.to_string().contains("above the record:\n  b: 200.0 became 206.2 (+3.1 %)"), "{worse}");
        let better = compare([96.9, 200.0], "1.95.0");
        assert!(better.is_acceptable());
        assert!(better.to_string().contains("below the record:\n  a: 100.0 became 96.9 (-3.1 %)"), "{better}");
    }

    #[test]
    fn another_compiler_may_differ_more() {
        let compare = |each| record().compare(&counts(each), "1.96.0", true);
        assert!(compare([109.9, 200.0]).is_acceptable());
        assert!(compare([109.9, 200.0]).to_string().contains("for rustc 1.95.0, this is 1.96.0"));
        assert!(!compare([110.1, 200.0]).is_acceptable());
    }

    #[test]
    fn the_record_has_exactly_the_scenarios() {
        let all = counts([100.0, 200.0]);
        assert!(!record().compare(&all[..1], "1.95.0", true).is_acceptable());
        assert!(record().compare(&all[..1], "1.95.0", false).is_acceptable());
        let mut more = all;
        more.push(Count { name: "c".to_owned(), each: 1.0 });
        assert!(!record().compare(&more, "1.95.0", true).is_acceptable());
    }

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        record().write(file.path()).unwrap();
        let read = Record::read(file.path()).unwrap();
        assert_eq!((read.rustc, read.instructions), (record().rustc, record().instructions));
    }
}
