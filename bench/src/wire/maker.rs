//! Makes the packets that are sent: a template with another flow's tuple, and a tag at the start of the payload.

use dataplane::fib::Mac;
use dataplane::forward::nat;
use dpdk::Mbuf;
use proto::checksum::Delta;
use proto::{Protocol, Tuple, ethernet, tcp, udp};

use crate::flows::{Family, Flows, Way};
use crate::frame::{Shape, header_len, l4_offset};

/// What each packet says about itself, so that it is known again when it comes back. It is at the start of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// Number of the flow.
    pub flow: u32,
    /// Number of the packet within the flow, or the step of a TCP connection's life.
    pub sequence: u32,
    /// Time stamp counter when it was sent, or 0.
    pub stamp: u64,
}

impl Tag {
    /// Bytes of a tag.
    pub const LEN: usize = 16;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let words = u128::from(self.flow) | u128::from(self.sequence) << 32 | u128::from(self.stamp) << 64;
        words.to_le_bytes()
    }

    /// Reads the tag of a frame whose payload starts at `payload`.
    #[inline(always)]
    pub fn read(frame: &[u8], payload: usize) -> Option<Self> {
        let words = u128::from_le_bytes(*frame.get(payload..)?.first_chunk()?);
        Some(Self { flow: words as u32, sequence: (words >> 32) as u32, stamp: (words >> 64) as u64 })
    }

    /// Writes the tag over another one of a frame whose checksum, at `checksum`, is right for that one.
    #[inline(always)]
    pub fn write(self, frame: &mut [u8], payload: usize, checksum: usize, protocol: Protocol) {
        let Some(place) = frame.get_mut(payload..).and_then(<[u8]>::first_chunk_mut::<{ Self::LEN }>) else { return };
        let (old, new) = (*place, self.to_bytes());
        *place = new;
        let delta = Delta::ZERO.replace_bytes(&old, &new);
        match protocol {
            Protocol::TCP => delta.apply_at(frame, checksum),
            _ => delta.apply_udp_at(frame, checksum),
        }
    }
}

/// MAC addresses of what is sent.
#[derive(Clone, Copy, Debug)]
pub struct Macs {
    /// Of the device under test.
    pub device: Mac,
    /// Of the sender.
    pub sender: Mac,
}

/// Bytes of the shortest frame, frame check sequence left out.
const MINIMUM: usize = ethernet::MIN_FRAME_LEN;

/// Makes packets of one protocol.
pub struct Maker {
    /// The numbering of flows.
    pub flows: Flows,
    /// Taken in turn.
    templates: Vec<Vec<u8>>,
    turn: usize,
    has_tag: bool,
    payload: usize,
    checksum: usize,
}

impl Maker {
    /// Of packets from clients that have these shapes in turn. Each has a tag if `has_tag`; then all shapes need room for one.
    pub fn new<A: Family>(flows: Flows, macs: Macs, shapes: &[Shape], has_tag: bool) -> Self {
        let (payload, checksum) = (header_len::<A>(flows.protocol), checksum_offset::<A>(flows.protocol));
        let template = |shape: &Shape| {
            let mut frame = shape.build(&flows.arriving::<A>(0, Way::In));
            frame.truncate(shape.frame_len);
            frame[ethernet::DST..][..6].copy_from_slice(&macs.device);
            frame[ethernet::SRC..][..6].copy_from_slice(&macs.sender);
            if has_tag {
                Tag::default().write(&mut frame, payload, checksum, flows.protocol);
            }
            frame
        };
        let templates = shapes.iter().map(template).collect();
        Self { flows, templates, turn: 0, has_tag, payload, checksum }
    }

    /// Mean length of the frames, frame check sequence included.
    pub fn wire_len(&self) -> f64 {
        let sum: usize = self.templates.iter().map(|frame| frame.len() + 4).sum();
        sum as f64 / self.templates.len() as f64
    }

    /// Where the tag is, if there is one.
    pub fn tag_offset(&self) -> Option<usize> {
        self.has_tag.then_some(self.payload)
    }

    /// Makes an empty buffer the next packet of a flow. False when the buffer is too small.
    #[inline(always)]
    pub fn make<A: Family>(&mut self, packet: &mut Mbuf, tag: Tag) -> bool {
        let len = self.templates[self.turn].len();
        if !packet.append(len) {
            return false;
        }
        self.fill::<A>(packet.data_mut(), tag);
        true
    }

    /// The same in a buffer of [`next_len`](Self::next_len) bytes.
    #[inline(always)]
    pub fn fill<A: Family>(&mut self, frame: &mut [u8], tag: Tag) {
        let template = &self.templates[self.turn];
        // All headers of a short frame in a few instructions, without a call.
        match (frame.first_chunk_mut::<MINIMUM>(), template.first_chunk::<MINIMUM>()) {
            (Some(start), Some(headers)) => {
                *start = *headers;
                if template.len() > MINIMUM {
                    frame[MINIMUM..].copy_from_slice(&template[MINIMUM..]);
                }
            }
            _ => frame.copy_from_slice(template),
        }
        self.turn = if self.turn + 1 < self.templates.len() { self.turn + 1 } else { 0 };
        let tuple: Tuple<A> = self.flows.arriving(tag.flow, Way::In);
        nat::rewrite(frame, ethernet::HEADER_LEN, l4_offset::<A>(), &tuple);
        if self.has_tag {
            tag.write(frame, self.payload, self.checksum, self.flows.protocol);
        }
    }

    /// Length of the next frame.
    pub fn next_len(&self) -> usize {
        self.templates[self.turn].len()
    }
}

/// Where the transport checksum is.
pub fn checksum_offset<A: Family>(protocol: Protocol) -> usize {
    l4_offset::<A>() + if protocol == Protocol::TCP { tcp::CHECKSUM } else { udp::CHECKSUM }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use dataplane::snapshot::ForwardMode;

    use super::*;
    use crate::frame::{Expected, TTL, check};

    fn packets_are_right<A: Family>(protocol: Protocol) {
        let flows = Flows::new(ForwardMode::FullNat, protocol, 1, 1000);
        let least = header_len::<A>(protocol) + Tag::LEN + 4;
        let shapes = [least, 594, 1518].map(|len| Shape::new::<A>(protocol, len));
        // As it were from the director to its router, so that the same check fits.
        let macs = Macs { device: [2, 1, 1, 1, 1, 1], sender: crate::frame::OWN_MAC };
        let mut maker = Maker::new::<A>(flows.clone(), macs, &shapes, true);
        for n in 0..1000 {
            let tag = Tag { flow: n, sequence: n * 7, stamp: u64::from(n) << 40 | 0xffff };
            let mut frame = vec![0; maker.next_len()];
            maker.fill::<A>(&mut frame, tag);
            let expected = Expected {
                ttl: Some(TTL),
                unpainted: Tag::LEN,
                ..Expected::of(flows.arriving::<A>(n, Way::In), frame.len(), macs.device)
            };
            check(&frame, &expected).unwrap();
            assert_eq!(Tag::read(&frame, header_len::<A>(protocol)), Some(tag));
        }
        let lens = shapes.map(|shape| shape.frame_len as f64 + 4.0);
        assert_eq!(maker.wire_len(), lens.iter().sum::<f64>() / 3.0);
    }

    #[test]
    fn packets_have_their_flow_and_tag_and_right_checksums() {
        for protocol in [Protocol::UDP, Protocol::TCP] {
            packets_are_right::<Ipv4Addr>(protocol);
            packets_are_right::<Ipv6Addr>(protocol);
        }
    }

    #[test]
    fn what_is_too_short_has_no_tag() {
        assert_eq!(Tag::read(&[0; 57], 42), None);
        assert!(Tag::read(&[0; 58], 42).is_some());
    }
}
