//! The parser against etherparse, against damage, and case by case.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{L3, Spec, fix_ipv4, plain as plain_spec, spec};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proto::parse::{Fragment, IpPacket, MAX_EXTENSION_HEADERS, ParseError, Parsed, parse, parse_ipv4, parse_ipv6};
use proto::tcp::Flags;
use proto::{Address, Protocol, plain};

/// What the packet path relies on: every header lies inside the IP packet, and that inside the frame.
fn check_bounds<A: Address>(frame: &[u8], ip: &IpPacket<A>) {
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), usize::from(ip.l3) + usize::from(ip.len));
    let min = if A::LEN == 4 { 20 } else { 40 };
    assert!(l3 + min <= l4 && l4 <= end && end <= frame.len(), "{ip:?} in {} bytes", frame.len());
    assert_eq!(ip.has_options, l4 - l3 > min);
    let header_len = match ip.tuple.protocol {
        _ if ip.fragment != Fragment::None => 0,
        Protocol::TCP => usize::from(frame[l4 + 12] >> 4) * 4,
        Protocol::UDP => 8,
        Protocol::SCTP => 12,
        _ => 0,
    };
    assert!(l4 + header_len <= end, "{ip:?}: transport header of {header_len} bytes");
    if header_len == 0 {
        assert_eq!((ip.tuple.sport, ip.tuple.dport, ip.flags), (0, 0, Flags(0)));
    } else {
        assert_ne!(ip.tuple.src, ip.tuple.dst);
    }
}

/// Parses; whatever comes out must be in bounds, and what etherparse finds too. The parser of plain packets must agree.
fn check(frame: &[u8]) -> Result<Parsed, ParseError> {
    let parsed = parse(frame);
    if let Some(ip) = plain::ipv4(frame) {
        assert_eq!(parsed, Ok(Parsed::Ipv4(ip)));
    }
    if let Some(ip) = plain::ipv6(frame) {
        assert_eq!(parsed, Ok(Parsed::Ipv6(ip)));
    }
    match &parsed {
        Ok(Parsed::Ipv4(ip)) => {
            check_bounds(frame, ip);
            check_oracle(frame, ip);
        }
        Ok(Parsed::Ipv6(ip)) => {
            check_bounds(frame, ip);
            check_oracle(frame, ip);
        }
        Ok(Parsed::Other) | Err(_) => {}
    }
    parsed
}

/// Ports, flags and offsets of whole TCP and UDP packets, as etherparse sees them.
fn check_oracle<A: Address>(frame: &[u8], ip: &IpPacket<A>) {
    if ip.fragment != Fragment::None || !matches!(ip.tuple.protocol, Protocol::TCP | Protocol::UDP) {
        return;
    }
    let sliced = SlicedPacket::from_ethernet(frame).unwrap_or_else(|e| panic!("etherparse refuses {ip:?}: {e}"));
    let (addresses, ttl) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            ((header.source_addr().into(), header.destination_addr().into()), header.ttl())
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            ((header.source_addr().into(), header.destination_addr().into()), header.hop_limit())
        }
        other => panic!("etherparse sees {other:?}"),
    };
    let expected: (IpAddr, IpAddr) = (ip.tuple.src.into(), ip.tuple.dst.into());
    assert_eq!((addresses, ttl), (expected, ip.ttl));
    let l4 = &frame[usize::from(ip.l4)..];
    match sliced.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(ip.tuple.protocol, Protocol::TCP);
            assert_eq!((tcp.source_port(), tcp.destination_port()), (ip.tuple.sport, ip.tuple.dport));
            assert_eq!((tcp.syn(), tcp.ack()), (ip.flags.contains(Flags::SYN), ip.flags.contains(Flags::ACK)));
            assert_eq!((tcp.fin(), tcp.rst()), (ip.flags.contains(Flags::FIN), ip.flags.contains(Flags::RST)));
            assert_eq!(tcp.slice().as_ptr(), l4.as_ptr());
            assert_eq!(tcp.slice().len(), usize::from(ip.l3) + usize::from(ip.len) - usize::from(ip.l4));
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(ip.tuple.protocol, Protocol::UDP);
            assert_eq!((udp.source_port(), udp.destination_port()), (ip.tuple.sport, ip.tuple.dport));
            assert_eq!(udp.slice().as_ptr(), l4.as_ptr());
            assert_eq!(ip.flags, Flags(0));
        }
        other => panic!("etherparse sees {other:?}"),
    }
}

/// The expected result for a frame that was built by `spec`.
fn expect<A: Address>(spec: &Spec, frame: &[u8]) -> IpPacket<A> {
    let min = if A::LEN == 4 { 20 } else { 40 };
    let fragment = match (spec.fragment_offset, spec.more_fragments) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let mut tuple = spec.tuple();
    if fragment != Fragment::None {
        (tuple.sport, tuple.dport) = (0, 0);
    }
    IpPacket {
        tuple,
        l3: L3 as u16,
        l4: spec.l4() as u16,
        len: (frame.len() - spec.padding.len() - L3) as u16,
        ttl: spec.ttl,
        flags: Flags(if spec.udp || fragment != Fragment::None { 0 } else { spec.tcp_flags }),
        fragment,
        has_options: spec.l4() > L3 + min,
    }
}

fn expected(spec: &Spec, frame: &[u8]) -> Parsed {
    match spec.src.is_ipv4() {
        true => Parsed::Ipv4(expect(spec, frame)),
        false => Parsed::Ipv6(expect(spec, frame)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn valid_packets_are_read_as_they_were_written(spec in spec()) {
        let frame = spec.build();
        prop_assert_eq!(check(&frame), Ok(expected(&spec, &frame)));
    }

    #[test]
    fn fragments_are_told_apart(mut spec in spec(), offset in prop_oneof![Just(0), 0..=0x1fffu16], more: bool) {
        (spec.fragment_offset, spec.more_fragments) = (offset, more);
        let frame = spec.build();
        prop_assert_eq!(check(&frame), Ok(expected(&spec, &frame)));
    }

    #[test]
    fn a_cut_frame_is_refused(spec in spec(), cut: prop::sample::Index) {
        let frame = spec.build();
        let end = frame.len() - spec.padding.len();
        prop_assert!(check(&frame[..cut.index(end)]).is_err());
    }

    #[test]
    fn damage_never_leads_out_of_bounds(
        mut spec in spec(),
        fragment in proptest::option::of(any::<(u8, bool)>()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        if let Some((offset, more)) = fragment {
            (spec.fragment_offset, spec.more_fragments) = (u16::from(offset / 128), more);
        }
        let mut frame = spec.build();
        // Nine of ten hits go to the headers behind Ethernet's.
        let headers = spec.l4() + 20 - L3;
        for (at, value) in damage {
            let at = match value % 10 {
                0 => at.index(frame.len()),
                _ => L3 + at.index(headers.min(frame.len() - L3)),
            };
            frame[at] = value;
        }
        if spec.src.is_ipv4() && frame.len() >= L3 + usize::from(frame[L3] & 0x0f) * 4 {
            fix_ipv4(&mut frame);
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        let _ = check(&frame);
    }

    #[test]
    fn any_bytes_are_survived(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        kind in prop_oneof![Just(None), Just(Some((0x0800u16, 0x45u8))), Just(Some((0x86dd, 0x60)))],
        fix: bool,
    ) {
        if let (Some((ether_type, first)), true) = (kind, frame.len() > L3 + 60) {
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            frame[L3] = first;
            frame[L3 + 2] = 0;
            frame[L3 + 4] = 0;
            if fix && ether_type == 0x0800 {
                fix_ipv4(&mut frame);
            }
        }
        let _ = check(&frame);
    }

    #[test]
    fn an_ip_packet_is_found_at_any_offset(spec in spec(), front in 0..100usize) {
        let frame = spec.build();
        let mut moved = vec![0xee; front];
        moved.extend(&frame[L3..]);
        let shift = |at: u16| (usize::from(at) - L3 + front) as u16;
        match (spec.src.is_ipv4(), parse(&frame)) {
            (true, Ok(Parsed::Ipv4(ip))) => {
                let there = IpPacket { l3: shift(ip.l3), l4: shift(ip.l4), ..ip };
                prop_assert_eq!(parse_ipv4(&moved, front), Ok(there));
            }
            (false, Ok(Parsed::Ipv6(ip))) => {
                let there = IpPacket { l3: shift(ip.l3), l4: shift(ip.l4), ..ip };
                prop_assert_eq!(parse_ipv6(&moved, front), Ok(there));
            }
            (_, other) => prop_assert!(false, "{:?}", other),
        }
    }
}

const V4: (&str, &str) = ("192.0.2.1", "198.51.100.1");
const V6: (&str, &str) = ("2001:db8::1", "2001:db8::2");

fn v4(udp: bool) -> Vec<u8> {
    plain_spec(V4.0, V4.1, udp).build()
}

fn v6(udp: bool) -> Vec<u8> {
    plain_spec(V6.0, V6.1, udp).build()
}

/// `frame` with bytes replaced, and the IPv4 header checksum corrected.
fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for &(at, value) in changes {
        frame[at] = value;
    }
    if frame[12..14] == [8, 0] && frame[L3] & 0x0f >= 5 && frame.len() >= L3 + usize::from(frame[L3] & 0x0f) * 4 {
        fix_ipv4(&mut frame);
    }
    frame
}

#[test]
fn each_error_has_its_frame() {
    let mut bad_sum = v4(false);
    bad_sum[L3 + 10] ^= 1;
    let (l4_v4, l4_v6) = (L3 + 20, L3 + 40);
    let cases = [
        ("no Ethernet header", vec![0; 13], ParseError::Truncated),
        ("IPv4 header cut", v4(false)[..L3 + 19].to_vec(), ParseError::Truncated),
        ("IPv6 header cut", v6(false)[..L3 + 39].to_vec(), ParseError::Truncated),
        ("version 5 in IPv4", with(v4(false), &[(L3, 0x55)]), ParseError::BadIpVersion),
        ("version 4 in IPv6", with(v6(false), &[(L3, 0x40)]), ParseError::BadIpVersion),
        ("header of 16 bytes", with(v4(false), &[(L3, 0x44)]), ParseError::BadIpHeaderLength),
        ("header beyond the frame", with(v4(true)[..L3 + 35].to_vec(), &[(L3, 0x4f)]), ParseError::BadIpHeaderLength),
        ("total length 19", with(v4(false), &[(L3 + 3, 19)]), ParseError::BadIpLength),
        ("total length beyond the frame", with(v4(false), &[(L3 + 3, 48)]), ParseError::BadIpLength),
        ("total length below the header's", with(v4(false), &[(L3, 0x46), (L3 + 3, 20)]), ParseError::BadIpLength),
        ("payload beyond the frame", with(v6(false), &[(L3 + 5, 28)]), ParseError::BadIpLength),
        ("header checksum", bad_sum, ParseError::BadIpChecksum),
        ("TCP header cut by the total length", with(v4(false), &[(L3 + 3, 39)]), ParseError::Truncated),
        ("UDP header cut by the total length", with(v4(true), &[(L3 + 3, 27)]), ParseError::Truncated),
        ("TCP header cut by the payload length", with(v6(false), &[(L3 + 5, 19)]), ParseError::Truncated),
        ("jumbogram", with(v6(true), &[(L3 + 5, 0)]), ParseError::Truncated),
        ("data offset 4", with(v4(false), &[(l4_v4 + 12, 0x40)]), ParseError::BadTcpHeader),
        ("data offset beyond the packet", with(v6(false), &[(l4_v6 + 12, 0x70)]), ParseError::BadTcpHeader),
        ("UDP length 7", with(v4(true), &[(l4_v4 + 5, 7)]), ParseError::BadUdpLength),
        ("UDP length 0", with(v6(true), &[(l4_v6 + 5, 0)]), ParseError::BadUdpLength),
        ("UDP length beyond the packet", with(v4(true), &[(l4_v4 + 5, 16)]), ParseError::BadUdpLength),
    ];
    for (name, frame, expected) in cases {
        assert_eq!(check(&frame), Err(expected), "{name}");
    }
}

#[test]
fn udp_may_be_shorter_than_its_packet() {
    assert!(check(&with(v4(true), &[(L3 + 20 + 5, 8)])).is_ok());
}

/// RFC 791 allows eight bytes of data, and IPv4's IPVS puts them together; what is in them counts then.
#[test]
fn a_first_fragment_may_be_tiny() {
    let Ok(Parsed::Ipv4(ip)) = check(&with(v4(false), &[(L3 + 3, 20 + 8), (L3 + 6, 0x20)])) else { panic!() };
    assert_eq!((ip.fragment, ip.tuple.dport), (Fragment::First, 0));
}

#[test]
fn what_is_not_ip_is_left_to_the_kernel() {
    for ether_type in [0x0806u16, 0x8100, 0x88cc, 0x0026, 0x0801] {
        let mut frame = v4(false);
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        assert_eq!(check(&frame), Ok(Parsed::Other), "{ether_type:#06x}");
    }
}

#[test]
fn other_protocols_have_no_ports() {
    // ICMP, IPv4 in IPv4, GRE, ESP, AH.
    for protocol in [1, 4, 47, 50, 51] {
        let Ok(Parsed::Ipv4(ip)) = check(&with(v4(false), &[(L3 + 9, protocol)])) else { panic!("{protocol}") };
        assert_eq!((ip.tuple.protocol, ip.tuple.sport, ip.tuple.dport), (Protocol(protocol), 0, 0));
        let Ok(Parsed::Ipv6(ip)) = check(&with(v6(false), &[(L3 + 6, protocol)])) else { panic!("{protocol}") };
        assert_eq!((ip.tuple.protocol, ip.tuple.sport, ip.l4), (Protocol(protocol), 0, 54));
    }
    // Nothing at all behind the header.
    let empty = with(v4(false)[..L3 + 20].to_vec(), &[(L3 + 9, 1), (L3 + 3, 20)]);
    assert!(matches!(check(&empty), Ok(Parsed::Ipv4(ip)) if ip.l4 == 34 && ip.len == 20));
}

#[test]
fn sctp_has_ports_where_tcp_and_udp_have_them() {
    const SCTP: (usize, usize, u8) = (L3 + 9, L3 + 6, 132);
    let ports = |udp| {
        let Ok(Parsed::Ipv4(ip)) = check(&with(v4(udp), &[])) else { panic!("as it was") };
        (ip.tuple.sport, ip.tuple.dport)
    };
    let Ok(Parsed::Ipv4(ip)) = check(&with(v4(false), &[(SCTP.0, SCTP.2)])) else { panic!("IPv4") };
    assert_eq!((ip.tuple.protocol, ip.tuple.sport, ip.tuple.dport), (Protocol::SCTP, ports(false).0, ports(false).1));
    assert_eq!(ip.flags, Flags(0));
    let Ok(Parsed::Ipv6(ip)) = check(&with(v6(false), &[(SCTP.1, SCTP.2)])) else { panic!("IPv6") };
    assert_eq!((ip.tuple.protocol, ip.tuple.sport, ip.tuple.dport), (Protocol::SCTP, ports(false).0, ports(false).1));
    assert!(plain::ipv4(&with(v4(false), &[(SCTP.0, SCTP.2)])).is_none(), "the long way");
    for cut in [20, 31] {
        let cut = with(v4(false), &[(SCTP.0, SCTP.2), (L3 + 3, cut)]);
        assert_eq!(check(&cut), Err(ParseError::Truncated));
    }
}

#[test]
fn martians_are_refused_and_the_kernels_packets_are_not() {
    let martian = Err(ParseError::Martian);
    for (src, dst, refused) in [
        ("224.0.0.1", "192.0.2.1", true),
        ("255.255.255.255", "192.0.2.1", true),
        ("127.0.0.1", "192.0.2.1", true),
        ("192.0.2.1", "127.9.9.9", true),
        ("0.0.0.0", "192.0.2.1", true),
        ("192.0.2.1", "0.0.0.0", true),
        ("192.0.2.1", "192.0.2.1", true),
        ("127.0.0.1", "255.255.255.255", true),
        ("0.0.0.0", "255.255.255.255", false),
        ("0.0.0.0", "224.0.0.1", false),
        ("192.0.2.1", "224.0.0.18", false),
        ("192.0.2.1", "192.0.2.2", false),
        ("ff02::1", "2001:db8::1", true),
        ("::1", "2001:db8::1", true),
        ("2001:db8::1", "::1", true),
        ("::", "2001:db8::1", true),
        ("2001:db8::1", "::", true),
        ("2001:db8::1", "2001:db8::1", true),
        ("::", "ff02::1:ff00:1", false),
        ("fe80::1", "ff02::2", false),
        ("2001:db8::1", "2001:db8::2", false),
    ] {
        for udp in [false, true] {
            let parsed = check(&plain_spec(src, dst, udp).build());
            assert_eq!(parsed == martian, refused, "{src} to {dst}: {parsed:?}");
            assert_eq!(parsed.is_err(), refused, "{src} to {dst}: {parsed:?}");
        }
    }
    // Only what has ports answers itself endlessly.
    assert!(check(&with(plain_spec("192.0.2.1", "192.0.2.1", false).build(), &[(L3 + 9, 1)])).is_ok());
}

/// Type and bytes of an extension header.
type Extension<'a> = (u8, &'a [u8]);

/// An IPv6 UDP frame with extension headers.
fn extended(headers: &[Extension]) -> Vec<u8> {
    let frame = v6(true);
    let mut out = frame[..L3 + 40].to_vec();
    let mut next_at = L3 + 6;
    for (kind, bytes) in headers {
        out[next_at] = *kind;
        next_at = out.len();
        out.extend(*bytes);
    }
    out[next_at] = 17;
    out.extend(&frame[L3 + 40..]);
    let len = (out.len() - L3 - 40) as u16;
    out[L3 + 4..L3 + 6].copy_from_slice(&len.to_be_bytes());
    out
}

#[test]
fn extension_headers_are_followed_within_bounds() {
    const EMPTY: &[u8] = &[0; 8];
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let long = |blocks: u8| {
        let mut header = vec![0; 8 + 8 * usize::from(blocks)];
        header[1] = blocks;
        header
    };
    let (fits, exceeds) = (long(63), long(64));
    let at_limit = vec![(OPTIONS, EMPTY); MAX_EXTENSION_HEADERS];
    let above_limit = vec![(OPTIONS, EMPTY); MAX_EXTENSION_HEADERS + 1];
    let cases: [(&str, &[Extension], Result<Fragment, ParseError>); 12] = [
        ("every kind", &[(HOP, EMPTY), (OPTIONS, EMPTY), (ROUTING, EMPTY), (FRAGMENT, EMPTY)], Ok(Fragment::None)),
        ("options behind the fragment header", &[(FRAGMENT, EMPTY), (OPTIONS, EMPTY)], Ok(Fragment::None)),
        ("first fragment", &[(FRAGMENT, &[0, 0, 0, 1, 0, 0, 0, 9])], Ok(Fragment::First)),
        ("later fragment", &[(FRAGMENT, &[0, 0, 0, 8, 0, 0, 0, 9])], Ok(Fragment::Later)),
        // A fragment header has no length; the byte is reserved (RFC 8200 section 4.5).
        ("reserved byte", &[(FRAGMENT, &[0, 5, 0, 0, 0, 0, 0, 9])], Ok(Fragment::None)),
        ("as many as allowed", &at_limit, Ok(Fragment::None)),
        ("one more", &above_limit, Err(ParseError::ExtensionHeaders)),
        ("as long as allowed", &[(OPTIONS, &fits)], Ok(Fragment::None)),
        ("longer", &[(OPTIONS, &exceeds)], Err(ParseError::ExtensionHeaders)),
        ("hop-by-hop not first", &[(OPTIONS, EMPTY), (HOP, EMPTY)], Err(ParseError::ExtensionHeaders)),
        ("segments left", &[(ROUTING, &[0, 0, 0, 1, 0, 0, 0, 0])], Err(ParseError::ExtensionHeaders)),
        ("fragmented twice", &[(FRAGMENT, EMPTY), (FRAGMENT, EMPTY)], Err(ParseError::ExtensionHeaders)),
    ];
    for (name, headers, expected) in cases {
        let frame = extended(headers);
        let parsed = parse(&frame);
        match (parsed, expected) {
            (Ok(Parsed::Ipv6(ip)), Ok(fragment)) => {
                check_bounds(&frame, &ip);
                let total: usize = headers.iter().map(|(_, bytes)| bytes.len()).sum();
                let dport = if fragment == Fragment::None { 80 } else { 0 };
                assert_eq!(
                    (ip.fragment, ip.tuple.dport, ip.tuple.protocol),
                    (fragment, dport, Protocol::UDP),
                    "{name}"
                );
                assert_eq!(usize::from(ip.l4), L3 + 40 + total, "{name}");
            }
            (Err(error), Err(expected)) => assert_eq!(error, expected, "{name}"),
            (parsed, expected) => panic!("{name}: {parsed:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn nothing_is_followed_in_a_later_fragment() {
    // What looks like another header is data from the middle of the packet.
    let mut frame = extended(&[(44, &[0, 0, 0, 8, 0, 0, 0, 9])]);
    frame[L3 + 40] = 60;
    frame[L3 + 48..].fill(0xff);
    let Ok(Parsed::Ipv6(ip)) = check(&frame) else { panic!("{:?}", check(&frame)) };
    assert_eq!((ip.fragment, ip.tuple.protocol, ip.l4), (Fragment::Later, Protocol(60), 62));
}

#[test]
fn an_extension_header_beyond_the_packet_is_truncated() {
    let mut frame = extended(&[(60, &[0; 8])]);
    frame[L3 + 40 + 1] = 3;
    assert_eq!(check(&frame), Err(ParseError::Truncated));
}

#[test]
fn packets_are_small() {
    assert_eq!(size_of::<IpPacket<Ipv4Addr>>(), 24);
    assert_eq!(size_of::<IpPacket<Ipv6Addr>>(), 48);
}
