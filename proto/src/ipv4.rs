//! IPv4 header (RFC 791; RFC 2474 and 3168 for the type-of-service byte).

use std::net::Ipv4Addr;

use crate::bytes::{get_u16, set_u16};
use crate::checksum::{Delta, Sum};
use crate::parse::ParseError;
use crate::{Address, Protocol};

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the type-of-service byte: DSCP in the high six bits, ECN in the low two.
pub const TOS: usize = 1;
/// Offset of the total length.
pub const TOTAL_LEN: usize = 2;
/// Offset of the identification.
pub const ID: usize = 4;
/// Offset of the word with flags and fragment offset.
pub const FRAGMENT: usize = 6;
/// Offset of the time to live.
pub const TTL: usize = 8;
/// Offset of the protocol.
pub const PROTOCOL: usize = 9;
/// Offset of the header checksum.
pub const CHECKSUM: usize = 10;
/// Offset of the source address.
pub const SRC: usize = 12;
/// Offset of the destination address.
pub const DST: usize = 16;

/// In the word at [`FRAGMENT`]: the packet must not be fragmented.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// In the word at [`FRAGMENT`]: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// In the word at [`FRAGMENT`]: offset of this fragment in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// A packet's header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<T>(T);

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// A view of `packet`, which may be longer than the total length in its header. The checksum is not looked at.
    ///
    /// # Errors
    /// [`ParseError`] `Truncated`, `BadIpVersion`, `BadIpHeaderLength` or `BadIpLength`.
    pub fn new_checked(packet: T) -> Result<Self, ParseError> {
        let bytes = packet.as_ref();
        if bytes.len() < HEADER_LEN {
            return Err(ParseError::Truncated);
        }
        if bytes[0] >> 4 != 4 {
            return Err(ParseError::BadIpVersion);
        }
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        if header_len < HEADER_LEN || header_len > bytes.len() {
            return Err(ParseError::BadIpHeaderLength);
        }
        let len = usize::from(get_u16(bytes, TOTAL_LEN));
        if len < header_len || len > bytes.len() { Err(ParseError::BadIpLength) } else { Ok(Self(packet)) }
    }

    /// Length of the header with its options, in bytes: 20 to 60.
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[0] & 0x0f) * 4
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.0.as_ref()[TOS]
    }

    /// Differentiated services code point.
    pub fn dscp(&self) -> u8 {
        self.tos() >> 2
    }

    /// Explicit congestion notification bits.
    pub fn ecn(&self) -> u8 {
        self.tos() & 3
    }

    /// Length of header and data in bytes.
    pub fn total_len(&self) -> u16 {
        get_u16(self.0.as_ref(), TOTAL_LEN)
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        get_u16(self.0.as_ref(), ID)
    }

    /// The packet must not be fragmented.
    pub fn dont_fragment(&self) -> bool {
        get_u16(self.0.as_ref(), FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// More fragments follow.
    pub fn more_fragments(&self) -> bool {
        get_u16(self.0.as_ref(), FRAGMENT) & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in bytes.
    pub fn fragment_offset(&self) -> usize {
        usize::from(get_u16(self.0.as_ref(), FRAGMENT) & OFFSET_MASK) * 8
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.0.as_ref()[TTL]
    }

    /// What follows the header.
    pub fn protocol(&self) -> Protocol {
        Protocol(self.0.as_ref()[PROTOCOL])
    }

    /// Header checksum.
    pub fn checksum(&self) -> u16 {
        get_u16(self.0.as_ref(), CHECKSUM)
    }

    /// The header checksum is right.
    pub fn checksum_ok(&self) -> bool {
        Sum::ZERO.add_bytes(&self.0.as_ref()[..self.header_len()]).finish() == 0
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::read(&self.0.as_ref()[SRC..])
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::read(&self.0.as_ref()[DST..])
    }

    /// What follows the header, padding excluded.
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..usize::from(self.total_len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets type of service: DSCP and ECN. As with all setters, the checksum stays as it is.
    pub fn set_tos(&mut self, tos: u8) {
        self.0.as_mut()[TOS] = tos;
    }

    /// Sets the identification.
    pub fn set_id(&mut self, id: u16) {
        set_u16(self.0.as_mut(), ID, id);
    }

    /// Allows or forbids fragmentation.
    pub fn set_dont_fragment(&mut self, on: bool) {
        let word = get_u16(self.0.as_ref(), FRAGMENT) & !DONT_FRAGMENT;
        set_u16(self.0.as_mut(), FRAGMENT, if on { word | DONT_FRAGMENT } else { word });
    }

    /// Sets the time to live.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.0.as_mut()[TTL] = ttl;
    }

    /// Sets the source address.
    pub fn set_src(&mut self, addr: Ipv4Addr) {
        addr.write(&mut self.0.as_mut()[SRC..]);
    }

    /// Sets the destination address.
    pub fn set_dst(&mut self, addr: Ipv4Addr) {
        addr.write(&mut self.0.as_mut()[DST..]);
    }

    /// Sets the header checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.0.as_mut(), CHECKSUM, checksum);
    }

    /// Computes the header checksum anew.
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let header_len = self.header_len();
        let checksum = Sum::ZERO.add_bytes(&self.0.as_ref()[..header_len]).finish();
        self.set_checksum(checksum);
    }
}

/// The fields of a header without options, for [`emit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Length of header and data in bytes.
    pub total_len: u16,
    /// Identification; arbitrary when `dont_fragment` is set (RFC 6864).
    pub id: u16,
    /// The packet must not be fragmented.
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// What follows the header.
    pub protocol: Protocol,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

/// Writes a header with its checksum to the first [`HEADER_LEN`] bytes of `bytes`, which must hold that many.
#[inline]
pub fn emit(bytes: &mut [u8], header: &Fields) {
    // In three words, of which the checksum is computed, too: a load of bytes written one by one would have to wait.
    let out = &mut bytes[..HEADER_LEN];
    let fragment = if header.dont_fragment { DONT_FRAGMENT } else { 0 };
    let first = 0x45 << 56
        | u64::from(header.tos) << 48
        | u64::from(header.total_len) << 32
        | u64::from(header.id) << 16
        | u64::from(fragment);
    let second = u64::from(header.ttl) << 56 | u64::from(header.protocol.0) << 48 | u64::from(u32::from(header.src));
    let third = u32::from(header.dst);
    let checksum = Sum::ZERO.add_u64(first).add_u64(second).add_u64(third.into()).finish();
    let second = second | u64::from(checksum) << 32;
    out[..8].copy_from_slice(&first.to_be_bytes());
    out[8..16].copy_from_slice(&second.to_be_bytes());
    out[16..].copy_from_slice(&third.to_be_bytes());
}

/// Takes one off the time to live of the header at the start of `bytes`, updates the checksum and returns what is left.
/// A time to live of 0 stays.
///
/// # Panics
/// If `bytes` ends inside the header.
#[inline]
pub fn decrement_ttl(bytes: &mut [u8]) -> u8 {
    let header = &mut bytes[..HEADER_LEN];
    let old = get_u16(header, TTL);
    let new = if header[TTL] == 0 { old } else { old - 0x0100 };
    set_u16(header, TTL, new);
    Delta::ZERO.replace_u16(old, new).apply_at(header, CHECKSUM);
    header[TTL]
}
