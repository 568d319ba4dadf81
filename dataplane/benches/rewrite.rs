//! Changing packets in the first-level cache: `cargo bench -p dataplane --bench rewrite`. All times are for one packet;
//! packets come in turn, as in a burst, so that none waits for what was just written to it.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::forward::{nat, tun};
use dataplane::io::memory::HeapPacket;
use dataplane::ip::Ip;
use dataplane::packet::{BURST, PacketBuf};
use proto::checksum::Delta;
use proto::{Protocol, Tuple, ethernet};

const FRAME_LEN: usize = 96;

/// A burst of packets; what is in them does not matter to those who rewrite them.
struct Packets(Vec<HeapPacket>, usize);

impl Packets {
    fn new<A: Ip>() -> Self {
        let mut frame = [0x55; FRAME_LEN];
        frame[ethernet::HEADER_LEN] = if A::LEN == 4 { 0x45 } else { 0x60 };
        Self(vec![HeapPacket::from_frame(&frame); BURST], 0)
    }

    fn next(&mut self) -> &mut HeapPacket {
        self.1 = (self.1 + 1) % BURST;
        black_box(&mut self.0[self.1])
    }
}

fn benchmarks<A: Ip>(c: &mut Criterion, family: &str, src: A, dst: A) {
    let mut group = c.benchmark_group(format!("rewrite {family}"));
    let l4 = ethernet::HEADER_LEN + A::HEADER_LEN;
    for (name, protocol) in [("NAT UDP", Protocol::UDP), ("NAT TCP", Protocol::TCP)] {
        let (mut packets, mut sport) = (Packets::new::<A>(), 0u16);
        group.bench_function(name, |b| {
            b.iter(|| {
                sport = sport.wrapping_add(1);
                let new = black_box(Tuple { src, dst, sport, dport: 80, protocol });
                nat::rewrite(packets.next().data_mut(), ethernet::HEADER_LEN, l4, &new);
            });
        });
    }
    let mut packets = Packets::new::<A>();
    group.bench_function("time to live", |b| {
        b.iter(|| A::decrement_ttl(&mut packets.next().data_mut()[ethernet::HEADER_LEN..], Delta::ZERO));
    });
    // What the tunnel adds is taken off again: three of the packet's lengths change.
    let len = (FRAME_LEN - ethernet::HEADER_LEN) as u16;
    group.bench_function("TUN", |b| {
        b.iter(|| {
            let packet = packets.next();
            assert!(tun::encapsulate(packet, len, src, dst, 7));
            packet.trim_front(A::HEADER_LEN);
        });
    });
    group.finish();
}

fn rewrite(c: &mut Criterion) {
    benchmarks(c, "IPv4", Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
    let v6 = |n| Ipv6Addr::new(0x2001, 0xdb8, n, n, n, n, n, n);
    benchmarks(c, "IPv6", v6(1), v6(2));
}

criterion_group!(benches, rewrite);
criterion_main!(benches);
