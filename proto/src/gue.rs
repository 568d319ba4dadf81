//! Generic UDP Encapsulation, variant 0 (draft-ietf-intarea-gue-09 section 3), as Linux has it (include/net/gue.h).

use crate::Protocol;

/// Length in bytes of a header without optional fields.
pub const HEADER_LEN: usize = 4;

/// Variant (two bits) and control flag (one bit) are 0; the other bits count the words of optional fields.
const VARIANT_AND_CONTROL: u8 = 0xe0;

/// Writes a header for a packet of `protocol` to the first [`HEADER_LEN`] bytes of `bytes`, which must hold that many.
pub fn emit(bytes: &mut [u8], protocol: Protocol) {
    bytes[..HEADER_LEN].copy_from_slice(&[0, protocol.0, 0, 0]);
}

/// What follows the header at the start of `bytes`, and the header's length with all optional fields. `None` if it is
/// cut short, of another variant, or a control message.
pub fn parse(bytes: &[u8]) -> Option<(Protocol, usize)> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let len = HEADER_LEN + 4 * usize::from(header[0] & !VARIANT_AND_CONTROL);
    (header[0] & VARIANT_AND_CONTROL == 0 && bytes.len() >= len).then_some((Protocol(header[1]), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_a_header() {
        let mut bytes = [0xff; 6];
        emit(&mut bytes, Protocol::IPIP);
        assert_eq!(bytes, [0, 4, 0, 0, 0xff, 0xff]);
        assert_eq!(parse(&bytes), Some((Protocol::IPIP, 4)));
        // Two words of options.
        assert_eq!(parse(&[2, 41, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Some((Protocol::IPV6, 12)));
        for refused in [&[2, 41, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0x20, 4, 0, 0], &[0x40, 4, 0, 0], &[0, 4, 0]] {
            assert_eq!(parse(refused), None);
        }
    }
}
