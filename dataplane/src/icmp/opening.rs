//! Connections that ICMP errors open (`schedule_icmp`; ip_vs_core.c, ip_vs_in_icmp and ip_vs_schedule).
//!
//! The quoted packet is a reply of a virtual service to a client of whom the director knows nothing. Perhaps another
//! director sent the client to its server, in a mode in which replies do not come back, and routers now send what is about
//! them here. The error goes to the server that the client's own packet would go to. With a scheduler that knows clients by
//! their address (`sh`, `mh`, `conhash`), or with templates, that is the right one.

use proto::parse::IpPacket;
use proto::state::State;
use proto::{Protocol, tcp};

use super::{Quote, checksum_is_right, cross, relay};
use crate::conn::{Conn, ConnFlags, Side};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::persistence::{FTP, FTP_DATA};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{Service, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// How long a connection waits for a packet of its own, in seconds (ip_vs_conn.c, ip_vs_conn_new).
const TIMEOUT: u32 = 3;

/// Decides on an error about a packet of no connection.
pub(super) fn receive<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    job: &mut Job<Io::Packet, A>,
    quoted: Quote<A>,
) -> Verdict {
    let tuple = quoted.tuple.reversed();
    // The mark is the error's own.
    let marked = snapshot.services.service_of_mark(&job.ip.tuple, job.ingress);
    let service = marked.or_else(|| snapshot.services.service_at(&tuple));
    let has_ports = matches!(tuple.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
    let Some(service) = service.filter(|_| has_ports && tuple.sport != FTP_DATA) else { return Verdict::Punt };
    let end = usize::from(job.ip.l3) + usize::from(job.ip.len);
    if !checksum_is_right(&job.packet.data()[..end], job.ip.l4.into(), job) {
        return Verdict::Drop(DropReason::BadIcmp);
    }
    if pipeline.defence.drops_packet() {
        return Verdict::Drop(DropReason::DropPacket);
    }
    // For the scheduler this is a packet of the client, of which no more is known than its tuple.
    let arrived = job.ip;
    job.ip = IpPacket { tuple, l4: arrived.l3 + arrived.len, flags: tcp::Flags::default(), ..arrived };
    let opened = open(pipeline, snapshot, service, job);
    job.ip = arrived;
    match opened {
        Ok(conn) if conn.flags.contains(ConnFlags::FAR) => {
            let (table, tuple) = (A::table(&mut pipeline.tables), conn.inbound());
            match table.find(table.hash(&tuple), &tuple) {
                Some((id, _)) => cross::relay_to_server(pipeline, snapshot, job, id, &quoted),
                None => Verdict::Drop(DropReason::ServerGone),
            }
        }
        Ok(conn) => relay(pipeline, snapshot, job, conn, Side::Inbound, quoted),
        // As for other packets, but that nobody is told: no error is sent about an error.
        Err(DropReason::NoServer) if service.key.vport == FTP && tuple.dport != FTP => Verdict::Punt,
        Err(reason) => Verdict::Drop(reason),
    }
}

fn open<Io: WorkerIo, A: Ip>(
    pipeline: &mut Pipeline<Io>,
    snapshot: &Snapshot,
    service: &std::sync::Arc<Service>,
    job: &Job<Io::Packet, A>,
) -> Result<Conn<A>, DropReason> {
    if service.one_packet && job.ip.tuple.protocol == Protocol::UDP {
        return pipeline.assign_once(snapshot, service, job);
    }
    let id = pipeline.schedule(snapshot, service, job)?;
    let table = A::table(&mut pipeline.tables);
    table.set_timeout(id, TIMEOUT, pipeline.now);
    let conn = table.get_mut(id);
    if conn.protocol == Protocol::TCP {
        conn.state = State::None;
    }
    // Its first packet takes the long way, which gives it the timeout of its state.
    conn.epoch = snapshot.epoch().wrapping_sub(1);
    Ok(conn.clone())
}
