//! The way of nearly every packet: it belongs to a connection and changes nothing of it but counters and the time that
//! it was last seen.

use proto::checksum::Delta;
use proto::{ethernet, udp};

use crate::PortId;
use crate::conn::ConnFlags;
use crate::forward::{nat, tun};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Met, Pipeline};
use crate::snapshot::{ForwardMode, Snapshot};
use crate::way::address_frame;

const L3: usize = ethernet::HEADER_LEN;

impl<Io: WorkerIo> Pipeline<Io> {
    /// Makes a packet ready to be sent and returns where, if this is all there is to do. Otherwise it is as it was: the
    /// long way does the same for every packet, and all that is rare.
    #[inline(always)]
    pub(crate) fn forward_established<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        packet: &mut Io::Packet,
        met: &Met<A>,
    ) -> Option<PortId> {
        let ip = &met.ip;
        let (conn, side) = A::table(&mut self.tables).get_by(met.candidate, met.hash, &ip.tuple)?;
        let is_known = conn.epoch == snapshot.epoch() && conn.state.stays_with(ip.flags);
        if !is_known || conn.flags.intersects(ConnFlags::NOT_PLAIN) || !ip.is_plain() || ip.ttl <= 1 {
            return None;
        }
        let adjacency = snapshot.fib.get(conn.way(side))?;
        let overhead = if conn.mode == ForwardMode::Tunnel { A::HEADER_LEN as u16 } else { 0 };
        if u32::from(ip.len) + u32::from(overhead) > u32::from(adjacency.mtu) {
            return None;
        }
        if conn.mode == ForwardMode::Tunnel {
            let id = self.ip_id.wrapping_add(self.shared.limits.workers as u32);
            if !tun::encapsulate(packet, ip.len, conn.laddr, conn.daddr, id as u16) {
                return None;
            }
            self.ip_id = id;
        }
        let frame = packet.data_mut();
        // Checked once, here; it is always so.
        if frame.len() < L3 + A::HEADER_LEN + udp::HEADER_LEN {
            return None;
        }
        match conn.mode {
            ForwardMode::Nat | ForwardMode::FullNat => {
                nat::forward(frame, L3, L3 + A::HEADER_LEN, &conn.translated(side));
            }
            ForwardMode::DirectRouting => A::decrement_ttl(&mut frame[L3..], Delta::ZERO),
            ForwardMode::Tunnel => {}
        }
        address_frame(frame, &adjacency.dst_mac, &adjacency.src_mac);
        conn.touch(self.now);
        let server = conn.server;
        self.counters().server(server).count(side, ip.len);
        Some(adjacency.port)
    }
}
