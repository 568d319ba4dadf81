//! IPv4 and IPv6 headers: written here and read by etherparse, written by etherparse and read here.

mod common;

use std::net::IpAddr;

use common::{L3, plain, spec, unicast_v4, unicast_v6};
use etherparse::{Ipv4Header, Ipv6Header};
use proptest::prelude::*;
use proto::ipv4::{self, Ipv4};
use proto::ipv6::{self, Ipv6};
use proto::parse::ParseError;
use proto::{Family, Protocol};

proptest! {
    #[test]
    fn etherparse_reads_an_emitted_ipv4_header(
        (src, dst) in (unicast_v4(), unicast_v4()),
        (tos, id, dont_fragment, ttl, protocol) in any::<(u8, u16, bool, u8, u8)>(),
        payload in 0..100u16,
    ) {
        let protocol = Protocol(protocol);
        let fields = ipv4::Fields { tos, total_len: 20 + payload, id, dont_fragment, ttl, protocol, src, dst };
        let mut bytes = vec![0xee; 20 + usize::from(payload)];
        ipv4::emit(&mut bytes, &fields);
        let (header, _) = Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
        prop_assert_eq!((header.dscp.value(), header.ecn.value()), (tos >> 2, tos & 3));
        prop_assert_eq!((header.total_len, header.identification), (20 + payload, id));
        prop_assert_eq!((header.dont_fragment, header.more_fragments), (dont_fragment, false));
        prop_assert_eq!((header.fragment_offset.value(), header.time_to_live), (0, ttl));
        prop_assert_eq!((header.protocol.0, header.source, header.destination), (protocol.0, src.octets(), dst.octets()));

        let view = Ipv4::new_checked(&bytes[..]).unwrap();
        let read = ipv4::Fields {
            tos: view.tos(),
            total_len: view.total_len(),
            id: view.id(),
            dont_fragment: view.dont_fragment(),
            ttl: view.ttl(),
            protocol: view.protocol(),
            src: view.src(),
            dst: view.dst(),
        };
        prop_assert_eq!(read, fields);
        prop_assert!(view.checksum_ok());
    }

    #[test]
    fn etherparse_reads_an_emitted_ipv6_header(
        (src, dst) in (unicast_v6(), unicast_v6()),
        (traffic_class, flow_label, hop_limit, next_header) in any::<(u8, u32, u8, u8)>(),
        payload_len in 0..100u16,
    ) {
        let next_header = Protocol(next_header);
        let fields = ipv6::Fields { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
        let mut bytes = vec![0xee; 40 + usize::from(payload_len)];
        ipv6::emit(&mut bytes, &fields);
        let (header, _) = Ipv6Header::from_slice(&bytes).unwrap();
        prop_assert_eq!((header.traffic_class, header.flow_label.value()), (traffic_class, flow_label & 0xf_ffff));
        prop_assert_eq!((header.payload_length, header.next_header.0), (payload_len, next_header.0));
        prop_assert_eq!((header.hop_limit, header.source, header.destination), (hop_limit, src.octets(), dst.octets()));

        let view = Ipv6::new_checked(&bytes[..]).unwrap();
        let read = ipv6::Fields {
            traffic_class: view.traffic_class(),
            flow_label: view.flow_label(),
            payload_len: view.payload_len(),
            next_header: view.next_header(),
            hop_limit: view.hop_limit(),
            src: view.src(),
            dst: view.dst(),
        };
        prop_assert_eq!(read, ipv6::Fields { flow_label: flow_label & 0xf_ffff, ..fields });
        prop_assert_eq!(view.payload(), &bytes[40..]);
    }

    #[test]
    fn views_read_what_etherparse_wrote(mut spec in spec(), offset in 0..=0x1fffu16, more: bool) {
        (spec.fragment_offset, spec.more_fragments) = (offset, more);
        let frame = spec.build();
        let end = frame.len() - spec.padding.len();
        if spec.src.is_ipv4() {
            let view = Ipv4::new_checked(&frame[L3..]).unwrap();
            prop_assert_eq!((IpAddr::V4(view.src()), IpAddr::V4(view.dst())), (spec.src, spec.dst));
            prop_assert_eq!((view.dscp(), view.ecn(), view.ttl()), (spec.tos >> 2, spec.tos & 3, spec.ttl));
            prop_assert_eq!((view.fragment_offset(), view.more_fragments()), (usize::from(offset) * 8, more));
            prop_assert_eq!((view.header_len(), view.protocol()), (20 + spec.ip_options.len(), spec.protocol()));
            prop_assert_eq!(view.payload(), &frame[spec.l4()..end]);
            prop_assert!(view.checksum_ok());
        } else {
            let view = Ipv6::new_checked(&frame[L3..]).unwrap();
            prop_assert_eq!((IpAddr::V6(view.src()), IpAddr::V6(view.dst())), (spec.src, spec.dst));
            prop_assert_eq!((view.traffic_class(), view.hop_limit()), (spec.tos, spec.ttl));
            prop_assert_eq!(view.payload(), &frame[L3 + 40..end]);
        }
    }

    #[test]
    fn setters_change_their_field_alone(
        spec in spec(),
        (a4, b4, a6, b6) in (unicast_v4(), unicast_v4(), unicast_v6(), unicast_v6()),
        (byte, ttl, word, label, dont_fragment) in any::<(u8, u8, u16, u32, bool)>(),
    ) {
        let mut frame = spec.build();
        if spec.src.is_ipv4() {
            let mut view = Ipv4::new_checked(&mut frame[L3..]).unwrap();
            view.set_tos(byte);
            view.set_id(word);
            view.set_dont_fragment(dont_fragment);
            view.set_ttl(ttl);
            view.set_src(a4);
            view.set_dst(b4);
            view.fill_checksum();
            let (header, _) = Ipv4Header::from_slice(&frame[L3..]).unwrap();
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!((header.dscp.value(), header.ecn.value()), (byte >> 2, byte & 3));
            prop_assert_eq!((header.identification, header.dont_fragment), (word, dont_fragment));
            prop_assert_eq!((header.time_to_live, header.source, header.destination), (ttl, a4.octets(), b4.octets()));
            prop_assert_eq!((header.protocol.0, header.options.as_slice()), (spec.protocol().0, &spec.ip_options[..]));
        } else {
            let mut view = Ipv6::new_checked(&mut frame[L3..]).unwrap();
            view.set_traffic_class(byte);
            view.set_flow_label(label);
            view.set_hop_limit(ttl);
            view.set_src(a6);
            view.set_dst(b6);
            let (header, _) = Ipv6Header::from_slice(&frame[L3..]).unwrap();
            prop_assert_eq!((header.traffic_class, header.flow_label.value()), (byte, label & 0xf_ffff));
            prop_assert_eq!((header.hop_limit, header.source, header.destination), (ttl, a6.octets(), b6.octets()));
            prop_assert_eq!(usize::from(header.payload_length), frame.len() - spec.padding.len() - L3 - 40);
        }
    }
}

#[test]
fn views_refuse_what_their_accessors_could_not_read() {
    let v4 = plain("192.0.2.1", "198.51.100.1", true).build()[L3..].to_vec();
    let v6 = plain("2001:db8::1", "2001:db8::2", true).build()[L3..].to_vec();
    let with = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        bytes
    };
    for (name, bytes, error) in [
        ("cut", v4[..19].to_vec(), ParseError::Truncated),
        ("version", with(&v4, 0, 0x65), ParseError::BadIpVersion),
        ("short header", with(&v4, 0, 0x44), ParseError::BadIpHeaderLength),
        ("long header", with(&v4, 0, 0x4f), ParseError::BadIpHeaderLength),
        ("total length below the header's", with(&v4, 3, 19), ParseError::BadIpLength),
        ("total length beyond the packet", with(&v4, 3, 36), ParseError::BadIpLength),
    ] {
        assert_eq!(Ipv4::new_checked(&bytes).unwrap_err(), error, "{name}");
    }
    for (name, bytes, error) in [
        ("cut", v6[..39].to_vec(), ParseError::Truncated),
        ("version", with(&v6, 0, 0x45), ParseError::BadIpVersion),
        ("payload length beyond the packet", with(&v6, 5, 16), ParseError::BadIpLength),
    ] {
        assert_eq!(Ipv6::new_checked(&bytes).unwrap_err(), error, "{name}");
    }
}

#[test]
fn addresses_know_their_family() {
    use proto::Address;
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    assert_eq!((Family::of(v4), Family::of(v6)), (Family::V4, Family::V6));
    assert_eq!(std::net::Ipv4Addr::from_ip(v6), None);
    assert_eq!(std::net::Ipv6Addr::from_ip(v4), None);
    let halves = [[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]].map(u64::from_ne_bytes);
    let (a, b) = std::net::Ipv6Addr::from_ip(v6).unwrap().words();
    assert!(halves.contains(&a) && halves.contains(&b) && a != b);
    assert_eq!(std::net::Ipv4Addr::from_ip(v4).unwrap().words(), (0, u32::from_ne_bytes([192, 0, 2, 1]).into()));
}
