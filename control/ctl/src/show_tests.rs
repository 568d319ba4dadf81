//! Every rendering once, in full.

use dpvs_api::{
    CheckStatus, ClientAddress, FlowStats, HealthState, PassiveStatus, Protocol, Scheduler, Server, ServerHealthStatus,
    ServerState, ServerStatus, Service, ServiceSettings, SorryServer,
};

use super::*;

pub(crate) fn service_status() -> ServiceStatus {
    let server = |address: &str, weight| ServerStatus {
        server: Server { weight, upper_threshold: 100, ..Server::new(address.parse().unwrap(), ForwardMode::Fullnat) },
        active_connections: 3,
        inactive_connections: 1,
        persistent_connections: 2,
        stats: FlowStats { connections: 5, in_packets: 1234, cps: 2, ..FlowStats::default() },
        effective_weight: Some(weight),
        health_status: None,
    };
    ServiceStatus {
        service: Service {
            id: "tcp/192.0.2.10:80".parse().unwrap(),
            settings: ServiceSettings {
                scheduler: Scheduler::Wrr,
                timeout: Some(60),
                local_ports: LocalPorts { first: 2000, last: 2999 },
                client_address: Some(ClientAddress::Toa),
                sorry_server: Some(SorryServer { address: "10.0.0.9:8080".parse().unwrap(), mode: ForwardMode::Nat }),
                health: Some(Box::default()),
                ..ServiceSettings::default()
            },
            local_addresses: vec!["10.0.0.200".parse().unwrap()],
            servers: Vec::new(),
        },
        server_status: vec![server("10.0.0.1:8080", 5), server("10.0.0.2:8080", 0)],
        sorry_server_status: Some(server("10.0.0.9:8080", 1)),
        stats: FlowStats { connections: 10, in_packets: 2_000_000, in_bps: 12_345, cps: 4, ..FlowStats::default() },
        no_server: 7,
        local_port_exhausted: 1500,
        client_address_sent: 12,
        client_address_omitted: 1,
        quorum_status: None,
    }
}

pub(crate) fn connection() -> Connection {
    Connection {
        protocol: Some(Protocol::Tcp),
        state: "ESTABLISHED".into(),
        mode: ForwardMode::Fullnat,
        client: "198.51.100.7:40000".parse().unwrap(),
        virtual_service: "192.0.2.10:80".parse().unwrap(),
        local: "10.0.0.200:2001".parse().unwrap(),
        server: "10.0.0.1:8080".parse().unwrap(),
        expires: 899,
        worker: Some(1),
        call_id: None,
    }
}

#[test]
fn services_and_servers() {
    assert_eq!(
        services(&[service_status()]),
        "SERVICE            SCHEDULER  SERVERS  ACTIVE  INACTIVE  CONN/S\n\
         tcp/192.0.2.10:80  wrr            1/2       6         2       4\n"
    );
    assert!(services(&[]).starts_with("There are no services"));
    assert_eq!(
        service(&service_status()),
        "Service             tcp/192.0.2.10:80\n\
         Scheduler           wrr\n\
         Timeout             60 s\n\
         Persistence         none\n\
         Local addresses     10.0.0.200\n\
         Local ports         2000 to 2999\n\
         Client address      toa: in 12 packets, no room in 1\n\
         Without server      7 connections\n\
         Without local port  1500 connections\n\
         \n\
         SERVER                 MODE     WEIGHT  UPPER  LOWER  ACTIVE  INACTIVE  PERSISTENT  CONN/S\n\
         10.0.0.1:8080          fullnat       5    100      -       3         1           2       2\n\
         10.0.0.2:8080          fullnat       0    100      -       3         1           2       2\n\
         10.0.0.9:8080 (sorry)  fullnat       1    100      -       3         1           2       2\n"
    );
    assert_eq!(
        local_addresses(&[service_status()]),
        "SERVICE            LOCAL ADDRESS      PORTS  CONNECTIONS WITHOUT PORT\n\
         tcp/192.0.2.10:80  10.0.0.200     2000-2999                      1500\n"
    );
}

#[test]
fn health() {
    let mut status = service_status();
    status.quorum_status = Some(QuorumStatus { reached: true, seconds: 61, weight: 5 });
    let check = |state, error: Option<&str>| CheckStatus {
        check: "http 10.0.0.2:8080/".to_owned(),
        state,
        seconds: 12,
        runs: 30,
        failures: 4,
        duration_us: 1234,
        error: error.map(str::to_owned),
        error_seconds: error.map(|_| 1),
        weight: None,
    };
    let down = check(HealthState::Down, Some("status 503"));
    let checks = vec![check(HealthState::Up, None), down];
    status.server_status[1].effective_weight = None;
    status.server_status[1].health_status =
        Some(ServerHealthStatus { state: ServerState::Down, seconds: 12, checks, passive: None });
    let text = service(&status);
    assert!(
        text.contains("Quorum              reached for 1 min 1 s: servers of weight 5 are up, 1 needed\n"),
        "{text}"
    );
    assert!(text.contains("10.0.0.2:8080          fullnat  0 (out)"), "{text}");
    let (_, table) = text.rsplit_once("\n\n").unwrap();
    assert_eq!(
        table,
        "SERVER         STATE  CHECK                STATE  FOR   RUNS  FAILED  LAST RUN  LAST ERROR\n\
         10.0.0.2:8080  down   http 10.0.0.2:8080/  up     12 s    30       4    1.2 ms  -\n\
         \u{20}                     http 10.0.0.2:8080/  down   12 s    30       4    1.2 ms  status 503 (1 s ago)\n"
    );
    assert!(services(&[status]).contains("wrr            1/2"));
}

#[test]
fn ejected_servers() {
    let mut status = service_status();
    let passive = |returns_in| PassiveStatus {
        answered: 3,
        refused: 1,
        timed_out: 2,
        unreachable: 4,
        ejections: 1,
        reason: Some("5 of 5 connections failed (5 refused); ejected for 30 s".to_owned()),
        reason_seconds: Some(6),
        returns_in,
    };
    let health = |state, returns_in| {
        Some(ServerHealthStatus { state, seconds: 6, checks: vec![], passive: Some(passive(returns_in)) })
    };
    status.server_status[0].health_status = health(ServerState::Ejected, Some(24));
    status.server_status[1].health_status = health(ServerState::Up, None);
    let text = service(&status);
    let (_, table) = text.rsplit_once("\n\n").unwrap();
    let why = "5 of 5 connections failed (5 refused); ejected for 30 s";
    assert_eq!(
        table,
        format!(
            "SERVER         STATE    CHECK    STATE    FOR  RUNS  FAILED  LAST RUN  LAST ERROR\n\
             10.0.0.1:8080  ejected  passive  ejected  6 s    10       7         -  {why} (returns in 24 s)\n\
             10.0.0.2:8080  up       passive  up       -      10       7         -  {why} (6 s ago)\n"
        )
    );
}

#[test]
fn traffic() {
    let text = stats(&[service_status()]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[1],
        ["tcp/192.0.2.10:80", "10", "2.00M", "0", "0", "0", "4", "0", "0", "12.3k", "0", "7", "1.50k"]
    );
    assert_eq!(lines[2], ["10.0.0.1:8080", "5", "1.23k", "0", "0", "0", "2", "0", "0", "0", "0"]);
    assert!(text.lines().nth(2).unwrap().starts_with("  10.0.0.1:8080 "));
}

#[test]
fn connections_are_lines() {
    assert_eq!(
        connections_heading() + &super::connection(&connection()),
        "PROTO STATE       EXPIRES CLIENT                 SERVICE                MODE    LOCAL                  SERVER\n\
         tcp   ESTABLISHED    899s 198.51.100.7:40000     192.0.2.10:80          fullnat 10.0.0.200:2001        10.0.0.1:8080\n"
    );
    let nat = Connection { mode: ForwardMode::Nat, ..connection() };
    assert!(super::connection(&nat).contains(" nat     -                      10.0.0.1:8080\n"));
}

#[test]
fn the_daemon() {
    let mut daemon = Status {
        version: "0.1.0".into(),
        pid: 42,
        uptime: 3700,
        config: "/etc/dpvs/dpvsd.toml".into(),
        table_capacity: 1000,
        connections: 25,
        template_capacity: 100,
        templates: 10,
        services: 1,
        generation: 3,
        socket: "/run/dpvs/dpvsd.sock".into(),
        draining: false,
        routes: 4,
        neighbours: 2,
        dpdk: "22.11.4".into(),
        unanswered_vips: Vec::new(),
    };
    assert_eq!(
        status(&daemon),
        "Version        0.1.0 on DPDK 22.11.4\n\
         Process        42, up 1 h 1 min\n\
         Configuration  /etc/dpvs/dpvsd.toml, generation 3\n\
         Socket         /run/dpvs/dpvsd.sock\n\
         Services       1\n\
         Connections    25 of 1000 (2.5%)\n\
         Persistent     10 clients of 100 (10.0%)\n\
         Routes         4\n\
         Neighbours     2\n"
    );
    daemon.draining = true;
    daemon.unanswered_vips = vec!["192.0.2.10:80".parse().unwrap()];
    let text = status(&daemon);
    assert!(text.contains("1 min, draining\n") && text.contains("Unanswered     192.0.2.10:80\n"), "{text}");
}

#[test]
fn counters() {
    let drop = |reason: &str, packets| DropCount { reason: reason.into(), description: "why".into(), packets };
    assert_eq!(
        drops(&[drop("bad_ip_checksum", 12), drop("x", 3)]),
        "REASON           PACKETS  MEANING\n\
         bad_ip_checksum       12  why\n\
         x                      3  why\n"
    );
    assert_eq!(drops(&[]), "No packet was dropped.\n");
    let worker = WorkerStats {
        worker: 0,
        core: 2,
        polls: 1000,
        busy_polls: 250,
        packets: 5000,
        bursts: 300,
        pps: 1234,
        busy_ratio: 0.256,
        cycles_per_packet: 81.5,
        packets_per_burst: 16.67,
        snapshots_behind: 8,
        connections: 9,
        capacity: 100,
        steered: 1,
        punted: 2,
        icmp_sent: 3,
        reaped: 6,
        reassembled: 7,
        drops: [("a".to_owned(), 4), ("b".to_owned(), 5)].into(),
    };
    let text = workers(&[worker]);
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["0", "2", "25.6%", "1.23k", "16.7", "82", "9", "100", "1", "2", "3", "6", "7", "8", "9"]);
    let port = PortStats {
        name: "lan".into(),
        device: "net_tap0".into(),
        interface: "dpvs0".into(),
        mac: "02:00:00:00:00:01".into(),
        queues: 2,
        rx_packets: 10,
        rx_bytes: 11,
        tx_packets: 12,
        tx_bytes: 13,
        rx_missed: 14,
    };
    let text = ports(&[port]);
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["lan", "net_tap0", "dpvs0", "02:00:00:00:00:01", "2", "10", "11", "12", "13", "14"]);
    assert_eq!(
        timeouts(&Timeouts::default()),
        "TCP established  900 s\nTCP after FIN    120 s\nUDP              300 s\n"
    );
    let text = sysctls(&Sysctls { conn_reuse_mode: 2, ..Sysctls::default() });
    let row = text.lines().find(|line| line.starts_with("conn_reuse_mode")).unwrap();
    assert_eq!(row.split_whitespace().take(6).collect::<Vec<_>>(), ["conn_reuse_mode", "2", "1", "0", "to", "3"]);
}
