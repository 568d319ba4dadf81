//! TFTP (RFC 1350; IPVS has no helper for it). A server answers a request from another port, which it chooses for the
//! transfer (section 4). The connection of the transfer is expected from that server to the port that the client asked from,
//! and its virtual port is the server's, or another one if the client has a connection to that.

use arrayvec::ArrayVec;
use proto::{Protocol, udp};

use super::{AnnounceError, Expected, OTHER_PORTS, PORT_ATTEMPTS, data_connection};
use crate::conn::{Conn, ConnFlags, ConnId, InsertError, Side};
use crate::directory::{EnterError, Ticket};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// True for a read or write request (RFC 1350 section 5), the payload of a datagram.
fn is_request(payload: &[u8]) -> bool {
    matches!(payload, [0, 1 | 2, ..])
}

/// True for what clients send to a port of TFTP.
#[inline(always)]
pub(super) fn is_for_server<P: PacketBuf, A: Ip>(snapshot: &Snapshot, job: &Job<P, A>, side: Side) -> bool {
    let tuple = &job.ip.tuple;
    side == Side::Inbound
        && tuple.protocol == Protocol::UDP
        && snapshot.settings.helper_ports.tftp.contains(&tuple.dport)
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Expects the server's answer if the datagram is a request. A client that asks again expects one from the port that
    /// comes first.
    pub(super) fn help_tftp<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &Job<Io::Packet, A>,
        id: ConnId,
    ) -> Result<(), Verdict> {
        let control = A::table(&mut self.tables).get(id).clone();
        let payload = job.segment().get(udp::HEADER_LEN..).unwrap_or_default();
        if !control.mode.sees_replies() || control.flags.contains(ConnFlags::FAR) || !is_request(payload) {
            return Ok(());
        }
        let conn = Conn { vport: 0, dport: 0, ..data_connection(&control) };
        let from_server = Expected { tuple: conn.outbound(), is_certain: true };
        match self.announce(snapshot, id, conn, &[from_server], true) {
            Ok(_) | Err(AnnounceError::Taken) => Ok(()),
            Err(AnnounceError::Full) => Err(Verdict::Drop(DropReason::HelperFull)),
        }
    }

    /// Inserts the connection of a transfer, whose server's port is known now, with a virtual port that the client has no
    /// other connection to.
    pub(super) fn insert_with_virtual_port<A: Ip>(
        &mut self,
        conn: &mut Conn<A>,
        tickets: &mut ArrayVec<Ticket, 2>,
        timeout: u32,
    ) -> Result<ConnId, InsertError> {
        let others = self.helpers.ports(OTHER_PORTS, PORT_ATTEMPTS);
        for vport in std::iter::once(conn.dport).chain(others) {
            conn.vport = vport;
            let id = match A::table(&mut self.tables).insert(conn.clone(), timeout, self.now) {
                Ok(id) => id,
                Err(InsertError::Exists) => continue,
                Err(InsertError::Full) => return Err(InsertError::Full),
            };
            if self.shared.limits.workers == 1 {
                return Ok(id);
            }
            let number = self.helpers.next_number();
            let entered = self.shared.directory.enter(&conn.inbound(), self.id, number);
            match entered {
                // The other one is that of the server's packets.
                Ok(ticket) => {
                    tickets.push(ticket);
                    return Ok(id);
                }
                Err(EnterError::Taken) => _ = A::table(&mut self.tables).remove(id),
                Err(EnterError::Full) => {
                    A::table(&mut self.tables).remove(id);
                    return Err(InsertError::Full);
                }
            }
        }
        Err(InsertError::Exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_other_datagrams() {
        assert!(is_request(b"\x00\x01file\x00octet\x00"));
        assert!(is_request(b"\x00\x02file\x00netascii\x00"));
        for other in [&b""[..], b"\x00", b"\x00\x03\x00\x01data", b"\x00\x04\x00\x01", b"\x01\x01"] {
            assert!(!is_request(other), "{other:?}");
        }
    }
}
