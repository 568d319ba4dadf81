//! Finding the service of a new connection, and the way to its server and client: `cargo bench -p dataplane --bench lookup`.
//! What is looked up changes from one time to the next, at random.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::fib::{Fib, NextHop, PortInfo, Resolution, Route};
use dataplane::snapshot::{Service, ServiceKey, ServiceTable};
use dataplane::{PortId, ServiceId};
use proto::{Address, Protocol};
use sched::{Kind, Scheduler};

/// Things to look up, a power of two.
const LOOKUPS: usize = 1 << 12;

/// Numbers below `n`, in no order: xorshift64 (G. Marsaglia, "Xorshift RNGs", 2003).
fn random(n: u32) -> impl Iterator<Item = u32> {
    let mut state = 0x1234_5678_9abc_def1u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (((state >> 32) * u64::from(n)) >> 32) as u32
    })
}

trait Host: Address {
    const NAME: &str;
    /// Host `host` of network `net`; there are 2^20 networks, a /24 or /64 each.
    fn host(net: u32, host: u8) -> Self;
}

impl Host for Ipv4Addr {
    const NAME: &str = "IPv4";
    fn host(net: u32, host: u8) -> Self {
        (0x1000_0000 + (net << 8) + u32::from(host)).into()
    }
}

impl Host for Ipv6Addr {
    const NAME: &str = "IPv6";
    fn host(net: u32, host: u8) -> Self {
        (0x2001_0db8 << 96 | u128::from(net) << 64 | u128::from(host)).into()
    }
}

fn services<A: Host>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("service {}", A::NAME));
    for services in [1, 10_000] {
        let service = |n: u32| {
            let key =
                ServiceKey { protocol: Protocol::TCP, vaddr: A::host(n / 100, 1).into(), vport: (n % 100) as u16 };
            Arc::new(Service {
                id: ServiceId(n),
                incarnation: 1,
                version: 1,
                key,
                scheduler: Scheduler::new(Kind::Rr, &[]),
                servers: Vec::new(),
                local_addresses: Vec::new(),
                local_ports: (1024, 65535),
                timeout: None,
                one_packet: false,
                persistence: None,
                client_address: None,
                sorry: None,
            })
        };
        let table = ServiceTable::new((0..services).map(service));
        for (kind, protocol) in [("hit", Protocol::TCP), ("miss", Protocol::UDP)] {
            let wanted: Vec<_> =
                random(services).map(|n| (A::host(n / 100, 1), (n % 100) as u16)).take(LOOKUPS).collect();
            let mut wanted = wanted.iter().cycle();
            group.bench_function(format!("{kind} of {services}"), |b| {
                b.iter(|| {
                    let &(vaddr, vport) = wanted.next().expect("a cycle does not end");
                    let found = table.find(protocol, vaddr, vport);
                    assert_eq!(found.is_some(), kind == "hit");
                    found.map(|service| service.id)
                });
            });
        }
    }
    group.finish();
}

/// Networks behind 16 routers, a default route, and the link that the routers are on.
fn fib<A: Host>(routes: u32) -> Fib {
    const LINK: u32 = (1 << 20) - 1;
    let port = PortId(0);
    let router = |n: u32| -> IpAddr { A::host(LINK, (n % 16) as u8 + 1).into() };
    let route = |network: IpAddr, prefix_len, gateway| Route {
        network,
        prefix_len,
        next_hops: vec![NextHop { port, gateway, weight: 1 }],
        preferred_source: None,
        mtu: None,
    };
    let subnet_len = if A::LEN == 4 { 24 } else { 64 };
    let networks = (0..routes).map(|n| route(A::host(n, 0).into(), subnet_len, Some(router(n))));
    let others = [route(A::host(LINK, 0).into(), subnet_len, None), route(A::UNSPECIFIED.into(), 0, Some(router(0)))];
    let neighbours = (0..16).map(|n| ((port, router(n)), [2, 0, 0, 0, 1, n as u8]));
    let port = PortInfo { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, addresses: Vec::new() };
    Fib::new(1, vec![port], networks.chain(others), neighbours, [])
}

fn routes<A: Host>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("route {}", A::NAME));
    for routes in [10, 1_000, 100_000] {
        let fib = fib::<A>(routes);
        // Destinations in none of the networks take the default route.
        for (kind, first) in [("one", 0), ("the default", routes)] {
            let destinations: Vec<_> = random(routes).map(|n| A::host(first + n, 9)).take(LOOKUPS).collect();
            let mut destinations = destinations.iter().cycle();
            group.bench_function(format!("{kind} of {routes}"), |b| {
                b.iter(|| {
                    let &dst = destinations.next().expect("a cycle does not end");
                    let way = fib.resolve(black_box(dst), 7);
                    assert!(matches!(way, Resolution::Ready(_)));
                    way
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, services::<Ipv4Addr>, services::<Ipv6Addr>, routes::<Ipv4Addr>, routes::<Ipv6Addr>);
criterion_main!(benches);
