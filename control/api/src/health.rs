//! Health checks of real servers, and what follows from them.
//!
//! All times are in seconds, with decimals if need be: `interval = 0.5`.

mod passive;
mod probe;
mod status;
mod value;

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use passive::{FailureKind, Passive};
pub use probe::{
    DnsProbe, DnsRcode, DnsTransport, DnsType, ExternalProbe, GrpcProbe, HttpMethod, HttpProbe, HttpVersion, IcmpProbe,
    Probe, SmtpProbe, TcpProbe, Tls, UdpProbe,
};
pub use status::{CheckStatus, HealthState, PassiveStatus, QuorumStatus, ServerHealthStatus, ServerState};
pub use value::{Digest, Pattern, Payload, Seconds, StatusRange};

/// How the servers of a service are checked, and what happens when checks fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Checks of every server that has none of its own. A server is up while all of its checks are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Judges servers by what becomes of clients' connections; absent: does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
    /// What becomes of a server that is down.
    pub on_failure: OnFailure,
    /// What servers are taken for until their first check has ended.
    pub initially: Initially,
    /// Total weight of servers that are up with which the service works. With less, the sorry server, if there is one,
    /// takes the place of all servers.
    pub quorum: u32,
    /// The quorum is lost below `quorum` - `hysteresis`, and regained at `quorum` + `hysteresis`. Less than the quorum.
    pub hysteresis: u32,
    /// Program that is run when the quorum is reached, with its arguments; empty: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quorum_up: Vec<String>,
    /// Program that is run when the quorum is lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quorum_down: Vec<String>,
    /// Program that is run when a server comes up, for those that have none of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify_up: Vec<String>,
    /// Program that is run when a server goes down, for those that have none of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify_down: Vec<String>,
    /// Time in which a server that came up again gets its full share of new connections; 0: at once.
    pub slow_start: Seconds,
}

impl Default for Health {
    /// No checks; servers are up until they fail, and leave the service then; a quorum of 1.
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            passive: None,
            on_failure: OnFailure::default(),
            initially: Initially::default(),
            quorum: 1,
            hysteresis: 0,
            quorum_up: Vec::new(),
            quorum_down: Vec::new(),
            notify_up: Vec::new(),
            notify_down: Vec::new(),
            slow_start: Seconds::ZERO,
        }
    }
}

/// What a server has of its own in place of its service's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerHealth {
    /// Its checks; an empty list: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<Check>>,
    /// What becomes of it when it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Program that is run when it comes up, with its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify_up: Vec<String>,
    /// Program that is run when it goes down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify_down: Vec<String>,
}

/// What becomes of a server that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It leaves the service as if it was removed; the setting `expire_nodest_conn` says what becomes of its
    /// connections. The default, as in keepalived: nothing waits for a server that does not answer.
    #[default]
    Remove,
    /// Its weight becomes 0: it gets no new connections, and those that exist go on (keepalived's
    /// `inhibit_on_failure`).
    ZeroWeight,
}

/// What a server is taken for until its first check has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Initially {
    /// For one that works.
    #[default]
    Up,
    /// For one that does not (keepalived's `alpha`).
    Down,
}

/// A check of a server. Checks that are the same, of several services, are run once for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is done, and what is expected.
    pub probe: Probe,
    /// From the end of one run to the begin of the next.
    #[serde(default = "defaults::interval")]
    pub interval: Seconds,
    /// A run that takes longer has failed.
    #[serde(default = "defaults::timeout")]
    pub timeout: Seconds,
    /// Consecutive failures after which the check is down.
    #[serde(default = "defaults::fall")]
    pub fall: u32,
    /// Consecutive successes after which it is up again. The first success of a new check counts at once.
    #[serde(default = "defaults::rise")]
    pub rise: u32,
    /// In place of `interval` after a failure of a check that is up; absent: `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_interval: Option<Seconds>,
    /// The first run begins at a random moment within this time, so that many checks do not begin together; absent:
    /// `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Seconds>,
    /// Whose address is checked in modes dr and tun.
    #[serde(default, skip_serializing_if = "Destination::is_service")]
    pub destination: Destination,
    /// Address that is checked, in all modes and in place of both; absent: as `destination` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Port that is checked, at the service's address as well; absent: the server's, or the service's if the server has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source address; absent: as the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Firewall mark of the packets, for the kernel's policy routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
}

impl Check {
    /// A check with the defaults for everything else.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: defaults::interval(),
            timeout: defaults::timeout(),
            fall: defaults::fall(),
            rise: defaults::rise(),
            retry_interval: None,
            warmup: None,
            destination: Destination::default(),
            address: None,
            port: None,
            source: None,
            fwmark: None,
        }
    }
}

/// Whose address a check of a server in mode dr or tun goes to. In other modes it is the server's, and so it is for services
/// of a firewall mark, which have no address, for servers of the other IP version than the service's, and for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// The service's, by the way that clients' packets take to the server: what fails there is seen.
    #[default]
    Service,
    /// The server's own, as in keepalived and ldirectord.
    Server,
}

impl Destination {
    /// True for the default.
    pub fn is_service(&self) -> bool {
        *self == Self::Service
    }
}

mod defaults {
    use super::Seconds;

    pub fn interval() -> Seconds {
        Seconds::from_millis(5000)
    }

    pub fn timeout() -> Seconds {
        Seconds::from_millis(3000)
    }

    pub fn fall() -> u32 {
        3
    }

    pub fn rise() -> u32 {
        2
    }
}

#[cfg(test)]
mod tests;
