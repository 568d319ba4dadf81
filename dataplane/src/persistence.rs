//! Connections of persistent services: a client's next connections go to the server of its first
//! (ip_vs_core.c, ip_vs_sched_persist).

use std::net::{IpAddr, Ipv4Addr};

use proto::{Protocol, sip, udp};

use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{Engine, Persistence, Presence, Server, Service, Snapshot};
use crate::templates::{Inserted, Key, Target, TemplateId};
use crate::verdict::DropReason;

/// The port of FTP's control connections.
pub(crate) const FTP: u16 = 21;
/// The port that FTP servers open active data connections from.
pub(crate) const FTP_DATA: u16 = 20;

/// How often a choice is repeated because the server of a template that another worker has just added is gone.
const ATTEMPTS: usize = 4;

impl Persistence {
    /// The client's network.
    fn network<A: Ip>(&self, client: A) -> IpAddr {
        match client.into() {
            IpAddr::V4(client) => IpAddr::V4(Ipv4Addr::from(client.to_bits() & self.mask as u32)),
            IpAddr::V6(client) => IpAddr::V6((client.to_bits() & self.mask).into()),
        }
    }
}

/// What the client's template is found by.
fn key<'a, P: PacketBuf, A: Ip>(
    service: &Service,
    persistence: &Persistence,
    job: &'a Job<P, A>,
) -> Result<Key<'a>, DropReason> {
    let tuple = &job.ip.tuple;
    let call_id = match persistence.engine {
        None => None,
        Some(Engine::Sip) => Some(call_id(job).ok_or(DropReason::NoCallId)?),
    };
    let client = persistence.network(tuple.src);
    // Other ports than the service's own have one template for all, and so have FTP's control and data connections.
    let vport = if tuple.dport == service.key.vport && tuple.dport != FTP { tuple.dport } else { 0 };
    Ok(match service.key.is_fwmark() {
        true => Key { protocol: service.key.protocol, client, vaddr: service.key.vaddr, vport: 0, call_id },
        false => Key { protocol: tuple.protocol, client, vaddr: tuple.dst.into(), vport, call_id },
    })
}

fn call_id<P: PacketBuf, A: Ip>(job: &Job<P, A>) -> Option<&[u8]> {
    if job.ip.tuple.protocol != Protocol::UDP {
        return None;
    }
    let end = usize::from(job.ip.l3) + usize::from(job.ip.len);
    sip::call_id(job.packet.data().get(usize::from(job.ip.l4) + udp::HEADER_LEN..end)?)
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// The server for a packet of a persistent service, and the template that says so, which is held for the connection; none
    /// for the server that says sorry.
    pub(crate) fn pick_persistent<'s, A: Ip>(
        &mut self,
        snapshot: &'s Snapshot,
        service: &'s Service,
        persistence: &Persistence,
        job: &Job<Io::Packet, A>,
    ) -> Result<(&'s Server, Option<TemplateId>), DropReason> {
        let key = key(service, persistence, job)?;
        let shared = std::sync::Arc::clone(&self.shared);
        let templates = &shared.templates;
        let mut found = templates.find(&key, self.now);
        for _ in 0..ATTEMPTS {
            if let Some((id, server)) = found {
                let presence = snapshot.services.presence(server);
                let stays = match presence {
                    Presence::Gone => false,
                    Presence::Quiescent => !snapshot.settings.expire_quiescent_template,
                    Presence::Serving => true,
                };
                if stays && let Some(server) = snapshot.services.server(server) {
                    templates.restart(id, self.now);
                    self.scheduling.remember(&shared, service, server);
                    return Ok((server, Some(id)));
                }
                templates.invalidate(id);
                templates.release(id);
            }
            let server = self.pick_server(snapshot, service, job)?;
            if service.sorry.as_ref().is_some_and(|sorry| sorry.id == server.id) {
                // The client's next connection tries the servers again.
                return Ok((server, None));
            }
            let is_own_port = job.ip.tuple.dport == service.key.vport && job.ip.tuple.dport != FTP;
            let dport = if is_own_port { server.port } else { 0 };
            let target = Target { server: server.id, daddr: server.addr, dport, mode: server.mode };
            match templates.insert(&key, target, persistence.timeout, self.now) {
                Some(Inserted::New(id)) => {
                    self.counters().load(server.id).persistent.add(1);
                    return Ok((server, Some(id)));
                }
                Some(Inserted::Found(id, server)) => found = Some((id, server)),
                None => return Err(DropReason::TemplatesFull),
            }
        }
        Err(DropReason::NoServer)
    }
}
