use dpvs_api::{ApiError, ForwardMode, Operation, Service};
use serde_json::{Value, json};

use crate::registry::Registry;

const ID: &str = "tcp/192.0.2.1:80";

fn apply(registry: &mut Registry, operation: Operation) -> Result<(), ApiError> {
    registry.apply(&[operation], &|_| false).map(|_| ())
}

fn service(settings: Value, servers: Value) -> Service {
    let mut service = json!({ "protocol": "tcp", "address": "192.0.2.1:80", "servers": servers });
    service.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    serde_json::from_value(service).unwrap()
}

fn server(health: Value) -> Value {
    json!({ "address": "10.0.0.1:80", "mode": "nat", "health": health })
}

/// Path and message of the error about a service with this health.
fn refusal(health: Value) -> (String, String) {
    let service = service(json!({ "health": health }), json!([server(json!({}))]));
    let error = apply(&mut Registry::new(1, 1), Operation::AddService { service }).expect_err(&health.to_string());
    (error.path.unwrap().trim_start_matches("[0].service.").to_owned(), error.message)
}

#[test]
fn what_is_wrong_with_a_check() {
    let probe = |name: &str, settings: Value| json!({ "checks": [{ "probe": { name: settings } }] });
    for (health, path, message) in [
        (json!({ "quorum": 0 }), "health.quorum", "must be at least 1"),
        (json!({ "quorum": 2, "hysteresis": 2 }), "health.hysteresis", "must be less than its quorum, 2"),
        (json!({ "slow_start": 1e6 }), "health.slow_start", "1000000 s is out of range: give 0 s to 86400 s"),
        (json!({ "passive": { "interval": 0.5 } }), "health.passive.interval", "0.5 s is out of range: give 1 s to"),
        (json!({ "passive": { "error_limit": 0 } }), "health.passive.error_limit", "give 1 or more"),
        (json!({ "passive": { "failure_percent": 101 } }), "health.passive.failure_percent", "give 1 to 100"),
        (json!({ "passive": { "max_ejection_percent": 0 } }), "health.passive.max_ejection_percent", "give 1 to 100"),
        (json!({ "passive": { "kinds": [] } }), "health.passive.kinds", "leave out passive"),
        (json!({ "passive": { "kinds": ["timeout", "timeout"] } }), "health.passive.kinds", "timeout stands twice"),
        (
            json!({ "passive": { "base_ejection_time": 301 } }),
            "health.passive.max_ejection_time",
            "300 s is out of range: give 301 s to 86400 s",
        ),
        (json!({ "quorum_up": ["up.sh"] }), "health.quorum_up", "'up.sh' must be an absolute path"),
        (json!({ "notify_down": ["/x", "a\0"] }), "health.notify_down", "without zero bytes"),
        (json!({ "checks": vec![json!({ "probe": "tcp" }); 33] }), "health.checks", "33 checks are too many"),
        (
            json!({ "checks": [{ "probe": "tcp" }, { "probe": "tcp", "interval": 0.05 }] }),
            "health.checks[1].interval",
            "0.05 s is out of range: give 0.1 s to 86400 s",
        ),
        (json!({ "checks": [{ "probe": "tcp", "timeout": 0 }] }), "health.checks[0].timeout", "give 0.01 s to 3600 s"),
        (json!({ "checks": [{ "probe": "tcp", "fall": 0 }] }), "health.checks[0].fall", "give 1 to 1000"),
        (json!({ "checks": [{ "probe": "tcp", "port": 0 }] }), "health.checks[0].port", "0 is no port"),
        (json!({ "checks": [{ "probe": "tcp", "fwmark": 0 }] }), "health.checks[0].fwmark", "0 is no firewall mark"),
        (json!({ "checks": [{ "probe": "tcp", "address": "::" }] }), "health.checks[0].address", "unspecified"),
        (json!({ "checks": [{ "probe": "tcp", "source": "2001:db8::1" }] }), "servers[0].health", "use one family"),
        (probe("http", json!({ "path": "ok" })), "health.checks[0].probe.http.path", "begin it with /"),
        (probe("http", json!({ "path": "/a b" })), "health.checks[0].probe.http.path", "write spaces as %20"),
        (probe("http", json!({ "host": "a b" })), "health.checks[0].probe.http.host", "is no host"),
        (probe("http", json!({ "body": "(" })), "health.checks[0].probe.http.body", "unclosed group"),
        (probe("http", json!({ "headers": { "x y": "" } })), "health.checks[0].probe.http.headers", "no header"),
        (probe("http", json!({ "headers": { "Host": "a" } })), "health.checks[0].probe.http.headers", "use host"),
        (probe("http", json!({ "method": "HEAD", "body": "x" })), "health.checks[0].probe.http.method", "use GET"),
        (
            probe("http", json!({ "tls": { "key_file": "/k" } })),
            "health.checks[0].probe.http.tls.key_file",
            "add certificate_file",
        ),
        (
            probe("tcp", json!({ "tls": { "ca_file": "ca.pem" } })),
            "health.checks[0].probe.tcp.tls.ca_file",
            "must be an absolute path",
        ),
        (
            probe("grpc", json!({ "tls": { "ca_file": "/ca.pem", "verify": false } })),
            "health.checks[0].probe.grpc.tls.ca_file",
            "of no use without verify",
        ),
        (probe("dns", json!({ "name": "a..b" })), "health.checks[0].probe.dns.name", "is no domain name"),
        (probe("udp", json!({ "expect": "x" })), "health.checks[0].probe.udp.expect", "goes with require_reply only"),
        (
            probe("udp", json!({ "require_reply": true, "min_length": 9, "max_length": 8 })),
            "health.checks[0].probe.udp.min_length",
            "9 bytes at least and 8 at most",
        ),
        (probe("smtp", json!({ "helo": "a\r\nb" })), "health.checks[0].probe.smtp.helo", "must be one word"),
        (probe("external", json!({ "command": [] })), "health.checks[0].probe.external.command", "has no program"),
        (
            probe("external", json!({ "command": ["/x"], "user": "" })),
            "health.checks[0].probe.external.user",
            "must be one word",
        ),
    ] {
        let got = refusal(health);
        assert_eq!(got.0, path, "{}", got.1);
        assert!(got.1.contains(message), "{}", got.1);
    }
}

#[test]
fn slow_start_needs_weights_that_are_shares() {
    for (scheduler, is_good) in [("wrr", true), ("wlc", true), ("rr", false), ("mh", false), ("ovf", false)] {
        let settings = json!({ "scheduler": scheduler, "health": { "slow_start": 10 } });
        let added = apply(&mut Registry::new(1, 1), Operation::AddService { service: service(settings, json!([])) });
        assert_eq!(added.is_ok(), is_good, "{scheduler}: {added:?}");
    }
}

#[test]
fn a_server_has_its_own_checks_or_the_services() {
    let port = json!([{ "probe": "tcp", "port": 8080 }]);
    let mark = |health: Value, own: Value| {
        let server = json!({ "address": "10.0.0.1:0", "mode": "nat", "health": own });
        let service = json!({ "fwmark": 7, "health": health, "servers": [server] });
        let service = serde_json::from_value(service).unwrap();
        apply(&mut Registry::new(1, 1), Operation::AddService { service }).map_err(|error| error.path.unwrap())
    };
    let nothing = json!({});
    let portless = json!({ "checks": [{ "probe": "icmp" }, { "probe": "tcp" }] });
    assert_eq!(mark(nothing.clone(), nothing.clone()), Ok(()));
    assert_eq!(mark(json!({ "checks": port }), nothing.clone()), Ok(()));
    assert_eq!(mark(portless.clone(), nothing.clone()), Err("[0].service.servers[0].health".into()));
    assert_eq!(mark(portless.clone(), json!({ "checks": [] })), Ok(()));
    assert_eq!(mark(nothing, portless), Err("[0].service.servers[0].health.checks[1].port".into()));
}

#[test]
fn edits_are_checked_against_the_servers() {
    let mut registry = Registry::new(1, 1);
    apply(&mut registry, Operation::AddService { service: service(json!({}), json!([server(json!({}))])) }).unwrap();
    let id = ID.parse().unwrap();
    let with = |health: Value| Operation::EditService {
        service: id,
        settings: serde_json::from_value(json!({ "health": health })).unwrap(),
    };
    let ipv6 = json!({ "checks": [{ "probe": "tcp", "source": "2001:db8::1" }] });
    let error = apply(&mut registry, with(ipv6.clone())).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].settings.health"));
    assert!(error.message.contains("server 10.0.0.1:80"), "{}", error.message);
    apply(&mut registry, with(json!({ "checks": [{ "probe": "tcp" }] }))).unwrap();
    let edit = |health: Value| {
        let mut server = dpvs_api::Server::new("10.0.0.1:80".parse().unwrap(), ForwardMode::Nat);
        server.health = Some(serde_json::from_value(health).unwrap());
        Operation::EditServer { service: id, server }
    };
    let error = apply(&mut registry, edit(ipv6)).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].server.health.checks[0].source"));
    apply(&mut registry, edit(json!({ "notify_up": ["/bin/true"] }))).unwrap();
}

#[test]
fn servers_that_cannot_be_seen_cannot_be_judged() {
    let member = |mode: &str| json!({ "address": "10.0.0.1:80", "mode": mode });
    let passive = json!({ "health": { "passive": {} } });
    let add = |service| apply(&mut Registry::new(1, 1), Operation::AddService { service });
    let error = add(service(passive.clone(), json!([member("dr")]))).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].service.servers[0].mode"));
    assert!(error.message.contains("use nat, fullnat or tun"), "{}", error.message);
    for mode in ["nat", "tun"] {
        assert_eq!(add(service(passive.clone(), json!([member(mode)]))), Ok(()), "{mode}");
    }

    let mut single = serde_json::to_value(service(passive, json!([member("nat")]))).unwrap();
    single["protocol"] = json!("udp");
    single["one_packet"] = json!(true);
    let error = add(serde_json::from_value(single).unwrap()).unwrap_err();
    assert_eq!(error.path.as_deref(), Some("[0].service.health.passive"));
    assert!(error.message.contains("one_packet"), "{}", error.message);
}
