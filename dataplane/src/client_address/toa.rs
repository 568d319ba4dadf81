//! The client's address as a TCP option ([`proto::client_address`]).
//!
//! The server's kernel module looks for it in the segment that completes the handshake: the client's first
//! acknowledgement, or data if that is lost or the server defers acceptance until there is some. Every segment from the
//! client has the option, therefore, until the server shows by an answer that its connection exists; from then on the
//! connection takes the short way. The SYN has it, too, where its other options leave room (a fast open is accepted with
//! the SYN), as in DPVS.
//!
//! Room in full segments is made in advance: the client is told of a maximum segment size that is smaller by the option.
//! A segment that has no room all the same goes without: the address is lost then, the connection is not.

use std::net::SocketAddr;

use proto::checksum::Delta;
use proto::client_address::{MAX_OPTION_LEN, option, option_len};
use proto::parse::{Fragment, IpPacket};
use proto::state::State;
use proto::tcp_options;
use proto::{Address, Family, tcp};

use crate::client_address::set_length;
use crate::conn::{Conn, ConnFlags, ConnId};
use crate::cross::room;
use crate::ip::Ip;
use crate::mss::lower_mss;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::Snapshot;
use crate::way::Way;

impl<Io: WorkerIo> Pipeline<Io> {
    /// Does to a client's packet of a connection with the flag [`ConnFlags::TOA`], before it is tracked, what the option
    /// needs.
    #[cold]
    #[inline(never)]
    pub(crate) fn toa_inbound<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        way: Way,
    ) {
        if job.ip.flags.contains(tcp::Flags::RST) {
            return;
        }
        let conn = A::table(&mut self.tables).get_mut(id);
        let client = SocketAddr::new(conn.caddr.into(), conn.cport);
        let counters = snapshot
            .services
            .find(conn.protocol, conn.vaddr, conn.vport)
            .map(|service| self.shared.workers[usize::from(self.id.0)].counters.service(service.id));
        let mtu = room(conn, way, &snapshot.fib).filter(|_| job.fragment_mtu.is_none());
        let has_it = mtu.is_some_and(|mtu| insert(&mut job.packet, &job.ip, mtu, client));
        if let Some(counters) = counters {
            let counter = if has_it { &counters.client_address_sent } else { &counters.client_address_omitted };
            counter.add(1);
        }
    }

    /// The same for a packet of the server, in its IP version.
    #[cold]
    #[inline(never)]
    pub(crate) fn toa_outbound<A: Ip, S: Ip>(&mut self, job: &mut Job<Io::Packet, S>, id: ConnId) {
        let conn = A::table(&mut self.tables).get_mut(id);
        if job.ip.flags.contains(tcp::Flags::SYN) {
            let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
            let end = l3 + usize::from(job.ip.len);
            lower_mss(&mut job.packet.data_mut()[l4..end], option_len(A::FAMILY == Family::V4) as u16);
        } else if shows_that_the_connection_exists(conn) {
            conn.flags.remove(ConnFlags::TOA);
        }
    }
}

/// What a segment from the server that is no SYN tells of its end. Before the client has acknowledged anything, it is the
/// answer of an older connection in TIME_WAIT to the client's SYN.
fn shows_that_the_connection_exists<A: Address>(conn: &Conn<A>) -> bool {
    !matches!(conn.state, State::None | State::SynSent | State::SynRecv | State::SynAck)
}

/// Puts the option in front of a segment's others, where no end of the list precedes it, and returns whether there was
/// room in the header, in `mtu` bytes and in the buffer. The transport checksum is updated, not made anew.
fn insert<A: Ip>(packet: &mut impl PacketBuf, ip: &IpPacket<A>, mtu: u16, client: SocketAddr) -> bool {
    let mut buffer = [0; MAX_OPTION_LEN];
    let option = option(client, &mut buffer);
    let added = option.len() as u16;
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), usize::from(ip.l3) + usize::from(ip.len));
    let options_len = usize::from(packet.data()[l4 + tcp::DATA_OFFSET] >> 4) * 4 - tcp::HEADER_LEN;
    let fits = ip.len.checked_add(added).is_some_and(|len| len <= mtu)
        && options_len + option.len() <= tcp_options::MAX_LEN
        && ip.fragment == Fragment::None;
    if !fits {
        return false;
    }
    packet.truncate(end);
    if !packet.prepend(option.len()) {
        return false;
    }
    let frame = packet.data_mut();
    let place = l4 + tcp::HEADER_LEN;
    frame.copy_within(option.len()..place + option.len(), 0);
    frame[place..place + option.len()].copy_from_slice(option);

    let segment_len = (end - l4) as u16;
    let words = &mut frame[l4 + tcp::DATA_OFFSET..l4 + tcp::DATA_OFFSET + 2];
    let before = [words[0], words[1]];
    words[0] += (option.len() as u8 / 4) << 4;
    let delta = Delta::ZERO
        .replace_bytes(&before, words)
        .replace_bytes(&[0; MAX_OPTION_LEN][..option.len()], option)
        .replace_u16(segment_len, segment_len + added);
    delta.apply_at(frame, l4 + tcp::CHECKSUM);
    set_length::<A>(&mut frame[l3..], ip.len + added);
    true
}
