//! Internet Control Message Protocol (RFC 792; RFC 1191 for the MTU; RFC 1812 section 4.3 for a router's duties).

use std::net::Ipv4Addr;

use crate::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::checksum::Sum;
use crate::parse::ParseError;
use crate::{Address, Protocol, ipv4};

pub use crate::quoted::{Quoted, may_answer_with_error, parse_quoted};

/// Length of the header in bytes. In an error the quoted packet follows.
pub const HEADER_LEN: usize = 8;
/// Offset of the message type.
pub const TYPE: usize = 0;
/// Offset of the code.
pub const CODE: usize = 1;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;
/// Offset of the four bytes whose meaning depends on the type.
pub const REST: usize = 4;
/// Offset of the next-hop MTU in "fragmentation needed".
pub const MTU: usize = 6;
/// Longest error in bytes, IP header included (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_LEN: usize = 576;

/// Message type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Message type: destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Message type: source quench; deprecated (RFC 6633), but still relayed.
pub const SOURCE_QUENCH: u8 = 4;
/// Message type: redirect.
pub const REDIRECT: u8 = 5;
/// Message type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Message type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Message type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of destination unreachable: no route to the network.
pub const NET_UNREACHABLE: u8 = 0;
/// Code of destination unreachable: the host does not answer on its link.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of destination unreachable: the host does not speak the protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of destination unreachable: nobody listens on the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: larger than the next hop's MTU, and not to be fragmented.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of destination unreachable: a source route that cannot be followed.
pub const SOURCE_ROUTE_FAILED: u8 = 5;
/// Code of destination unreachable: communication administratively prohibited (RFC 1812 section 5.2.7.1).
pub const PROHIBITED: u8 = 13;
/// Code of time exceeded: in transit.
pub const TTL_EXCEEDED: u8 = 0;
/// Code of time exceeded: while fragments were put together.
pub const REASSEMBLY_TIME_EXCEEDED: u8 = 1;

/// Messages of this type report an error and quote the packet that caused it.
#[inline]
pub const fn is_error(message_type: u8) -> bool {
    matches!(message_type, DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<T>(T);

impl<T: AsRef<[u8]>> Icmp<T> {
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

    /// The checksum is right.
    pub fn checksum_ok(&self) -> bool {
        Sum::ZERO.add_bytes(self.0.as_ref()).finish() == 0
    }

    /// The four bytes whose meaning depends on the type.
    pub fn rest(&self) -> u32 {
        get_u32(self.0.as_ref(), REST)
    }

    /// Next-hop MTU in "fragmentation needed"; 0 from routers older than RFC 1191.
    pub fn mtu(&self) -> u16 {
        get_u16(self.0.as_ref(), MTU)
    }

    /// What follows the header: in an error the quoted packet, and possibly extensions (RFC 4884).
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmp<T> {
    /// Sets the message type; the checksum stays as it is.
    pub fn set_message_type(&mut self, message_type: u8) {
        self.0.as_mut()[TYPE] = message_type;
    }

    /// Sets the code; the checksum stays as it is.
    pub fn set_code(&mut self, code: u8) {
        self.0.as_mut()[CODE] = code;
    }

    /// Sets the next-hop MTU; the checksum stays as it is.
    pub fn set_mtu(&mut self, mtu: u16) {
        set_u16(self.0.as_mut(), MTU, mtu);
    }

    /// Computes the checksum anew.
    pub fn fill_checksum(&mut self) {
        set_u16(self.0.as_mut(), CHECKSUM, 0);
        let checksum = Sum::ZERO.add_bytes(self.0.as_ref()).finish();
        set_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

/// An error to be reported, for [`emit_error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFields {
    /// Message type.
    pub message_type: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum: the MTU in its low half for "fragmentation needed", else usually 0.
    pub rest: u32,
}

/// Length in bytes of the error about an IP packet of `len` bytes, IP header included.
pub fn error_len(len: usize) -> usize {
    (ipv4::HEADER_LEN + HEADER_LEN + len).min(MAX_ERROR_LEN)
}

/// Writes an IPv4 packet from `src` to the sender of `offending` that reports `error` about it, and returns its length,
/// [`error_len`]`(offending.len())`. `offending` is a whole IPv4 packet from its header on, without Ethernet padding.
///
/// As much of it is quoted as fits. The type of service is "internetwork control" (RFC 1812 section 4.3.2.5). Whether an
/// error may be sent at all, [`may_answer_with_error`] tells.
///
/// `None` if `out` is too short, or `offending` shorter than an IP header.
pub fn emit_error(out: &mut [u8], src: Ipv4Addr, offending: &[u8], error: &ErrorFields) -> Option<usize> {
    let to = offending.first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let len = error_len(offending.len());
    let (header, message) = out.get_mut(..len)?.split_at_mut(ipv4::HEADER_LEN);
    let fields = ipv4::Fields {
        tos: 0xc0,
        total_len: len as u16,
        // It differs from packet to packet as that of the offending ones does.
        id: get_u16(to, ipv4::ID),
        dont_fragment: false,
        ttl: 64,
        protocol: Protocol::ICMP,
        src,
        dst: Ipv4Addr::read(&to[ipv4::SRC..]),
    };
    ipv4::emit(header, &fields);
    fill_error(message, offending, error);
    let checksum = Sum::ZERO.add_bytes(message).finish();
    set_u16(message, CHECKSUM, checksum);
    Some(len)
}

/// Writes an error's header, with checksum 0, and as much of `offending` as fits behind it.
pub(crate) fn fill_error(message: &mut [u8], offending: &[u8], error: &ErrorFields) {
    message[TYPE] = error.message_type;
    message[CODE] = error.code;
    set_u16(message, CHECKSUM, 0);
    set_u32(message, REST, error.rest);
    let quote = &mut message[HEADER_LEN..];
    quote.copy_from_slice(&offending[..quote.len()]);
}
