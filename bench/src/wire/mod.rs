//! Measures a director in a process of its own: on memif with the traffic generator as its peer, and on a port that repeats
//! a file. Beside it, in turns, `dpdk-testpmd`, which only swaps addresses.

mod cable;
mod core_to_core;
mod dut;
pub mod generate;
mod inspect;
mod interrupt;
mod latency;
mod lives;
mod maker;
mod neighbours;
mod pace;
mod pcap;
mod plan;
mod process;
pub mod result;
mod run;
mod sequence;
mod session;
mod table;
mod tally;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use dataplane::fib::Mac;
use dataplane::snapshot::ForwardMode;

use self::cable::Role;
use self::process::CoresUsed;
use crate::write_json;

/// What to measure.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Measure all combinations instead of those that show the targets
    #[arg(long)]
    full: bool,
    /// Core of the generator, and of everything that is not measured
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// Core of the measured program's worker
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Fresh starts of each program, at least 5 for a result that counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 200)]
    time: u64,
    /// dpvsd; the default is the one beside this program
    #[arg(long)]
    dpvsd: Option<PathBuf>,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// Measure this program instead of dpvsd: a shell command. See bench/README.md for the addresses it must know
    #[arg(long, requires = "socket")]
    dut: Option<String>,
    /// Its memif socket
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Its role
    #[arg(long, value_enum, default_value = "client")]
    dut_role: Role,
    /// Its MAC address; without this it is asked for
    #[arg(long, value_parser = parse_mac)]
    dut_mac: Option<Mac>,
    /// Its forwarding mode
    #[arg(long, value_enum, default_value = "fullnat")]
    dut_mode: Mode,
    /// File to write the result to
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Parts of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Rates, latency and checks with the generator.
    Memif,
    /// Rates on a port that repeats a file.
    ZeroWire,
}

/// Forwarding modes, as they are written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Fullnat,
    Nat,
    Dr,
    Tun,
}

impl From<Mode> for ForwardMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Fullnat => ForwardMode::FullNat,
            Mode::Nat => ForwardMode::Nat,
            Mode::Dr => ForwardMode::DirectRouting,
            Mode::Tun => ForwardMode::Tunnel,
        }
    }
}

fn parse_mac(text: &str) -> Result<Mac, String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "not a MAC address such as 02:00:00:00:00:01".to_owned())
}

/// Measures, prints and writes the result.
pub fn run(arguments: Arguments) -> Result<()> {
    interrupt::catch()?;
    let cpus = std::thread::available_parallelism()?.get();
    anyhow::ensure!(cpus > 1, "two processes need two cores, and this machine has one");
    anyhow::ensure!(nix::unistd::Uid::effective().is_root(), "a network namespace for the director needs root rights");
    let beside = || Ok(std::env::current_exe()?.with_file_name("dpvsd"));
    let dpvsd =
        arguments.dpvsd.clone().map_or_else(beside, anyhow::Ok).context("where is dpvsd? Name it with --dpvsd")?;
    let directory = tempfile::Builder::new().prefix("dpvs-bench-").tempdir()?;
    let bench = dut::Bench {
        directory: directory.path().to_owned(),
        cores: CoresUsed { generator: arguments.generator_core, device: arguments.core },
        dpvsd,
    };
    let results = run::all(&arguments, bench)?;
    arguments.out.map_or(Ok(()), |path| write_json(&path, &results))
}
