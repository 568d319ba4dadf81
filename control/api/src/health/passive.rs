//! Passive health checks: what becomes of clients' connections decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Seconds;

/// How servers of a service are judged by what becomes of clients' connections to them (Envoy's outlier detection, HAProxy's
/// `observe layer4`). A server too many of whose connections fail is ejected: it is down, as if a check had failed, until its
/// time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Passive {
    /// Time over which connections are counted; then the counts begin anew. A server is ejected as soon as they say so.
    pub interval: Seconds,
    /// Failed connections within the interval from which on a server can be ejected, at least 1. It is when none was answered
    /// in between, or when `failure_percent` says so.
    pub error_limit: u32,
    /// Share of failed connections, in percent, among those that were answered or failed within the interval, from which on a
    /// server is ejected although some were answered; 1 to 100.
    pub failure_percent: u32,
    /// Failures that count.
    pub kinds: Vec<FailureKind>,
    /// Time for which a server is ejected first; a further ejection is longer by as much again. Each interval without an
    /// ejection takes one off.
    pub base_ejection_time: Seconds,
    /// Longest time for which a server is ejected; not less than `base_ejection_time`.
    pub max_ejection_time: Seconds,
    /// Largest share of the service's servers, in percent, that is ejected at a time; 1 to 100. One may be ejected
    /// in any case, but with less than 100 never the last one.
    pub max_ejection_percent: u32,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            interval: Seconds::from_millis(10_000),
            error_limit: 5,
            failure_percent: 85,
            kinds: FailureKind::ALL.to_vec(),
            base_ejection_time: Seconds::from_millis(30_000),
            max_ejection_time: Seconds::from_millis(300_000),
            max_ejection_percent: 50,
        }
    }
}

/// How a connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The server refuses it: TCP's reset in answer to the client's SYN, SCTP's ABORT in answer to INIT.
    Refused,
    /// The server does not answer the client's SYN, or INIT, until the client has sent it three times or given up.
    Timeout,
    /// An ICMP error says that the server, or its port, cannot be reached.
    Unreachable,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 3] = [FailureKind::Refused, FailureKind::Timeout, FailureKind::Unreachable];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Refused => "refused",
            FailureKind::Timeout => "timeout",
            FailureKind::Unreachable => "unreachable",
        }
    }
}
