//! The client's address in a header of the PROXY protocol ([`proto::proxy_protocol`]).
//!
//! TCP: the header stands before the client's first byte, and all that follows has its sequence numbers moved
//! ([`Sequence`](crate::conn::Sequence)). It leaves as soon as possible, as the data of the client's acknowledgement that
//! completes the handshake, because a server that speaks first waits for it. If that segment is lost, the server
//! repeats its SYN, which the client acknowledges again: until the server has acknowledged the header, every segment
//! without data from where the header is takes it along, so that none reaches the server alone. A first segment that has
//! data is preceded by a segment of the director's own, as both together may be too long, if the header has not left yet
//! or the client sends the data a second time. Until the header has arrived no selective acknowledgements reach the
//! client: they would say that data have arrived from where all is missing.
//!
//! Data in a SYN (RFC 7413) are taken out, the header must come first; the client repeats what is not acknowledged.
//!
//! UDP: every datagram begins with a header, as servers look at each by itself.

use std::net::SocketAddr;

use proto::checksum::{Delta, Sum};
use proto::parse::IpPacket;
use proto::proxy_protocol::{self, MAX_LEN, Version};
use proto::state::State;
use proto::tcp::{self, Flags, Tcp};
use proto::tcp_options::{self, SACK};
use proto::{Protocol, ethernet, udp};

use super::{appended, set_length};
use crate::conn::{Conn, ConnFlags, ConnId, Sequence, Side};
use crate::cross::room;
use crate::ip::Ip;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::{Job, Pipeline};
use crate::reassembly::Carrier;
use crate::snapshot::{ForwardMode, Snapshot};
use crate::verdict::DropReason;
use crate::way::{Way, send};

/// A connection's header.
#[derive(Clone, Copy, Debug)]
pub struct ProxyHeader {
    version: Version,
    /// Its length in bytes.
    len: u16,
    stage: Stage,
    /// TCP: sequence number of the client's first byte, before which the header stands.
    start: u32,
    /// TCP: the number behind the client's last byte so far.
    end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No SYN has been seen.
    New,
    /// The header has not left yet.
    Unsent,
    /// It has left at least once.
    Sent,
    /// The server has acknowledged all of it.
    Arrived,
}

/// How a segment takes the header along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carriage {
    No,
    /// As its data.
    AsData,
    /// Behind a segment with the header alone.
    InFront,
}

impl ProxyHeader {
    /// Bytes that a packet of the connection grows by: datagrams all have the header.
    pub(crate) fn overhead(&self, protocol: Protocol) -> u16 {
        if protocol == Protocol::UDP { self.len } else { 0 }
    }

    /// Takes note of a SYN. With another number it opens another connection, unless one is established already: then
    /// the server will say what it thinks of it.
    fn meet_syn(&mut self, seq: u32, state: State, sequence: &mut Sequence) {
        let start = seq.wrapping_add(1);
        if self.stage != Stage::New && (start == self.start || state == State::Established) {
            return;
        }
        *self = Self { stage: Stage::Unsent, start, end: start, ..*self };
        *sequence = Sequence::default();
        // The first change of a connection is always possible.
        let _ = sequence.change(Side::Inbound, start, 0, self.len);
    }

    /// Decides what a segment from the client that is no SYN takes along.
    fn meet_segment(&mut self, segment: &Tcp<&[u8]>) -> Carriage {
        let (seq, flags, len) = (segment.seq(), segment.flags(), segment.payload().len() as u32);
        if matches!(self.stage, Stage::New | Stage::Arrived)
            || !flags.contains(Flags::ACK)
            || flags.contains(Flags::RST)
        {
            return Carriage::No;
        }
        let is_repeated = len > 0 && self.end != self.start;
        let end = seq.wrapping_add(len);
        if end.wrapping_sub(self.end) as i32 > 0 {
            self.end = end;
        }
        match (seq == self.start, len) {
            (false, _) => Carriage::No,
            (true, 0) => Carriage::AsData,
            (true, _) if self.stage == Stage::Unsent || is_repeated => Carriage::InFront,
            (true, _) => Carriage::No,
        }
    }

    /// Takes note of what a segment from the server acknowledges, numbered as the server does.
    pub(crate) fn meet_answer(&mut self, segment: &mut [u8]) {
        let Ok(view) = Tcp::new_checked(&*segment) else { return };
        let (flags, ack) = (view.flags(), view.ack());
        if matches!(self.stage, Stage::New | Stage::Arrived) || !flags.contains(Flags::ACK) {
            return;
        }
        let end = self.start.wrapping_add(self.len.into());
        match ack.wrapping_sub(end) as i32 >= 0 {
            true => self.stage = Stage::Arrived,
            false => blank_option(segment, SACK),
        }
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Has a new connection begin with a header, if it is of a kind that can.
    pub(crate) fn expect_proxy_header<A: Ip>(&mut self, id: ConnId, version: Version) {
        let table = A::table(&mut self.tables);
        let Conn { mode, protocol, .. } = *table.get(id);
        let has_header = protocol == Protocol::TCP || (protocol == Protocol::UDP && version == Version::V2);
        if mode != ForwardMode::FullNat || !has_header {
            return;
        }
        let len = write_header(table.get(id), version, &mut [0; MAX_LEN]).len() as u16;
        table.add_extra(id).proxy = Some(ProxyHeader { version, len, stage: Stage::New, start: 0, end: 0 });
        table.get_mut(id).flags.insert(ConnFlags::LONG_WAY);
    }

    /// Changes the data of a client's packet that has been readdressed: adds the connection's header, if it has one and
    /// this is the place, and corrects what earlier changes mean for it.
    #[inline(always)]
    pub(crate) fn change_inbound<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        way: Way,
    ) -> Result<(), DropReason> {
        let table = A::table(&mut self.tables);
        match table.extra(id).and_then(|extra| extra.proxy) {
            None => self.adjust_data::<A, _>(job, id, Side::Inbound),
            Some(header) => match job.ip.tuple.protocol {
                Protocol::TCP => self.change_segment(snapshot, job, id, way, header)?,
                _ => self.change_datagram(snapshot, job, id, header)?,
            },
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn change_segment<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        way: Way,
        mut header: ProxyHeader,
    ) -> Result<(), DropReason> {
        let table = A::table(&mut self.tables);
        let state = table.get(id).state;
        let (l4, end) = (usize::from(job.ip.l4), usize::from(job.ip.l3) + usize::from(job.ip.len));
        let segment = &job.packet.data()[l4..end];
        let segment = Tcp::new_checked(segment).map_err(DropReason::from)?;
        let header_len = segment.header_len();
        let Some(extra) = table.extra_mut(id) else { return Ok(()) };
        let mut carriage = Carriage::No;
        if segment.flags().contains(Flags::SYN) {
            header.meet_syn(segment.seq(), state, &mut extra.sequence);
            cut_data(&mut job.packet, &mut job.ip, header_len);
        } else if header.stage == Stage::Unsent && segment.flags().contains(Flags::RST) {
            // The server expects this number: it knows of nothing before it.
            return Ok(());
        } else {
            carriage = header.meet_segment(&segment);
        }
        if carriage != Carriage::No {
            header.stage = Stage::Sent;
        }
        self.adjust_data::<A, _>(job, id, Side::Inbound);
        let table = A::table(&mut self.tables);
        if carriage != Carriage::No {
            let mut buffer = [0; MAX_LEN];
            let conn = table.get(id);
            let bytes = write_header(conn, header.version, &mut buffer);
            let mtu = room(conn, way, &snapshot.fib).unwrap_or_default();
            match carriage {
                Carriage::AsData => append(&mut job.packet, &job.ip, header.start, bytes, mtu)?,
                _ => self.send_in_front(snapshot, job, id, way, header_len, header.start, bytes, mtu)?,
            }
            self.count_client_address::<A>(snapshot, id);
        }
        // Only now: a header that could not be sent has not left.
        if let Some(extra) = A::table(&mut self.tables).extra_mut(id) {
            extra.proxy = Some(header);
        }
        Ok(())
    }

    /// Sends a segment of the director's own before the client's, with its headers but no data other than `bytes`.
    #[allow(clippy::too_many_arguments)]
    fn send_in_front<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &Job<Io::Packet, A>,
        id: ConnId,
        way: Way,
        header_len: usize,
        seq: u32,
        bytes: &[u8],
        mtu: u16,
    ) -> Result<(), DropReason> {
        let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
        let headers = l4 + header_len;
        let len = (headers - l3 + bytes.len()) as u16;
        if len > mtu {
            return Err(DropReason::TooBig);
        }
        let mut packet = self.io.allocate().ok_or(DropReason::NoBuffer)?;
        if !packet.append(headers + bytes.len()) {
            return Err(DropReason::NoBuffer);
        }
        let frame = packet.data_mut();
        frame[..headers].copy_from_slice(&job.packet.data()[..headers]);
        frame[headers..].copy_from_slice(bytes);
        set_length::<A>(&mut frame[l3..], len);
        let (ip, segment) = frame.split_at_mut(l4);
        segment[tcp::SEQ..tcp::SEQ + 4].copy_from_slice(&seq.to_be_bytes());
        segment[tcp::FLAGS] = (Flags::ACK | Flags::PSH).0;
        segment[tcp::CHECKSUM..tcp::CHECKSUM + 4].fill(0); // The urgent pointer, too.
        let (src, dst) = (A::read(&ip[l3 + A::SRC..]), A::read(&ip[l3 + A::DST..]));
        let sum = Sum::pseudo(src, dst, Protocol::TCP, segment.len() as u32).add_bytes(segment).finish();
        segment[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());

        let ip = IpPacket { len, ..job.ip };
        self.cross_over(&mut packet, &ip, id, false)?;
        let mut waits_for = None;
        let verdict = send(&mut packet, &snapshot.fib, way, &mut waits_for);
        self.counters().inserted.add(1);
        let packet = Carrier::Frame(packet);
        self.carry_out(verdict, Job { packet, ip, waits_for, fragment_mtu: None, ..*job });
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn change_datagram<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        header: ProxyHeader,
    ) -> Result<(), DropReason> {
        let mut buffer = [0; MAX_LEN];
        let bytes = write_header(A::table(&mut self.tables).get(id), header.version, &mut buffer);
        prefix(&mut job.packet, &job.ip, bytes)?;
        self.count_client_address::<A>(snapshot, id);
        Ok(())
    }

    fn count_client_address<A: Ip>(&mut self, snapshot: &Snapshot, id: ConnId) {
        let conn = A::table(&mut self.tables).get(id);
        if let Some(service) = snapshot.services.find(conn.protocol, conn.vaddr, conn.vport) {
            let of_worker = &self.shared.workers[usize::from(self.id.0)].counters;
            of_worker.service(service.id).client_address_sent.add(1);
        }
    }
}

fn write_header<'a, A: Ip>(conn: &Conn<A>, version: Version, out: &'a mut [u8; MAX_LEN]) -> &'a [u8] {
    let client = SocketAddr::new(conn.caddr.into(), conn.cport);
    let virt = SocketAddr::new(conn.vaddr.into(), conn.vport);
    proxy_protocol::header(version, conn.protocol, client, virt, out)
}

/// Gives a segment without data the sequence number `seq` and these data.
fn append<A: Ip>(
    packet: &mut impl PacketBuf,
    ip: &IpPacket<A>,
    seq: u32,
    bytes: &[u8],
    mtu: u16,
) -> Result<(), DropReason> {
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), usize::from(ip.l3) + usize::from(ip.len));
    let added = bytes.len() as u16;
    if ip.len.checked_add(added).is_none_or(|len| len > mtu) {
        return Err(DropReason::TooBig);
    }
    packet.truncate(end);
    if !packet.append(bytes.len()) {
        return Err(DropReason::NoBuffer);
    }
    let frame = packet.data_mut();
    frame[end..].copy_from_slice(bytes);
    set_length::<A>(&mut frame[l3..], ip.len + added);
    let segment = &mut frame[l4..];
    let segment_len = (end - l4) as u16;
    let number = &mut segment[tcp::SEQ..tcp::SEQ + 4];
    let delta = appended(bytes).replace_u16(segment_len, segment_len + added).replace_bytes(number, &seq.to_be_bytes());
    number.copy_from_slice(&seq.to_be_bytes());
    delta.apply_at(segment, tcp::CHECKSUM);
    Ok(())
}

/// Puts `bytes`, of even number, before the data of a datagram.
fn prefix<A: Ip>(packet: &mut impl PacketBuf, ip: &IpPacket<A>, bytes: &[u8]) -> Result<(), DropReason> {
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), usize::from(ip.l3) + usize::from(ip.len));
    let added = bytes.len() as u16;
    // Offsets in a frame have 16 bits (`proto::parse`).
    let fits = end + bytes.len() <= usize::from(u16::MAX);
    if !fits {
        return Err(DropReason::TooBig);
    }
    packet.truncate(end);
    if !packet.prepend(bytes.len()) {
        return Err(DropReason::NoBuffer);
    }
    let frame = packet.data_mut();
    let data = l4 + udp::HEADER_LEN;
    frame.copy_within(bytes.len()..data + bytes.len(), 0);
    frame[data..data + bytes.len()].copy_from_slice(bytes);
    set_length::<A>(&mut frame[l3..], ip.len + added);
    let datagram = &mut frame[l4..];
    let before = u16::from_be_bytes([datagram[udp::LEN], datagram[udp::LEN + 1]]);
    datagram[udp::LEN..udp::LEN + 2].copy_from_slice(&(before + added).to_be_bytes());
    // The length counts twice: in the pseudo-header and in the header.
    let length = Delta::ZERO.replace_u16(before, before + added);
    appended(bytes).combine(length).combine(length).apply_udp_at(datagram, udp::CHECKSUM);
    Ok(())
}

/// Takes the data out of a segment.
fn cut_data<A: Ip>(packet: &mut impl PacketBuf, ip: &mut IpPacket<A>, header_len: usize) {
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), usize::from(ip.l3) + usize::from(ip.len));
    let data = l4 + header_len;
    if data == end {
        return;
    }
    let frame = packet.data_mut();
    let mut delta = Delta::ZERO.replace_u16((end - l4) as u16, header_len as u16);
    for chunk in frame[data..end].chunks(MAX_LEN) {
        let mut padded = [0; MAX_LEN];
        padded[..chunk.len()].copy_from_slice(chunk);
        delta = delta.replace_bytes(&padded, &[0; MAX_LEN]);
    }
    delta.apply_at(&mut frame[l4..], tcp::CHECKSUM);
    ip.len = (data - l3) as u16;
    set_length::<A>(&mut frame[l3..], ip.len);
    packet.truncate(data.max(ethernet::MIN_FRAME_LEN));
}

/// Overwrites an option of a segment with padding.
fn blank_option(segment: &mut [u8], kind: u8) {
    let header_len = usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
    let options = &segment[tcp::HEADER_LEN..header_len];
    let found = tcp_options::options(options).find(|option| option.kind == kind);
    let Some(place) = found.map(|option| option.at - 2..option.at + option.data.len()) else { return };
    let mut old = [0; tcp_options::MAX_LEN];
    let old = &mut old[..options.len()];
    old.copy_from_slice(options);
    let options = &mut segment[tcp::HEADER_LEN..header_len];
    options[place].fill(tcp_options::NOP);
    let delta = Delta::ZERO.replace_bytes(old, options);
    delta.apply_at(segment, tcp::CHECKSUM);
}
