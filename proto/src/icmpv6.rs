//! Internet Control Message Protocol for IPv6 (RFC 4443; RFC 4861 for neighbour discovery's types).
//!
//! Header, quote and [`parse_quoted`](crate::icmp::parse_quoted) are as in [`icmp`](crate::icmp); what differs is that
//! the checksum covers a pseudo-header and that the MTU has 32 bits.

use std::net::Ipv6Addr;

use crate::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::checksum::Sum;
use crate::icmp::fill_error;
use crate::parse::ParseError;
use crate::{Address, Protocol, ipv6};

pub use crate::icmp::{CHECKSUM, CODE, ErrorFields, HEADER_LEN, REST, TYPE};

/// Offset of the MTU in "packet too big".
pub const MTU: usize = 4;
/// Longest error in bytes, IP header included (RFC 4443 section 2.4 (c)).
pub const MAX_ERROR_LEN: usize = ipv6::MIN_MTU;

/// Message type: destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// Message type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Message type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Message type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Message type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Message type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Message type: neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Message type: neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Message type: redirect. No error by its number, but never to be answered with one (RFC 4443 section 2.4 (e.2)).
pub const REDIRECT: u8 = 137;

/// Code of destination unreachable: no route.
pub const NO_ROUTE: u8 = 0;
/// Code of destination unreachable: administratively prohibited.
pub const PROHIBITED: u8 = 1;
/// Code of destination unreachable: the host does not answer on its link.
pub const ADDRESS_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: nobody listens on the port.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of time exceeded: in transit.
pub const HOP_LIMIT_EXCEEDED: u8 = 0;
/// Code of time exceeded: while fragments were put together.
pub const REASSEMBLY_TIME_EXCEEDED: u8 = 1;

/// Messages of this type report an error and quote the packet that caused it (RFC 4443 section 2.1).
#[inline]
pub const fn is_error(message_type: u8) -> bool {
    message_type < 128
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6<T>(T);

impl<T: AsRef<[u8]>> Icmpv6<T> {
    /// A view of `message`, which must end where the IP packet ends: the checksum covers all of it.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below [`HEADER_LEN`] bytes.
    pub fn new_checked(message: T) -> Result<Self, ParseError> {
        if message.as_ref().len() < HEADER_LEN { Err(ParseError::Truncated) } else { Ok(Self(message)) }
    }

    /// Message type.
    pub fn message_type(&self) -> u8 {
        self.0.as_ref()[TYPE]
    }

    /// Code.
    pub fn code(&self) -> u8 {
        self.0.as_ref()[CODE]
    }

    /// Checksum.
    pub fn checksum(&self) -> u16 {
        get_u16(self.0.as_ref(), CHECKSUM)
    }

    /// The checksum is right for a packet from `src` to `dst`.
    pub fn checksum_ok(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        sum(self.0.as_ref(), src, dst).finish() == 0
    }

    /// The four bytes whose meaning depends on the type.
    pub fn rest(&self) -> u32 {
        get_u32(self.0.as_ref(), REST)
    }

    /// MTU of the next hop in "packet too big".
    pub fn mtu(&self) -> u32 {
        get_u32(self.0.as_ref(), MTU)
    }

    /// What follows the header: in an error the quoted packet, and possibly extensions (RFC 4884).
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6<T> {
    /// Sets the message type; the checksum stays as it is.
    pub fn set_message_type(&mut self, message_type: u8) {
        self.0.as_mut()[TYPE] = message_type;
    }

    /// Sets the code; the checksum stays as it is.
    pub fn set_code(&mut self, code: u8) {
        self.0.as_mut()[CODE] = code;
    }

    /// Sets the MTU; the checksum stays as it is.
    pub fn set_mtu(&mut self, mtu: u32) {
        set_u32(self.0.as_mut(), MTU, mtu);
    }

    /// Computes the checksum anew for a packet from `src` to `dst`.
    pub fn fill_checksum(&mut self, src: Ipv6Addr, dst: Ipv6Addr) {
        set_u16(self.0.as_mut(), CHECKSUM, 0);
        let checksum = sum(self.0.as_ref(), src, dst).finish();
        set_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

fn sum(message: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> Sum {
    Sum::pseudo(src, dst, Protocol::ICMPV6, message.len() as u32).add_bytes(message)
}

/// Length in bytes of the error about an IP packet of `len` bytes, IP header included.
pub fn error_len(len: usize) -> usize {
    (ipv6::HEADER_LEN + HEADER_LEN + len).min(MAX_ERROR_LEN)
}

/// Writes an IPv6 packet from `src` to the sender of `offending` that reports `error` about it, and returns its length,
/// [`error_len`]`(offending.len())`. `offending` is a whole IPv6 packet from its header on, without Ethernet padding.
///
/// As much of it is quoted as fits. Whether an error may be sent at all,
/// [`may_answer_with_error`](crate::icmp::may_answer_with_error) tells.
///
/// `None` if `out` is too short, or `offending` shorter than an IP header.
pub fn emit_error(out: &mut [u8], src: Ipv6Addr, offending: &[u8], error: &ErrorFields) -> Option<usize> {
    let to = offending.first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let dst = Ipv6Addr::read(&to[ipv6::SRC..]);
    let len = error_len(offending.len());
    let (header, message) = out.get_mut(..len)?.split_at_mut(ipv6::HEADER_LEN);
    let fields = ipv6::Fields {
        traffic_class: 0,
        flow_label: 0,
        payload_len: message.len() as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: 64,
        src,
        dst,
    };
    ipv6::emit(header, &fields);
    fill_error(message, offending, error);
    let checksum = sum(message, src, dst).finish();
    set_u16(message, CHECKSUM, checksum);
    Some(len)
}
