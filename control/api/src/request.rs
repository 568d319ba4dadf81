//! Bodies of requests that are no type of their own elsewhere.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source address to add to a service, see [`Operation::AddLocalAddress`](crate::Operation::AddLocalAddress).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLocalAddress {
    /// The local address.
    pub address: IpAddr,
    /// Mirror interface that gets the address if the kernel has it nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}
