//! What ICMP errors become between the IP versions (RFC 7915 sections 4.2 and 5.2).

use crate::icmp::{self, ErrorFields};
use crate::{icmpv6, ipv4, ipv6};

/// Bytes by which IPv6's header is longer than IPv4's.
pub const HEADER_DIFFERENCE: u16 = (ipv6::HEADER_LEN - ipv4::HEADER_LEN) as u16;

/// Codes of ICMP's "destination unreachable" that have no name elsewhere (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812).
mod unreachable {
    pub const NET_UNKNOWN: u8 = 6;
    pub const HOST_UNKNOWN: u8 = 7;
    pub const HOST_ISOLATED: u8 = 8;
    pub const NET_PROHIBITED: u8 = 9;
    pub const HOST_PROHIBITED: u8 = 10;
    pub const NET_FOR_TOS: u8 = 11;
    pub const HOST_FOR_TOS: u8 = 12;
    pub const PRECEDENCE_CUTOFF: u8 = 15;
}

/// Code of ICMPv6's "destination unreachable": beyond the scope of the source address.
const BEYOND_SCOPE: u8 = 2;
/// Codes of "parameter problem": the pointer says where (both versions); a next header is not known (ICMPv6); the length
/// is wrong (ICMP).
const POINTER: u8 = 0;
const UNKNOWN_NEXT_HEADER: u8 = 1;
const BAD_LENGTH: u8 = 2;

/// Lengths of packets that links carry, for routers that do not say (RFC 1191 section 7).
const PLATEAUS: [u16; 8] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006];

/// The ICMPv6 error that says what an ICMP error does; `None` if nothing does. `quoted_len` is the total length of the
/// packet that it quotes, `mtu` what fits the way to the receiver.
pub fn error_to_v6(error: &ErrorFields, quoted_len: u16, mtu: u16) -> Option<ErrorFields> {
    use unreachable::*;
    let (message_type, code, rest) = match (error.message_type, error.code) {
        (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
            let reported = match error.rest as u16 {
                0 => PLATEAUS.into_iter().find(|&plateau| plateau < quoted_len).unwrap_or(0),
                reported => reported,
            };
            let room = reported.saturating_add(HEADER_DIFFERENCE).min(mtu).max(ipv6::MIN_MTU as u16);
            (icmpv6::PACKET_TOO_BIG, 0, u32::from(room))
        }
        (icmp::DESTINATION_UNREACHABLE, icmp::PROTOCOL_UNREACHABLE) => {
            (icmpv6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER, ipv6::NEXT_HEADER as u32)
        }
        (icmp::DESTINATION_UNREACHABLE, code) => {
            let code = match code {
                icmp::NET_UNREACHABLE | icmp::HOST_UNREACHABLE | icmp::SOURCE_ROUTE_FAILED => icmpv6::NO_ROUTE,
                NET_UNKNOWN | HOST_UNKNOWN | HOST_ISOLATED | NET_FOR_TOS | HOST_FOR_TOS => icmpv6::NO_ROUTE,
                icmp::PORT_UNREACHABLE => icmpv6::PORT_UNREACHABLE,
                NET_PROHIBITED | HOST_PROHIBITED | icmp::PROHIBITED | PRECEDENCE_CUTOFF => icmpv6::PROHIBITED,
                _ => return None,
            };
            (icmpv6::DESTINATION_UNREACHABLE, code, 0)
        }
        (icmp::TIME_EXCEEDED, code) => (icmpv6::TIME_EXCEEDED, code, 0),
        (icmp::PARAMETER_PROBLEM, POINTER | BAD_LENGTH) => {
            let pointer = match error.rest >> 24 {
                at @ 0..=1 => at,
                2..=3 => ipv6::PAYLOAD_LEN as u32,
                8 => ipv6::HOP_LIMIT as u32,
                9 => ipv6::NEXT_HEADER as u32,
                12..=15 => ipv6::SRC as u32,
                16..=19 => ipv6::DST as u32,
                _ => return None,
            };
            (icmpv6::PARAMETER_PROBLEM, POINTER, pointer)
        }
        _ => return None,
    };
    Some(ErrorFields { message_type, code, rest })
}

/// The ICMP error that says what an ICMPv6 error does; `None` if nothing does. `mtu` is what fits the way to the receiver.
pub fn error_to_v4(error: &ErrorFields, mtu: u16) -> Option<ErrorFields> {
    let (message_type, code, rest) = match (error.message_type, error.code) {
        (icmpv6::DESTINATION_UNREACHABLE, code) => {
            let code = match code {
                icmpv6::NO_ROUTE | BEYOND_SCOPE | icmpv6::ADDRESS_UNREACHABLE => icmp::HOST_UNREACHABLE,
                icmpv6::PROHIBITED => unreachable::HOST_PROHIBITED,
                icmpv6::PORT_UNREACHABLE => icmp::PORT_UNREACHABLE,
                _ => return None,
            };
            (icmp::DESTINATION_UNREACHABLE, code, 0)
        }
        (icmpv6::PACKET_TOO_BIG, _) => {
            let room = error.rest.saturating_sub(HEADER_DIFFERENCE.into()).min(mtu.into());
            (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED, room)
        }
        (icmpv6::TIME_EXCEEDED, code) => (icmp::TIME_EXCEEDED, code, 0),
        (icmpv6::PARAMETER_PROBLEM, POINTER) => {
            let pointer = match error.rest {
                at @ 0..=1 => at,
                4..=5 => ipv4::TOTAL_LEN as u32,
                6 => ipv4::PROTOCOL as u32,
                7 => ipv4::TTL as u32,
                8..=23 => ipv4::SRC as u32,
                24..=39 => ipv4::DST as u32,
                _ => return None,
            };
            (icmp::PARAMETER_PROBLEM, POINTER, pointer << 24)
        }
        (icmpv6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER) => {
            (icmp::DESTINATION_UNREACHABLE, icmp::PROTOCOL_UNREACHABLE, 0)
        }
        _ => return None,
    };
    Some(ErrorFields { message_type, code, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, code and the four bytes behind the checksum.
    type Error = (u8, u8, u32);

    fn fields((message_type, code, rest): Error) -> ErrorFields {
        ErrorFields { message_type, code, rest }
    }

    fn to_v6(error: Error, quoted_len: u16, mtu: u16) -> Option<Error> {
        error_to_v6(&fields(error), quoted_len, mtu).map(|e| (e.message_type, e.code, e.rest))
    }

    fn to_v4(error: Error, mtu: u16) -> Option<Error> {
        error_to_v4(&fields(error), mtu).map(|e| (e.message_type, e.code, e.rest))
    }

    /// RFC 7915 section 4.2, line by line.
    #[test]
    fn errors_of_ipv4() {
        for (codes, expected) in [
            (&[0, 1, 5, 6, 7, 8, 11, 12][..], Some((1, 0, 0))),
            (&[2], Some((4, 1, 6))),
            (&[3], Some((1, 4, 0))),
            (&[9, 10, 13, 15], Some((1, 1, 0))),
            (&[14, 16, 255], None),
        ] {
            for &code in codes {
                assert_eq!(to_v6((3, code, 0), 100, 1500), expected, "code {code}");
            }
        }
        assert_eq!(to_v6((11, 0, 0), 100, 1500), Some((3, 0, 0)));
        assert_eq!(to_v6((11, 1, 7), 100, 1500), Some((3, 1, 0)));
        for message_type in [0, 4, 5, 8, 13, 99] {
            assert_eq!(to_v6((message_type, 0, 0), 100, 1500), None);
        }
    }

    #[test]
    fn mtus() {
        for (reported, quoted_len, mtu, expected) in [
            (1400, 1500, 1500, 1420),
            (1480, 1500, 1500, 1500),
            (1500, 1500, 1500, 1500),
            (1260, 1500, 1500, 1280),
            (576, 1500, 1500, 1280),
            (65535, 1500, 65535, 65535),
            // The router does not say.
            (0, 1500, 1500, 1500),
            (0, 1492, 1500, 1280),
            (0, 9000, 9000, 8186),
            (0, 60, 1500, 1280),
        ] {
            assert_eq!(to_v6((3, 4, reported), quoted_len, mtu), Some((2, 0, expected)), "{reported}, {quoted_len}");
        }
        for (reported, mtu, expected) in
            [(1500, 1500, 1480), (1280, 1500, 1260), (9000, 1500, 1500), (7, 1500, 0), (u32::MAX, 1500, 1500)]
        {
            assert_eq!(to_v4((2, 0, reported), mtu), Some((3, 4, expected)));
        }
    }

    /// RFC 7915 section 5.2.
    #[test]
    fn errors_of_ipv6() {
        for (code, expected) in [(0, Some(1)), (1, Some(10)), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, None)] {
            assert_eq!(to_v4((1, code, 0), 1500), expected.map(|code| (3, code, 0)), "code {code}");
        }
        assert_eq!(to_v4((3, 0, 0), 1500), Some((11, 0, 0)));
        assert_eq!(to_v4((3, 1, 0), 1500), Some((11, 1, 0)));
        assert_eq!(to_v4((4, 1, 40), 1500), Some((3, 2, 0)));
        for error in [(4, 2, 40), (4, 3, 0), (100, 0, 0), (128, 0, 0), (0, 0, 0)] {
            assert_eq!(to_v4(error, 1500), None, "{error:?}");
        }
    }

    /// Figures 3 and 6 of RFC 7915.
    #[test]
    fn pointers_lead_to_the_same_field() {
        let v4 = [Some(0), Some(1), Some(4), Some(4), None, None, None, None, Some(7), Some(6), None, None];
        let addresses = [[Some(8); 4], [Some(24); 4]].concat();
        for (at, expected) in (0..).zip(v4.into_iter().chain(addresses).chain([None, None])) {
            for code in [0, 2] {
                assert_eq!(to_v6((12, code, at << 24), 100, 1500), expected.map(|to| (4, 0, to)), "{at}");
            }
            assert_eq!(to_v6((12, 1, at << 24), 100, 1500), None);
        }
        let v6 = [Some(0), Some(1), None, None, Some(2), Some(2), Some(9), Some(8)];
        let addresses = [[Some(12); 16], [Some(16); 16]].concat();
        for (at, expected) in (0..).zip(v6.into_iter().chain(addresses).chain([None, None])) {
            assert_eq!(to_v4((4, 0, at), 1500), expected.map(|to: u32| (12, 0, to << 24)), "{at}");
        }
    }
}
