//! `ipvsadm` for dpvsd: the grammar, output and exit codes of ipvsadm 1.31, and the options that DPVS added for
//! FULLNAT, on dpvsd's API. Scripts written for the real one run unchanged.
//!
//! What dpvsd has not got yet (SCTP, sync daemons, ...) is parsed as the real one parses it
//! and then refused by name; nothing is ignored.
//!
//! Where this one differs on purpose: `-R` applies its input whole or not at all; `-r` without a port takes the port of
//! the service also when it stands before `-t`.
//!
//! The expectations in `tests/sessions` were recorded from ipvsadm 1.31 on Linux 6.1.
#![forbid(unsafe_code)]

mod address;
mod arguments;
mod check;
mod command;
mod connections;
mod director;
mod failure;
mod help;
mod list;
mod names;
mod options;
mod restore;
mod rules;
mod run;
mod save;
mod sort;

pub use director::Director;
pub use names::{Names, SystemNames};
pub use rules::{Rule, rules};
pub use run::{Streams, run};

/// Runs `ipvsadm` as a program: arguments, standard streams and the daemon's socket from the environment. Returns the
/// exit status.
pub fn main() -> u8 {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let client = match dpvs_client::Client::new(None) {
        Ok(client) => client,
        Err(error) => {
            eprintln!("{error}");
            return failure::USAGE;
        }
    };
    let (stdin, stdout, stderr) = (std::io::stdin().lock(), std::io::stdout().lock(), std::io::stderr().lock());
    let mut output = std::io::BufWriter::new(stdout);
    let mut streams = Streams { input: Box::new(stdin), output: &mut output, errors: Box::new(stderr) };
    run(&arguments, &mut streams, &client, &SystemNames::default())
}
