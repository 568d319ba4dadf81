//! Tests of the core without workers, kernel or devices.

use std::net::SocketAddr;

use dataplane::fib::{PortInfo, Route};
use dataplane::shared::Limits;
use dpvs_api::{Author, ForwardMode, Operation, Protocol, Scheduler, Server, Service, ServiceSettings, Timeouts};
use proto::state::State;

use super::*;

pub(crate) struct Bench {
    shared: Arc<Shared>,
    fibs: watch::Sender<Arc<Fib>>,
    pub(crate) handle: CoreHandle,
}

/// Runs `test` beside a core.
pub(crate) async fn with_core<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    let limits = Limits {
        workers: 2,
        ports: 1,
        max_services: 4,
        max_servers: 2,
        templates: 1,
        call_ids: 1,
        noted_replies: 1,
        slow_path_frames: 1,
        max_frame: 64,
    };
    let shared = Shared::new(limits);
    let (fibs, fib) = watch::channel(Arc::new(Fib::default()));
    let facts = Facts {
        config: "/etc/c.toml".to_owned(),
        socket: "/run/s".to_owned(),
        dpdk: "22.11".to_owned(),
        cores: vec![2, 3],
        worker_capacity: 500,
        ports: vec![PortFacts {
            name: "lan".to_owned(),
            device: "net_tap0".to_owned(),
            interface: "dpvs0".to_owned(),
            mac: [2, 0, 0, 0, 0, 0xab],
            queues: 2,
        }],
        started: Instant::now(),
    };
    let devices = Arc::new(Devices {
        counters: Box::new(|_| DeviceCounters { missed: 70, no_buffer: 7, ..DeviceCounters::default() }),
        is_link_up: Box::new(|_| true),
        buffers: Box::new(|| (1, 2)),
    });
    let (mut core, handle) = Core::new(Parts {
        shared: Arc::clone(&shared),
        kernel: None,
        fib,
        devices,
        helper_ports: HelperPorts::default(),
        facts,
    });
    // The core ends when the bench has dropped its handle.
    tokio::join!(core.run(), test(Bench { shared, fibs, handle }));
}

fn add(last: u8, servers: &[&str]) -> Operation {
    let server = |address: &&str| Server::new(address.parse().unwrap(), ForwardMode::Nat);
    Operation::AddService {
        service: Service {
            settings: ServiceSettings { scheduler: Scheduler::Rr, ..ServiceSettings::default() },
            servers: servers.iter().map(server).collect(),
            ..Service::new(id(last))
        },
    }
}

fn id(last: u8) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: SocketAddr::from(([192, 0, 2, last], 80)) }
}

impl Bench {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Says for all workers that they use the snapshot in force.
    fn adopt(&self) {
        for worker in &self.shared.workers {
            worker.counters.snapshot_generation.set_release(self.snapshot().generation);
        }
    }
}

#[tokio::test]
async fn batches_are_published_once_and_whole() {
    with_core(|bench| async move {
        let start = bench.snapshot().generation;
        let timeouts = Operation::SetTimeouts { timeouts: Timeouts { tcp: 0, tcp_fin: 7, udp: 0 } };
        bench.handle.apply(vec![add(1, &["10.0.0.1:80"]), add(2, &[]), timeouts]).await.unwrap();
        let snapshot = bench.snapshot();
        assert_eq!((snapshot.generation, snapshot.services.iter().count()), (start + 1, 2));
        assert_eq!(snapshot.settings.timeouts.get(State::FinWait), 7);
        assert_eq!(snapshot.settings.timeouts.get(State::Established), 900);
        assert_eq!(bench.handle.timeouts().await.unwrap(), Timeouts { tcp_fin: 7, ..Timeouts::default() });

        let error = bench.handle.apply(vec![add(3, &[]), add(1, &[])]).await.unwrap_err();
        assert_eq!((error.kind, error.path.as_deref()), (ErrorKind::Exists, Some("[1].service.address")));
        // Zeroing is nothing to workers.
        bench.handle.apply(vec![Operation::Zero { service: None }]).await.unwrap();
        assert_eq!(bench.snapshot().generation, start + 1);
    })
    .await;
}

#[tokio::test]
async fn services_show_configuration_counters_and_list_order() {
    with_core(|bench| async move {
        bench.handle.apply(vec![add(1, &["10.0.0.1:80", "10.0.0.2:80"])]).await.unwrap();
        let newest = bench.snapshot().services.iter().next().unwrap().servers[0];
        let counters = &bench.shared.workers[1].counters;
        counters.load(newest.id).total.add(5);
        counters.load(newest.id).active.add(3);
        counters.load(newest.id).inactive.add(2);

        let services = bench.handle.services().await.unwrap();
        let service = bench.handle.service(id(1)).await.unwrap();
        // Rates may be sampled in between.
        assert_eq!(services[0].stats.connections, service.stats.connections);
        assert_eq!((service.service.id, service.service.servers.len()), (id(1), 0));
        let order: Vec<String> = service.server_status.iter().map(|s| s.server.address.to_string()).collect();
        assert_eq!(order, ["10.0.0.2:80", "10.0.0.1:80"]);
        let first = &service.server_status[0];
        assert_eq!((first.active_connections, first.inactive_connections, first.stats.connections), (3, 2, 5));
        let error = bench.handle.service(id(9)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    })
    .await;
}

#[tokio::test]
async fn a_slot_waits_for_workers_and_connections() {
    with_core(|bench| async move {
        // The limit is two servers.
        bench.handle.apply(vec![add(1, &["10.0.0.1:80", "10.0.0.2:80"])]).await.unwrap();
        let slot = bench.snapshot().services.iter().next().unwrap().servers[0].id;
        bench.adopt();
        bench.handle.apply(vec![Operation::Clear]).await.unwrap();
        let error = bench.handle.apply(vec![add(2, &["10.0.0.3:80"])]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Full, "a worker may still use the old snapshot");
        bench.adopt();
        let load = bench.shared.workers[0].counters.load(slot);
        load.inactive.add(1);
        let error = bench.handle.apply(vec![add(2, &["10.0.0.3:80", "10.0.0.4:80"])]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Full, "one server has a connection left");
        load.inactive.sub(1);
        bench.handle.apply(vec![add(2, &["10.0.0.3:80", "10.0.0.4:80"])]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn status_and_ports_tell_what_is() {
    with_core(|bench| async move {
        bench.handle.apply(vec![add(1, &[]), add(2, &[])]).await.unwrap();
        bench.shared.workers[1].counters.table_entries.add(9);
        bench.shared.workers[1].counters.ports[0].rx_packets.add(4);

        let route = Route {
            network: [10, 0, 0, 0].into(),
            prefix_len: 8,
            next_hops: Vec::new(),
            preferred_source: None,
            mtu: None,
        };
        let info = PortInfo { mac: [2; 6], mtu: 1500, addresses: Vec::new() };
        let neighbour = ((PortId(0), IpAddr::from([10, 0, 0, 9])), [4; 6]);
        let fib = Fib::new(1, vec![info], [route], [neighbour], [IpAddr::from([192, 0, 2, 2])]);
        let before = bench.snapshot().generation;
        bench.fibs.send(Arc::new(fib)).unwrap();
        while bench.snapshot().generation == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.snapshot().services.iter().count(), 2);

        let status = bench.handle.status().await.unwrap();
        assert_eq!((status.services, status.connections, status.table_capacity), (2, 9, 1000));
        assert_eq!((status.routes, status.neighbours, status.draining), (1, 1, false));
        assert_eq!(status.unanswered_vips, [id(1).address().unwrap()]);
        assert_eq!(status.generation, before + 1);

        let ports = bench.handle.ports().await.unwrap();
        assert_eq!((ports[0].mac.as_str(), ports[0].rx_packets, ports[0].rx_missed), ("02:00:00:00:00:ab", 4, 77));
        assert_eq!(bench.handle.workers().await.unwrap()[1].core, 3);
        assert!(!bench.handle.drops().await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn changes_are_events_with_their_author() {
    with_core(|bench| async move {
        let mut events = bench.handle.events().follow(None);
        let operations = vec![add(1, &[]), Operation::Zero { service: None }];
        let by = Author::User { uid: 7, pid: None };
        bench.handle.apply(Batch::new(operations.clone(), by.clone())).await.unwrap();
        let first = events.next().await.unwrap();
        let EventKind::Configuration { version, .. } = &first.what else { panic!("{first:?}") };
        assert_eq!(first.what, EventKind::configuration(version.clone(), by, &operations));
        // What changes nothing is none: statistics, and values that are in force already.
        let timeouts = Operation::SetTimeouts { timeouts: Timeouts::default() };
        bench.handle.apply(vec![Operation::Zero { service: None }, timeouts]).await.unwrap();
        bench.handle.apply(vec![add(1, &[])]).await.unwrap_err();
        bench.handle.drain().await.unwrap();
        assert_eq!(events.next().await.unwrap().what, EventKind::Draining);
        assert_eq!(events.poll(), Ok(None));
    })
    .await;
}

#[tokio::test]
async fn versions_guard_against_lost_updates() {
    with_core(|bench| async move {
        let core = &bench.handle;
        core.apply(vec![add(1, &[]), add(2, &[])]).await.unwrap();
        let (one, two) = (core.version(Some(id(1))).await.unwrap(), core.version(Some(id(2))).await.unwrap());
        let all = core.version(None).await.unwrap();
        assert!(one != two && two != all && all != one);

        let edit = |scope, only_if: &[&String]| Batch {
            scope,
            only_if: Some(only_if.iter().map(|&version| version.clone()).collect()),
            ..vec![Operation::EditService {
                service: id(1),
                settings: ServiceSettings { timeout: Some(77), ..ServiceSettings::default() },
            }]
            .into()
        };
        let after = core.apply(edit(Some(id(1)), &[&two, &one])).await.unwrap();
        assert!(after != one && after == core.version(Some(id(1))).await.unwrap());
        // The other service is as it was, the whole is not.
        assert_eq!(core.version(Some(id(2))).await.unwrap(), two);
        for (scope, stale) in [(Some(id(1)), &one), (None, &all)] {
            let error = core.apply(edit(scope, &[stale])).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
        }
        // What changes nothing leaves the version.
        let now = core.version(None).await.unwrap();
        core.apply(vec![Operation::Zero { service: None }]).await.unwrap();
        assert_eq!(core.version(None).await.unwrap(), now);
        assert_eq!(core.apply(edit(Some(id(1)), &[&after])).await.unwrap(), after);
        assert_eq!(core.version(Some(id(9))).await.unwrap_err().kind, ErrorKind::NotFound);
        let gone = Batch { scope: Some(id(9)), ..vec![Operation::DeleteService { service: id(9) }].into() };
        assert_eq!(core.apply(gone).await.unwrap_err().kind, ErrorKind::NotFound);
    })
    .await;
}

#[tokio::test]
async fn services_come_in_parts() {
    with_core(|bench| async move {
        bench.handle.apply(vec![add(3, &[]), add(1, &[]), add(2, &[])]).await.unwrap();
        let part = async |after, count| {
            let (services, more) = bench.handle.services_after(after, count).await.unwrap();
            (services.iter().map(|status| status.service.id).collect::<Vec<_>>(), more)
        };
        assert_eq!(part(None, 2).await, (vec![id(1), id(2)], true));
        assert_eq!(part(Some(id(2)), 2).await, (vec![id(3)], false));
        assert_eq!(part(None, 3).await, (vec![id(1), id(2), id(3)], false));
        bench.handle.apply(vec![Operation::DeleteService { service: id(2) }]).await.unwrap();
        assert_eq!(part(Some(id(2)), 1).await, (vec![id(3)], false));
    })
    .await;
}

#[tokio::test]
async fn draining_is_published() {
    with_core(|bench| async move {
        bench.handle.drain().await.unwrap();
        assert!(bench.snapshot().settings.draining);
        assert!(bench.handle.status().await.unwrap().draining);
        // It stays so, whatever else changes.
        bench.handle.apply(vec![add(1, &[])]).await.unwrap();
        assert!(bench.snapshot().settings.draining);
    })
    .await;
}

#[tokio::test]
async fn without_a_core_there_are_errors() {
    let (handle, requests) = CoreHandle::new();
    drop(requests);
    let error = handle.status().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("stopping"), "{error}");
}
