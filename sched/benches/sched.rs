//! Choosing a server for one new connection: `cargo bench -p sched`.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use sched::{Hashing, Kind, Pool, Request, Scheduler, State};

const PLAIN: Hashing = Hashing { port: false, fallback: false };

const KINDS: [(&str, Kind); 15] = [
    ("rr", Kind::Rr),
    ("wrr", Kind::Wrr),
    ("lc", Kind::Lc),
    ("wlc", Kind::Wlc),
    ("sed", Kind::Sed),
    ("nq", Kind::Nq),
    ("fo", Kind::Fo),
    ("ovf", Kind::Ovf),
    ("twos", Kind::Twos),
    ("dh", Kind::Dh),
    ("sh", Kind::Sh(PLAIN)),
    ("mh", Kind::Mh(PLAIN)),
    ("lblc", Kind::Lblc),
    ("lblcr", Kind::Lblcr),
    ("conhash", Kind::Conhash(sched::Key::Source)),
];

/// Servers with as many connections as they were given.
struct Servers(Vec<Server>);

struct Server {
    weight: u32,
    active: u64,
}

impl Pool for Servers {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, server: usize) -> u32 {
        server as u32
    }
    fn weight(&self, server: usize) -> u32 {
        self.0[server].weight
    }
    fn is_overloaded(&self, _server: usize) -> bool {
        false
    }
    fn active(&self, server: usize) -> u64 {
        self.0[server].active
    }
    fn inactive(&self, _server: usize) -> u64 {
        1
    }
}

/// One client after the other.
struct Client(u32);

impl Request for Client {
    fn source(&self) -> IpAddr {
        self.0.to_be_bytes().into()
    }
    fn source_port(&self) -> u16 {
        self.0 as u16
    }
    fn destination(&self) -> IpAddr {
        [203, 0, 113, 1].into()
    }
    fn quic_id(&self) -> Option<u64> {
        None
    }
    fn now(&self) -> u32 {
        1
    }
    fn expirations(&self) -> sched::Expirations {
        sched::Expirations::default()
    }
}

/// Servers 10.0.0.1:80 and so on.
fn servers(weights: impl Iterator<Item = u32>) -> Vec<sched::Server> {
    let address = |n: u32| SocketAddr::new((0x0a00_0001 + n).to_be_bytes().into(), 80);
    let server = |(n, weight)| sched::Server { address: address(n), weight, last_weight: weight };
    (0..).zip(weights).map(server).collect()
}

fn pick(c: &mut Criterion) {
    for (name, kind) in KINDS {
        let mut group = c.benchmark_group(name);
        for count in [10, 1000] {
            for (weights, weight) in [("equal", (|_| 10) as fn(u32) -> u32), ("different", |i| 1 + i % 16)] {
                let weights_of = || (0..count).map(weight);
                let scheduler = Scheduler::new(kind, &servers(weights_of()));
                let mut pool = Servers(weights_of().map(|weight| Server { weight, active: 0 }).collect());
                let mut state = State::default();
                let mut client = Client(0x0a00_0000);
                group.bench_function(format!("{count} servers, {weights} weights"), |b| {
                    b.iter(|| {
                        client.0 += 1;
                        // With ovf, connections find no server in the end.
                        if let Some(server) = scheduler.pick(&mut state, &client, black_box(&pool)) {
                            pool.0[server].active += 1;
                        }
                    });
                });
            }
        }
        group.finish();
    }
}

/// Preparing a scheduler, as the control thread does when a service changes.
fn prepare(c: &mut Criterion) {
    let mut group = c.benchmark_group("prepare");
    for (name, kind) in KINDS {
        for count in [10, 1000] {
            let servers = servers((0..count).map(|i| 1 + i % 16));
            group.bench_function(format!("{name}, {count} servers"), |b| {
                b.iter(|| Scheduler::new(kind, black_box(&servers)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick, prepare);
criterion_main!(benches);
