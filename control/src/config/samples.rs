//! Tests: the configurations that are handed out are right.

use std::path::{Path, PathBuf};

use super::Config;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[test]
fn every_sample_is_right_and_draws_its_network() {
    let folder = deploy().join("samples");
    let mut modes = std::collections::BTreeSet::new();
    let mut families = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!config.services.is_empty(), "{}", path.display());
        for service in &config.services {
            modes.extend(service.servers.iter().map(|server| format!("{:?}", server.mode)));
            families.extend(service.servers.iter().map(|server| server.address.is_ipv6()));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(header.iter().any(|line| line.contains("──")), "{} draws no network", path.display());
    }
    assert_eq!(modes.len(), 4, "{modes:?}");
    assert_eq!(families.len(), 2);
}

#[test]
fn the_packages_configuration_starts_anywhere() {
    let config = Config::load(&deploy().join("debian/dpvsd.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.ports.iter().all(super::Port::is_virtual));
    assert!(config.ports.iter().all(|port| port.addresses.is_empty()), "it touches no route of the machine's");
    assert_eq!(config.eal.hugepages, super::Hugepages::Auto);
    assert_eq!(config.workers.idle, super::Idle::Yield);
}
