//! A device that alters, drops or repeats packets is caught.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::forward::nat;

use super::*;
use crate::frame::{OWN_MAC, Shape, l4_offset};
use crate::wire::maker::{Macs, Maker};

const DIRECTOR: Treatment = Treatment::Director { ttl_falls: Some(1) };

fn flows(mode: ForwardMode, protocol: Protocol) -> Flows {
    Flows::new(mode, protocol, 1, 1000)
}

fn sent<A: Family>(flows: &Flows, tag: Tag) -> Vec<u8> {
    let macs = Macs { device: OWN_MAC, sender: router_mac::<A>() };
    let len = header_len::<A>(flows.protocol) + Tag::LEN + 4;
    let mut maker = Maker::new::<A>(flows.clone(), macs, &[Shape::new::<A>(flows.protocol, len)], true);
    let mut frame = vec![0; maker.next_len()];
    maker.fill::<A>(&mut frame, tag);
    frame
}

/// What a director makes of a frame.
fn directed<A: Family>(flows: &Flows, mut frame: Vec<u8>, n: u32, way: Way) -> Vec<u8> {
    let next_hop = if way == Way::In { A::host(Net::Server, 1 + n % SERVERS) } else { A::host(Net::Link, 2) };
    frame[..6].copy_from_slice(&mac_of(next_hop.into()));
    frame[6..12].copy_from_slice(&OWN_MAC);
    A::decrement_ttl(&mut frame[ethernet::HEADER_LEN..], proto::checksum::Delta::ZERO);
    if flows.mode.sees_replies() {
        nat::rewrite(&mut frame, ethernet::HEADER_LEN, l4_offset::<A>(), &flows.leaving::<A>(n, way));
    }
    frame
}

fn every_damage_is_found<A: Family>(mode: ForwardMode, protocol: Protocol) {
    let flows = flows(mode, protocol);
    let tag = Tag { flow: 5, sequence: 3, stamp: 77 };
    let good = directed::<A>(&flows, sent::<A>(&flows, tag), 5, Way::In);
    let inspector = Inspector::<A>::new(DIRECTOR, flows.clone(), OWN_MAC, true, 1000);
    assert_eq!(inspector.clone().inspect(&good).unwrap(), Finding { tag: Some(tag), way: Way::In });
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        // No rule fixes the traffic class and flow label of IPv6.
        let is_free = A::LEN == 16 && (14..18).contains(&at);
        assert_eq!(inspector.clone().inspect(&damaged).is_ok(), is_free, "{mode:?} {protocol:?}, byte {at}");
        assert!(inspector.clone().inspect(&good[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn damage_is_found_in_every_byte() {
    for mode in [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRouting] {
        for protocol in [Protocol::UDP, Protocol::TCP] {
            every_damage_is_found::<Ipv4Addr>(mode, protocol);
            every_damage_is_found::<Ipv6Addr>(mode, protocol);
        }
    }
}

#[test]
fn answers_are_checked_on_their_way_back() {
    let flows = flows(ForwardMode::FullNat, Protocol::UDP);
    let tag = Tag { flow: 9, ..Tag::default() };
    let mut frame = directed::<Ipv4Addr>(&flows, sent::<Ipv4Addr>(&flows, tag), 9, Way::In);
    turn_around::<Ipv4Addr>(&mut frame);
    assert_eq!(frame[..6], OWN_MAC);
    let mut back = directed::<Ipv4Addr>(&flows, frame, 9, Way::Out);
    let mut inspector = Inspector::<Ipv4Addr>::new(DIRECTOR, flows.clone(), OWN_MAC, true, 0);
    assert_eq!(inspector.inspect(&back).unwrap().way, Way::Out);
    // To another client, with right checksums.
    let other = flows.leaving::<Ipv4Addr>(10, Way::Out);
    nat::rewrite(&mut back, ethernet::HEADER_LEN, l4_offset::<Ipv4Addr>(), &other);
    assert!(inspector.inspect(&back).unwrap_err().to_string().contains("destination is"));
}

#[test]
fn a_flow_that_changes_its_server_and_flows_that_look_alike_are_found() {
    let flows = flows(ForwardMode::FullNat, Protocol::UDP);
    let frame = |flow, as_flow| {
        let tag = Tag { flow, ..Tag::default() };
        directed::<Ipv4Addr>(&flows, sent::<Ipv4Addr>(&flows, tag), as_flow, Way::In)
    };
    let mut inspector = Inspector::<Ipv4Addr>::new(DIRECTOR, flows.clone(), OWN_MAC, true, 1000);
    inspector.inspect(&frame(1, 1)).unwrap();
    assert!(inspector.inspect(&frame(1, 5)).unwrap_err().to_string().starts_with("the flow was"));
    assert_eq!(inspector.clashes(), 0);
    inspector.inspect(&frame(2, 1)).unwrap();
    assert_eq!(inspector.clashes(), 1);
}

#[test]
fn testpmd_is_checked_by_what_it_does() {
    let flows = flows(ForwardMode::FullNat, Protocol::UDP);
    let plain = sent::<Ipv4Addr>(&flows, Tag { flow: 7, ..Tag::default() });
    let mut mac_swapped = plain.clone();
    exchange(&mut mac_swapped[..12]);
    let mut swapped = plain.clone();
    turn_around::<Ipv4Addr>(&mut swapped);
    let frames = [plain, mac_swapped, swapped];
    let treatments = [Treatment::Io, Treatment::MacSwap, Treatment::FiveTupleSwap];
    for (i, treatment) in treatments.into_iter().enumerate() {
        for (k, frame) in frames.iter().enumerate() {
            let mut inspector = Inspector::<Ipv4Addr>::new(treatment, flows.clone(), OWN_MAC, true, 0);
            assert_eq!(inspector.inspect(frame).is_ok(), i == k, "{treatment:?}, frame {k}");
        }
    }
}

#[test]
fn loss_repetition_and_disorder_are_counted_over_a_pass() {
    let flows = flows(ForwardMode::DirectRouting, Protocol::UDP);
    let inspector = Inspector::<Ipv4Addr>::new(DIRECTOR, flows.clone(), OWN_MAC, true, 1000);
    let mut checker = Checker::of_all(inspector, false, 1000);
    let frame = |flow, sequence| {
        let tag = Tag { flow, sequence, stamp: 0 };
        directed::<Ipv4Addr>(&flows, sent::<Ipv4Addr>(&flows, tag), flow, Way::In)
    };
    for (flow, sequence) in [(1, 0), (1, 1), (2, 0), (2, 2), (2, 1), (1, 1), (999, 0), (3, 0)] {
        checker.inspect(&frame(flow, sequence));
    }
    let mut damaged = frame(4, 0);
    damaged[56] ^= 1;
    checker.inspect(&damaged);
    let outcome = checker.verification();
    assert_eq!((outcome.checked, outcome.wrong, outcome.duplicated, outcome.reordered), (9, 1, 1, 1));
    assert_eq!(outcome.example.as_deref(), Some("the Protocol(17) checksum is wrong"));
    assert_eq!(checker.distinct(), 7, "nine were checked, one was wrong and one came twice");
    assert!(!outcome.is_clean());
}
