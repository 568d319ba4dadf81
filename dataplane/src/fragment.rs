//! Fragments of packets that are too large for their way out: IPv4 packets that allow it, IPv6 tunnel packets, and packets
//! that came in fragments.

use proto::checksum::Sum;
use proto::{ethernet, fragment, ipv4, ipv6};

use crate::packet::{PacketBuf, WorkerIo};
use crate::pipeline::Pipeline;
use crate::verdict::DropReason;

/// A fragment's place in its packet.
struct Place {
    /// Bytes of the packet's payload before it.
    offset: usize,
    is_last: bool,
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Hands the IP packet in `frame`, Ethernet header included, to `out` in fragments of at most `mtu` bytes each; as it is
    /// if it fits.
    pub(crate) fn fragment(&mut self, frame: &[u8], mtu: u16, mut out: impl FnMut(&mut Self, Io::Packet)) {
        let ip_id = self.next_ip_id();
        let ip = &frame[ethernet::HEADER_LEN..];
        let is_v4 = ip[0] >> 4 == 4;
        let (header_len, total_len, next_header, added) = match is_v4 {
            true => (usize::from(ip[0] & 0x0f) * 4, word(ip, ipv4::TOTAL_LEN), 0, 0),
            false => {
                let Some((header_len, next_header)) = fragment::unfragmentable(ip) else {
                    return self.count_drop(DropReason::ExtensionHeaders);
                };
                let total_len = ipv6::HEADER_LEN + word(ip, ipv6::PAYLOAD_LEN);
                (header_len, total_len, next_header, fragment::HEADER_LEN)
            }
        };
        if total_len <= usize::from(mtu) {
            return match self.copy_of(&frame[..ethernet::HEADER_LEN + total_len]) {
                Some(packet) => out(self, packet),
                None => self.count_drop(DropReason::NoBuffer),
            };
        }
        let payload = &ip[header_len..total_len];
        // All but the last carry a multiple of 8 bytes.
        let step = usize::from(mtu).saturating_sub(header_len + added) & !7;
        if step == 0 {
            return self.count_drop(DropReason::TooBig);
        }
        for (index, part) in payload.chunks(step).enumerate() {
            let Some(mut packet) = self.io.allocate() else { return self.count_drop(DropReason::NoBuffer) };
            if !packet.append(ethernet::HEADER_LEN + header_len + added + part.len()) {
                return self.count_drop(DropReason::NoBuffer);
            }
            let offset = index * step;
            let place = Place { offset, is_last: offset + part.len() == payload.len() };
            let headers = ethernet::HEADER_LEN + header_len;
            let bytes = packet.data_mut();
            bytes[..headers].copy_from_slice(&frame[..headers]);
            bytes[headers + added..].copy_from_slice(part);
            let headers = &mut bytes[ethernet::HEADER_LEN..headers + added];
            match is_v4 {
                true => finish_v4(headers, part.len(), &place),
                false => finish_v6(headers, next_header, part.len(), &place, ip_id),
            }
            self.counters().fragments_made.add(1);
            out(self, packet);
        }
        self.counters().fragmented.add(1);
    }

    /// A copy of `frame` in a buffer of its own.
    pub(crate) fn copy_of(&mut self, frame: &[u8]) -> Option<Io::Packet> {
        let mut packet = self.io.allocate()?;
        if !packet.append(frame.len()) {
            return None;
        }
        packet.data_mut().copy_from_slice(frame);
        Some(packet)
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
    header[6..8].copy_from_slice(&(whole & ipv4::DONT_FRAGMENT | more | offset).to_be_bytes());
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
    let checksum = Sum::ZERO.add_bytes(header).finish();
    header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The same for IPv6; the room for the fragment header is the end of `headers`, and `next_header` is the place of the byte
/// that announces it.
fn finish_v6(headers: &mut [u8], next_header: usize, part_len: usize, place: &Place, id: u32) {
    let (headers, header) = headers.split_at_mut(headers.len() - fragment::HEADER_LEN);
    let payload_len = (headers.len() - ipv6::HEADER_LEN + fragment::HEADER_LEN + part_len) as u16;
    headers[ipv6::PAYLOAD_LEN..ipv6::PAYLOAD_LEN + 2].copy_from_slice(&payload_len.to_be_bytes());
    let kind = std::mem::replace(&mut headers[next_header], ipv6::FRAGMENT);
    fragment::emit(header, kind, place.offset as u16, !place.is_last, id);
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
