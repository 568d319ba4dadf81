//! Protocols on bytes in the first-level cache: `cargo bench -p proto`. All times are for one packet, sum or hash.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::checksum::{Delta, Sum};
use proto::ethernet::EtherType;
use proto::parse::parse;
use proto::toeplitz::Toeplitz;
use proto::{Address, Protocol, Tuple, ethernet, ipv4, ipv6, plain, tcp, udp};

const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 80));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6));

/// A TCP or UDP header with 18 bytes of payload.
fn transport(protocol: Protocol) -> Vec<u8> {
    let (sport, dport) = (4711, 80);
    if protocol == Protocol::TCP {
        let mut l4 = vec![0; tcp::HEADER_LEN + 18];
        tcp::emit(&mut l4, &tcp::Fields { sport, dport, seq: 1, ack: 1, flags: tcp::Flags::ACK, window: 65535 });
        l4
    } else {
        let mut l4 = vec![0; udp::HEADER_LEN + 18];
        udp::emit(&mut l4, sport, dport, udp::HEADER_LEN as u16 + 18);
        l4
    }
}

fn frame(ethertype: EtherType, ip: &[u8], l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet::emit(&mut frame, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ethertype);
    [&frame, ip, l4].concat()
}

/// A packet with `options` bytes of options, all of them "no operation" (RFC 791 section 3.1).
fn ipv4_frame(protocol: Protocol, options: usize) -> Vec<u8> {
    let l4 = transport(protocol);
    let mut ip = vec![1; ipv4::HEADER_LEN + options];
    let (total_len, (src, dst)) = ((ip.len() + l4.len()) as u16, V4);
    ipv4::emit(&mut ip, &ipv4::Fields { tos: 0, total_len, id: 0, dont_fragment: true, ttl: 64, protocol, src, dst });
    ip[0] += (options / 4) as u8;
    ip[ipv4::CHECKSUM..][..2].fill(0);
    let checksum = Sum::ZERO.add_bytes(&ip).finish();
    ip[ipv4::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
    frame(EtherType::IPV4, &ip, &l4)
}

/// A packet with a chain of extension headers of 8 bytes each: hop-by-hop options, then destination options.
fn ipv6_frame(protocol: Protocol, extension_headers: usize) -> Vec<u8> {
    let l4 = transport(protocol);
    let kinds = [ipv6::HOP_BY_HOP, ipv6::DESTINATION_OPTIONS, ipv6::DESTINATION_OPTIONS];
    let chain = [&kinds[..extension_headers], &[protocol.0]].concat();
    // PadN of 6 bytes (RFC 8200 section 4.2).
    let extensions: Vec<u8> = chain[1..].iter().flat_map(|&next| [next, 0, 1, 4, 0, 0, 0, 0]).collect();
    let (payload_len, (src, dst)) = ((extensions.len() + l4.len()) as u16, V6);
    let mut ip = vec![0; ipv6::HEADER_LEN];
    let next_header = Protocol(chain[0]);
    let (traffic_class, flow_label, hop_limit) = (0, 0, 64);
    ipv6::emit(&mut ip, &ipv6::Fields { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst });
    frame(EtherType::IPV6, &[ip, extensions].concat(), &l4)
}

fn parsing(c: &mut Criterion) {
    let mut wrong_checksum = ipv4_frame(Protocol::UDP, 0);
    wrong_checksum[ethernet::HEADER_LEN + ipv4::CHECKSUM] ^= 1;
    let garbage: Vec<u8> = (0..60u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let cases = [
        ("IPv4 UDP", ipv4_frame(Protocol::UDP, 0), true),
        ("IPv4 TCP", ipv4_frame(Protocol::TCP, 0), true),
        ("IPv4 TCP, 8 bytes of options", ipv4_frame(Protocol::TCP, 8), true),
        ("IPv6 UDP", ipv6_frame(Protocol::UDP, 0), true),
        ("IPv6 TCP", ipv6_frame(Protocol::TCP, 0), true),
        ("IPv6 TCP, 3 extension headers", ipv6_frame(Protocol::TCP, 3), true),
        ("IPv4, wrong checksum", wrong_checksum, false),
        ("IPv4, truncated", ipv4_frame(Protocol::UDP, 0)[..40].to_vec(), false),
        ("IPv4, garbage", frame(EtherType::IPV4, &garbage, &[]), false),
        ("ARP", frame(EtherType::ARP, &garbage, &[]), true),
    ];
    let mut group = c.benchmark_group("parse");
    for (name, frame, is_ok) in &cases {
        assert_eq!(parse(frame).is_ok(), *is_ok, "{name}");
        group.bench_function(*name, |b| b.iter(|| parse(black_box(frame))));
    }
    group.bench_function("plain IPv4 UDP", |b| b.iter(|| plain::ipv4(black_box(&cases[0].1))));
    group.bench_function("plain IPv6 UDP", |b| b.iter(|| plain::ipv6(black_box(&cases[3].1))));
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [20, 64, 1500] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        group.throughput(Throughput::Bytes(len));
        group.bench_function(format!("full, {len} bytes"), |b| {
            b.iter(|| Sum::ZERO.add_bytes(black_box(&bytes)).finish())
        });
    }
    group.finish();

    let mut group = c.benchmark_group("checksum update");
    group.bench_function("time to live", |b| {
        b.iter(|| Delta::ZERO.replace_u16(black_box(0x4011), 0x3f11).apply(black_box(0x1234)));
    });
    fn addresses<A: Address>((src, dst): (A, A)) -> u16 {
        let delta = Delta::ZERO.replace_addr(src, dst).replace_addr(dst, src).replace_u16(4711, 1024);
        delta.replace_u16(80, 8080).apply(black_box(0x1234))
    }
    group.bench_function("IPv4 addresses and ports", |b| b.iter(|| addresses(black_box(V4))));
    group.bench_function("IPv6 addresses and ports", |b| b.iter(|| addresses(black_box(V6))));
    group.finish();
}

fn toeplitz(c: &mut Criterion) {
    let hash = Toeplitz::new(&std::array::from_fn::<u8, 40, _>(|i| (i * 37) as u8));
    fn tuple<A: Address>((src, dst): (A, A)) -> Tuple<A> {
        Tuple { src, dst, sport: 4711, dport: 80, protocol: Protocol::TCP }
    }
    let mut group = c.benchmark_group("Toeplitz");
    group.bench_function("IPv4", |b| b.iter(|| hash.hash(black_box(&tuple(V4)))));
    group.bench_function("IPv6", |b| b.iter(|| hash.hash(black_box(&tuple(V6)))));
    group.finish();
}

criterion_group!(benches, parsing, checksums, toeplitz);
criterion_main!(benches);
