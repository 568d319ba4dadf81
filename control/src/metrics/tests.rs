//! What a scrape shows, line by line.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use dataplane::shared::Limits;
use dataplane::{PortId, ServerId as ServerSlot, ServiceId as ServiceSlot};
use dpvs_api::{ForwardMode, Operation, Server, Service, ServiceId};

use super::*;
use crate::core::{DeviceCounters, PortFacts};
use crate::events::Events;
use crate::health::Monitor;
use crate::registry::Registry;
use crate::stats::{Outcomes, Stats};

const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn server(address: &str, mode: ForwardMode) -> Server {
    let mut server: Server = serde_json::from_str(r#"{"address":"192.0.2.1:1","mode":"nat"}"#).unwrap();
    (server.address, server.mode) = (address.parse().unwrap(), mode);
    server
}

fn service(id: &str, servers: Vec<Server>) -> Service {
    let is_fullnat = servers.iter().any(|server| server.mode == ForwardMode::Fullnat);
    let mut service = Service { servers, ..Service::new(id.parse::<ServiceId>().unwrap()) };
    if is_fullnat {
        service.local_addresses = vec!["192.0.2.201".parse().unwrap(), "192.0.2.202".parse().unwrap()];
    }
    service
}

/// Two workers and one port with these services.
fn scene(services: Vec<Service>) -> Scene {
    scene_after(services, Extent::default(), |_, _| {})
}

/// The same after something has happened to their health.
fn scene_after(services: Vec<Service>, extent: Extent, happen: impl FnOnce(&mut Registry, &mut Monitor)) -> Scene {
    // And a sorry server each.
    let servers = services.iter().map(|service| service.servers.len() + 1).sum();
    let limits = Limits {
        workers: 2,
        ports: 1,
        max_services: services.len(),
        max_servers: servers,
        templates: 1,
        call_ids: 1,
        noted_replies: 1,
        slow_path_frames: 1,
        max_frame: 64,
    };
    let shared = Shared::new(limits);
    let mut stats = Stats::new(Arc::clone(&shared), Instant::now());
    let mut registry = Registry::new(limits.max_services, limits.max_servers);
    let mut health = Monitor::new(Events::default());
    let operations: Vec<_> = services.into_iter().map(|service| Operation::AddService { service }).collect();
    stats.follow(&registry.apply(&operations, &|_| false).unwrap());
    let all: Vec<ServiceId> = registry.services().map(|(id, _)| id).collect();
    let effects = health.follow(all, &registry, Instant::now());
    registry.set_effects(effects);
    happen(&mut registry, &mut health);
    let mut publications = Publications::default();
    publications.note(1, at(NOW));
    publications.note(2, at(NOW + 5));
    let port = PortFacts {
        name: "lan".into(),
        device: "net_tap0".into(),
        interface: "dpvs0".into(),
        mac: [2, 0, 0, 0, 0, 1],
        queues: 2,
    };
    Scene {
        shared,
        seen: Seen::new(&registry, &health, extent),
        books: stats.books(),
        devices: Arc::new(Devices {
            counters: Box::new(|PortId(_)| DeviceCounters { missed: 5, no_buffer: 6, rx_errors: 7, tx_errors: 8 }),
            is_link_up: Box::new(|PortId(_)| true),
            buffers: Box::new(|| (100, 127)),
        }),
        facts: Facts {
            config: "/etc/c.toml".into(),
            socket: "/run/s".into(),
            dpdk: "22.11".into(),
            cores: vec![4, 6],
            worker_capacity: 500,
            ports: vec![port],
            started: Instant::now(),
        },
        control: Arc::new(ControlMetrics::new(at(NOW))),
        publications,
        draining: false,
        routes: (3, 4),
    }
}

fn text(scene: Scene) -> String {
    let mut text = String::new();
    render(scene, &mut text).unwrap();
    text
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|candidate| candidate == line), "no line '{line}' in:\n{text}");
}

#[test]
fn numbers_stand_where_they_belong() {
    let scene = scene(vec![
        service("tcp/192.0.2.100:80", vec![server("198.51.100.21:80", ForwardMode::Fullnat)]),
        service("udp/[2001:db8::1]:53", vec![]),
        service("fwmark/7", vec![server("198.51.100.22:0", ForwardMode::Dr)]),
    ]);
    let [first, second] = [&scene.shared.workers[0].counters, &scene.shared.workers[1].counters];
    let slot = ServerSlot(0);
    for (counters, n) in [(first, 1), (second, 10)] {
        counters.load(slot).total.add(3 * n);
        counters.load(slot).active.add(2 * n);
        counters.load(slot).inactive.add(n);
        counters.server(slot).in_packets.add(4 * n);
        counters.server(slot).out_bytes.add(5 * n);
        counters.outcomes(slot).answered.add(6 * n);
        counters.outcomes(slot).refused.add(n);
        counters.outcomes(slot).unanswered.add(2 * n);
        counters.outcomes(slot).expired.add(3 * n);
        counters.outcomes(slot).unreachable.add(4 * n);
    }
    second.service(ServiceSlot(0)).local_port_exhausted.add(9);
    second.busy_cycles.add(70);
    second.table_entries.set(30);
    second.table_entries_v6.set(12);
    second.snapshot_generation.set_release(2);
    second.defences.set_release(2);
    first.snapshot_generation.set_release(1);
    first.ports[0].rx_bytes.add(60);
    first.drops[0].add(1);
    scene.control.ticked(Duration::from_millis(1));
    scene.control.answered(Duration::from_secs(60));
    scene.control.reloaded(true, at(NOW + 9));
    scene.control.reloaded(false, at(NOW + 10));

    let text = text(scene);
    let failed = |reason: &str, count: u64| {
        let labels = format!("service=\"tcp/192.0.2.100:80\",server=\"198.51.100.21:80\",reason=\"{reason}\"");
        format!("dpvs_server_failed_connections_total{{{labels}}} {count}")
    };
    let reason = dataplane::verdict::DropReason::ALL[0].name();
    for line in [
        "dpvs_service_connections_total{service=\"tcp/192.0.2.100:80\"} 33",
        "dpvs_service_active_connections{service=\"tcp/192.0.2.100:80\"} 22",
        "dpvs_service_incoming_packets_total{service=\"tcp/192.0.2.100:80\"} 44",
        "dpvs_service_refused_connections_total{service=\"tcp/192.0.2.100:80\",reason=\"no_local_port\"} 9",
        // Ports 1025 to 65535 of two addresses.
        "dpvs_service_local_endpoints{service=\"tcp/192.0.2.100:80\"} 129022",
        "dpvs_service_local_endpoints_used{service=\"tcp/192.0.2.100:80\"} 33",
        "dpvs_service_servers{service=\"udp/[2001:db8::1]:53\"} 0",
        "dpvs_server_outgoing_bytes_total{service=\"tcp/192.0.2.100:80\",server=\"198.51.100.21:80\"} 55",
        "dpvs_server_inactive_connections{service=\"tcp/192.0.2.100:80\",server=\"198.51.100.21:80\"} 11",
        "dpvs_server_answered_connections_total{service=\"tcp/192.0.2.100:80\",server=\"198.51.100.21:80\"} 66",
        &failed("refused", 11),
        &failed("timeout", 55),
        &failed("unreachable", 44),
        "dpvs_server_weight{service=\"fwmark/7\",server=\"198.51.100.22:0\"} 1",
        "dpvs_worker_info{worker=\"1\",core=\"6\"} 1",
        "dpvs_worker_busy_cycles_total{worker=\"1\"} 70",
        "dpvs_worker_connections{worker=\"1\",family=\"inet\"} 18",
        "dpvs_worker_connections{worker=\"1\",family=\"inet6\"} 12",
        "dpvs_worker_connection_capacity{worker=\"0\",family=\"inet6\"} 500",
        "dpvs_worker_snapshot_timestamp_seconds{worker=\"0\"} 1000000.0",
        "dpvs_worker_snapshot_timestamp_seconds{worker=\"1\"} 1000005.0",
        "dpvs_worker_defence_active{worker=\"1\",defence=\"drop_packet\"} 1",
        "dpvs_worker_defence_active{worker=\"1\",defence=\"drop_entry\"} 0",
        "dpvs_port_info{port=\"lan\",device=\"net_tap0\",interface=\"dpvs0\"} 1",
        "dpvs_port_up{port=\"lan\"} 1",
        "dpvs_port_received_bytes_total{port=\"lan\"} 60",
        "dpvs_port_missed_packets_total{port=\"lan\"} 5",
        "dpvs_port_no_buffer_packets_total{port=\"lan\"} 6",
        &format!("dpvs_dropped_packets_total{{reason=\"{reason}\"}} 1"),
        "dpvs_packet_buffers_free 100",
        "dpvs_control_tick_delay_seconds_count 1",
        "dpvs_control_tick_delay_seconds_bucket{le=\"0.0004\"} 0",
        "dpvs_control_tick_delay_seconds_bucket{le=\"0.0016\"} 1",
        "dpvs_control_request_duration_seconds_bucket{le=\"+Inf\"} 1",
        "dpvs_config_reloads_total{result=\"failure\"} 1",
        "dpvs_config_last_reload_successful 0",
        "dpvs_config_last_reload_success_timestamp_seconds 1000009.0",
        "dpvs_snapshot_publications_total 2",
        "dpvs_snapshot_timestamp_seconds 1000005.0",
        "dpvs_routes 3",
        "dpvs_metrics_omitted_servers 0",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("local_endpoints{service=\"fwmark/7\"}"), "only FULLNAT has local endpoints:\n{text}");
    assert!(!text.contains("answered_connections_total{service=\"fwmark/7\""), "nothing is seen in DR mode:\n{text}");
}

/// As Prometheus wants it: each sample belongs to the family before it, and none comes twice.
#[test]
fn families_are_whole_and_series_unique() {
    let servers = vec![server("198.51.100.21:80", ForwardMode::Nat), server("198.51.100.22:80", ForwardMode::Nat)];
    let mut persistent = service("tcp/192.0.2.100:80", servers);
    persistent.settings.sorry_server = serde_json::from_str(r#"{"address":"192.0.2.150:80","mode":"nat"}"#).unwrap();
    persistent.settings.persistence = serde_json::from_str(r#"{"timeout":360}"#).unwrap();
    let scene = scene(vec![persistent, service("udp/192.0.2.100:80", vec![])]);
    let text = text(scene);
    has(&text, "dpvs_server_persistence_templates{service=\"tcp/192.0.2.100:80\",server=\"192.0.2.150:80\"} 0");
    let (mut family, mut kind, mut families, mut series) = ("", "", HashSet::new(), HashSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(families.insert(name), "{name} comes twice");
            assert!(help.ends_with('.'), "{line}");
            family = name;
        } else if let Some(named) = line.strip_prefix("# TYPE ") {
            kind = named.strip_prefix(family).unwrap().trim();
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let fits = match kind {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(family)),
                "counter" => name == family && name.ends_with("_total"),
                "gauge" => name == family && !name.ends_with("_total"),
                _ => false,
            };
            assert!(fits, "{line} in {kind} {family}");
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "{line} comes twice");
        }
    }
}

#[test]
fn series_of_services_and_servers_are_limited_and_always_the_same() {
    let services = || {
        let servers = |n| (1..=4).map(|m| server(&format!("198.51.100.{}:80", 10 * n + m), ForwardMode::Nat)).collect();
        (1..=3).map(|n| service(&format!("tcp/192.0.2.{n}:80"), servers(n))).collect()
    };
    let text = |extent| text(scene_after(services(), extent, |_, _| {}));
    for (services, servers, omitted, lines) in [
        (Shown::ALL, Shown::ALL, (0, 0), (3, 12)),
        (Shown(2), Shown::ALL, (1, 4), (2, 8)),
        (Shown::ALL, Shown(5), (0, 7), (3, 5)),
        (Shown::ALL, Shown::NONE, (0, 12), (3, 0)),
        (Shown::NONE, Shown::ALL, (3, 12), (0, 0)),
    ] {
        let extent = Extent { services, servers };
        let text = text(extent);
        has(&text, &format!("dpvs_metrics_omitted_services {}", omitted.0));
        has(&text, &format!("dpvs_metrics_omitted_servers {}", omitted.1));
        let count = |prefix: &str| text.lines().filter(|line| line.starts_with(prefix)).count();
        assert_eq!((count("dpvs_service_servers{"), count("dpvs_server_weight{")), lines, "{extent:?}");
        has(&text, "dpvs_services 3");
        has(&text, "dpvs_servers 12");
    }
    let first = text(Extent { services: Shown(1), servers: Shown(1) });
    has(&first, "dpvs_service_servers{service=\"tcp/192.0.2.1:80\"} 4");
}

#[test]
fn health_shows_with_weights_as_people_know_them() {
    let checks = r#"{"slow_start":100,"quorum":4,"checks":[
        {"probe":"tcp","fall":1,"rise":1},
        {"probe":{"udp":{"send":"a"}},"fall":1,"rise":1},
        {"probe":{"udp":{"send":"b"}},"fall":1,"rise":1}]}"#;
    let mut checked = service("tcp/192.0.2.100:80", vec![]);
    checked.settings.health = Some(serde_json::from_str(checks).unwrap());
    let with_weight = |address| Server { weight: 3, ..server(address, ForwardMode::Nat) };
    checked.servers = ["198.51.100.21:80", "198.51.100.22:80", "198.51.100.23:80"].map(with_weight).into();
    let services = vec![checked, service("tcp/192.0.2.101:80", vec![server("198.51.100.24:80", ForwardMode::Nat)])];
    let text = text(scene_after(services, Extent::default(), |registry, health| {
        let start = Instant::now();
        for (target, up) in [
            ("198.51.100.21:80", true),
            ("198.51.100.22:80", false),
            ("198.51.100.23:80", false),
            ("198.51.100.23:80", true),
            ("198.51.100.23:80", true),
        ] {
            health.run_checks(target, up, start);
            let effects = health.verdicts(registry, start);
            registry.set_effects(effects);
        }
        // Some of the slow start is over.
        let effects = health.ramp(registry, start + Duration::from_secs(50));
        registry.set_effects(effects);
    }));
    let of_server = |metric: &str, last: u8, value: &str| {
        let labels = format!("service=\"tcp/192.0.2.100:80\",server=\"198.51.100.{last}:80\"");
        has(&text, &format!("dpvs_{metric}{{{labels}}} {value}"));
    };
    for (last, weight, up) in [(21, "3", "1"), (22, "0", "0"), (23, "2", "1")] {
        of_server("server_weight", last, weight);
        of_server("server_configured_weight", last, "3");
        of_server("server_up", last, up);
    }
    let of_check = |metric: &str, last: u8, check: &str, value: &str| {
        let labels = format!("service=\"tcp/192.0.2.100:80\",server=\"198.51.100.{last}:80\",check=\"{check}\"");
        has(&text, &format!("dpvs_{metric}{{{labels}}} {value}"));
    };
    of_check("check_up", 22, "tcp 198.51.100.22:80", "0");
    of_check("check_runs_total", 23, "tcp 198.51.100.23:80", "3");
    of_check("check_failed_runs_total", 23, "tcp 198.51.100.23:80", "1");
    of_check("check_duration_seconds", 23, "udp 198.51.100.23:80 (2)", "0.001");
    for line in [
        "dpvs_service_servers{service=\"tcp/192.0.2.100:80\"} 3",
        "dpvs_service_available_servers{service=\"tcp/192.0.2.100:80\"} 2",
        "dpvs_service_quorum_reached{service=\"tcp/192.0.2.100:80\"} 1",
        "dpvs_server_weight{service=\"tcp/192.0.2.101:80\",server=\"198.51.100.24:80\"} 1",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("dpvs_server_up{service=\"tcp/192.0.2.101:80\""), "nobody checks it:\n{text}");
}

#[test]
fn a_generation_that_is_forgotten_is_as_old_as_the_oldest() {
    let mut publications = Publications::default();
    assert_eq!(publications.time_of(0), None);
    for generation in 1..=100 {
        publications.note(generation, at(generation));
    }
    assert_eq!(publications.latest(), Some((100, at(100))));
    assert_eq!(publications.time_of(100), Some(at(100)));
    assert_eq!(publications.time_of(69), Some(at(69)));
    assert_eq!(publications.time_of(3), Some(at(69)));
}

#[test]
fn how_much_is_shown_is_a_word_or_a_number() {
    let parse = |text: &str| toml::from_str::<HashMap<String, Shown>>(text).map(|map| map["servers"]);
    assert_eq!(parse("servers = 'all'").unwrap(), Shown::ALL);
    assert_eq!(parse("servers = 'none'").unwrap(), Shown::NONE);
    assert_eq!(parse("servers = 12").unwrap(), Shown(12));
    for wrong in ["servers = 'some'", "servers = -1", "servers = 1.5"] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains("\"all\", \"none\" or the largest number"), "{error}");
    }
}

#[test]
fn ejected_servers_show() {
    let mut judged = service(
        "tcp/192.0.2.100:80",
        vec![server("198.51.100.21:80", ForwardMode::Nat), server("198.51.100.22:80", ForwardMode::Nat)],
    );
    judged.settings.health = serde_json::from_str(r#"{"passive":{}}"#).unwrap();
    let unseen = service("fwmark/7", vec![server("198.51.100.23:0", ForwardMode::Dr)]);
    let text = text(scene_after(vec![judged, unseen], Extent::default(), |registry, health| {
        for unreachable in [0, 5] {
            // The first slot is that of the first server.
            let counts = |ServerSlot(slot)| Outcomes {
                unreachable: if slot == 0 { unreachable } else { 0 },
                ..Outcomes::default()
            };
            let effects = health.look(registry, counts, Instant::now());
            registry.set_effects(effects);
        }
    }));
    for (host, up) in [(21, 0), (22, 1)] {
        let labels = format!("service=\"tcp/192.0.2.100:80\",server=\"198.51.100.{host}:80\"");
        has(&text, &format!("dpvs_server_up{{{labels}}} {up}"));
        has(&text, &format!("dpvs_server_weight{{{labels}}} {up}"));
        has(&text, &format!("dpvs_server_ejected{{{labels}}} {}", 1 - up));
        has(&text, &format!("dpvs_server_ejections_total{{{labels}}} {}", 1 - up));
        has(&text, &format!("dpvs_server_failed_connections_total{{{labels},reason=\"timeout\"}} 0"));
    }
    assert!(!text.contains("dpvs_server_ejected{service=\"fwmark/7\""), "nobody judges it:\n{text}");
}
