use std::time::Duration;

use dpvs_api::{Operation, ServerState, Service};
use serde_json::{Value, json};

use super::*;
use crate::health::probe::{Failure, Success};

/// A registry and its monitor; no check runs but by hand.
struct Bench {
    registry: Registry,
    monitor: Monitor,
    now: Instant,
}

impl Monitor {
    /// Has every check with this target end a run.
    pub(crate) fn run_checks(&self, target: &str, up: bool, now: Instant) {
        let target: SocketAddr = target.parse().unwrap();
        let mut ran = 0;
        for watch in self.checks.values().filter(|watch| watch.check.spec.target == target) {
            let outcome = if up { Ok(Success::default()) } else { Err(Failure::unexpected("status 503")) };
            watch.check.ran(outcome, Duration::from_millis(1), now);
            ran += 1;
        }
        assert!(ran > 0, "nothing checks {target}");
    }
}

impl Bench {
    fn new() -> Self {
        Self { registry: Registry::new(8, 16), monitor: Monitor::new(Events::default()), now: Instant::now() }
    }

    fn apply(&mut self, operations: &[Operation]) {
        let draft = self.registry.draft(operations).unwrap();
        let touched = draft.touched(&self.registry);
        self.registry.commit(draft, &|_| false).unwrap();
        let effects = self.monitor.follow(touched, &self.registry, self.now);
        self.registry.set_effects(effects);
    }

    /// Runs every check with this target once.
    fn run(&mut self, target: &str, up: bool) {
        self.monitor.run_checks(target, up, self.now);
        let effects = self.monitor.verdicts(&self.registry, self.now);
        self.registry.set_effects(effects);
    }

    /// Looks at what became of connections: these servers have refused so many, and have answered none.
    fn look(&mut self, refused: &[(&str, u64)]) {
        let slots: HashMap<ServerSlot, u64> = self
            .registry
            .services()
            .flat_map(|(_, entry)| entry.servers())
            .filter_map(|member| {
                let address = member.server.address.to_string();
                Some((member.slot, refused.iter().find(|(server, _)| *server == address)?.1))
            })
            .collect();
        let counts = |slot| Outcomes { refused: slots.get(&slot).copied().unwrap_or(0), ..Outcomes::default() };
        let effects = self.monitor.look(&self.registry, counts, self.now);
        self.registry.set_effects(effects);
    }

    /// Servers of a service as workers see them: address, weight.
    fn servers(&self, id: &str) -> Vec<(String, u32)> {
        let id: ServiceId = id.parse().unwrap();
        let table = self.registry.table();
        let service = table.iter().find(|service| service.id == self.registry.service(id).unwrap().slot()).unwrap();
        service.servers.iter().rev().map(|server| (server.addr.to_string(), server.weight)).collect()
    }
}

fn service(address: &str, health: Value, servers: &[&str]) -> Service {
    let servers: Vec<Value> = servers.iter().map(|s| json!({ "address": s, "mode": "nat", "weight": 2 })).collect();
    let service = json!({ "protocol": "tcp", "address": address, "health": health, "servers": servers });
    serde_json::from_value(service).unwrap()
}

fn add(service: Service) -> Operation {
    Operation::AddService { service }
}

fn once() -> Value {
    json!({ "checks": [{ "probe": "tcp", "fall": 1, "rise": 1 }] })
}

fn weights(servers: &[(&str, u32)]) -> Vec<(String, u32)> {
    servers.iter().map(|(address, weight)| (address.to_string(), *weight)).collect()
}

const A: &str = "tcp/192.0.2.1:80";
const B: &str = "tcp/192.0.2.2:80";

#[test]
fn a_check_that_services_share_runs_once() {
    let mut bench = Bench::new();
    let own = json!({ "checks": [{ "probe": "tcp", "fall": 1, "rise": 1, "port": 80 }], "on_failure": "zero-weight" });
    bench.apply(&[add(service("192.0.2.1:80", once(), &["10.0.0.1:80", "10.0.0.2:80"]))]);
    bench.apply(&[add(service("192.0.2.2:80", own, &["10.0.0.1:80"]))]);
    assert_eq!(bench.monitor.checks.len(), 2);
    bench.run("10.0.0.1:80", false);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.2", 2)]));
    assert_eq!(bench.servers(B), weights(&[("10.0.0.1", 0)]));
    let status = |bench: &Bench, id: &str| {
        let status = bench.monitor.server_status(id.parse().unwrap(), "10.0.0.1:80".parse().unwrap(), bench.now);
        status.unwrap()
    };
    assert_eq!(status(&bench, A), status(&bench, B));
    assert_eq!(status(&bench, A).state, ServerState::Down);
    let check = &status(&bench, A).checks[0];
    assert_eq!((check.check.as_str(), check.runs, check.failures), ("tcp 10.0.0.1:80", 1, 1));
    assert_eq!(check.error.as_deref(), Some("status 503"));

    // It ends with the last service that has it.
    bench.apply(&[Operation::DeleteService { service: A.parse().unwrap() }]);
    assert_eq!(bench.monitor.checks.len(), 1);
    assert_eq!(bench.servers(B), weights(&[("10.0.0.1", 0)]));
    bench.apply(&[Operation::Clear]);
    assert!(bench.monitor.checks.is_empty() && bench.monitor.services.is_empty());
}

#[test]
fn configured_values_stay() {
    let mut bench = Bench::new();
    bench.apply(&[add(service("192.0.2.1:80", once(), &["10.0.0.1:80", "10.0.0.2:80"]))]);
    let id = A.parse().unwrap();
    let before = bench.registry.service(id).unwrap().service(id);
    let version = bench.registry.service(id).unwrap().version();
    bench.run("10.0.0.1:80", false);
    let entry = bench.registry.service(id).unwrap();
    assert_eq!((entry.service(id), entry.version()), (before, version));
    let effective: Vec<_> = entry.servers().iter().map(Member::effective_weight).collect();
    assert_eq!(effective, [None, Some(2)]);
    bench.run("10.0.0.1:80", true);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2), ("10.0.0.2", 2)]), "in its place again");
}

#[test]
fn state_survives_changes_of_the_configuration() {
    let mut bench = Bench::new();
    bench.apply(&[add(service("192.0.2.1:80", once(), &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]))]);
    bench.run("10.0.0.1:80", false);
    let id: ServiceId = A.parse().unwrap();
    let down = weights(&[("10.0.0.2", 2), ("10.0.0.3", 2)]);
    assert_eq!(bench.servers(A), down);
    // Others come and go, and weights change.
    bench.apply(&[add(service("192.0.2.2:80", once(), &["10.0.0.1:80"]))]);
    assert_eq!((bench.servers(A), bench.servers(B)), (down, vec![]));
    let mut server = bench.registry.service(id).unwrap().servers()[1].server.clone();
    server.weight = 7;
    bench.apply(&[Operation::EditServer { service: id, server: server.clone() }]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.2", 7), ("10.0.0.3", 2)]));
    bench.apply(&[Operation::DeleteServer { service: id, server: server.address }]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.3", 2)]));
    // Another check of a server that is down has to find it up first.
    let edit = |health: Value| {
        let settings = serde_json::from_value(json!({ "health": health })).unwrap();
        Operation::EditService { service: id, settings }
    };
    bench.apply(&[edit(json!({ "checks": [{ "probe": "tcp", "interval": 1 }] }))]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.3", 2)]));
    bench.run("10.0.0.1:80", true);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2), ("10.0.0.3", 2)]));
    // Without checks, all servers take part.
    bench.apply(&[edit(once())]);
    bench.run("10.0.0.3:80", false);
    bench.apply(&[edit(json!({}))]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2), ("10.0.0.3", 2)]));
    assert!(bench.monitor.server_status(id, "10.0.0.3:80".parse().unwrap(), bench.now).is_none());
}

#[test]
fn pessimism_holds_from_the_first_moment() {
    let mut bench = Bench::new();
    let health = json!({ "checks": [{ "probe": "tcp" }], "initially": "down" });
    bench.apply(&[add(service("192.0.2.1:80", health, &["10.0.0.1:80"]))]);
    assert_eq!(bench.servers(A), []);
    bench.run("10.0.0.1:80", true);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2)]));
}

#[test]
fn slow_starts_scale_all_weights() {
    let mut bench = Bench::new();
    let mut health = once();
    health["slow_start"] = json!(10);
    bench.apply(&[add(service("192.0.2.1:80", health, &["10.0.0.1:80", "10.0.0.2:80"]))]);
    bench.run("10.0.0.1:80", false);
    bench.run("10.0.0.1:80", true);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 20), ("10.0.0.2", 200)]));
    let entry = bench.registry.service(A.parse().unwrap()).unwrap();
    assert_eq!(entry.servers()[0].effective_weight(), Some(1));
    assert!(bench.monitor.is_ramping());
    bench.now += Duration::from_secs(5);
    let effects = bench.monitor.ramp(&bench.registry, bench.now);
    assert!(bench.registry.set_effects(effects));
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 100), ("10.0.0.2", 200)]));
    bench.now += Duration::from_secs(5);
    let effects = bench.monitor.ramp(&bench.registry, bench.now);
    assert!(bench.registry.set_effects(effects));
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2), ("10.0.0.2", 2)]));
    assert!(!bench.monitor.is_ramping());
}

#[test]
fn events_tell_what_happened() {
    let mut bench = Bench::new();
    let mut followed = bench.monitor.events.follow(None);
    bench.apply(&[add(service("192.0.2.1:80", once(), &["10.0.0.1:80"]))]);
    bench.run("10.0.0.1:80", false);
    bench.run("10.0.0.1:80", true);
    let mut told = Vec::new();
    while let Ok(Some(event)) = followed.poll() {
        told.push(event.what.clone());
    }
    let (service, server) = (A.parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let reason = Some("tcp 10.0.0.1:80: status 503".to_owned());
    assert_eq!(
        told,
        [
            EventKind::ServerHealth { service, server, up: false, reason },
            EventKind::ServerHealth { service, server, up: true, reason: None },
        ]
    );
}

#[test]
fn removal_of_a_server_behind_one_that_is_out_reaches_workers() {
    let mut bench = Bench::new();
    bench.apply(&[add(service("192.0.2.1:80", once(), &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]))]);
    bench.run("10.0.0.1:80", false);
    let (service, server) = (A.parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    bench.apply(&[Operation::DeleteServer { service, server }]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.3", 2)]));
}

fn passive() -> Value {
    json!({ "passive": { "base_ejection_time": 20 } })
}

#[test]
fn what_becomes_of_connections_ejects_servers_for_a_time() {
    let mut bench = Bench::new();
    let mut followed = bench.monitor.events.follow(None);
    assert!(!bench.monitor.is_watching());
    bench.apply(&[add(service("192.0.2.1:80", passive(), &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]))]);
    let mut zero = passive();
    zero["on_failure"] = json!("zero-weight");
    bench.apply(&[add(service("192.0.2.2:80", zero, &["10.0.0.1:80", "10.0.0.2:80"]))]);
    assert!(bench.monitor.is_watching());
    bench.look(&[]);
    bench.look(&[("10.0.0.1:80", 5)]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.2", 2), ("10.0.0.3", 2)]));
    assert_eq!(bench.servers(B), weights(&[("10.0.0.1", 0), ("10.0.0.2", 2)]));

    let (id, server): (ServiceId, SocketAddr) = (A.parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    bench.now += Duration::from_secs(5);
    let status = bench.monitor.server_status(id, server, bench.now).unwrap();
    let passive = status.passive.unwrap();
    let reason = "5 of 5 connections failed (5 refused); ejected for 20 s";
    assert_eq!((status.state, status.seconds, passive.returns_in), (ServerState::Ejected, 5, Some(15)));
    assert_eq!((passive.reason.as_deref(), passive.reason_seconds), (Some(reason), Some(5)));
    let shown = bench.monitor.checks(id, server).unwrap();
    assert_eq!((shown.state, shown.ejections), (ServerState::Ejected, Some(Ejections { count: 1, is_ejected: true })));

    bench.now += Duration::from_secs(15);
    bench.look(&[("10.0.0.1:80", 9)]);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.1", 2), ("10.0.0.2", 2), ("10.0.0.3", 2)]));
    let mut told = Vec::new();
    while let Ok(Some(event)) = followed.poll() {
        told.push(event.what.clone());
    }
    let reason = Some(reason.to_owned());
    for service in [id, B.parse().unwrap()] {
        assert!(told.contains(&EventKind::ServerHealth { service, server, up: false, reason: reason.clone() }));
        assert!(told.contains(&EventKind::ServerHealth { service, server, up: true, reason: None }));
    }
    assert_eq!(told.len(), 4);
}

#[test]
fn ejections_survive_changes_of_the_configuration() {
    let mut bench = Bench::new();
    let servers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    bench.apply(&[add(service("192.0.2.1:80", passive(), &servers))]);
    bench.look(&[]);
    bench.look(&[("10.0.0.2:80", 5)]);
    let without = weights(&[("10.0.0.1", 2), ("10.0.0.3", 2)]);
    assert_eq!(bench.servers(A), without);
    let id: ServiceId = A.parse().unwrap();
    let edit = |health: Value| {
        let settings = serde_json::from_value(json!({ "health": health })).unwrap();
        Operation::EditService { service: id, settings }
    };
    // Others come, weights change, more is tolerated from now on, and a check is added.
    bench.apply(&[add(service("192.0.2.2:80", passive(), &servers))]);
    assert_eq!((bench.servers(A), bench.servers(B).len()), (without.clone(), 3));
    let mut server = bench.registry.service(id).unwrap().servers()[0].server.clone();
    server.weight = 7;
    bench.apply(&[Operation::EditServer { service: id, server }]);
    let without = weights(&[("10.0.0.1", 7), ("10.0.0.3", 2)]);
    assert_eq!(bench.servers(A), without);
    let mut tolerant = once();
    tolerant["passive"] = json!({ "error_limit": 50 });
    bench.apply(&[edit(tolerant.clone())]);
    bench.look(&[("10.0.0.2:80", 5)]);
    assert_eq!(bench.servers(A), without);
    // The new check is passed, for the first time since.
    bench.run("10.0.0.2:80", true);
    bench.look(&[("10.0.0.2:80", 5)]);
    let all = weights(&[("10.0.0.1", 7), ("10.0.0.2", 2), ("10.0.0.3", 2)]);
    assert_eq!(bench.servers(A), all);

    // Who is not looked at any longer takes part.
    bench.look(&[("10.0.0.2:80", 55)]);
    assert_eq!(bench.servers(A), without);
    bench.apply(&[edit(once())]);
    assert_eq!(bench.servers(A), all);
    bench.apply(&[Operation::DeleteService { service: B.parse().unwrap() }]);
    assert!(!bench.monitor.is_watching());
    assert!(bench.monitor.checks(id, "10.0.0.2:80".parse().unwrap()).unwrap().ejections.is_none());
}

#[test]
fn whom_nobody_looks_at_any_longer_is_said_to_be_up() {
    let mut bench = Bench::new();
    let mut health = passive();
    health["checks"] = once()["checks"].clone();
    bench.apply(&[add(service("192.0.2.1:80", health, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]))]);
    bench.look(&[]);
    bench.look(&[("10.0.0.1:80", 5)]);
    bench.run("10.0.0.2:80", false);
    assert_eq!(bench.servers(A), weights(&[("10.0.0.3", 2)]));
    let mut followed = bench.monitor.events.follow(None);
    let service: ServiceId = A.parse().unwrap();
    let settings = serde_json::from_value(json!({})).unwrap();
    bench.apply(&[Operation::EditService { service, settings }]);
    assert_eq!(bench.servers(A).len(), 3);
    for server in ["10.0.0.1:80", "10.0.0.2:80"] {
        let told = followed.poll().unwrap().unwrap();
        let server = server.parse().unwrap();
        assert_eq!(told.what, EventKind::ServerHealth { service, server, up: true, reason: None });
    }
    assert!(matches!(followed.poll(), Ok(None)));
}
