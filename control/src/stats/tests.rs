//! Tests of totals, baselines and rates, with counters written as two workers would.

use dataplane::counters::{ServerCounters, ServiceCounters};
use dataplane::shared::Limits;

use super::*;

const SERVICE: ServiceSlot = ServiceSlot(1);
const OTHER: ServiceSlot = ServiceSlot(2);
const ONE: ServerSlot = ServerSlot(3);
const TWO: ServerSlot = ServerSlot(4);

struct Bench {
    shared: Arc<Shared>,
    stats: Stats,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        let limits = Limits {
            workers: 2,
            ports: 2,
            max_services: 4,
            max_servers: 8,
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 1,
            max_frame: 64,
        };
        let shared = Shared::new(limits);
        let start = Instant::now();
        Self { stats: Stats::new(Arc::clone(&shared), start), shared, start }
    }

    fn counters(&self, worker: usize, server: ServerSlot) -> &ServerCounters {
        self.shared.workers[worker].counters.server(server)
    }

    fn refusals(&self, worker: usize) -> &ServiceCounters {
        self.shared.workers[worker].counters.service(SERVICE)
    }

    /// Counts one connection, 2 packets and 30 bytes in, 4 packets and 500 bytes out, `n` times.
    fn traffic(&self, worker: usize, server: ServerSlot, n: u64) {
        let c = self.counters(worker, server);
        self.shared.workers[worker].counters.load(server).total.add(n);
        c.in_packets.add(2 * n);
        c.in_bytes.add(30 * n);
        c.out_packets.add(4 * n);
        c.out_bytes.add(500 * n);
    }

    fn sample(&mut self, seconds: u64) {
        self.stats.sample(self.start + Duration::from_secs(seconds));
    }
}

/// The totals of `n` times [`Bench::traffic`].
fn total(n: u64) -> [u64; 5] {
    [n, 2 * n, 4 * n, 30 * n, 500 * n]
}

fn totals(stats: FlowStats) -> [u64; 5] {
    [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes]
}

fn rates(stats: FlowStats) -> [u64; 5] {
    [stats.cps, stats.in_pps, stats.out_pps, stats.in_bps, stats.out_bps]
}

#[test]
fn totals_are_sums_over_workers_and_servers() {
    let mut bench = Bench::new();
    let setup = [Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE), Change::ServerAdded(TWO, SERVICE)];
    bench.stats.follow(&setup);
    bench.traffic(0, ONE, 1);
    bench.traffic(1, ONE, 10);
    bench.traffic(1, TWO, 100);
    assert_eq!(totals(bench.stats.server(ONE)), total(11));
    assert_eq!(totals(bench.stats.server(TWO)), total(100));
    assert_eq!(totals(bench.stats.service(SERVICE)), total(111));
    assert_eq!(totals(bench.stats.service(OTHER)), total(0));
}

#[test]
fn a_slot_shows_nothing_of_its_earlier_use() {
    let mut bench = Bench::new();
    bench.traffic(0, ONE, 5);
    bench.refusals(1).no_server.add(3);
    bench.stats.follow(&[Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE)]);
    bench.sample(2);
    assert_eq!(bench.stats.server(ONE), FlowStats::default());
    assert_eq!(bench.stats.service(SERVICE), FlowStats::default());
    assert_eq!(bench.stats.service_counts(SERVICE), ServiceCounts::default());

    bench.traffic(0, ONE, 1);
    bench.refusals(0).no_server.add(2);
    bench.refusals(1).local_port_exhausted.add(4);
    bench.refusals(1).client_address_sent.add(5);
    bench.refusals(0).client_address_omitted.add(1);
    let counts =
        ServiceCounts { no_server: 2, local_port_exhausted: 4, client_address_sent: 5, client_address_omitted: 1 };
    assert_eq!(bench.stats.service_counts(SERVICE), counts);
    let again = [
        Change::ServiceRemoved(SERVICE),
        Change::ServerFreed(ONE),
        Change::ServiceAdded(SERVICE),
        Change::ServerAdded(ONE, SERVICE),
    ];
    bench.stats.follow(&again);
    bench.sample(4);
    assert_eq!(bench.stats.server(ONE), FlowStats::default());
    assert_eq!(bench.stats.service(SERVICE), FlowStats::default());
    assert_eq!(bench.stats.service_counts(SERVICE), ServiceCounts::default());
}

#[test]
fn a_removed_servers_counts_stay_with_its_service() {
    let mut bench = Bench::new();
    let setup = [Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE), Change::ServerAdded(TWO, SERVICE)];
    bench.stats.follow(&setup);
    bench.traffic(0, ONE, 1);
    bench.traffic(0, TWO, 10);
    // Removal itself is no change of slots; a packet of a connection that was left may still be counted.
    bench.traffic(1, ONE, 1);
    assert_eq!(totals(bench.stats.service(SERVICE)), total(12));
    bench.stats.follow(&[Change::ServerFreed(ONE)]);
    assert_eq!(totals(bench.stats.service(SERVICE)), total(12));
    // Whoever has the slot next counts for its own service.
    bench.stats.follow(&[Change::ServiceAdded(OTHER), Change::ServerAdded(ONE, OTHER)]);
    bench.traffic(0, ONE, 100);
    assert_eq!(totals(bench.stats.service(SERVICE)), total(12));
    assert_eq!(totals(bench.stats.service(OTHER)), total(100));
}

#[test]
fn a_revived_server_goes_on_in_its_service_and_begins_anew_in_another() {
    let mut bench = Bench::new();
    bench.stats.follow(&[Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE)]);
    bench.traffic(0, ONE, 7);
    bench.stats.follow(&[Change::ServerRevived(ONE, None)]);
    assert_eq!(totals(bench.stats.server(ONE)), total(7));
    assert_eq!(totals(bench.stats.service(SERVICE)), total(7));

    let replaced =
        [Change::ServiceRemoved(SERVICE), Change::ServiceAdded(OTHER), Change::ServerRevived(ONE, Some(OTHER))];
    bench.stats.follow(&replaced);
    assert_eq!(totals(bench.stats.server(ONE)), total(0));
    bench.traffic(0, ONE, 1);
    assert_eq!(totals(bench.stats.service(OTHER)), total(1));
}

#[test]
fn zero_clears_one_service_with_its_servers() {
    let mut bench = Bench::new();
    let setup = [
        Change::ServiceAdded(SERVICE),
        Change::ServerAdded(ONE, SERVICE),
        Change::ServiceAdded(OTHER),
        Change::ServerAdded(TWO, OTHER),
    ];
    bench.stats.follow(&setup);
    bench.traffic(0, ONE, 7);
    bench.traffic(0, TWO, 7);
    bench.refusals(0).no_server.add(1);
    bench.shared.workers[0].counters.load(ONE).active.add(2);
    bench.sample(2);
    bench.stats.follow(&[Change::Zeroed(SERVICE)]);
    assert_eq!(bench.stats.server(ONE), FlowStats::default());
    assert_eq!(bench.stats.service(SERVICE), FlowStats::default());
    assert_eq!(bench.stats.service_counts(SERVICE), ServiceCounts::default());
    assert_eq!(totals(bench.stats.service(OTHER)), total(7));
    assert_eq!(connections(&bench.shared, ONE), (2, 0), "connections are no statistics");
    // No rate out of the counts before.
    bench.sample(4);
    assert_eq!(rates(bench.stats.server(ONE)), [0; 5]);
    bench.traffic(1, ONE, 2);
    assert_eq!(totals(bench.stats.service(SERVICE)), total(2));
}

/// The estimator of IPVS: a quarter of the difference every 2 s.
#[test]
fn rates_follow_the_samples() {
    let mut bench = Bench::new();
    bench.stats.follow(&[Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE)]);
    // 1000 a second for 40 s, in samples of 2 s.
    let mut expected = 0.0;
    for sample in 1..=20u64 {
        bench.traffic(sample as usize % 2, ONE, 2000);
        bench.sample(2 * sample);
        expected += (1000.0 - expected) / 4.0;
        let cps = f64::round(expected) as u64;
        assert_eq!(bench.stats.server(ONE).cps, cps, "sample {sample}");
        assert_eq!(bench.stats.service(SERVICE).cps, cps, "sample {sample}");
    }
    let [cps, in_pps, out_pps, in_bps, out_bps] = rates(bench.stats.service(SERVICE));
    assert!((990..=1000).contains(&cps), "{cps}");
    let near = |rate: u64, factor: u64| rate.abs_diff(cps * factor) <= factor;
    assert!(near(in_pps, 2) && near(out_pps, 4) && near(in_bps, 30) && near(out_bps, 500));
    // Silence: after 8 s about a third is left, after two minutes nothing.
    for second in [42, 44, 46, 48] {
        bench.sample(second);
    }
    assert!((310..=320).contains(&bench.stats.server(ONE).cps), "{}", bench.stats.server(ONE).cps);
    (25..85).for_each(|sample| bench.sample(2 * sample));
    assert_eq!(rates(bench.stats.service(SERVICE)), [0; 5]);
}

#[test]
fn a_late_sample_counts_for_its_whole_time() {
    let mut bench = Bench::new();
    bench.stats.follow(&[Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE)]);
    bench.traffic(0, ONE, 4000);
    bench.sample(4);
    assert_eq!(bench.stats.server(ONE).cps, 250);
    // A clock that stands still is no division by zero.
    bench.sample(4);
    assert_eq!(bench.stats.server(ONE).cps, 250);
}

#[test]
fn the_other_counters_are_summed_over_workers() {
    let mut bench = Bench::new();
    let shared = Arc::clone(&bench.shared);
    let [first, second] = [&shared.workers[0].counters, &shared.workers[1].counters];
    first.drops[DropReason::NoRoute as usize].add(3);
    second.drops[DropReason::NoRoute as usize].add(4);
    let drops = drops(&bench.shared);
    assert_eq!(drops.len(), DropReason::COUNT);
    let counted: Vec<_> = drops.iter().filter(|drop| drop.packets > 0).collect();
    assert_eq!(counted.len(), 1);
    assert_eq!((counted[0].reason.as_str(), counted[0].packets), ("no_route", 7));
    assert!(counted[0].description.starts_with("No route"));

    for (counters, n) in [(first, 1), (second, 20)] {
        counters.ports[1].rx_packets.add(n);
        counters.ports[1].rx_bytes.add(2 * n);
        counters.ports[1].tx_packets.add(3 * n);
        counters.ports[1].tx_bytes.add(4 * n);
        counters.table_entries.add(n);
    }
    let expected = PortTraffic { rx_packets: 21, rx_bytes: 42, tx_packets: 63, tx_bytes: 84 };
    assert_eq!(port_traffic(&bench.shared, PortId(1)), expected);
    assert_eq!(port_traffic(&bench.shared, PortId(0)), PortTraffic::default());
    assert_eq!(table_entries(&bench.shared), 21);

    // Ten packets in two bursts, in a quarter of the time.
    second.packets.add(10);
    second.bursts.add(2);
    second.cycles.add(4000);
    second.busy_cycles.add(1000);
    bench.sample(2);
    let workers = bench.stats.workers(&[4, 5], 99);
    assert_eq!((workers[1].worker, workers[1].core, workers[1].connections, workers[1].capacity), (1, 5, 20, 99));
    assert_eq!(workers[1].drops, BTreeMap::from([("no_route".to_owned(), 4)]));
    let WorkerStats { pps, busy_ratio, cycles_per_packet, packets_per_burst, .. } = workers[1];
    // Five a second, of which the first sample shows a quarter.
    assert_eq!((pps, busy_ratio, cycles_per_packet, packets_per_burst), (1, 0.25, 100.0, 5.0));
    let WorkerStats { busy_ratio, cycles_per_packet, packets_per_burst, .. } = workers[0];
    assert_eq!((busy_ratio, cycles_per_packet, packets_per_burst), (0.0, 0.0, 0.0));
}

#[test]
fn outcomes_of_a_server_begin_with_it() {
    let mut bench = Bench::new();
    let count = |bench: &Bench, n: u64| {
        for (worker, n) in [(0, n), (1, 10 * n)] {
            let outcomes = bench.shared.workers[worker].counters.outcomes(ONE);
            outcomes.answered.add(n);
            outcomes.refused.add(2 * n);
            outcomes.unanswered.add(3 * n);
            outcomes.expired.add(4 * n);
            outcomes.unreachable.add(5 * n);
        }
    };
    count(&bench, 100);
    bench.stats.follow(&[Change::ServiceAdded(SERVICE), Change::ServerAdded(ONE, SERVICE)]);
    count(&bench, 1);
    let outcomes = bench.stats.books().outcomes(&bench.shared, ONE);
    let expected = Outcomes { answered: 11, refused: 22, unanswered: 33, expired: 44, unreachable: 55 };
    assert_eq!(outcomes, Some(expected));
    bench.stats.follow(&[Change::Zeroed(SERVICE)]);
    assert_eq!(bench.stats.books().outcomes(&bench.shared, ONE), Some(Outcomes::default()));
    assert_eq!(bench.stats.books().outcomes(&bench.shared, TWO), None);
}
