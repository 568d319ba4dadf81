//! How servers do, by their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Not known yet: no check has come to a result.
    Unknown,
    /// It works.
    Up,
    /// It does not.
    Down,
}

impl HealthState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            HealthState::Unknown => "unknown",
            HealthState::Up => "up",
            HealthState::Down => "down",
        }
    }
}

/// State of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// Not known yet: some check has not come to a result.
    Unknown,
    /// It works.
    Up,
    /// A check finds that it does not.
    Down,
    /// No check finds anything wrong, but too many connections to it failed.
    Ejected,
}

impl ServerState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Unknown => "unknown",
            ServerState::Up => "up",
            ServerState::Down => "down",
            ServerState::Ejected => "ejected",
        }
    }
}

/// A server by its checks and by what becomes of its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerHealthStatus {
    /// Its state: down if a check is, else ejected if it is, up if all checks are.
    pub state: ServerState,
    /// Seconds in this state.
    pub seconds: u64,
    /// Its checks.
    pub checks: Vec<CheckStatus>,
    /// What becomes of its connections, if that is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveStatus>,
}

/// What becomes of a server's connections. Failures of all kinds are told, those too that the service does not have count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassiveStatus {
    /// Connections that the server answered in this interval.
    pub answered: u64,
    /// Connections that it refused in this interval.
    pub refused: u64,
    /// Connections that it did not answer in this interval.
    pub timed_out: u64,
    /// Connections in this interval for which it could not be reached.
    pub unreachable: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// Why it was ejected last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_seconds: Option<u64>,
    /// Seconds until it returns, while it is ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns_in: Option<u64>,
}

/// A check of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckStatus {
    /// What is done, e.g. `http 10.0.0.1:80/healthz`.
    pub check: String,
    /// Its state.
    pub state: HealthState,
    /// Seconds in this state.
    pub seconds: u64,
    /// Runs since it began.
    pub runs: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How long the last run took, in microseconds.
    pub duration_us: u64,
    /// Why a run failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_seconds: Option<u64>,
    /// Weight that an external program gave the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Whether a service has the servers it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuorumStatus {
    /// Whether it has.
    pub reached: bool,
    /// Seconds since that changed.
    pub seconds: u64,
    /// Total weight of its servers that are up.
    pub weight: u64,
}
