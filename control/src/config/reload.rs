//! What a changed configuration file means for a running daemon.
//!
//! Only what changed *in the file* is applied: services that came over the API stay, and so does what was edited there
//! as long as the file says the same as before. Nothing that stays is touched, so that connections and counters stay.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dpvs_api::{MarkRule, Operation, Server, Service, ServiceId, Timeouts};

use super::{Config, Port};

/// The operations that lead from the file as it was to the file as it is. `current` are the services in force, which
/// decide whether something is to be added or edited, and `marks` the rules for firewall marks in force.
pub fn difference(old: &Config, new: &Config, current: &[Service], marks: &[MarkRule]) -> Vec<Operation> {
    let was: BTreeMap<ServiceId, &Service> = old.services.iter().map(|service| (service.id, service)).collect();
    let is: BTreeMap<ServiceId, &Service> = new.services.iter().map(|service| (service.id, service)).collect();
    let now: BTreeMap<ServiceId, &Service> = current.iter().map(|service| (service.id, service)).collect();

    let mut operations = Vec::new();
    if old.timeouts != new.timeouts {
        // 0 leaves a timeout as it is.
        let changed = |old: u32, new: u32| if old == new { 0 } else { new };
        operations.push(Operation::SetTimeouts {
            timeouts: Timeouts {
                tcp: changed(old.timeouts.tcp, new.timeouts.tcp),
                tcp_fin: changed(old.timeouts.tcp_fin, new.timeouts.tcp_fin),
                udp: changed(old.timeouts.udp, new.timeouts.udp),
            },
        });
    }
    let values = old.sysctl.difference(&new.sysctl);
    if !values.is_empty() {
        operations.push(Operation::SetSysctls { values });
    }
    if old.marks != new.marks {
        // The file's rules come first, in its order; those that came over the API follow.
        let others = marks.iter().filter(|rule| !old.marks.contains(rule) && !new.marks.contains(rule));
        operations.push(Operation::SetMarks { rules: new.marks.iter().chain(others).cloned().collect() });
    }
    // What goes makes room for what comes.
    for &id in was.keys().filter(|id| !is.contains_key(*id) && now.contains_key(*id)) {
        operations.push(Operation::DeleteService { service: id });
    }
    for service in &new.services {
        let id = service.id;
        let before = was.get(&id).copied();
        if before == Some(service) {
            continue;
        }
        match now.get(&id) {
            None => operations.push(Operation::AddService { service: service.clone() }),
            Some(current) => edit(before, service, current, &mut operations),
        }
    }
    operations
}

/// Brings an existing service to what the file says now. A service that was not in the file before becomes the file's.
fn edit(before: Option<&Service>, after: &Service, current: &Service, operations: &mut Vec<Operation>) {
    let service = after.id;
    let before = before.unwrap_or(current);
    if before.settings != after.settings {
        operations.push(Operation::EditService { service, settings: after.settings.clone() });
    }

    for &local_address in &before.local_addresses {
        if !after.local_addresses.contains(&local_address) && current.local_addresses.contains(&local_address) {
            operations.push(Operation::DeleteLocalAddress { service, local_address });
        }
    }
    for &local_address in &after.local_addresses {
        if !before.local_addresses.contains(&local_address) && !current.local_addresses.contains(&local_address) {
            operations.push(Operation::AddLocalAddress { service, local_address, interface: None });
        }
    }

    let (was, is, now) = (by_address(before), by_address(after), by_address(current));
    for &server in was.keys().filter(|server| !is.contains_key(*server) && now.contains_key(*server)) {
        operations.push(Operation::DeleteServer { service, server });
    }
    for server in &after.servers {
        if was.get(&server.address) == Some(&server) {
            continue;
        }
        let server = server.clone();
        operations.push(match now.contains_key(&server.address) {
            true => Operation::EditServer { service, server },
            false => Operation::AddServer { service, server },
        });
    }
}

fn by_address(service: &Service) -> BTreeMap<SocketAddr, &Server> {
    service.servers.iter().map(|server| (server.address, server)).collect()
}

/// Keys that changed but take effect only when the daemon starts anew.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut compare = |key: &str, same: bool| {
        if !same {
            keys.push(key.to_owned());
        }
    };
    compare("daemon.socket", old.daemon.socket == new.daemon.socket);
    compare("daemon.socket_group", old.daemon.socket_group == new.daemon.socket_group);
    compare("daemon.control_core", old.daemon.control_core == new.daemon.control_core);
    compare("api.listen", old.api.listen == new.api.listen);
    compare("api.read_socket", old.api.read_socket == new.api.read_socket);
    compare("api.read_group", old.api.read_group == new.api.read_group);
    compare("eal", old.eal == new.eal);
    compare("helpers", old.helpers == new.helpers);
    compare("connection_log", old.connection_log == new.connection_log);
    compare("metrics", old.metrics == new.metrics);
    compare("workers", old.workers == new.workers);
    compare("limits", old.limits == new.limits);
    for port in &new.ports {
        let before = old.ports.iter().find(|before| before.name == port.name);
        compare(&format!("ports '{}'", port.name), before == Some(port));
    }
    for port in &old.ports {
        let gone = !new.ports.iter().any(|after| after.name == port.name);
        compare(&format!("ports '{}'", port.name), !gone);
    }
    let names = |ports: &[Port]| -> Vec<String> { ports.iter().map(|port| port.name.clone()).collect() };
    if keys.is_empty() && names(&old.ports) != names(&new.ports) {
        keys.push("ports (their order)".to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use dpvs_api::{ConfigFile, ConfigSources, Sysctls};

    use super::*;
    use crate::registry::Registry;

    const PORT: &str = "[[ports]]\nname = 'a'\ndevice = 'net_tap0'\n";

    fn config(rest: &str) -> Config {
        let text = if rest.contains("[[ports]]") { rest.to_owned() } else { format!("{rest}\n{PORT}") };
        let files = vec![ConfigFile { path: "t.toml".into(), text }];
        let parsed = Config::parse(&ConfigSources { files, environment: BTreeMap::new() });
        parsed.unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// A service with NAT servers, given as `ADDRESS=WEIGHT`.
    fn service(address: &str, extra: &str, servers: &[&str]) -> String {
        let mut text = format!("[[services]]\nprotocol = 'tcp'\naddress = '{address}'\n{extra}\n");
        for server in servers {
            let (address, weight) = server.split_once('=').unwrap();
            text += &format!("[[services.servers]]\naddress = '{address}'\nmode = 'nat'\nweight = {weight}\n");
        }
        text
    }

    fn current(registry: &Registry) -> Vec<Service> {
        registry.services().map(|(id, entry)| entry.service(id)).collect()
    }

    fn start(config: &Config) -> Registry {
        let mut registry = Registry::new(100, 100);
        let none = Config { services: Vec::new(), ..config.clone() };
        registry.apply(&difference(&none, config, &[], &[]), &|_| false).unwrap();
        registry
    }

    const A: &str = "192.0.2.1:80";
    const B: &str = "192.0.2.2:80";

    fn address_id(address: &str) -> ServiceId {
        format!("tcp/{address}").parse().unwrap()
    }

    #[test]
    fn an_unchanged_file_changes_nothing() {
        let old = config(&(service(A, "", &["10.0.0.1:80=1"]) + &service(B, "", &[])));
        let mut registry = start(&old);
        assert_eq!(difference(&old, &old, &current(&registry), &[]), []);
        // Not even what somebody changed over the API.
        registry.apply(&[Operation::Clear], &|_| false).unwrap();
        assert_eq!(difference(&old, &old, &current(&registry), &[]), []);
    }

    #[test]
    fn the_difference_leads_to_the_new_file() {
        let files = [
            String::new(),
            service(A, "", &[]),
            service(A, "scheduler = 'rr'\ntimeout = 7", &["10.0.0.1:80=1"]),
            service(A, "local_addresses = ['10.1.0.1']", &["10.0.0.2:80=1", "10.0.0.1:80=5"]),
            service(A, "local_addresses = ['10.1.0.2', '10.1.0.1']", &["10.0.0.3:80=1"])
                + &service(B, "", &["10.0.0.1:80=1"]),
            service(B, "local_ports = { first = 2000, last = 3000 }", &["10.0.0.1:80=9", "10.0.0.2:80=0"]),
        ];
        for from in &files {
            for to in &files {
                let (old, new) = (config(from), config(to));
                let mut registry = start(&old);
                let operations = difference(&old, &new, &current(&registry), &[]);
                registry.apply(&operations, &|_| false).unwrap_or_else(|error| panic!("{error}: {operations:?}"));
                let sorted = |mut services: Vec<Service>| {
                    services.sort_by_key(|service| service.id);
                    for service in &mut services {
                        service.servers.sort_by_key(|server| server.address);
                        service.local_addresses.sort();
                    }
                    services
                };
                assert_eq!(sorted(current(&registry)), sorted(new.services.clone()), "{operations:?}");
                assert_eq!(operations.is_empty(), from == to);
            }
        }
    }

    #[test]
    fn only_what_changed_is_touched() {
        let old = config(&(service(A, "", &["10.0.0.1:80=1", "10.0.0.2:80=1"]) + &service(B, "", &["10.0.0.1:80=1"])));
        let new = config(&(service(A, "", &["10.0.0.1:80=1", "10.0.0.2:80=2"]) + &service(B, "", &["10.0.0.1:80=1"])));
        let operations = difference(&old, &new, &current(&start(&old)), &[]);
        let [Operation::EditServer { service, server }] = operations.as_slice() else { panic!("{operations:?}") };
        assert_eq!((*service, server.address.to_string(), server.weight), (address_id(A), "10.0.0.2:80".into(), 2));
    }

    #[test]
    fn what_came_over_the_api_stays() {
        let old = config(&service(A, "", &["10.0.0.1:80=1", "10.0.0.2:80=1"]));
        let mut registry = start(&old);
        let other = config(&service(B, "", &["10.0.0.7:80=3"])).services.remove(0);
        let member =
            |weight| Server { weight, ..config(&service(A, "", &["10.0.0.3:80=1"])).services[0].servers[0].clone() };
        let id = address_id(A);
        let gone = "10.0.0.2:80".parse().unwrap();
        let by_hand = [
            Operation::AddService { service: other.clone() },
            Operation::AddServer { service: id, server: member(9) },
            Operation::DeleteServer { service: id, server: gone },
        ];
        registry.apply(&by_hand, &|_| false).unwrap();

        // The file now changes the server deleted by hand, adds the one added by hand, and takes the first away.
        let new = config(&service(A, "", &["10.0.0.2:80=4", "10.0.0.3:80=1"]));
        let operations = difference(&old, &new, &current(&registry), &[]);
        registry.apply(&operations, &|_| false).unwrap_or_else(|error| panic!("{error}: {operations:?}"));
        let services = current(&registry);
        assert_eq!(services.len(), 2);
        let mut servers: Vec<_> = services[0].servers.iter().map(|s| (s.address.to_string(), s.weight)).collect();
        servers.sort();
        assert_eq!(servers, [("10.0.0.2:80".to_owned(), 4), ("10.0.0.3:80".to_owned(), 1)]);
        assert_eq!(services[1], other);
    }

    #[test]
    fn what_is_gone_already_need_not_go() {
        let old = config(&(service(A, "local_addresses = ['10.1.0.1']", &["10.0.0.1:80=1"]) + &service(B, "", &[])));
        let mut registry = start(&old);
        let id = address_id(A);
        let by_hand = [
            Operation::DeleteServer { service: id, server: "10.0.0.1:80".parse().unwrap() },
            Operation::DeleteLocalAddress { service: id, local_address: [10, 1, 0, 1].into() },
            Operation::DeleteService { service: address_id(B) },
        ];
        registry.apply(&by_hand, &|_| false).unwrap();
        let new = config(&service(A, "", &[]));
        assert_eq!(difference(&old, &new, &current(&registry), &[]), []);
    }

    #[test]
    fn settings_of_the_file_that_changed_are_applied() {
        let (old, new) = (config(""), config("[sysctl]\nconn_reuse_mode = 0"));
        let mut registry = start(&old);
        let by_hand = BTreeMap::from([("sloppy_tcp".to_owned(), 1), ("conn_reuse_mode".to_owned(), 3)]);
        registry.apply(&[Operation::SetSysctls { values: by_hand }], &|_| false).unwrap();
        registry.apply(&difference(&old, &new, &[], &[]), &|_| false).unwrap();
        let expected = Sysctls { sloppy_tcp: 1, conn_reuse_mode: 0, ..Sysctls::default() };
        assert_eq!(registry.sysctls(), expected, "only what the file changes");
        registry.apply(&difference(&new, &old, &[], &[]), &|_| false).unwrap();
        assert_eq!(registry.sysctls(), Sysctls { conn_reuse_mode: 1, ..expected }, "back to the default");
    }

    #[test]
    fn timeouts_are_applied_and_the_rest_is_named() {
        let old = config("");
        let new = config("[timeouts]\nudp = 5");
        let mut registry = start(&old);
        let by_hand = Timeouts { tcp: 60, tcp_fin: 0, udp: 7 };
        registry.apply(&[Operation::SetTimeouts { timeouts: by_hand }], &|_| false).unwrap();
        registry.apply(&difference(&old, &new, &[], &[]), &|_| false).unwrap();
        assert_eq!(registry.timeouts(), Timeouts { tcp: 60, tcp_fin: 120, udp: 5 }, "only what the file changes");
        registry.apply(&difference(&new, &old, &[], &[]), &|_| false).unwrap();
        assert_eq!(registry.timeouts(), Timeouts { tcp: 60, ..Timeouts::default() }, "back to the default");
        assert_eq!(needs_restart(&old, &new), [""; 0]);
        assert_eq!(needs_restart(&old, &config("[daemon]\ndrain_timeout = 9\nlog = 'debug'")), [""; 0]);

        let port = |name: &str, device: &str| format!("[[ports]]\nname = '{name}'\ndevice = '{device}'\n");
        for (text, expected) in [
            (
                "[daemon]\nsocket = '/s'\nsocket_group = 'x'\ncontrol_core = 1".to_owned(),
                "daemon.socket, daemon.socket_group, daemon.control_core",
            ),
            ("[eal]\nargs = ['--x']\n[workers]\ncount = 2\n[limits]\nservices = 5".to_owned(), "eal, workers, limits"),
            (port("a", "net_tap1"), "ports 'a'"),
            (port("b", "net_tap0"), "ports 'b', ports 'a'"),
        ] {
            assert_eq!(needs_restart(&old, &config(&text)).join(", "), expected);
        }
        let (one, two) = (port("a", "net_tap0"), port("b", "net_tap1"));
        let swapped = needs_restart(&config(&format!("{one}{two}")), &config(&format!("{two}{one}")));
        assert_eq!(swapped, ["ports (their order)"]);
    }
}
