//! ICMP errors: written, read by etherparse, and their quotes read back.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{L3, Spec, plain, spec};
use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4, icmpv6 as v6,
};
use proptest::prelude::*;
use proto::icmp::{self, ErrorFields, Icmp, Quoted, may_answer_with_error, parse_quoted};
use proto::icmpv6::{self, Icmpv6};
use proto::ipv4::Ipv4;
use proto::ipv6::Ipv6;
use proto::parse::{IpPacket, Parsed, parse};
use proto::{Address, Protocol};

const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);

/// The error about the frame of `spec` behind an Ethernet header, as it would be sent.
fn error_about(spec: &Spec, fields: &ErrorFields) -> Vec<u8> {
    let frame = spec.build();
    let offending = &frame[L3..frame.len() - spec.padding.len()];
    let mut out = frame[..L3].to_vec();
    out.resize(L3 + 2000, 0xee);
    let len = match spec.src.is_ipv4() {
        true => icmp::emit_error(&mut out[L3..], ROUTER_V4, offending, fields),
        false => icmpv6::emit_error(&mut out[L3..], ROUTER_V6, offending, fields),
    };
    out.truncate(L3 + len.unwrap());
    out
}

/// Where the quote starts.
fn quote_at(spec: &Spec) -> usize {
    L3 + if spec.src.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

fn check_quote<A: Address>(error: &[u8], spec: &Spec) {
    let quote = quote_at(spec);
    let header_len = spec.l4() - L3;
    let expected = Quoted {
        tuple: spec.tuple::<A>(),
        l3: quote as u16,
        l4: (quote + header_len) as u16,
        header_len: header_len as u16,
        end: error.len() as u16,
    };
    assert_eq!(parse_quoted(error, quote), Some(expected));
    // Eight bytes of the transport header are needed, and enough.
    let needed = quote + header_len + 8;
    for len in 0..=error.len() {
        let quoted = parse_quoted::<A>(&error[..len], quote);
        let expected = (len >= needed).then_some(Quoted { end: len as u16, ..expected });
        assert_eq!(quoted, expected, "{len} of {} bytes", error.len());
    }
}

proptest! {
    #[test]
    fn an_error_leads_back_to_the_packet(mut spec in spec(), payload in 0..3000usize, code in 0..16u8, rest: u32) {
        spec.payload = vec![0xa5; payload];
        let (unreachable, max) = match spec.src.is_ipv4() {
            true => (icmp::DESTINATION_UNREACHABLE, 576),
            false => (icmpv6::DESTINATION_UNREACHABLE, 1280),
        };
        let error = error_about(&spec, &ErrorFields { message_type: unreachable, code, rest });
        let offending = spec.build();
        let whole = quote_at(&spec) - L3 + offending.len() - spec.padding.len() - L3;
        prop_assert_eq!(error.len() - L3, whole.min(max));
        let quote = &error[quote_at(&spec)..];
        prop_assert_eq!(quote, &offending[L3..L3 + quote.len()]);
        prop_assert!(SlicedPacket::from_ethernet(&error).is_ok());
        match parse(&error) {
            Ok(Parsed::Ipv4(ip)) => {
                prop_assert_eq!((ip.tuple.src, IpAddr::V4(ip.tuple.dst)), (ROUTER_V4, spec.src));
                prop_assert!(Icmp::new_checked(&error[ip.l4.into()..]).unwrap().checksum_ok());
                prop_assert!(Ipv4::new_checked(&error[L3..]).unwrap().checksum_ok());
                prop_assert!(!may_answer_with_error(&ip, &error));
                check_quote::<Ipv4Addr>(&error, &spec);
            }
            Ok(Parsed::Ipv6(ip)) => {
                prop_assert_eq!((ip.tuple.src, IpAddr::V6(ip.tuple.dst)), (ROUTER_V6, spec.src));
                let message = Icmpv6::new_checked(&error[ip.l4.into()..]).unwrap();
                prop_assert!(message.checksum_ok(ip.tuple.src, ip.tuple.dst));
                prop_assert!(!may_answer_with_error(&ip, &error));
                check_quote::<Ipv6Addr>(&error, &spec);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_may_be_quoted(mut frame in proptest::collection::vec(any::<u8>(), 0..200), offset in 0..220usize) {
        for version in [0x45, 0x60] {
            if let Some(first) = frame.get_mut(offset) {
                *first = version;
            }
            if let Some(quoted) = parse_quoted::<Ipv4Addr>(&frame, offset) {
                prop_assert!(usize::from(quoted.l4) + 8 <= usize::from(quoted.end));
                prop_assert!(usize::from(quoted.end) <= frame.len());
            }
            if let Some(quoted) = parse_quoted::<Ipv6Addr>(&frame, offset) {
                prop_assert!(usize::from(quoted.l4) + 8 <= usize::from(quoted.end));
                prop_assert!(usize::from(quoted.end) <= frame.len());
            }
        }
    }
}

#[test]
fn etherparse_reads_what_is_meant() {
    let too_big =
        ErrorFields { message_type: icmp::DESTINATION_UNREACHABLE, code: icmp::FRAGMENTATION_NEEDED, rest: 1480 };
    let error = error_about(&plain("192.0.2.1", "198.51.100.1", false), &too_big);
    let sliced = SlicedPacket::from_ethernet(&error).unwrap();
    let Some(TransportSlice::Icmpv4(message)) = sliced.transport else { panic!("{sliced:?}") };
    let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1480 };
    assert_eq!(message.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
    assert_eq!(Icmp::new_checked(Icmpv4Slice::slice(&message)).unwrap().mtu(), 1480);

    let too_big = ErrorFields { message_type: icmpv6::PACKET_TOO_BIG, code: 0, rest: 100_000 };
    let error = error_about(&plain("2001:db8::1", "2001:db8::2", true), &too_big);
    let sliced = SlicedPacket::from_ethernet(&error).unwrap();
    let Some(TransportSlice::Icmpv6(message)) = sliced.transport else { panic!("{sliced:?}") };
    assert_eq!(message.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 100_000 });
    assert_eq!(Icmpv6::new_checked(Icmpv6Slice::slice(&message)).unwrap().mtu(), 100_000);

    let exceeded = ErrorFields { message_type: icmpv6::TIME_EXCEEDED, code: icmpv6::HOP_LIMIT_EXCEEDED, rest: 0 };
    let error = error_about(&plain("2001:db8::1", "2001:db8::2", true), &exceeded);
    let sliced = SlicedPacket::from_ethernet(&error).unwrap();
    let Some(TransportSlice::Icmpv6(message)) = sliced.transport else { panic!("{sliced:?}") };
    assert_eq!(message.icmp_type(), Icmpv6Type::TimeExceeded(v6::TimeExceededCode::HopLimitExceeded));
}

#[test]
fn nothing_is_written_without_room_or_sender() {
    let frame = plain("192.0.2.1", "198.51.100.1", false).build();
    let offending = &frame[L3..];
    let fields = ErrorFields { message_type: 3, code: 3, rest: 0 };
    let len = icmp::error_len(offending.len());
    assert_eq!(len, 28 + offending.len());
    assert_eq!(icmp::emit_error(&mut vec![0; len], ROUTER_V4, offending, &fields), Some(len));
    assert_eq!(icmp::emit_error(&mut vec![0; len - 1], ROUTER_V4, offending, &fields), None);
    assert_eq!(icmp::emit_error(&mut [0; 600], ROUTER_V4, &offending[..19], &fields), None);
    assert_eq!(icmpv6::emit_error(&mut [0; 1280], ROUTER_V6, &[0x60; 39], &fields), None);
}

#[test]
fn quotes_without_ports_are_refused() {
    let fields = ErrorFields { message_type: 3, code: 3, rest: 0 };
    for (src, dst) in [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8::2")] {
        let spec = Spec { fragment_offset: 1, ..plain(src, dst, false) };
        let error = error_about(&spec, &fields);
        let at = quote_at(&spec);
        assert_eq!(parse_quoted::<Ipv4Addr>(&error, at), None);
        assert_eq!(parse_quoted::<Ipv6Addr>(&error, at), None);
        // A first fragment is as good as a whole packet, but only for its own family.
        let spec = Spec { more_fragments: true, ..plain(src, dst, false) };
        let error = error_about(&spec, &fields);
        assert_eq!(parse_quoted::<Ipv4Addr>(&error, at).is_some(), spec.src.is_ipv4());
        assert_eq!(parse_quoted::<Ipv6Addr>(&error, at).is_some(), spec.src.is_ipv6());
    }
}

#[test]
fn a_quote_ends_where_its_packet_ended() {
    // Extensions (RFC 4884) follow the quoted packet.
    let spec = plain("192.0.2.1", "198.51.100.1", true);
    let mut error = error_about(&spec, &ErrorFields { message_type: 11, code: 0, rest: 0 });
    let end = error.len();
    error.extend([0; 40]);
    assert_eq!(parse_quoted::<Ipv4Addr>(&error, quote_at(&spec)).unwrap().end, end as u16);
}

fn may_answer(frame: &[u8]) -> bool {
    match parse(frame) {
        Ok(Parsed::Ipv4(ip)) => may_answer_with_error(&ip, frame),
        Ok(Parsed::Ipv6(ip)) => may_answer_with_error(&ip, frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_answer_only_what_they_may() {
    let case = |src: &str, dst: &str| plain(src, dst, true);
    for (spec, expected) in [
        (case("192.0.2.1", "198.51.100.1"), true),
        (case("192.0.2.1", "224.0.0.5"), false),
        (case("192.0.2.1", "255.255.255.255"), false),
        (case("0.0.0.0", "255.255.255.255"), false),
        (Spec { more_fragments: true, ..case("192.0.2.1", "198.51.100.1") }, true),
        (Spec { fragment_offset: 9, ..case("192.0.2.1", "198.51.100.1") }, false),
        (case("2001:db8::1", "2001:db8::2"), true),
        (case("2001:db8::1", "ff02::1"), false),
        (case("::", "ff02::1"), false),
        (Spec { fragment_offset: 9, ..case("2001:db8::1", "2001:db8::2") }, false),
    ] {
        let mut frame = spec.build();
        assert_eq!(may_answer(&frame), expected, "{spec:?}");
        frame[0] |= 1;
        assert!(!may_answer(&frame), "to a MAC group: {spec:?}");
    }
}

#[test]
fn icmp_errors_are_not_answered_with_errors() {
    let answered = |src: &str, dst: &str, protocol: u8| -> Vec<u8> {
        let mut frame = plain(src, dst, true).build();
        let (at, l4) = if frame[12] == 8 { (L3 + 9, L3 + 20) } else { (L3 + 6, L3 + 40) };
        frame[at] = protocol;
        if frame[12] == 8 {
            common::fix_ipv4(&mut frame);
        }
        let mut answered = Vec::new();
        for message_type in 0..=255 {
            frame[l4] = message_type;
            if may_answer(&frame) {
                answered.push(message_type);
            }
        }
        answered
    };
    assert_eq!(answered("192.0.2.1", "198.51.100.1", 1), [0, 8, 9, 10, 13, 14, 15, 16, 17, 18]);
    let queries: Vec<u8> = (128..=255).filter(|&t| t != icmpv6::REDIRECT).collect();
    assert_eq!(answered("2001:db8::1", "2001:db8::2", 58), queries);
    assert!((0..=255).all(|t| icmpv6::is_error(t) == (t < 128)));
    assert_eq!((0..=255).filter(|&t| icmp::is_error(t)).collect::<Vec<_>>(), [3, 4, 5, 11, 12]);
    // A message without even a type.
    let frame = plain("192.0.2.1", "198.51.100.1", true).build();
    let Ok(Parsed::Ipv4(ip)) = parse(&frame) else { panic!() };
    let mut empty = IpPacket { len: 20, ..ip };
    empty.tuple.protocol = Protocol::ICMP;
    assert!(!may_answer_with_error(&empty, &frame));
}

#[test]
fn views_write_where_they_read() {
    let fields = ErrorFields { message_type: 3, code: 4, rest: 0x0001_0000 };
    let mut error = error_about(&plain("192.0.2.1", "198.51.100.1", false), &fields);
    let mut message = Icmp::new_checked(&mut error[L3 + 20..]).unwrap();
    assert_eq!((message.message_type(), message.code(), message.rest(), message.mtu()), (3, 4, 0x1_0000, 0));
    message.set_mtu(1400);
    message.set_code(5);
    message.set_message_type(11);
    assert!(!message.checksum_ok());
    message.fill_checksum();
    assert!(message.checksum_ok());
    assert_eq!((message.message_type(), message.code(), message.rest()), (11, 5, 0x0001_0578));
    assert_eq!(message.payload()[0], 0x45);

    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let fields = ErrorFields { message_type: icmpv6::PACKET_TOO_BIG, code: 0, rest: 1500 };
    let mut error = error_about(&plain("2001:db8::1", "2001:db8::2", false), &fields);
    assert_eq!(Ipv6::new_checked(&error[L3..]).unwrap().next_header(), Protocol::ICMPV6);
    let mut message = Icmpv6::new_checked(&mut error[L3 + 40..]).unwrap();
    assert_eq!((message.message_type(), message.code(), message.rest(), message.mtu()), (2, 0, 1500, 1500));
    message.set_mtu(1280);
    message.set_code(1);
    message.set_message_type(3);
    assert!(!message.checksum_ok(dst, src));
    message.fill_checksum(dst, src);
    assert!(message.checksum_ok(dst, src));
    assert!(!message.checksum_ok(dst, ROUTER_V6));
    assert_eq!((message.message_type(), message.code(), message.mtu()), (3, 1, 1280));
    assert_eq!(message.payload()[0] >> 4, 6);
    assert_eq!(Icmp::new_checked([0; 7]).unwrap_err(), proto::parse::ParseError::Truncated);
    assert_eq!(Icmpv6::new_checked([0; 7]).unwrap_err(), proto::parse::ParseError::Truncated);
}
