//! The command line of `dpvsd`.

use std::path::PathBuf;

use clap::Parser;

/// Layer-4 load balancer (LVS director) on DPDK
///
/// SIGTERM ends it, after draining if the configuration says so; SIGHUP makes it read its configuration again.
#[derive(Debug, Parser)]
#[command(name = "dpvsd", version)]
pub struct Arguments {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/dpvs/dpvsd.toml")]
    pub config: PathBuf,
    /// Checks the configuration file, says what is wrong with it, and ends
    #[arg(long)]
    pub check: bool,
    /// Prints the JSON Schema of the configuration file, and ends
    #[arg(long, conflicts_with = "check")]
    pub schema: bool,
    /// Further arguments for DPDK's environment abstraction layer
    #[arg(last = true, value_name = "EAL ARGUMENT")]
    pub eal_args: Vec<String>,
}
