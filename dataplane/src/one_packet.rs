//! One-packet scheduling: every datagram is a connection of its own, which ends as it leaves.
//!
//! As in IPVS (ip_vs_conn.c, IP_VS_CONN_F_ONE_PACKET) nothing is remembered, so a server's connections count while the
//! packet is under way only, that is never between packets, and nothing is translated on the way back: in NAT mode a
//! reply is none of the director's and goes to the kernel, which routes it as it is. FULLNAT would leave the server
//! with nobody to answer to; the control thread refuses it.

use std::sync::Arc;

use crate::conn::{Conn, Side};
use crate::forward::tun::Tunnel;
use crate::ip::Ip;
use crate::packet::WorkerIo;
use crate::pipeline::{Job, Pipeline, readdress_inbound};
use crate::snapshot::{Service, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::way::{Way, fit, send, way_to_server};

impl<Io: WorkerIo> Pipeline<Io> {
    /// Sends a datagram to a server chosen for it alone.
    pub(crate) fn forward_one_packet<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        job: &mut Job<Io::Packet, A>,
    ) -> Result<Verdict, DropReason> {
        let mut conn = self.assign_once(snapshot, service, job)?;
        let way = way_to_server(&mut conn, snapshot, job.hash);
        let tunnel = Tunnel::of(&mut conn, snapshot);
        if let Err((error, reason)) = fit(job, &snapshot.fib, way, Tunnel::overhead(&tunnel)) {
            return Ok(self.reject_aged(snapshot, job, error, reason));
        }
        let Way::Hop(_) = way else { return Err(DropReason::NoRoute) };
        self.counters().server(conn.server).count(Side::Inbound, job.ip.len);
        let ip_id = self.next_ip_id() as u16;
        readdress_inbound(job, &conn, tunnel, ip_id)?;
        Ok(send(&mut job.packet, &snapshot.fib, way, &mut job.waits_for))
    }

    /// Chooses a server for a packet alone: the connection is never in the table.
    #[inline(never)]
    pub(crate) fn assign_once<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        job: &Job<Io::Packet, A>,
    ) -> Result<Conn<A>, DropReason> {
        let (conn, template) = self.assign(snapshot, service, job)?;
        template.inspect(|&template| self.shared.templates.release(template));
        self.counters().load(conn.server).total.add(1);
        Ok(conn)
    }
}
