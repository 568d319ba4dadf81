//! What the tests of this module share.

use super::{EalOptions, Hugepages, PortOptions};

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
