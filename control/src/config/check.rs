//! What the types cannot say: ranges and combinations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use dataplane::snapshot::MAX_HELPER_PORTS;
use dataplane::steer::MAX_WORKERS;
use dpvs_api::{ErrorKind, ForwardMode, Operation, Service};
use tracing_subscriber::EnvFilter;

use super::{Config, ConnectionLog, Daemon, Eal, Helpers, Limits, Port, Workers};
use crate::registry::{MAX_TIMEOUT, Registry, unicast};

/// Longest path of a Unix socket: 108 bytes with the final zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Longest name of a network interface: IFNAMSIZ is 16 with the final zero.
const MAX_INTERFACE: usize = 15;
/// A worker's connection table below this is of no use.
const MIN_CONNECTIONS: usize = 1024;
/// Slots are 32-bit numbers; this leaves room and is more than memory allows.
const MAX_CONNECTIONS: usize = 1 << 30;

/// Errors of services that are looked for: each takes another look at all that are left.
const MAX_ERRORS: usize = 100;

/// What is wrong, with the key it is about.
#[derive(Debug)]
pub(super) struct Problem {
    pub key: String,
    pub message: String,
}

/// Collects problems.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { key: key.into(), message: message.into() });
    }

    fn range(&mut self, key: impl Into<String>, value: usize, range: std::ops::RangeInclusive<usize>) {
        if !range.contains(&value) {
            self.add(key, format!("{value} is out of range: give {} to {}", range.start(), range.end()));
        }
    }
}

/// Everything that is wrong with a configuration.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    daemon(&config.daemon, &mut problems);
    api(config, &mut problems);
    eal(&config.eal, &mut problems);
    workers(&config.workers, &mut problems);
    limits(&config.limits, config.workers.number(), &mut problems);
    timeouts(config, &mut problems);
    helpers(&config.helpers, &mut problems);
    connection_log(&config.connection_log, &mut problems);
    ports(config, &mut problems);
    marks(config, &mut problems);
    services(config, &mut problems);
    problems.0
}

fn daemon(daemon: &Daemon, problems: &mut Problems) {
    socket("daemon.socket", &daemon.socket, problems);
    problems.range("daemon.drain_timeout", daemon.drain_timeout as usize, 0..=86_400);
    if EnvFilter::try_new(&daemon.log).is_err() {
        let message =
            format!("'{}' is no log filter: give error, warn, info, debug or trace, or TARGET=LEVEL,...", daemon.log);
        problems.add("daemon.log", message);
    }
}

fn socket(key: &str, path: &Path, problems: &mut Problems) {
    let length = path.as_os_str().len();
    if !path.is_absolute() {
        problems.add(key, "must be an absolute path: begin it with /");
    } else if length > MAX_SOCKET_PATH {
        problems.add(key, format!("{length} bytes are too long for a Unix socket: use at most {MAX_SOCKET_PATH}"));
    }
}

fn api(config: &Config, problems: &mut Problems) {
    let api = &config.api;
    let files = [("certificate", &api.certificate), ("key", &api.key), ("client_ca", &api.client_ca)];
    match api.listen {
        Some(_) => {
            for (name, _) in files.iter().filter(|(_, file)| file.is_none()) {
                problems
                    .add("api.listen", format!("needs certificates on both sides: give {name}, a PEM file, as well"));
            }
        }
        None => {
            let mut of_no_use = files.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| *name);
            let name = of_no_use.next().or((!api.writers.is_empty()).then_some("writers"));
            if let Some(name) = name {
                problems.add(
                    format!("api.{name}"),
                    "is of no use without listen: give an address and a port, or remove it",
                );
            }
        }
    }
    match &api.read_socket {
        Some(path) if *path == config.daemon.socket => {
            problems.add(
                "api.read_socket",
                "is daemon.socket already, whose users may change everything: give another path",
            );
        }
        Some(path) => socket("api.read_socket", path, problems),
        None if api.read_group.is_some() => {
            problems.add("api.read_group", "is of no use without read_socket: give the path of one, or remove it");
        }
        None => {}
    }
}

fn eal(eal: &Eal, problems: &mut Problems) {
    if eal.file_prefix.is_empty() || eal.file_prefix.contains(|c: char| c == '/' || c.is_whitespace()) {
        problems.add("eal.file_prefix", "must be part of a file name: use letters, digits, - and _");
    }
    if let Some(memory) = eal.memory_mb {
        problems.range("eal.memory_mb", memory as usize, 16..=1 << 20);
    }
    problems.range("eal.packet_buffers", eal.packet_buffers as usize, 0..=1 << 24);
}

fn workers(workers: &Workers, problems: &mut Problems) {
    if let Some(count) = workers.count {
        problems.range("workers.count", count, 1..=MAX_WORKERS);
    }
    match (workers.count, &workers.cores) {
        (_, Some(cores)) if cores.is_empty() || cores.len() > MAX_WORKERS => {
            problems.add("workers.cores", format!("{} cores: give one per worker, 1 to {MAX_WORKERS}", cores.len()));
        }
        (Some(count), Some(cores)) if cores.len() != count => {
            let given = cores.len();
            let message =
                format!("{given} cores for {count} workers: give one per worker (a core may repeat), or remove count");
            problems.add("workers.cores", message);
        }
        _ => {}
    }
}

fn limits(limits: &Limits, workers: usize, problems: &mut Problems) {
    let workers = workers.clamp(1, MAX_WORKERS);
    problems.range("limits.connections", limits.connections, MIN_CONNECTIONS * workers..=MAX_CONNECTIONS);
    problems.range("limits.services", limits.services, 1..=1 << 20);
    problems.range("limits.servers", limits.servers, 1..=1 << 22);
    problems.range("limits.persistent_clients", limits.persistent_clients, 1..=1 << 24);
    problems.range("limits.sip_calls", limits.sip_calls, 0..=limits.persistent_clients.clamp(1, 1 << 20));
}

fn timeouts(config: &Config, problems: &mut Problems) {
    let timeouts = config.timeouts;
    for (name, seconds) in [("tcp", timeouts.tcp), ("tcp_fin", timeouts.tcp_fin), ("udp", timeouts.udp)] {
        problems.range(format!("timeouts.{name}"), seconds as usize, 1..=MAX_TIMEOUT as usize);
    }
}

fn helpers(helpers: &Helpers, problems: &mut Problems) {
    // An FTP server's data connections come from the port below.
    for (key, ports, first) in [("ftp_ports", &helpers.ftp_ports, 2), ("tftp_ports", &helpers.tftp_ports, 1)] {
        if ports.len() > MAX_HELPER_PORTS {
            let message = format!("{} ports are too many: give at most {MAX_HELPER_PORTS}", ports.len());
            problems.add(format!("helpers.{key}"), message);
        }
        for (index, port) in ports.iter().enumerate() {
            problems.range(format!("helpers.{key}[{index}]"), usize::from(*port), first..=65535);
        }
    }
}

fn connection_log(log: &ConnectionLog, problems: &mut Problems) {
    for (name, path) in [("file", &log.file), ("socket", &log.socket)] {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            problems.add(format!("connection_log.{name}"), "must be an absolute path: begin it with /");
        }
    }
    if log.file.is_some() && log.socket.is_some() {
        problems.add("connection_log.socket", "there is a file already: remove one of the two");
    }
    problems.range("connection_log.rate", log.rate as usize, 0..=100_000_000);
}

fn ports(config: &Config, problems: &mut Problems) {
    if config.ports.is_empty() {
        problems.add("ports", "there is no port: add a [[ports]] section with name and device");
    }
    let workers = config.workers.number();
    let mut seen: HashMap<(&str, String), usize> = HashMap::new();
    for (index, port) in config.ports.iter().enumerate() {
        let interface = config.interface(index);
        check_port(port, &interface, &format!("ports[{index}]"), workers, problems);
        for (field, value) in [("name", &port.name), ("device", &port.device), ("interface", &interface)] {
            if let Some(first) = seen.insert((field, value.clone()), index) {
                let message = format!("'{value}' is the {field} of ports[{first}] already: give each port its own");
                problems.add(format!("ports[{index}].{field}"), message);
            }
        }
    }
}

fn check_port(port: &Port, interface: &str, key: &str, workers: usize, problems: &mut Problems) {
    let at = |field: &str| format!("{key}.{field}");
    if port.name.is_empty() || port.name.contains(char::is_whitespace) {
        problems.add(at("name"), "must be a word: use letters and digits");
    }
    if port.device.is_empty() || port.device.contains(|c: char| c == ',' || c.is_whitespace()) {
        let message = "must be a PCI address (0000:3b:00.0) or a virtual device (net_tap0): put arguments into vdev";
        problems.add(at("device"), message);
    } else if port.vdev.is_some() && !port.is_virtual() {
        let message = format!("arguments are for virtual devices, but {} is a PCI device: remove vdev", port.device);
        problems.add(at("vdev"), message);
    }
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if interface.is_empty()
        || interface.len() > MAX_INTERFACE
        || interface.contains(bad)
        || [".", ".."].contains(&interface)
    {
        let message =
            format!("'{interface}' cannot be a network interface: use 1 to {MAX_INTERFACE} letters and digits");
        problems.add(at("interface"), message);
    }
    if let Some(queues) = port.queues
        && !(1..=workers).contains(&usize::from(queues))
    {
        let message = format!("{queues} queues for {workers} workers: give 1 to {workers}, or raise workers.count");
        problems.add(at("queues"), message);
    }
    for (index, prefix) in port.addresses.iter().enumerate() {
        if let Err(message) = unicast(prefix.address, "address") {
            problems.add(format!("{key}.addresses[{index}]"), message);
        }
    }
    problems.range(at("rx_descriptors"), port.rx_descriptors.into(), 64..=32_768);
    problems.range(at("tx_descriptors"), port.tx_descriptors.into(), 64..=32_768);
    problems.range(at("mtu"), port.mtu.into(), 1280..=9216);
}

/// Adds the rules to a registry one by one, so that each can have its error.
fn marks(config: &Config, problems: &mut Problems) {
    let names = config.ports.iter().map(|port| port.name.clone()).collect();
    let mut registry = Registry::new(1, 1).with_ports(names);
    for (index, rule) in config.marks.iter().enumerate() {
        let operation = Operation::AddMark { rule: rule.clone(), position: None };
        if let Err(error) = registry.apply(&[operation], &|_| false) {
            let within = error.path.as_deref().and_then(|path| path.strip_prefix("[0].rule")).unwrap_or_default();
            problems.add(format!("marks[{index}]{within}"), error.message);
        }
    }
}

/// Adds the services to a registry all at once. One that is wrong is taken out and the rest tried again, so that each can have
/// its error.
fn services(config: &Config, problems: &mut Problems) {
    let mut registry = Registry::new(config.limits.services.min(1 << 20), config.limits.servers.min(1 << 22));
    let add = |service: &Service| Operation::AddService { service: service.clone() };
    let mut operations: Vec<Operation> = config.services.iter().map(add).collect();
    let mut indices: Vec<usize> = (0..operations.len()).collect();
    let mut found = Vec::new();
    while let Err(error) = registry.apply(&operations, &|_| false) {
        let path = error.path.as_deref().unwrap_or_default();
        let place = path.strip_prefix('[').and_then(|path| path.split_once(']'));
        let index = place.and_then(|(index, _)| index.parse::<usize>().ok()).filter(|&index| index < indices.len());
        let (Some(index), Some((_, within))) = (index, place) else {
            problems.add("services", error.message);
            break;
        };
        let within = within.to_owned();
        operations.remove(index);
        found.push((indices.remove(index), within, error));
        if found.len() == MAX_ERRORS {
            break;
        }
    }
    for (index, within, error) in found {
        let (limit, value) = match within.as_str() {
            ".server" => ("servers", config.limits.servers),
            _ => ("services", config.limits.services),
        };
        let within = within.strip_prefix(".service").unwrap_or_default();
        let message = match (error.kind, within) {
            (ErrorKind::Full, _) => format!("no room: limits.{limit} is {value}; raise it, or remove {limit}"),
            (ErrorKind::Exists, ".address" | ".fwmark") => {
                format!("service {} stands twice in the file; remove one, or merge them", config.services[index].id)
            }
            _ => error.message,
        };
        problems.add(format!("services[{index}]{within}"), message);
    }
    for (index, service) in config.services.iter().enumerate() {
        let key = format!("services[{index}]");
        let servers = service.servers.iter().map(|s| (s.mode, s.address));
        let servers: Vec<_> = servers.chain(service.settings.sorry_server.map(|s| (s.mode, s.address))).collect();
        for (version, is_v6) in [("IPv4", false), ("IPv6", true)] {
            let is_fullnat = |(mode, address): &(ForwardMode, SocketAddr)| {
                *mode == ForwardMode::Fullnat && address.is_ipv6() == is_v6
            };
            if servers.iter().any(is_fullnat) && !service.local_addresses.iter().any(|local| local.is_ipv6() == is_v6) {
                let id = service.id;
                let message = format!("service {id} has FULLNAT servers: give it at least one {version} local address");
                problems.add(format!("{key}.local_addresses"), message);
            }
        }
    }
}
