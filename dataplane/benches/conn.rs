//! The connection table alone: `cargo bench -p dataplane --bench conn`.
//!
//! Lookups go in bursts of 64 packets of uniformly random connections and in the three steps that workers use;
//! half of the packets come from clients, half from servers. The largest table takes 1 GiB.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::ServerId;
use dataplane::conn::{Conn, ConnId, ConnTable, TICKS_PER_SECOND, Tick, Timer};
use dataplane::fib::AdjacencyId;
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use proto::state::State;
use proto::{Protocol, Tuple};

const SIZES: [(&str, u32); 4] = [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000), ("10M", 10_000_000)];
const TIMEOUT: u32 = 300;
/// Packets that are prepared before a measurement.
const PACKETS: usize = 1 << 20;

/// Connection number `n`: scattered clients, consecutive local ports.
fn conn(n: u32) -> Conn<Ipv4Addr> {
    let client = u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Conn {
        caddr: Ipv4Addr::from((client >> 32) as u32),
        vaddr: Ipv4Addr::new(192, 0, 2, 1),
        daddr: Ipv4Addr::new(10, 0, 0, 1),
        laddr: Ipv4Addr::from(0x0a01_0000 + (n >> 15)),
        cport: client as u16,
        vport: 80,
        dport: 80,
        lport: 1024 + (n & 0x7fff) as u16,
        protocol: Protocol::UDP,
        mode: ForwardMode::FullNat,
        state: State::Udp,
        has_own_timeout: false,
        server: ServerId(0),
        to_server: AdjacencyId::NONE,
        to_client: AdjacencyId::NONE,
        fib_generation: 0,
        timer: Timer::default(),
    }
}

fn filled(connections: u32) -> ConnTable<Ipv4Addr> {
    let mut table = ConnTable::new(connections as usize, [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], Tick(0));
    for n in 0..connections {
        table.insert(conn(n), TIMEOUT, Tick(0)).expect("there is room, and no tuple comes twice");
    }
    table
}

/// xorshift64 (G. Marsaglia, "Xorshift RNGs", 2003).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn packets(connections: u32, tuple: impl Fn(&Conn<Ipv4Addr>, bool) -> Tuple<Ipv4Addr>) -> Vec<Tuple<Ipv4Addr>> {
    let mut state = 0x1234_5678_9abc_def1;
    let mut packet = || {
        let r = random(&mut state);
        tuple(&conn(((r >> 16) % u64::from(connections)) as u32), r & 1 == 0)
    };
    (0..PACKETS).map(|_| packet()).collect()
}

/// Looks up and touches every packet of a burst; returns how many were found.
fn look_up(table: &mut ConnTable<Ipv4Addr>, burst: &[Tuple<Ipv4Addr>]) -> usize {
    let mut hashes = [0; BURST];
    for (hash, tuple) in hashes.iter_mut().zip(burst) {
        *hash = table.hash(tuple);
        table.prefetch_bucket(*hash);
    }
    for &hash in &hashes {
        table.prefetch_entry(hash);
    }
    let mut found = 0;
    for (&hash, tuple) in hashes.iter().zip(burst) {
        if let Some((id, side)) = table.find(hash, tuple) {
            table.touch(id, Tick(1));
            black_box(side);
            found += 1;
        }
    }
    found
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, connections) in SIZES {
        let mut table = filled(connections);
        let hits = packets(connections, |conn, inbound| if inbound { conn.inbound() } else { conn.outbound() });
        let misses = packets(connections, |conn, _| Tuple { dport: 81, ..conn.inbound() });
        for (kind, packets, expected) in [("hit", hits, BURST), ("miss", misses, 0)] {
            let mut bursts = packets.chunks_exact(BURST).cycle();
            group.bench_function(format!("{kind}/{name}"), |b| {
                b.iter(|| {
                    let burst = bursts.next().unwrap_or_default();
                    assert_eq!(look_up(&mut table, burst), expected);
                });
            });
        }
    }
    group.finish();
}

/// Steady state of a full table: one connection goes, another takes its place.
fn turnover(c: &mut Criterion) {
    let mut group = c.benchmark_group("remove and insert");
    group.throughput(Throughput::Elements(1));
    for (name, connections) in SIZES {
        let mut table = filled(connections);
        let (mut next, mut state) = (connections, 0x1234_5678_9abc_def1);
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    next = next.wrapping_add(1) % (1 << 30);
                    (ConnId(((random(&mut state) >> 16) % u64::from(connections)) as u32), conn(next))
                },
                |(id, conn)| {
                    // What was removed comes back if the newcomer's client is there already, which is rare.
                    let old = table.remove(id);
                    if table.insert(conn, TIMEOUT, Tick(0)).is_err() {
                        black_box(table.insert(old, TIMEOUT, Tick(0)).is_ok());
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Time per connection that ends, in calls with the budget of a poll.
fn expiry(c: &mut Criterion) {
    const BUDGET: usize = 64;
    let mut group = c.benchmark_group("expire");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (name, connections) in &SIZES[..3] {
        group.bench_function(*name, |b| {
            b.iter_custom(|iterations| {
                let (mut ended, mut spent) = (0, Duration::ZERO);
                while ended < iterations {
                    let mut table = filled(*connections);
                    let now = Tick((TIMEOUT + 1) * TICKS_PER_SECOND);
                    let start = Instant::now();
                    while table.expiry_lag(now) > 0 {
                        ended += table.expire(now, BUDGET, |conn| {
                            black_box(conn);
                        }) as u64;
                    }
                    spent += start.elapsed();
                }
                spent.mul_f64(iterations as f64 / ended as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, turnover, expiry);
criterion_main!(benches);
