//! Fragments of packets that are too large for their way out: IPv4 packets that allow it, and IPv6 tunnel packets.

use proto::checksum::Sum;
use proto::{ethernet, ipv4, ipv6};

use crate::PortId;
use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::Pipeline;
use crate::verdict::DropReason;

/// Length of IPv6's fragment header (RFC 8200 section 4.5).
const FRAGMENT_HEADER_LEN: usize = 8;

/// A fragment's place in its packet.
struct Place {
    /// Bytes of the packet's payload before it.
    offset: usize,
    is_last: bool,
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Sends an IP packet, Ethernet header included, in fragments of at most `mtu` bytes each. IPv6 extension headers
    /// become part of the payload: a tunnel header has none.
    pub(crate) fn transmit_fragments(&mut self, port: PortId, packet: Io::Packet, mtu: u16) {
        let ip_id = self.next_ip_id();
        let frame = packet.data();
        let ip = &frame[ethernet::HEADER_LEN..];
        let is_v4 = ip[0] >> 4 == 4;
        let (header_len, total_len, added) = match is_v4 {
            true => (usize::from(ip[0] & 0x0f) * 4, word(ip, ipv4::TOTAL_LEN), 0),
            false => (ipv6::HEADER_LEN, ipv6::HEADER_LEN + word(ip, ipv6::PAYLOAD_LEN), FRAGMENT_HEADER_LEN),
        };
        let payload = &ip[header_len..total_len];
        // All but the last carry a multiple of 8 bytes.
        let step = usize::from(mtu).saturating_sub(header_len + added) & !7;
        if step == 0 {
            return self.count_drop(DropReason::TooBig);
        }
        for (index, part) in payload.chunks(step).enumerate() {
            let Some(mut fragment) = self.io.allocate() else { return self.count_drop(DropReason::NoBuffer) };
            if !fragment.append(ethernet::HEADER_LEN + header_len + added + part.len()) {
                return self.count_drop(DropReason::NoBuffer);
            }
            let offset = index * step;
            let place = Place { offset, is_last: offset + part.len() == payload.len() };
            let headers = ethernet::HEADER_LEN + header_len;
            let out = fragment.data_mut();
            out[..headers].copy_from_slice(&frame[..headers]);
            out[headers + added..].copy_from_slice(part);
            match is_v4 {
                true => finish_v4(&mut out[ethernet::HEADER_LEN..headers], part.len(), &place),
                false => finish_v6(&mut out[ethernet::HEADER_LEN..headers + added], part.len(), &place, ip_id),
            }
            self.transmit(port, fragment);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Makes the header of a packet that of one of its fragments (RFC 791 section 3.2). The packet may be a fragment itself.
fn finish_v4(header: &mut [u8], part_len: usize, place: &Place) {
    if place.offset > 0 {
        drop_uncopied_options(&mut header[ipv4::HEADER_LEN..]);
    }
    let whole = u16::from_be_bytes([header[6], header[7]]);
    let more = if place.is_last { whole & ipv4::MORE_FRAGMENTS } else { ipv4::MORE_FRAGMENTS };
    let offset = (whole & ipv4::OFFSET_MASK) + (place.offset / 8) as u16;
    let total_len = (header.len() + part_len) as u16;
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
    let checksum = Sum::ZERO.add_bytes(header).finish();
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The same for IPv6; the room for the fragment header is the end of `headers`.
fn finish_v6(headers: &mut [u8], part_len: usize, place: &Place, id: u32) {
    let (ip, fragment) = headers.split_at_mut(ipv6::HEADER_LEN);
    let payload_len = (FRAGMENT_HEADER_LEN + part_len) as u16;
    ip[ipv6::PAYLOAD_LEN..ipv6::PAYLOAD_LEN + 2].copy_from_slice(&payload_len.to_be_bytes());
    fragment[0] = std::mem::replace(&mut ip[ipv6::NEXT_HEADER], ipv6::FRAGMENT);
    fragment[1] = 0;
    // The offset counts units of 8 bytes and stands 3 bits up: it is the number of bytes.
    let offset = place.offset as u16 | u16::from(!place.is_last);
    fragment[2..4].copy_from_slice(&offset.to_be_bytes());
    fragment[4..8].copy_from_slice(&id.to_be_bytes());
}

/// Overwrites with "no operation" the options that only the first fragment carries (RFC 791 section 3.1: copied flag 0).
fn drop_uncopied_options(options: &mut [u8]) {
    let mut at = 0;
    while at < options.len() {
        let len = match options[at] {
            0 => return,
            1 => 1,
            _ => match options.get(at + 1) {
                Some(&len) if len >= 2 && at + usize::from(len) <= options.len() => usize::from(len),
                _ => return,
            },
        };
        if options[at] & 0x80 == 0 {
            options[at..at + len].fill(1);
        }
        at += len;
    }
}
