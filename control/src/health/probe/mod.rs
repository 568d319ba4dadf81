//! What checks do: one file for each kind of probe.
//!
//! Packets go out through the kernel, by the mirror interfaces, like those of any program.

mod dns;
mod external;
mod failure;
mod grpc;
mod http;
mod icmp;
mod smtp;
mod socket;
mod tcp;
mod tls;
mod udp;

#[cfg(test)]
mod tests;

use dpvs_api::Probe;
use tokio::time::timeout;

pub(crate) use failure::Failure;
use socket::Stream;
pub(super) use tls::TlsConfigs;

use super::target::Spec;

/// What a successful run says beside that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Success {
    /// The weight that the server is to have.
    pub weight: Option<u32>,
}

/// Runs a check once, within its timeout.
pub(super) async fn run(spec: &Spec, tls: &TlsConfigs) -> Result<Success, Failure> {
    let limit = spec.check.timeout;
    let done = async {
        match &spec.check.probe {
            Probe::Tcp(probe) => tcp::run(spec, probe, tls).await?,
            Probe::Http(probe) => http::run(spec, probe, tls).await?,
            Probe::Dns(probe) => dns::run(spec, probe).await?,
            // It makes use of silence.
            Probe::Udp(probe) => udp::run(spec, probe).await?,
            Probe::Icmp(_) => icmp::run(spec).await?,
            Probe::Smtp(probe) => smtp::run(spec, probe).await?,
            Probe::Grpc(probe) => grpc::run(spec, probe, tls).await?,
            Probe::External(probe) => return external::run(spec, probe).await,
        }
        Ok(Success::default())
    };
    match timeout(limit.duration(), done).await {
        Ok(outcome) => outcome,
        // No answer is what such a probe hopes for.
        Err(_) if matches!(&spec.check.probe, Probe::Udp(probe) if !probe.require_reply) => Ok(Success::default()),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}
