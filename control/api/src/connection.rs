//! Connections in listings.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ForwardMode, Protocol};

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// Transport protocol; absent for a persistence template of a firewall mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// State as `ipvsadm -Lc` names it, e.g. `ESTABLISHED`.
    pub state: String,
    /// How packets reach the server.
    pub mode: ForwardMode,
    /// Client.
    pub client: SocketAddr,
    /// Virtual service.
    pub virtual_service: SocketAddr,
    /// What the server sees as its client; the client itself except in FULLNAT mode.
    pub local: SocketAddr,
    /// Real server.
    pub server: SocketAddr,
    /// Seconds until the connection ends if it stays idle.
    pub expires: u32,
    /// Worker that owns it; absent for a persistence template, which all workers share. A template has port 0 for the
    /// client's, and for the virtual service's and the server's if it stands for all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// Call-ID of a persistence template by persistence engine sip; bytes that are not printable ASCII as `\\xHH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
}

/// Part of a listing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionPage {
    /// The connections.
    pub connections: Vec<Connection>,
    /// Pass it as `cursor` to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
