//! Full and incremental checksums against etherparse, which writes every frame from nothing, and against the definition.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use common::{L3, Spec, checksum, endpoints, plain, spec};
use proptest::prelude::*;
use proto::checksum::{Delta, Sum};
use proto::{Address, ipv4, ipv6, udp};

/// Rewrites addresses, ports and time to live of a frame as a translator does.
fn rewrite<A: Address>(frame: &mut [u8], from: &Spec, to: &Spec) {
    let (old, new) = (from.tuple::<A>(), to.tuple::<A>());
    let (src, dst) = if A::LEN == 4 { (ipv4::SRC, ipv4::DST) } else { (ipv6::SRC, ipv6::DST) };
    new.src.write(&mut frame[L3 + src..]);
    new.dst.write(&mut frame[L3 + dst..]);
    let addresses = Delta::ZERO.replace_addr(old.src, new.src).replace_addr(old.dst, new.dst);
    if A::LEN == 4 {
        addresses.apply_at(&mut frame[L3..], ipv4::CHECKSUM);
        ipv4::decrement_ttl(&mut frame[L3..]);
    } else {
        ipv6::decrement_hop_limit(&mut frame[L3..]);
    }
    let l4 = from.l4();
    frame[l4..l4 + 2].copy_from_slice(&new.sport.to_be_bytes());
    frame[l4 + 2..l4 + 4].copy_from_slice(&new.dport.to_be_bytes());
    let ports = Delta::ZERO.replace_u16(old.sport, new.sport).replace_u16(old.dport, new.dport);
    let delta = ports.combine(addresses);
    match from.udp {
        true => delta.apply_udp_at(frame, l4 + udp::CHECKSUM),
        false => delta.apply_at(frame, from.checksum_at()),
    }
}

fn rewritten(from: &Spec, to: &Spec) -> Vec<u8> {
    let mut frame = from.build();
    match from.src.is_ipv4() {
        true => rewrite::<Ipv4Addr>(&mut frame, from, to),
        false => rewrite::<Ipv6Addr>(&mut frame, from, to),
    }
    frame
}

/// `from` with other endpoints and one hop further.
fn translated(from: &Spec, src: std::net::IpAddr, dst: std::net::IpAddr, sport: u16, dport: u16) -> Spec {
    Spec { src, dst, sport, dport, ttl: from.ttl.saturating_sub(1), ..from.clone() }
}

fn field(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Gives `spec` a payload under which the sum is a multiple of 0xffff, so that the computed checksum is 0.
fn make_checksum_zero(spec: &mut Spec) {
    spec.payload.truncate(spec.payload.len() & !1);
    spec.payload.extend([0, 0]);
    let frame = spec.build();
    // The word that complements the sum of all the rest; with UDP, 0xffff on the wire stands for 0.
    let word = match field(&frame, spec.checksum_at()) {
        0xffff if spec.udp => 0,
        word => word,
    };
    let at = spec.payload.len() - 2;
    spec.payload[at..].copy_from_slice(&word.to_be_bytes());
}

fn two_specs() -> impl Strategy<Value = (Spec, Spec)> {
    (spec(), endpoints(), any::<[u16; 2]>()).prop_map(|(from, of, [sport, dport])| {
        let (src, dst) = of[usize::from(from.src.is_ipv6())];
        (translated(&from, src, dst, sport, dport), from)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_rewritten_frame_equals_one_built_anew((to, from) in two_specs()) {
        prop_assert_eq!(rewritten(&from, &to), to.build());
    }

    #[test]
    fn also_when_the_checksum_becomes_or_was_zero((mut to, mut from) in two_specs(), zero_before in any::<bool>()) {
        make_checksum_zero(if zero_before { &mut from } else { &mut to });
        let payload = if zero_before { from.payload.clone() } else { to.payload.clone() };
        (to.payload, from.payload) = (payload.clone(), payload);
        let zero = if zero_before { &from } else { &to };
        prop_assert_eq!(field(&zero.build(), zero.checksum_at()), if zero.udp { 0xffff } else { 0 });
        prop_assert_eq!(rewritten(&from, &to), to.build());
    }

    #[test]
    fn the_pseudo_header_sum_verifies_what_etherparse_wrote(spec in spec()) {
        let frame = spec.build();
        let segment = &frame[spec.l4()..frame.len() - spec.padding.len()];
        let len = segment.len() as u32;
        let pseudo = match spec.src.is_ipv4() {
            true => Sum::pseudo(spec.tuple::<Ipv4Addr>().src, spec.tuple::<Ipv4Addr>().dst, spec.protocol(), len),
            false => Sum::pseudo(spec.tuple::<Ipv6Addr>().src, spec.tuple::<Ipv6Addr>().dst, spec.protocol(), len),
        };
        prop_assert_eq!(pseudo.add_bytes(segment).finish(), 0);
        let mut damaged = segment.to_vec();
        damaged[0] ^= 0x40;
        prop_assert_ne!(pseudo.add_bytes(&damaged).finish(), 0);
    }

    #[test]
    fn the_sum_is_that_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
        prop_assert_eq!(Sum::ZERO.add_bytes(&bytes).finish(), checksum(&bytes));
        let (head, tail) = bytes.split_at((cut & !1).min(bytes.len()));
        prop_assert_eq!(Sum::ZERO.add_bytes(head).add_bytes(tail).finish(), checksum(&bytes));
        let by_words = bytes.chunks_exact(2).fold(Sum::ZERO, |sum, w| sum.add_u16(u16::from_be_bytes([w[0], w[1]])));
        let rest = bytes.chunks_exact(2).remainder();
        prop_assert_eq!(by_words.add_bytes(rest).finish(), checksum(&bytes));
    }

    #[test]
    fn replaced_bytes_count_like_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 2..100).prop_map(|mut b| { b.truncate(b.len() & !1); b }),
        at in 0..100usize,
        new in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let at = at.min(bytes.len()) & !1;
        let new = &new[..new.len().min(bytes.len() - at) & !1];
        // The constant word keeps the sum from being a plain 0, which no real packet's is.
        let full = |bytes: &[u8]| Sum::ZERO.add_u16(6).add_bytes(bytes).finish();
        let mut replaced = bytes.clone();
        replaced[at..at + new.len()].copy_from_slice(new);
        let delta = Delta::ZERO.replace_bytes(&bytes[at..at + new.len()], new);
        prop_assert_eq!(delta.apply(full(&bytes)), full(&replaced));
    }
}

/// RFC 1624 section 4: the example on which RFC 1141's method fails.
#[test]
fn the_example_of_rfc_1624() {
    assert_eq!(Delta::ZERO.replace_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

/// RFC 1071 section 3: 0001 f203 f4f5 f6f7 sum up to ddf2.
#[test]
fn the_example_of_rfc_1071() {
    assert_eq!(Sum::ZERO.add_bytes(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]).finish(), !0xddf2);
}

#[test]
fn sums_do_not_overflow() {
    let ones = vec![0xff; 65536];
    assert_eq!(Sum::ZERO.add_bytes(&ones).add_bytes(&ones).add_u16(0xffff).finish(), 0);
    assert_eq!(Sum::ZERO.add_bytes(&ones).add_bytes(&[1]).finish(), !0x0100);
    assert_eq!(Sum::ZERO.finish(), 0xffff);
}

#[test]
fn an_absent_udp_checksum_stays_absent() {
    let delta = Delta::ZERO.replace_u16(80, 8080);
    let mut header = [0; 8];
    delta.apply_udp_at(&mut header, udp::CHECKSUM);
    assert_eq!(header, [0; 8]);
}

#[test]
fn damage_done_before_stays_visible() {
    let from = plain("192.0.2.1", "198.51.100.1", false);
    let to = translated(&from, from.src, "203.0.113.9".parse().unwrap(), 40000, 8080);
    let mut frame = from.build();
    *frame.last_mut().unwrap() ^= 1;
    rewrite::<Ipv4Addr>(&mut frame, &from, &to);
    let mut expected = to.build();
    *expected.last_mut().unwrap() ^= 1;
    assert_eq!(frame, expected);
}

#[test]
fn every_time_to_live_counts_down() {
    for ttl in 0..=255u8 {
        let spec = Spec { ttl, ..plain("192.0.2.1", "198.51.100.1", true) };
        let mut frame = spec.build();
        assert_eq!(ipv4::decrement_ttl(&mut frame[L3..]), ttl.saturating_sub(1));
        assert_eq!(frame, Spec { ttl: ttl.saturating_sub(1), ..spec }.build(), "time to live {ttl}");
        let spec = Spec { ttl, ..plain("2001:db8::1", "2001:db8::2", true) };
        let mut frame = spec.build();
        assert_eq!(ipv6::decrement_hop_limit(&mut frame[L3..]), ttl.saturating_sub(1));
        assert_eq!(frame, Spec { ttl: ttl.saturating_sub(1), ..spec }.build(), "hop limit {ttl}");
    }
}
