//! What the tests of this module share, and the test of what ports are asked for.

use super::{EalOptions, Hugepages, PortOptions, port_configs};

pub(super) fn eal_options() -> EalOptions {
    EalOptions {
        file_prefix: "test".to_owned(),
        args: Vec::new(),
        hugepages: Hugepages::Auto,
        memory_mb: None,
        core: 0,
        program: "prog".to_owned(),
    }
}

pub(super) fn port_options(name: &str, device: &str) -> PortOptions {
    PortOptions {
        name: name.to_owned(),
        device: device.to_owned(),
        vdev_args: None,
        queues: 1,
        rx_descriptors: 256,
        tx_descriptors: 256,
        mtu: 1500,
        mac: None,
        promiscuous: false,
    }
}

#[test]
fn ports_share_a_random_rss_key() {
    let ports = [port_options("a", "3b:00.0"), port_options("b", "3b:00.1")];
    let [a, b] = port_configs(&ports, 2).try_into().unwrap();
    assert_eq!(a.rss_key, b.rss_key);
    assert_ne!(a.rss_key, port_configs(&ports, 2)[0].rss_key);
    assert!(a.rss_key.iter().any(|&byte| byte != a.rss_key[0]));
}
