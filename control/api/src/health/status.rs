//! How servers do, by their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a server or of a check.
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

/// A server by its checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerHealthStatus {
    /// Its state: down if a check is, up if all are.
    pub state: HealthState,
    /// Seconds in this state.
    pub seconds: u64,
    /// Its checks.
    pub checks: Vec<CheckStatus>,
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
