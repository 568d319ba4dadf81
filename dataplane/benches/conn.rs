//! The connection table alone: `cargo bench -p dataplane --bench conn`.
//!
//! Lookups go in bursts of 64 packets of uniformly random connections and in the three steps that workers use;
//! half of the packets come from clients, half from servers. The largest table takes 1.5 GiB.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::ServerId;
use dataplane::conn::{Conn, ConnFlags, ConnId, ConnTable, TICKS_PER_SECOND, Tick, Timer, TupleHasher};
use dataplane::fib::AdjacencyId;
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use proto::state::State;
use proto::{Address, Protocol, Tuple};

const SIZES: [(&str, u32); 4] = [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000), ("10M", 10_000_000)];
const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const TIMEOUT: u32 = 300;
/// Packets that are prepared before a measurement.
const PACKETS: usize = 1 << 20;

trait Host: Address {
    const NAME: &str;
    /// Host `n` of the Internet.
    fn host(n: u32) -> Self;
}

impl Host for Ipv4Addr {
    const NAME: &str = "IPv4";
    fn host(n: u32) -> Self {
        n.into()
    }
}

impl Host for Ipv6Addr {
    const NAME: &str = "IPv6";
    fn host(n: u32) -> Self {
        (0x2001_0db8 << 96 | u128::from(n)).into()
    }
}

/// Connection number `n`: scattered clients, consecutive local ports.
fn conn<A: Host>(n: u32) -> Conn<A> {
    let client = u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Conn {
        caddr: A::host((client >> 32) as u32),
        vaddr: A::host(0xc000_0201),
        daddr: A::host(0x0a00_0001),
        laddr: A::host(0x0a01_0000 + (n >> 15)),
        cport: client as u16,
        vport: 80,
        dport: 80,
        lport: 1024 + (n & 0x7fff) as u16,
        protocol: Protocol::UDP,
        mode: ForwardMode::FullNat,
        state: State::Udp,
        flags: ConnFlags::empty(),
        server: ServerId(0),
        to_server: AdjacencyId::NONE,
        to_client: AdjacencyId::NONE,
        epoch: 0,
        timer: Timer::default(),
    }
}

/// A table of connections with room for `more`.
fn filled<A: Host>(connections: u32, more: u32) -> ConnTable<A> {
    let mut table = ConnTable::new((connections + more) as usize, SEED, Tick(0));
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

fn packets<A: Host>(connections: u32, tuple: impl Fn(&Conn<A>, bool) -> Tuple<A>) -> Vec<Tuple<A>> {
    let mut state = 0x1234_5678_9abc_def1;
    let mut packet = || {
        let r = random(&mut state);
        tuple(&conn(((r >> 16) % u64::from(connections)) as u32), r & 1 == 0)
    };
    (0..PACKETS).map(|_| packet()).collect()
}

/// Looks up and touches every packet of a burst; returns how many were found.
fn look_up<A: Host>(table: &mut ConnTable<A>, burst: &[Tuple<A>]) -> usize {
    let mut hashes = [0; BURST];
    for (hash, tuple) in hashes.iter_mut().zip(burst) {
        *hash = table.hash(tuple);
        table.prefetch_bucket(*hash);
    }
    let candidates = hashes.map(|hash| table.prefetch_entry(hash));
    let mut found = 0;
    for ((hash, candidate), tuple) in hashes.into_iter().zip(candidates).zip(burst) {
        if let Some((conn, side)) = table.get_by(candidate, hash, tuple) {
            conn.touch(Tick(1));
            black_box(side);
            found += 1;
        }
    }
    found
}

fn hash<A: Host>(c: &mut Criterion) {
    let hasher = TupleHasher::new(SEED);
    let tuple = conn::<A>(1).inbound();
    c.bench_function(&format!("hash {}", A::NAME), |b| b.iter(|| hasher.hash(black_box(&tuple))));
}

fn lookups<A: Host>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("find {}", A::NAME));
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, connections) in SIZES {
        let mut table = filled::<A>(connections, 0);
        let hits =
            packets(connections, |conn: &Conn<A>, inbound| if inbound { conn.inbound() } else { conn.outbound() });
        let misses = packets(connections, |conn: &Conn<A>, _| Tuple { dport: 81, ..conn.inbound() });
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

/// Time per connection that a table of so many gets in addition.
fn insertion<A: Host>(c: &mut Criterion) {
    /// What is inserted before it is taken out again.
    const MORE: u32 = 1 << 12;
    let mut group = c.benchmark_group(format!("insert {}", A::NAME));
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (name, connections) in SIZES {
        let mut table = filled::<A>(connections, MORE);
        let mut next = connections;
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let (mut inserted, mut spent) = (0, Duration::ZERO);
                while inserted < iterations {
                    // New ones each time: those that come again would find their buckets in the cache.
                    let conns: Vec<Conn<A>> = (next..next + MORE).map(conn).collect();
                    next = connections + (next + MORE - connections) % (1 << 20);
                    let start = Instant::now();
                    let ids: Vec<_> = conns.into_iter().map(|conn| table.insert(conn, TIMEOUT, Tick(0))).collect();
                    spent += start.elapsed();
                    inserted += ids.len() as u64;
                    for id in ids {
                        table.remove(id.expect("there is room, and no tuple comes twice"));
                    }
                }
                spent.mul_f64(iterations as f64 / inserted as f64)
            });
        });
    }
    group.finish();
}

/// Steady state of a full table: one connection goes, another takes its place.
fn turnover<A: Host>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("remove and insert {}", A::NAME));
    group.throughput(Throughput::Elements(1));
    for (name, connections) in SIZES {
        let mut table = filled::<A>(connections, 0);
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
fn expiry<A: Host>(c: &mut Criterion) {
    const BUDGET: usize = 64;
    let mut group = c.benchmark_group(format!("expire {}", A::NAME));
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (name, connections) in &SIZES[..3] {
        group.bench_function(*name, |b| {
            b.iter_custom(|iterations| {
                let (mut ended, mut spent) = (0, Duration::ZERO);
                while ended < iterations {
                    let mut table = filled::<A>(*connections, 0);
                    let now = Tick((TIMEOUT + 1) * TICKS_PER_SECOND);
                    let start = Instant::now();
                    while table.expiry_lag(now) > 0 {
                        ended += table.expire(now, BUDGET, |_, conn, _| {
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

fn family<A: Host>(c: &mut Criterion) {
    hash::<A>(c);
    lookups::<A>(c);
    insertion::<A>(c);
    turnover::<A>(c);
    expiry::<A>(c);
}

criterion_group!(benches, family::<Ipv4Addr>, family::<Ipv6Addr>);
criterion_main!(benches);
