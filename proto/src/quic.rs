//! Connection ids of QUIC packets, as far as every version shows them (RFC 8999).

/// Set in packets with a long header (RFC 8999 section 5.1).
const LONG: u8 = 0x80;
/// In a short header the id follows the first byte; so does the id of 8 bytes in Google's QUIC before RFC 9000.
const SHORT_ID: usize = 1;
/// In a long header the version follows the first byte, then the length of the id, then the id.
const LONG_ID_LEN: usize = 5;
const ID: usize = 8;

/// The first 8 bytes of the destination connection id of the QUIC packet that `datagram`, the payload of a UDP datagram,
/// begins with.
///
/// A short header does not tell how long the id is, so 8 bytes are all that can be compared between the headers. `None` if
/// the id is shorter, as far as that can be seen, or the datagram is. What is not QUIC at all may still look like it.
pub fn connection_id(datagram: &[u8]) -> Option<u64> {
    let at = match datagram.first()? & LONG {
        0 => SHORT_ID,
        _ if usize::from(*datagram.get(LONG_ID_LEN)?) >= ID => LONG_ID_LEN + 1,
        _ => return None,
    };
    datagram.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's first packet in RFC 9001 appendix A.2, as far as the id.
    const INITIAL: [u8; 16] = [0xc3, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0];
    const ID_OF_INITIAL: u64 = 0x8394_c8f0_3e51_5708;

    #[test]
    fn long_and_short_headers_show_the_same_id() {
        assert_eq!(connection_id(&INITIAL), Some(ID_OF_INITIAL));
        let mut short = vec![0x43];
        short.extend(ID_OF_INITIAL.to_be_bytes());
        short.extend([0xaa; 20]);
        assert_eq!(connection_id(&short), Some(ID_OF_INITIAL));
    }

    #[test]
    fn what_is_too_short_has_none() {
        for len in 0..14 {
            assert_eq!(connection_id(&INITIAL[..len]), None, "{len} bytes");
        }
        let mut seven = INITIAL;
        seven[LONG_ID_LEN] = 7;
        assert_eq!(connection_id(&seven), None);
        for len in 0..9 {
            assert_eq!(connection_id(&[0x43; 9][..len]), None, "{len} bytes");
        }
    }
}
