//! Measures dpvs, and reports what was measured. Each part of the measurement is a subcommand that writes its result to
//! a file; `report` makes one of them.
//!
//! See `bench/README.md` for what the figures mean and how to repeat them.
#![forbid(unsafe_code)]

mod facts;
mod flows;
mod frame;
mod pick;
mod report;
mod stats;
mod synthetic;
mod wire;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

/// Measures dpvs; bench/run.sh does it all.
#[derive(Debug, Parser)]
enum Arguments {
    /// Note what the results depend on besides the program: the machine, the revision
    Facts(facts::Arguments),
    /// Measure the packet path on one core, with packets that are made in the worker's own loop
    Synthetic(synthetic::Arguments),
    /// Measure dpvsd in a process of its own, with a traffic generator and testpmd
    Wire(wire::Arguments),
    /// Send traffic to a device that is running already, and check what comes back
    Generate(wire::generate::Arguments),
    /// Put the results of all parts together and judge them
    Report(report::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Facts(arguments) => facts::run(arguments),
        Arguments::Synthetic(arguments) => synthetic::run(arguments),
        Arguments::Wire(arguments) => wire::run(arguments),
        Arguments::Generate(arguments) => wire::generate::run(arguments),
        Arguments::Report(arguments) => report::run(&arguments),
    }
}

/// Writes a result as JSON.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
