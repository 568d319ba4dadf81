//! Errors as the API returns them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of error, and with it the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is malformed or a value is out of range (400).
    Invalid,
    /// The peer may not do this (403).
    Forbidden,
    /// The service, server or address does not exist (404).
    NotFound,
    /// The service, server or address exists already (409).
    Exists,
    /// The resource is no longer as the request's `If-Match` says (412).
    PreconditionFailed,
    /// A configured limit is reached (409).
    Full,
    /// The daemon cannot do this now (503).
    Unavailable,
    /// A fault of the daemon (500).
    Internal,
}

/// An error with the place it is about and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of error.
    pub kind: ErrorKind,
    /// What is wrong, with the value and the remedy, in one line.
    pub message: String,
    /// Where in the request: a JSON path such as `servers[1].weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}
