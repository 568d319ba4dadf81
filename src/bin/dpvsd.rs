//! `dpvsd`: the layer-4 load balancer's daemon.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::config::Config;
use control::daemon;

/// Layer-4 load balancer (LVS director) on DPDK
///
/// SIGTERM ends it, after draining if the configuration says so; SIGHUP makes it read its configuration again.
#[derive(Debug, Parser)]
#[command(version = env!("DPVS_VERSION"))]
struct Arguments {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/dpvs/dpvsd.toml")]
    config: PathBuf,
    /// Checks the configuration file, says what is wrong with it, and ends
    #[arg(long)]
    check: bool,
    /// Prints the JSON Schema of the configuration file, and ends
    #[arg(long, conflicts_with = "check")]
    schema: bool,
    /// Further arguments for DPDK's environment abstraction layer
    #[arg(last = true, value_name = "EAL ARGUMENT")]
    eal_args: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { config, check, schema, eal_args } = Arguments::parse();
    if schema {
        let written = std::io::stdout().write_all(control::config::schema().as_bytes());
        return written.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if check {
        return match Config::load(&config) {
            // Who reads no output may still want the exit status.
            Ok(_) => {
                let _ = writeln!(std::io::stdout(), "{}: ok", config.display());
                ExitCode::SUCCESS
            }
            Err(errors) => {
                errors.0.iter().for_each(|error| eprintln!("{error}"));
                ExitCode::FAILURE
            }
        };
    }
    match daemon::run(&daemon::Options { config, eal_args }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dpvsd: error: {error}");
            ExitCode::FAILURE
        }
    }
}
