//! What checks do: one file for each kind of probe.
//!
//! Packets go out through the kernel, by the mirror interfaces, like those of any program; those of a check that is made at
//! the virtual address take a [detour](crate::detour) from there on.

mod dns;
mod external;
mod failure;
mod grpc;
mod http;
mod icmp;
mod ports;
mod smtp;
mod socket;
mod tcp;
mod tls;
mod udp;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use dpvs_api::Probe;
use tokio::time::timeout;

pub(crate) use failure::Failure;
use ports::Ports;
use socket::Stream;
use tls::TlsConfigs;

use super::target::Spec;
use crate::detour::{Detour, Detours};

/// What a successful run says beside that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Success {
    /// The weight that the server is to have.
    pub weight: Option<u32>,
}

/// What all runs share.
#[derive(Default)]
pub(super) struct Tools {
    tls: TlsConfigs,
    detours: Arc<Detours>,
    ports: Ports,
}

impl Tools {
    /// `detours` are those of the thread of the kernel's frames.
    pub fn new(detours: Arc<Detours>) -> Self {
        Self { tls: TlsConfigs::default(), detours, ports: Ports::of_system() }
    }
}

/// A run of a check.
struct Run<'a> {
    spec: &'a Spec,
    tools: &'a Tools,
    /// That of the socket, if the check is made at the virtual address.
    detour: Mutex<Option<Detour>>,
}

/// Runs a check once, within its timeout.
pub(super) async fn run(spec: &Spec, tools: &Tools) -> Result<Success, Failure> {
    let run = &Run { spec, tools, detour: Mutex::new(None) };
    let limit = spec.check.timeout;
    let done = async {
        match &spec.check.probe {
            Probe::Tcp(probe) => tcp::run(run, probe).await?,
            Probe::Http(probe) => http::run(run, probe).await?,
            Probe::Dns(probe) => dns::run(run, probe).await?,
            // It makes use of silence.
            Probe::Udp(probe) => udp::run(run, probe).await?,
            Probe::Icmp(_) => icmp::run(run).await?,
            Probe::Smtp(probe) => smtp::run(run, probe).await?,
            Probe::Grpc(probe) => grpc::run(run, probe).await?,
            Probe::External(probe) => return external::run(spec, probe).await,
        }
        Ok(Success::default())
    };
    let outcome = match timeout(limit.duration(), done).await {
        Ok(outcome) => outcome,
        // No answer is what such a probe hopes for.
        Err(_) if matches!(&spec.check.probe, Probe::Udp(probe) if !probe.require_reply) => Ok(Success::default()),
        Err(_) => Err(Failure::Timeout(limit)),
    };
    let detour = run.detour.lock().unwrap_or_else(PoisonError::into_inner);
    match &*detour {
        Some(detour) if outcome.is_ok() && !detour.was_used() => Err(Failure::Elsewhere(spec.target.ip())),
        _ => outcome,
    }
}
