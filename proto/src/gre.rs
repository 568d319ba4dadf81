//! Generic Routing Encapsulation (RFC 2784; RFC 2890 for key and sequence number).

use crate::bytes::{get_u16, set_u16};
use crate::checksum::Sum;
use crate::ethernet::EtherType;

/// Length in bytes of a header without options.
pub const HEADER_LEN: usize = 4;
/// What the checksum, with the reserved bytes behind it, adds to the header.
pub const CHECKSUM_LEN: usize = 4;
/// Offset of the checksum in a header that has one.
pub const CHECKSUM: usize = 4;

const CHECKSUM_PRESENT: u16 = 0x8000;
const KEY_PRESENT: u16 = 0x2000;
const SEQUENCE_PRESENT: u16 = 0x1000;
/// Version, and routing, which RFC 2784 took away.
const UNKNOWN: u16 = 0x4007;

/// Length in bytes of the header that [`emit`] writes.
pub const fn header_len(has_checksum: bool) -> usize {
    if has_checksum { HEADER_LEN + CHECKSUM_LEN } else { HEADER_LEN }
}

/// Writes the header in front of the packet that fills the rest of `bytes`; it needs
/// [`header_len`]`(has_checksum)` bytes there. The checksum covers header and packet (RFC 2784 section 2.5).
pub fn emit(bytes: &mut [u8], payload: EtherType, has_checksum: bool) {
    set_u16(bytes, 0, if has_checksum { CHECKSUM_PRESENT } else { 0 });
    set_u16(bytes, 2, payload.0);
    if has_checksum {
        bytes[CHECKSUM..CHECKSUM + CHECKSUM_LEN].fill(0);
        let checksum = Sum::ZERO.add_bytes(bytes).finish();
        set_u16(bytes, CHECKSUM, checksum);
    }
}

/// What follows the header at the start of `bytes`, and the header's length. `None` if it is cut short or of another
/// version. The checksum is not looked at: a quoted packet is rarely there as a whole.
pub fn parse(bytes: &[u8]) -> Option<(EtherType, usize)> {
    let header = bytes.get(..HEADER_LEN)?;
    let flags = get_u16(header, 0);
    let fields = [CHECKSUM_PRESENT, KEY_PRESENT, SEQUENCE_PRESENT];
    let len = HEADER_LEN + 4 * fields.iter().filter(|&flag| flags & flag != 0).count();
    (flags & UNKNOWN == 0 && bytes.len() >= len).then(|| (EtherType(get_u16(header, 2)), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_a_header() {
        let mut bytes = *b"....payload";
        emit(&mut bytes, EtherType::IPV6, false);
        assert_eq!(bytes[..4], [0, 0, 0x86, 0xdd]);
        assert_eq!(parse(&bytes), Some((EtherType::IPV6, 4)));
        let mut bytes = *b"........payload";
        emit(&mut bytes, EtherType::IPV4, true);
        assert_eq!((&bytes[..4], &bytes[6..8]), (&[0x80, 0, 8, 0][..], &[0, 0][..]));
        assert_eq!(Sum::ZERO.add_bytes(&bytes).finish(), 0);
        assert_eq!(parse(&bytes), Some((EtherType::IPV4, 8)));
    }

    #[test]
    fn reads_options_and_refuses_what_it_does_not_know() {
        for (first, len) in [(0x30, 12), (0xb0, 16), (0x20, 8)] {
            assert_eq!(parse(&[first, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), Some((EtherType::IPV4, len)));
            assert_eq!(parse(&[&[first, 0, 8, 0][..], &vec![0; len - 5]].concat()), None, "cut short");
        }
        for header in [[0x40, 0, 8, 0], [0, 1, 8, 0]] {
            assert_eq!(parse(&header), None);
        }
        assert_eq!(parse(&[0, 0, 8]), None);
    }
}
