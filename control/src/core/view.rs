//! What the core shows of what it has.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dataplane::PortId;
use dpvs_api::{PortStats, ServerStatus, ServiceId, ServiceStatus, Status};

use super::{Core, Parts, PortFacts, Running};
use crate::metrics::{Extent, Scene, Seen};
use crate::registry::{Entry, Member};
use crate::stats;

impl Core {
    pub(super) fn running(&self) -> Running {
        Running {
            services: self.registry.services().map(|(id, entry)| entry.service(id)).collect(),
            marks: self.registry.marks().to_vec(),
            timeouts: self.registry.timeouts(),
            sysctls: self.registry.sysctls(),
        }
    }

    pub(super) fn scene(&self, extent: Extent) -> Scene {
        let fib = &self.publisher.current().fib;
        Scene {
            shared: Arc::clone(&self.parts.shared),
            seen: Seen::new(&self.registry, &self.health, extent),
            books: self.stats.books(),
            devices: Arc::clone(&self.parts.devices),
            facts: self.parts.facts.clone(),
            control: Arc::clone(&self.metrics),
            publications: self.publications.clone(),
            draining: self.draining,
            routes: (fib.route_count() as u64, fib.neighbour_count() as u64),
        }
    }

    pub(super) fn service(&self, id: ServiceId, entry: &Entry) -> ServiceStatus {
        let now = Instant::now();
        let status = |member: &Member| {
            let (active_connections, inactive_connections) = stats::connections(&self.parts.shared, member.slot);
            let stats = self.stats.server(member.slot);
            let persistent_connections = stats::persistent(&self.parts.shared, member.slot);
            let server = member.server.clone();
            ServerStatus {
                effective_weight: member.effective_weight(),
                health_status: self.health.server_status(id, server.address, now),
                server,
                active_connections,
                inactive_connections,
                persistent_connections,
                stats,
            }
        };
        let counts = self.stats.service_counts(entry.slot());
        ServiceStatus {
            service: entry.without_servers(id),
            server_status: entry.servers().iter().rev().map(status).collect(),
            sorry_server_status: entry.sorry().map(status),
            stats: self.stats.service(entry.slot()),
            no_server: counts.no_server,
            local_port_exhausted: counts.local_port_exhausted,
            client_address_sent: counts.client_address_sent,
            client_address_omitted: counts.client_address_omitted,
            quorum_status: self.health.quorum_status(id, now),
        }
    }

    pub(super) fn ports(&self) -> Vec<PortStats> {
        let port = |(index, facts): (usize, &PortFacts)| {
            let id = PortId(index as u16);
            let traffic = stats::port_traffic(&self.parts.shared, id);
            let device = (self.parts.devices.counters)(id);
            let mac: Vec<String> = facts.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            PortStats {
                name: facts.name.clone(),
                device: facts.device.clone(),
                interface: facts.interface.clone(),
                mac: mac.join(":"),
                queues: facts.queues,
                rx_packets: traffic.rx_packets,
                rx_bytes: traffic.rx_bytes,
                tx_packets: traffic.tx_packets,
                tx_bytes: traffic.tx_bytes,
                rx_missed: device.missed + device.no_buffer,
            }
        };
        self.parts.facts.ports.iter().enumerate().map(port).collect()
    }

    pub(super) fn status(&self) -> Status {
        let Parts { shared, facts, .. } = &self.parts;
        let snapshot = self.publisher.current();
        let hosts = self.registry.marked_hosts().map(|host| SocketAddr::new(host, 0));
        let unanswered: HashSet<SocketAddr> = self
            .registry
            .services()
            .filter_map(|(id, _)| id.address())
            .chain(hosts)
            .filter(|address| !snapshot.fib.is_local(address.ip()))
            .collect();
        let mut unanswered_vips: Vec<SocketAddr> = unanswered.into_iter().collect();
        unanswered_vips.sort_unstable();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: facts.started.elapsed().as_secs(),
            config: facts.config.clone(),
            table_capacity: facts.worker_capacity * shared.workers.len() as u64,
            connections: stats::table_entries(shared),
            template_capacity: shared.templates.capacity() as u64,
            templates: shared.templates.len() as u64,
            services: self.registry.services().len() as u64,
            generation: snapshot.generation,
            socket: facts.socket.clone(),
            draining: self.draining,
            routes: snapshot.fib.route_count() as u64,
            neighbours: snapshot.fib.neighbour_count() as u64,
            dpdk: facts.dpdk.clone(),
            unanswered_vips,
        }
    }
}
