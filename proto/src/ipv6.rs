//! IPv6 header (RFC 8200 section 3).

use std::net::Ipv6Addr;

use crate::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::parse::ParseError;
use crate::{Address, Protocol};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 40;
/// Offset of the payload length.
pub const PAYLOAD_LEN: usize = 4;
/// Offset of the next header's protocol number.
pub const NEXT_HEADER: usize = 6;
/// Offset of the hop limit.
pub const HOP_LIMIT: usize = 7;
/// Offset of the source address.
pub const SRC: usize = 8;
/// Offset of the destination address.
pub const DST: usize = 24;
/// Every link carries packets of this size; ICMPv6 errors are cut to it (RFC 8200 section 5).
pub const MIN_MTU: usize = 1280;

/// Next header: hop-by-hop options (RFC 8200 section 4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing (RFC 8200 section 4.4).
pub const ROUTING: u8 = 43;
/// Next header: fragment (RFC 8200 section 4.5).
pub const FRAGMENT: u8 = 44;
/// Next header: destination options (RFC 8200 section 4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// Largest flow label.
const FLOW_LABEL_MASK: u32 = 0x000f_ffff;

/// A packet's header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<T>(T);

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// A view of `packet`, which may be longer than the payload length in its header says.
    ///
    /// # Errors
    /// [`ParseError`] `Truncated`, `BadIpVersion` or `BadIpLength`.
    pub fn new_checked(packet: T) -> Result<Self, ParseError> {
        let bytes = packet.as_ref();
        if bytes.len() < HEADER_LEN {
            return Err(ParseError::Truncated);
        }
        if bytes[0] >> 4 != 6 {
            return Err(ParseError::BadIpVersion);
        }
        let len = HEADER_LEN + usize::from(get_u16(bytes, PAYLOAD_LEN));
        if len > bytes.len() { Err(ParseError::BadIpLength) } else { Ok(Self(packet)) }
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        (get_u32(self.0.as_ref(), 0) >> 20) as u8
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        get_u32(self.0.as_ref(), 0) & FLOW_LABEL_MASK
    }

    /// Length of what follows the header, extension headers included, in bytes.
    pub fn payload_len(&self) -> u16 {
        get_u16(self.0.as_ref(), PAYLOAD_LEN)
    }

    /// What follows the header: an extension header or a transport protocol.
    pub fn next_header(&self) -> Protocol {
        Protocol(self.0.as_ref()[NEXT_HEADER])
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.0.as_ref()[HOP_LIMIT]
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::read(&self.0.as_ref()[SRC..])
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::read(&self.0.as_ref()[DST..])
    }

    /// What follows the header, padding excluded.
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..HEADER_LEN + usize::from(self.payload_len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the traffic class: DSCP and ECN.
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = get_u32(self.0.as_ref(), 0) & !(0xff << 20);
        set_u32(self.0.as_mut(), 0, word | u32::from(class) << 20);
    }

    /// Sets the flow label; bits above the lower 20 are ignored.
    pub fn set_flow_label(&mut self, label: u32) {
        let word = get_u32(self.0.as_ref(), 0) & !FLOW_LABEL_MASK;
        set_u32(self.0.as_mut(), 0, word | label & FLOW_LABEL_MASK);
    }

    /// Sets the hop limit.
    pub fn set_hop_limit(&mut self, limit: u8) {
        self.0.as_mut()[HOP_LIMIT] = limit;
    }

    /// Sets the source address.
    pub fn set_src(&mut self, addr: Ipv6Addr) {
        addr.write(&mut self.0.as_mut()[SRC..]);
    }

    /// Sets the destination address.
    pub fn set_dst(&mut self, addr: Ipv6Addr) {
        addr.write(&mut self.0.as_mut()[DST..]);
    }
}

/// The fields of a header, for [`emit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label; bits above the lower 20 are ignored.
    pub flow_label: u32,
    /// Length of what follows the header, in bytes.
    pub payload_len: u16,
    /// What follows the header.
    pub next_header: Protocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

/// Writes a header to the first [`HEADER_LEN`] bytes of `bytes`, which must hold that many.
#[inline]
pub fn emit(bytes: &mut [u8], header: &Fields) {
    let out = &mut bytes[..HEADER_LEN];
    set_u32(out, 0, 6 << 28 | u32::from(header.traffic_class) << 20 | header.flow_label & FLOW_LABEL_MASK);
    set_u16(out, PAYLOAD_LEN, header.payload_len);
    out[NEXT_HEADER] = header.next_header.0;
    out[HOP_LIMIT] = header.hop_limit;
    header.src.write(&mut out[SRC..]);
    header.dst.write(&mut out[DST..]);
}

/// Takes one off the hop limit of the header at the start of `bytes` and returns what is left. 0 stays.
///
/// # Panics
/// If `bytes` ends inside the header.
#[inline]
pub fn decrement_hop_limit(bytes: &mut [u8]) -> u8 {
    let limit = &mut bytes[..HEADER_LEN][HOP_LIMIT];
    *limit = limit.saturating_sub(1);
    *limit
}
