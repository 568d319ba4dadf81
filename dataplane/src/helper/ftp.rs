//! FTP (ip_vs_ftp.c). The data connections of a control connection go to its server.
//!
//! * Passive: the server's reply names its own address. The client is told the virtual one, with the server's port if that
//!   is free, and its data connection is expected from any port.
//! * Active: the server connects to the endpoint that the client names. In NAT mode that is the client's own, and the
//!   connection, from the port below that of the control connection, gets the virtual address as its source. In FULLNAT mode
//!   the server knows the client by a local address only: it is told a local endpoint, and may come from any port.

use std::net::IpAddr;

use proto::state::State;
use proto::tcp;

use super::splice::{MAX_LEN, splice};
use super::text::{Mention, Request, reply, request};
use super::{AnnounceError, Expected, OTHER_PORTS, PORT_ATTEMPTS, data_connection};
use crate::conn::{Conn, ConnId, Side};
use crate::icmp::IcmpError;
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// What is remembered of a control connection.
#[derive(Clone, Debug)]
pub struct Ftp {
    /// Of the service.
    local_ports: (u16, u16),
    /// The client has asked for passive mode and had no answer yet.
    is_asked: bool,
    /// By side: the sequence number of the last line with an endpoint, and the port that it was given.
    last: [Option<(u32, u16)>; 2],
}

impl Ftp {
    /// For a control connection of a service whose local ports are these, first and last.
    pub fn new(local_ports: (u16, u16)) -> Self {
        Self { local_ports, is_asked: false, last: [None; 2] }
    }

    /// First and last local port of the service.
    pub(super) fn local_ports(&self) -> (u16, u16) {
        self.local_ports
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Reads what a control connection says, expects the connection that it announces, and rewrites the endpoint. The
    /// sequence numbers of the segment are still the sender's. `mtu` is what fits its way out.
    pub(crate) fn help_ftp<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        side: Side,
        mtu: u16,
    ) -> Result<(), Verdict> {
        let table = A::table(&mut self.tables);
        let conn = table.get(id).clone();
        let Some(ftp) = table.extra_mut(id).and_then(|extra| extra.ftp.as_mut()) else { return Ok(()) };
        let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
        let segment = &job.packet.data()[l4..l3 + usize::from(job.ip.len)];
        let Ok(view) = tcp::Tcp::new_checked(segment) else { return Ok(()) };
        let (header_len, seq, data) = (view.header_len(), view.seq(), view.payload());
        if conn.state != State::Established || data.is_empty() || data.len() > MAX_LEN {
            return Ok(());
        }
        let (mention, before) = match side {
            Side::Inbound => match request(data) {
                None => return Ok(()),
                Some(Request::Passive) => {
                    ftp.is_asked = true;
                    return Ok(());
                }
                Some(Request::Active(mention)) => {
                    ftp.is_asked = false;
                    (mention, ftp.last[0])
                }
            },
            Side::Outbound => match reply(data) {
                Some(mention) => (mention, ftp.last[1]),
                None => return Ok(()),
            },
        };
        let is_asked = ftp.is_asked;
        let line = seq.wrapping_add(mention.line as u32);
        let known = before.filter(|(number, _)| *number == line).map(|(_, port)| port);
        let (addr, port) = match (side, known) {
            (Side::Inbound, _) if conn.mode == ForwardMode::Nat => {
                if known.is_none() {
                    self.expect_active(snapshot, id, &conn, &mention)?;
                }
                self.remember::<A>(id, side, line, mention.port);
                return Ok(());
            }
            (Side::Inbound, Some(port)) => (conn.laddr, port),
            (Side::Inbound, None) => match self.expect_active(snapshot, id, &conn, &mention)? {
                Some(port) => (conn.laddr, port),
                None => return Ok(()),
            },
            (Side::Outbound, Some(port)) => (conn.vaddr, port),
            (Side::Outbound, None) if !is_asked => return Ok(()),
            (Side::Outbound, None) => (conn.vaddr, self.expect_passive(snapshot, id, &conn, &mention)?),
        };
        self.remember::<A>(id, side, line, port);
        self.rewrite(snapshot, job, id, side, Edit { mention, header_len, line, addr: addr.into(), port, mtu })
    }

    fn remember<A: Ip>(&mut self, id: ConnId, side: Side, line: u32, port: u16) {
        if let Some(ftp) = A::table(&mut self.tables).extra_mut(id).and_then(|extra| extra.ftp.as_mut()) {
            ftp.last[side as usize] = Some((line, port));
            ftp.is_asked &= side == Side::Inbound;
        }
    }

    /// Expects the client's connection to the endpoint that the server names; returns the virtual port.
    fn expect_passive<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        id: ConnId,
        control: &Conn<A>,
        mention: &Mention,
    ) -> Result<u16, Verdict> {
        let others = self.helpers.ports(OTHER_PORTS, PORT_ATTEMPTS);
        for vport in std::iter::once(mention.port).chain(others) {
            // The server's side is not known in FULLNAT mode; what stands there belongs to nobody.
            let conn = Conn {
                cport: 0,
                vport,
                dport: mention.port,
                laddr: control.caddr,
                lport: 0,
                ..data_connection(control)
            };
            let to_server = Expected { tuple: conn.inbound(), is_certain: false };
            let from_server = Expected { tuple: conn.outbound(), is_certain: true };
            let expected = [to_server, from_server];
            let known = if control.mode == ForwardMode::FullNat { 1 } else { 2 };
            match self.announce(snapshot, id, conn, &expected[..known], true) {
                Ok(_) => return Ok(vport),
                Err(AnnounceError::Taken) => {}
                Err(AnnounceError::Full) => break,
            }
        }
        Err(Verdict::Drop(DropReason::HelperFull))
    }

    /// Expects the server's connection to the endpoint that the client names; returns the local port that the server
    /// knows it by, or `None` if there is nothing to expect.
    fn expect_active<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        id: ConnId,
        control: &Conn<A>,
        mention: &Mention,
    ) -> Result<Option<u16>, Verdict> {
        let Some(caddr) = mention.addr.and_then(A::from_ip) else { return Ok(None) };
        let (Some(vport), Some(dport)) = (control.vport.checked_sub(1), control.dport.checked_sub(1)) else {
            return Ok(None);
        };
        let conn = Conn { caddr, cport: mention.port, vport, dport, ..data_connection(control) };
        if vport == 0 || dport == 0 {
            return Ok(None);
        }
        if control.mode == ForwardMode::Nat {
            let conn = Conn { laddr: caddr, lport: mention.port, ..conn };
            let expected = [conn.inbound(), conn.outbound()].map(|tuple| Expected { tuple, is_certain: true });
            return match self.announce(snapshot, id, conn, &expected, false) {
                // If it exists, it is under way.
                Ok(_) | Err(AnnounceError::Taken) => Ok(Some(mention.port)),
                Err(AnnounceError::Full) => Err(Verdict::Drop(DropReason::HelperFull)),
            };
        }
        // A server checks that a client names no address but its own; here that is for the director to do.
        if caddr != control.caddr {
            return Ok(None);
        }
        let local_ports = self.local_ports::<A>(id);
        for lport in self.helpers.ports(local_ports, PORT_ATTEMPTS * self.shared.limits.workers) {
            let from_port_below = Conn { lport, ..conn.clone() }.outbound();
            if !self.owns(&from_port_below) {
                continue;
            }
            let conn = Conn { lport, dport: 0, ..conn.clone() };
            let to_server = Expected { tuple: conn.inbound(), is_certain: true };
            let from_server = Expected { tuple: conn.outbound(), is_certain: false };
            match self.announce(snapshot, id, conn, &[from_server, to_server], true) {
                Ok(_) => return Ok(Some(lport)),
                Err(AnnounceError::Taken) => {}
                Err(AnnounceError::Full) => break,
            }
        }
        Err(Verdict::Drop(DropReason::HelperFull))
    }

    fn local_ports<A: Ip>(&mut self, id: ConnId) -> (u16, u16) {
        let extra = A::table(&mut self.tables).extra(id);
        extra.and_then(|extra| extra.ftp.as_ref()).map_or(OTHER_PORTS, Ftp::local_ports)
    }

    /// Writes another endpoint into the segment.
    fn rewrite<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        side: Side,
        edit: Edit,
    ) -> Result<(), Verdict> {
        let Edit { mention, header_len, line, addr, port, mtu } = edit;
        let Some(text) = mention.text(addr, port) else { return Ok(()) };
        let new_len = usize::from(job.ip.len) + text.len() - mention.place.len();
        if new_len > usize::from(mtu) {
            if !A::may_fragment(&job.packet.data()[job.ip.l3.into()..]) {
                let growth = (new_len - usize::from(job.ip.len)) as u16;
                let error = IcmpError::TooBig(mtu.saturating_sub(growth).max(A::MIN_MTU));
                return Err(self.reject(snapshot, job, error, DropReason::TooBig));
            }
            job.fragment_mtu = Some(mtu);
        }
        // As a whole: a line of which a part is acknowledged is sent again from its beginning.
        let removed = mention.place.end - mention.line;
        let inserted = removed - mention.place.len() + text.len();
        let Some(extra) = A::table(&mut self.tables).extra_mut(id) else { return Ok(()) };
        if removed != inserted && extra.sequence.change(side, line, removed as u16, inserted as u16).is_none() {
            // A retransmission of what has arrived.
            return Ok(());
        }
        match splice(job, header_len + mention.place.start..header_len + mention.place.end, &text) {
            true => Ok(()),
            false => Err(Verdict::Drop(DropReason::NoBuffer)),
        }
    }
}

/// What is written into a segment, and where.
struct Edit {
    mention: Mention,
    header_len: usize,
    /// Sequence number of the line's first byte.
    line: u32,
    addr: IpAddr,
    port: u16,
    mtu: u16,
}
