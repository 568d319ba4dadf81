//! A core without workers, and configurations that it is given.

use std::sync::Mutex as Lock;

use dpvs_api::{ConfigFile, Server};

use super::*;
use crate::core::tests::with_core;

const PORT: &str = "[[ports]]\nname = 'lan'\ndevice = 'net_tap0'\n";

fn sources(text: &str) -> ConfigSources {
    let files = vec![ConfigFile { path: "t.toml".into(), text: text.to_owned() }];
    ConfigSources { files, environment: Default::default() }
}

fn service(port: u16, rest: &str, servers: &[&str]) -> String {
    let mut text = format!("[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.1:{port}'\n{rest}\n");
    for server in servers {
        text += &format!("[[services.servers]]\naddress = '{server}'\nmode = 'nat'\n");
    }
    text
}

/// Runs `test` with a daemon that has started with `text`, and with what it was told to log.
async fn with_daemon<F: Future<Output = ()>>(text: &str, test: impl FnOnce(Reconciler, Arc<Lock<Vec<String>>>) -> F) {
    let config = Config::parse(&sources(text)).unwrap_or_else(|errors| panic!("{errors}"));
    with_core(|bench| async move {
        let start = config.services.iter().map(|service| Operation::AddService { service: service.clone() });
        bench.handle.apply(start.collect::<Vec<Operation>>()).await.unwrap();
        let log = Arc::new(Lock::new(Vec::new()));
        let written = Arc::clone(&log);
        let set_log = move |filter: &str| written.lock().unwrap().push(filter.to_owned());
        test(Reconciler::new(bench.handle.clone(), config, set_log), log).await;
    })
    .await;
}

#[tokio::test]
async fn everything_becomes_as_the_file_says() {
    let old = format!("{PORT}{}{}", service(1, "", &["10.0.0.1:1"]), service(2, "", &[]));
    let new = format!(
        "[daemon]\nlog = 'warn'\n[workers]\ncount = 2\n[timeouts]\ntcp = 60\n[sysctl]\nsloppy_tcp = 1\n{PORT}[[marks]]\nmark = 7\n{}{}",
        service(1, "scheduler = 'rr'", &["10.0.0.2:1"]),
        service(3, "", &[])
    );
    with_daemon(&old.clone(), |daemon, log| async move {
        assert_eq!(daemon.compare(sources(&old)).await.unwrap(), ConfigChanges::default());
        // By hand: what the file does not say goes, and what it says comes back.
        let id: ServiceId = "tcp/192.0.2.1:4".parse().unwrap();
        let by_hand = [
            Operation::AddService { service: dpvs_api::Service::new(id) },
            Operation::SetTimeouts { timeouts: dpvs_api::Timeouts { tcp: 5, tcp_fin: 6, udp: 7 } },
        ];
        daemon.core.apply(by_hand.to_vec()).await.unwrap();
        let planned = daemon.compare(sources(&new)).await.unwrap();
        let before = daemon.export().await.unwrap();
        let done = daemon.apply(sources(&new), Vec::new().into()).await.unwrap();
        assert_eq!(planned, done);
        assert_ne!(daemon.export().await.unwrap(), before);
        let names: Vec<String> = done
            .operations
            .iter()
            .map(|operation| serde_json::to_value(operation).unwrap()["op"].as_str().unwrap().to_owned())
            .collect();
        let expected = [
            "set-timeouts",
            "set-sysctls",
            "set-marks",
            "delete-service",
            "delete-service",
            "edit-service",
            "delete-server",
            "add-server",
            "add-service",
        ];
        assert_eq!(names, expected);
        let edits: Vec<String> =
            done.edits.iter().map(|e| format!("{} {}: {} -> {}", e.operation, e.field, e.old, e.new)).collect();
        let expected = [
            "0 tcp: 5 -> 60",
            "0 tcp_fin: 6 -> 120",
            "0 udp: 7 -> 300",
            "1 sloppy_tcp: 0 -> 1",
            "2 rules: [] -> [\"mark 7\"]",
            "5 scheduler: \"wlc\" -> \"rr\"",
        ];
        assert_eq!(edits, expected);
        assert_eq!((done.settings, done.restart), (vec!["daemon.log".to_owned()], vec!["workers".to_owned()]));
        assert_eq!(*log.lock().unwrap(), ["warn"]);
        let running = daemon.core.running().await.unwrap();
        let ids: Vec<String> = running.services.iter().map(|service| service.id.to_string()).collect();
        assert_eq!(ids, ["tcp/192.0.2.1:1", "tcp/192.0.2.1:3"]);
        assert_eq!(running.timeouts, dpvs_api::Timeouts { tcp: 60, tcp_fin: 120, udp: 300 });

        let again = daemon.apply(sources(&new), Vec::new().into()).await.unwrap();
        assert_eq!(again, ConfigChanges { restart: vec!["workers".to_owned()], ..ConfigChanges::default() });
    })
    .await;
}

#[tokio::test]
async fn what_is_exported_changes_nothing() {
    let text = format!("[daemon]\ndrain_timeout = 9\n{PORT}{}", service(1, "", &["10.0.0.1:1"]));
    with_daemon(&text.clone(), |daemon, _| async move {
        let add =
            |text: &str| Operation::AddService { service: Config::parse(&sources(text)).unwrap().services.remove(0) };
        let servers = "persistence = { timeout = 9 }\nsorry_server = { address = '10.0.0.9:80', mode = 'nat' }";
        daemon.core.apply(vec![add(&format!("{PORT}{}", service(7, servers, &[])))]).await.unwrap();
        let exported = daemon.export().await.unwrap();
        assert!(exported.contains("drain_timeout = 9") && exported.contains("192.0.2.1:7"), "{exported}");
        assert_eq!(daemon.compare(sources(&exported)).await.unwrap(), ConfigChanges::default(), "{exported}");
        // What needs a restart is exported as it runs, and said.
        daemon.apply(sources(&format!("[limits]\nservices = 3\n{text}")), Vec::new().into()).await.unwrap();
        let exported = daemon.export().await.unwrap();
        assert!(exported.starts_with("# What runs.") && exported.contains("next start: limits."), "{exported}");
        assert_eq!(daemon.compare(sources(&exported)).await.unwrap(), ConfigChanges::default(), "{exported}");
    })
    .await;
}

#[tokio::test]
async fn a_reload_leaves_what_came_over_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.toml");
    let text = format!("{PORT}{}", service(1, "", &[]));
    with_daemon(&text.clone(), |daemon, _| async move {
        let id: ServiceId = "tcp/192.0.2.1:4".parse().unwrap();
        daemon.core.apply(vec![Operation::AddService { service: dpvs_api::Service::new(id) }]).await.unwrap();
        std::fs::write(&file, format!("[timeouts]\ntcp = 60\n{text}")).unwrap();
        assert_eq!(daemon.reload(&file).await.unwrap().operations.len(), 1);
        assert_eq!(daemon.core.running().await.unwrap().services.len(), 2);
        // What was applied last is what a reload compares the file with.
        daemon.apply(sources(&text), Vec::new().into()).await.unwrap();
        let timeouts = daemon.core.running().await.unwrap().timeouts;
        assert_eq!(timeouts.tcp, 900);
        daemon.reload(&file).await.unwrap();
        assert_eq!(daemon.core.running().await.unwrap().timeouts.tcp, 60);
        std::fs::write(&file, "x = [").unwrap();
        assert!(matches!(daemon.reload(&file).await, Err(Refused::Config(_))));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_applied_changes_nothing() {
    let text = format!("{PORT}{}", service(1, "", &["10.0.0.1:1"]));
    with_daemon(&text.clone(), |daemon, _| async move {
        // The core of this test has room for two servers.
        let large = format!("{PORT}{}", service(1, "timeout = 5", &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]));
        let before = daemon.core.running().await.unwrap();
        let Err(Refused::Core(error, Some(place))) = daemon.apply(sources(&large), Vec::new().into()).await else {
            panic!("applied")
        };
        assert_eq!(error.kind, ErrorKind::Full);
        assert!(place.to_string().starts_with("t.toml:14:1: services[0].servers[2]: no room for another"), "{place}");
        assert_eq!(daemon.core.running().await.unwrap(), before);
        let Err(Refused::Config(errors)) = daemon.compare(sources("[x]\ny = 1\n[z]")).await else { panic!("applied") };
        assert_eq!(errors.0.len(), 2);
    })
    .await;
}

#[test]
fn errors_of_operations_are_keys_of_the_file() {
    let text = format!("{PORT}{}{}", service(1, "", &["10.0.0.1:1"]), service(2, "", &["10.0.0.1:1", "10.0.0.2:1"]));
    let config = Config::parse(&sources(&text)).unwrap();
    let last = &config.services[1];
    let server: &Server = &last.servers[1];
    for (operation, path, expected) in [
        (
            Operation::AddService { service: last.clone() },
            ".service.servers[0].weight",
            "services[1].servers[0].weight",
        ),
        (
            Operation::EditService { service: last.id, settings: last.settings.clone() },
            ".settings.timeout",
            "services[1].timeout",
        ),
        (
            Operation::AddServer { service: last.id, server: server.clone() },
            ".server.mode",
            "services[1].servers[1].mode",
        ),
        (
            Operation::AddLocalAddress { service: last.id, local_address: [10, 0, 0, 1].into(), interface: None },
            ".local_address",
            "services[1].local_addresses",
        ),
        (Operation::SetMarks { rules: Vec::new() }, ".rules[3].ingress", "marks[3].ingress"),
        (Operation::SetSysctls { values: Default::default() }, ".values.x", "sysctl.x"),
    ] {
        let key = key_of(&format!("[0]{path}"), &[operation], &config);
        assert_eq!(key.as_deref(), Some(expected));
    }
    assert_eq!(key_of("[0]", &[Operation::Clear], &config), None);
    assert_eq!(key_of("[1]", &[], &config), None);
}
