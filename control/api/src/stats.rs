//! Status and statistics.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{QuorumStatus, Server, ServerHealthStatus, Service};

/// Traffic counters. Inbound is client to server; bytes are those of IP packets, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FlowStats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers.
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from servers.
    pub out_bytes: u64,
    /// Connections per second.
    pub cps: u64,
    /// Packets from clients per second.
    pub in_pps: u64,
    /// Packets from servers per second.
    pub out_pps: u64,
    /// Bytes from clients per second.
    pub in_bps: u64,
    /// Bytes from servers per second.
    pub out_bps: u64,
}

/// A real server and how it does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServerStatus {
    /// Its configuration.
    #[serde(flatten)]
    pub server: Server,
    /// Connections in an active state.
    pub active_connections: u64,
    /// Connections in any other state.
    pub inactive_connections: u64,
    /// Persistence templates: clients, or networks of clients, that will come back to it.
    #[serde(default)]
    pub persistent_connections: u64,
    /// Traffic counters.
    pub stats: FlowStats,
    /// Weight in force, which checks may have changed; absent: checks have taken the server out of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_weight: Option<u32>,
    /// How it does by its checks, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_status: Option<ServerHealthStatus>,
}

/// A virtual service and how it does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its configuration, without servers.
    #[serde(flatten)]
    pub service: Service,
    /// Its servers, in list order.
    pub server_status: Vec<ServerStatus>,
    /// Its sorry server, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorry_server_status: Option<ServerStatus>,
    /// Traffic counters, removed servers included.
    pub stats: FlowStats,
    /// New connections dropped because no server took them.
    pub no_server: u64,
    /// New FULLNAT connections dropped because every local port was taken.
    pub local_port_exhausted: u64,
    /// Packets that told the server the client's address; see [`Service::client_address`].
    #[serde(default)]
    pub client_address_sent: u64,
    /// Packets that should have told it and had no room.
    #[serde(default)]
    pub client_address_omitted: u64,
    /// Whether enough servers are up, if any has checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum_status: Option<QuorumStatus>,
}

/// Part of a listing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServicePage {
    /// The services, sorted by protocol, address and port; then those of firewall marks.
    pub services: Vec<ServiceStatus>,
    /// Pass it as `cursor` to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A drop reason's counter, summed over workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropCount {
    /// Short name, e.g. `bad_ip_checksum`.
    pub reason: String,
    /// What it means.
    pub description: String,
    /// Packets since start.
    pub packets: u64,
}

/// What one worker did.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStats {
    /// Index.
    pub worker: usize,
    /// Processor core it is pinned to.
    pub core: usize,
    /// Turns of the poll loop.
    pub polls: u64,
    /// Turns that found packets.
    pub busy_polls: u64,
    /// Packets that turns found: received, passed by other workers, sent by the kernel.
    #[serde(default)]
    pub packets: u64,
    /// Bursts that they came in.
    #[serde(default)]
    pub bursts: u64,
    /// Packets per second; like the next three, of the last seconds.
    #[serde(default)]
    pub pps: u64,
    /// Share of its time, 0 to 1, that it spent on turns that found packets.
    #[serde(default)]
    pub busy_ratio: f64,
    /// Processor cycles (of the time stamp counter) of those turns, for each packet.
    #[serde(default)]
    pub cycles_per_packet: f64,
    /// Packets in a burst, on average.
    #[serde(default)]
    pub packets_per_burst: f64,
    /// Configurations published since the one it uses; 0 but for an instant.
    #[serde(default)]
    pub snapshots_behind: u64,
    /// Connections in its tables.
    pub connections: u64,
    /// Connections its tables can hold, per address family.
    pub capacity: u64,
    /// Packets passed to other workers.
    pub steered: u64,
    /// Packets handed to the kernel.
    pub punted: u64,
    /// ICMP messages originated.
    pub icmp_sent: u64,
    /// Connections that `drop_entry` ended.
    #[serde(default)]
    pub reaped: u64,
    /// Packets put together from fragments.
    pub reassembled: u64,
    /// Drops by reason, zeroes left out.
    pub drops: BTreeMap<String, u64>,
}

/// A DPDK port.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PortStats {
    /// Its name in the configuration.
    pub name: String,
    /// The DPDK device, e.g. `net_tap0` or `0000:3b:00.0`.
    pub device: String,
    /// Its mirror interface in the kernel.
    pub interface: String,
    /// MAC address.
    pub mac: String,
    /// Receive and transmit queues.
    pub queues: usize,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped for want of descriptors or buffers.
    pub rx_missed: u64,
}

/// The daemon as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of dpvsd.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime: u64,
    /// Configuration file in use.
    pub config: String,
    /// Connections the tables can hold, all workers together, per address family.
    pub table_capacity: u64,
    /// Connections in the tables.
    pub connections: u64,
    /// Persistence templates that there can be.
    pub template_capacity: u64,
    /// Persistence templates.
    pub templates: u64,
    /// Virtual services.
    pub services: u64,
    /// Generation of the configuration in force; grows with every change.
    pub generation: u64,
    /// Listening socket of the API.
    pub socket: String,
    /// True while the daemon drains before it stops.
    pub draining: bool,
    /// Addresses of routes, neighbours: how many of each the forwarding table has.
    pub routes: u64,
    /// Usable neighbours.
    pub neighbours: u64,
    /// DPDK's version, e.g. `22.11.4`.
    pub dpdk: String,
    /// Virtual endpoints that are not addresses of this host: their ARP, ND and ping go unanswered.
    pub unanswered_vips: Vec<SocketAddr>,
}
