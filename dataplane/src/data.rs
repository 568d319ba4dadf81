//! What happens to the data of the few connections that are changed on the way, once a packet has been readdressed.

use proto::Protocol;

use crate::conn::{ConnId, Side};
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};

impl<Io: WorkerIo> Pipeline<Io> {
    /// Corrects what earlier changes of the data of a connection of version `A` mean for a packet from `side`, which may be
    /// of another.
    pub(crate) fn adjust_data<A: Ip, S: Ip>(&mut self, job: &mut Job<Io::Packet, S>, id: ConnId, side: Side) {
        let table = A::table(&mut self.tables);
        let sees_replies = table.get(id).mode.sees_replies();
        let Some(extra) = table.extra_mut(id) else { return };
        if sees_replies && job.ip.tuple.protocol == Protocol::TCP {
            let (l4, end) = (usize::from(job.ip.l4), usize::from(job.ip.l3) + usize::from(job.ip.len));
            let segment = &mut job.packet.data_mut()[l4..end];
            if let (Side::Outbound, Some(header)) = (side, &mut extra.proxy) {
                header.meet_answer(segment);
            }
            extra.sequence.adjust(side, segment);
        }
    }
}
