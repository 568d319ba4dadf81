//! ESP and AH: packets without ports, which follow the IKE connection between the same two addresses, as in IPVS
//! (ip_vs_proto_ah_esp.c). The connection is one of a UDP service on port 500, whose client uses port 500 as well; without
//! it the packet is the kernel's. Addresses are all that changes in NAT mode, which AH does not survive.
//!
//! In FULLNAT mode nothing is forwarded: the director would have to tell the clients of one local address apart by what
//! it cannot read.

use proto::{Address, Protocol, Tuple};

use crate::conn::Side;
use crate::ip::Ip;
use crate::packet::WorkerIo;
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::Verdict;

/// The port of IKE (RFC 7296 section 2), which was ISAKMP's.
const IKE: u16 = 500;

/// The tuple by which the connection of a packet is found: its own, but for ESP and AH.
pub(crate) fn connection_tuple<A: Address>(tuple: Tuple<A>) -> Tuple<A> {
    match tuple.protocol {
        Protocol::ESP | Protocol::AH => Tuple { sport: IKE, dport: IKE, protocol: Protocol::UDP, ..tuple },
        _ => tuple,
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Decides on an ESP or AH packet. Fragments have all that is needed.
    pub(crate) fn forward_ipsec<A: Ip>(&mut self, snapshot: &Snapshot, job: &mut Job<Io::Packet, A>) -> Verdict {
        let tuple = connection_tuple(job.ip.tuple);
        let table = A::table(&mut self.tables);
        // By its hash a way is chosen among several: that of the connection.
        job.hash = table.hash(&tuple);
        match table.find(job.hash, &tuple) {
            Some((id, _)) if table.get(id).mode == ForwardMode::FullNat => Verdict::Punt,
            Some((id, Side::Inbound)) => self.inbound(snapshot, job, id),
            Some((id, Side::Outbound)) => self.outbound(snapshot, job, id),
            None => match self.elsewhere(snapshot, &tuple, job.tried) {
                Some(owner) => Verdict::Steer(owner),
                None => Verdict::Punt,
            },
        }
    }
}
