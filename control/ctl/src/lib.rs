//! `dpvs-ctl`: dpvsd's own command line, with tables for people and `--json` for programs.
#![forbid(unsafe_code)]

mod change;
mod cli;
mod config;
mod event;
mod filter;
mod import;
mod machine;
mod numbers;
mod run;
mod show;
mod table;

pub use cli::Cli;
pub use run::{Error, run};

use clap::Parser;
use dpvs_client::{Client, ClientError};
use std::io::{self, Write};

/// Exit status of an error, the daemon's or the connection's.
const FAILED: u8 = 1;

/// Runs `dpvs-ctl` as a program. Returns the exit status: 0, 1 for an error of the daemon, 2 for a command line that
/// makes no sense.
pub fn main() -> u8 {
    let cli = Cli::parse();
    let mut output = io::BufWriter::new(io::stdout().lock());
    let result = Client::new(cli.socket.as_deref()).map_err(Error::from).and_then(|client| {
        let done = run(&cli, &client, &mut output);
        // What there is to see comes before the error.
        output.flush()?;
        done
    });
    match result {
        Ok(()) => 0,
        // The reader has seen enough (`dpvs-ctl connections | head`).
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Error::Client(ClientError::Api(error))) if cli.json => {
            eprintln!("{}", serde_json::json!(error));
            FAILED
        }
        Err(Error::Client(ClientError::Config(refusal))) if cli.json => {
            eprintln!("{}", serde_json::json!(refusal));
            FAILED
        }
        // A line for each mistake, as compilers write them.
        Err(Error::Client(ClientError::Config(refusal))) if !refusal.errors.is_empty() => {
            refusal.errors.iter().for_each(|error| eprintln!("{error}"));
            FAILED
        }
        Err(Error::Config(errors)) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            FAILED
        }
        Err(Error::Said(status)) => status,
        Err(error) => {
            eprintln!("dpvs-ctl: {error}");
            FAILED
        }
    }
}
