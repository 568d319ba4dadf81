//! Counts the instructions that the packet path takes and compares them with the record, `bench/instructions.toml`.
//!
//! The program runs itself under `valgrind --tool=callgrind`, which counts in [`bed::counted_turn`] only. Nothing in a
//! count depends on the machine's load or speed. See `bench/README.md`.
#![forbid(unsafe_code)]

mod bed;
mod callgrind;
mod frame;
mod record;
mod scenario;
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::record::{Count, Record};
use crate::scenario::Scenario;

/// Counts instructions per packet under valgrind and compares them with the record.
#[derive(Debug, Parser)]
struct Arguments {
    /// Write what was counted into the record: after a change that is meant to be so
    #[arg(long)]
    record: bool,
    /// Only scenarios whose name has all of these words, such as "FULLNAT IPv4 in"
    #[arg(long, default_value = "", conflicts_with = "record")]
    only: String,
    /// Keep the profile of the first of them in this file, for callgrind_annotate
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Run the scenarios in this process, without counting
    #[arg(long)]
    bare: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let scenarios = scenario::all();
    let words: Vec<&str> = arguments.only.split_whitespace().collect();
    let is_chosen = |scenario: &&Scenario| {
        let name = scenario.name();
        words.iter().all(|word| name.split(' ').any(|part| part == *word))
    };
    let scenarios: Vec<&Scenario> = scenarios.iter().filter(is_chosen).collect();
    ensure!(!scenarios.is_empty(), "no scenario has all of the words '{}'", arguments.only);
    if arguments.bare {
        for scenario in scenarios {
            let work = scenario.run().with_context(|| scenario.name())?;
            println!("{work}");
        }
        return Ok(ExitCode::SUCCESS);
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("instructions.toml");
    let record = Record::read(&path)?;
    let counted = callgrind::count(&arguments.only, arguments.profile.as_deref())?;
    ensure!(counted.len() == scenarios.len(), "valgrind counted {} of {} scenarios", counted.len(), scenarios.len());
    let counts: Vec<Count> = scenarios
        .iter()
        .zip(counted)
        .map(|(scenario, (instructions, work))| Count {
            name: scenario.name(),
            each: instructions as f64 / work as f64,
        })
        .collect();
    let rustc = rustc_version()?;
    let comparison = record.compare(&counts, &rustc, words.is_empty());
    print!("{comparison}");
    if arguments.record {
        Record::new(rustc, &counts).write(&path)?;
        println!("written to {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if comparison.is_acceptable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The version of the compiler in use, such as `1.95.0`.
fn rustc_version() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc does not run")?;
    let text = String::from_utf8(output.stdout)?;
    text.split(' ').nth(1).map(str::to_owned).with_context(|| format!("rustc says '{text}'"))
}
