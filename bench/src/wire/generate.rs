//! The traffic generator alone, for a device that somebody else has started.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use dataplane::fib::Mac;
use proto::Protocol;

use super::cable::{Generator, Role};
use super::inspect::Treatment;
use super::session::{Case, Length, Session};
use super::{Mode, interrupt, parse_mac};
use crate::facts;

/// What to send.
#[derive(Args, Debug)]
pub struct Arguments {
    /// memif socket
    #[arg(long)]
    socket: PathBuf,
    /// The generator's role
    #[arg(long, value_enum, default_value = "server")]
    role: Role,
    /// Core of the generator
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Forwarding mode of the device
    #[arg(long, value_enum, default_value = "fullnat")]
    mode: Mode,
    /// IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,
    /// TCP instead of UDP
    #[arg(long)]
    tcp: bool,
    /// Length of frames, frame check sequence included; 0: seven of 64, four of 594, one of 1518 in turn
    #[arg(long, default_value_t = 64)]
    length: usize,
    /// Number of flows
    #[arg(long, default_value_t = 1_000)]
    flows: u32,
    /// Choose flows by Zipf's law
    #[arg(long)]
    zipf: bool,
    /// Be the servers, too, and answer
    #[arg(long)]
    both_ways: bool,
    /// Check every packet, at so many million packets per second, instead of a sample at full rate
    #[arg(long)]
    verify: Option<f64>,
    /// Milliseconds
    #[arg(long, default_value_t = 1_000)]
    time: u64,
    /// The device's MAC address; without this it is asked for
    #[arg(long, value_parser = parse_mac)]
    mac: Option<Mac>,
}

/// Connects, sends and prints what came back.
pub fn run(arguments: Arguments) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    interrupt::catch()?;
    let ghz = facts::tsc_ghz();
    let mut generator = Generator::start(arguments.core)?;
    let mut cable = generator.cable(&arguments.socket, arguments.role)?;
    cable.wait(PATIENCE, || Ok(()))?;
    let case = Case {
        both_ways: arguments.both_ways,
        is_v6: arguments.ipv6,
        protocol: if arguments.tcp { Protocol::TCP } else { Protocol::UDP },
        length: if arguments.length == 0 { Length::Imix } else { Length::Fixed(arguments.length.clamp(64, 1518)) },
        is_zipf: arguments.zipf,
        ..Case::basic(arguments.mode.into(), arguments.flows)
    };
    let mac = match arguments.mac {
        Some(mac) => mac,
        None if case.is_v6 => cable.resolve::<Ipv6Addr>(PATIENCE)?,
        None => cable.resolve::<Ipv4Addr>(PATIENCE)?,
    };
    let mut session = Session::new(&mut cable, mac, Treatment::Director { ttl_falls: None }, ghz);
    session.probe(&case, PATIENCE)?;
    session.open(&case)?;
    let time = Duration::from_millis(arguments.time);
    let (rate, sent, lost, verification) = match arguments.verify {
        Some(mpps) => {
            let run = session.verify(&case, mpps, time)?;
            (mpps, run.sent, run.lost, run.verification)
        }
        None => {
            let run = session.rate(&case, time)?;
            (run.traffic.mpps(ghz), run.sent, run.lost, run.verification)
        }
    };
    println!("{}: {rate:.2} Mpps, {sent} sent, {lost} lost, {}", case.name(), super::table::verdict(&verification));
    Ok(())
}
