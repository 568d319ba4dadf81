//! `dpvsd`: the layer-4 load balancer's daemon.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use control::config::Config;
use control::daemon::{self, Arguments};

fn main() -> ExitCode {
    let matches = Arguments::command().version(env!("DPVS_VERSION")).get_matches();
    let Arguments { config, check, schema, eal_args } =
        Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
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
            daemon::log::last_words(&error);
            ExitCode::FAILURE
        }
    }
}
