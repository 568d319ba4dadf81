//! What of the services and servers is shown.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::{ServerId as ServerSlot, snapshot};
use dpvs_api::{ForwardMode, ServiceId};

use super::Extent;
use crate::health::{CheckedServer, Monitor};
use crate::registry::{Entry, Member, Registry};

/// Services and servers at the moment.
#[derive(Debug)]
pub struct Seen {
    /// How many services there are.
    pub(super) service_count: usize,
    /// How many servers they have, sorry servers included.
    pub(super) server_count: usize,
    /// Those that are shown. The order never changes, so that it is always the same ones that are left out.
    pub(super) services: Vec<SeenService>,
}

/// A service that is shown.
#[derive(Debug)]
pub(super) struct SeenService {
    /// Its name.
    pub id: ServiceId,
    /// As workers have it.
    pub in_force: Arc<snapshot::Service>,
    /// How many servers it has in the configuration, without the sorry server.
    pub configured_servers: usize,
    /// Whether enough of its servers are up; `None` if nobody looks at them.
    pub has_quorum: Option<bool>,
    /// Its servers that are shown.
    pub servers: Vec<SeenServer>,
}

/// A server that is shown.
#[derive(Debug)]
pub(super) struct SeenServer {
    /// Where it is.
    pub address: SocketAddr,
    /// How packets reach it.
    pub mode: ForwardMode,
    /// Index of its counters.
    pub slot: ServerSlot,
    /// Its weight in the configuration.
    pub configured_weight: u32,
    /// Its weight now; 0 if it is out of the service.
    pub weight: u32,
    /// What its checks and its connections say.
    pub health: Option<CheckedServer>,
}

impl Seen {
    /// Gathers what is shown, and no more: it takes the core's time.
    pub(crate) fn new(registry: &Registry, health: &Monitor, extent: Extent) -> Self {
        let mut room = extent.servers.0;
        let all = registry.services();
        Self {
            service_count: all.len(),
            server_count: registry.server_count(),
            services: all.take(extent.services.0).map(|(id, entry)| service(id, entry, health, &mut room)).collect(),
        }
    }
}

/// A service with up to `room` of its servers.
fn service(id: ServiceId, entry: &Entry, health: &Monitor, room: &mut usize) -> SeenService {
    let server = |member: &Member| SeenServer {
        address: member.server.address,
        mode: member.server.mode,
        slot: member.slot,
        configured_weight: member.server.weight,
        weight: member.effective_weight().unwrap_or(0),
        health: health.checks(id, member.server.address),
    };
    let servers: Vec<SeenServer> = entry.servers().iter().rev().chain(entry.sorry()).take(*room).map(server).collect();
    *room -= servers.len();
    SeenService {
        id,
        in_force: Arc::clone(entry.in_force()),
        configured_servers: entry.servers().len(),
        has_quorum: health.has_quorum(id),
        servers,
    }
}
