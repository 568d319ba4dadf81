//! Choosing a server for one new connection: `cargo bench -p sched`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sched::{Kind, Pool, Scheduler, State};

const KINDS: [(&str, Kind); 3] = [("rr", Kind::Rr), ("wrr", Kind::Wrr), ("wlc", Kind::Wlc)];

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

fn pick(c: &mut Criterion) {
    for (name, kind) in KINDS {
        let mut group = c.benchmark_group(name);
        for servers in [10, 1000] {
            for (weights, weight) in [("equal", (|_| 10) as fn(u32) -> u32), ("different", |i| 1 + i % 16)] {
                let weights_of = || (0..servers).map(weight);
                let scheduler = Scheduler::new(kind, &weights_of().collect::<Vec<_>>());
                let mut pool = Servers(weights_of().map(|weight| Server { weight, active: 0 }).collect());
                let mut state = State::default();
                group.bench_function(format!("{servers} servers, {weights} weights"), |b| {
                    b.iter(|| {
                        let choice = scheduler.pick(&mut state, black_box(&pool));
                        pool.0[choice.expect("all take connections")].active += 1;
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
