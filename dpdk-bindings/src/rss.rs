//! Receive side scaling: how a NIC spreads flows over its queues.

use dpdk_sys as sys;

use crate::error::Errno;

/// Bytes of key to be had ready; the longest that drivers ask for is 52.
pub const KEY_SIZE: usize = 64;

/// Key size of drivers that do not tell theirs.
const DEFAULT_KEY_SIZE: u8 = 40;

/// Largest redirection table the shim handles.
const MAX_RETA: u16 = 512;

/// Drivers without a NIC. Some claim RSS, but none computes a Toeplitz hash that decides the queue.
const SOFTWARE: &[&str] = &[
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_tap",
    "net_tun",
    "net_vhost",
    "net_virtio_user",
];

/// What decides the queue of a TCP or UDP packet, IPv4 or IPv6: the Toeplitz hash of source address,
/// destination address, source port and destination port under `key`; its low bits index `reta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssConfig {
    /// The key, as long as the NIC's.
    pub key: Vec<u8>,
    /// The redirection table: receive queue by hash modulo the table's length.
    pub reta: Vec<u16>,
}

/// True when the driver drives no NIC.
pub(crate) fn is_software(driver: &str) -> bool {
    SOFTWARE.contains(&driver)
}

/// How many bytes of key to configure; 0 when the NIC's RSS is of no use.
pub(crate) fn key_size(driver: &str, info: &sys::dpvs_port_info, queues: u16) -> u8 {
    let size = if info.rss_key_size == 0 { DEFAULT_KEY_SIZE } else { info.rss_key_size };
    let usable = queues > 1
        && !is_software(driver)
        && info.rss_l4 != 0
        && info.reta_size.is_power_of_two()
        && info.reta_size <= MAX_RETA
        && usize::from(size) <= KEY_SIZE;
    if usable { size } else { 0 }
}

/// Spreads the hash values evenly over `queues` queues of a started port and reads back what the NIC does.
/// `None` when the driver does not let us know: then the hash still spreads flows, but we cannot tell where.
pub(crate) fn settle(port: u16, reta_size: u16, queues: u16, key_size: u8) -> Option<RssConfig> {
    let mut reta: Vec<u16> = (0..reta_size).map(|i| i % queues).collect();
    let mut key = vec![0; usize::from(key_size)];
    let mut actual = key_size;
    // SAFETY: the table has as many entries as it is said to have.
    let written = Errno::check(unsafe { sys::dpvs_port_set_reta(port, reta.as_ptr(), reta_size) });
    // SAFETY: as above.
    let read = Errno::check(unsafe { sys::dpvs_port_reta(port, reta.as_mut_ptr(), reta_size) });
    // A driver that takes a table and cannot show it has left ours unchanged.
    if read.is_err() && written.is_err() {
        return None;
    }
    // SAFETY: the key has as many bytes as `actual` says.
    Errno::check(unsafe { sys::dpvs_port_rss_key(port, key.as_mut_ptr(), &raw mut actual) }).ok()?;
    key.truncate(usize::from(actual));
    Some(RssConfig { key, reta })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(l4: bool, reta: u16, key: u8) -> sys::dpvs_port_info {
        sys::dpvs_port_info {
            driver: [0; 64],
            socket: 0,
            max_rx_queues: 8,
            max_tx_queues: 8,
            min_mtu: 68,
            max_mtu: 9000,
            reta_size: reta,
            rss_key_size: key,
            rss_l4: u8::from(l4),
        }
    }

    #[test]
    fn key_size_is_that_of_a_usable_nic() {
        for (driver, info, queues, expected, why) in [
            ("net_ice", info(true, 512, 52), 4, 52, "a NIC"),
            ("net_virtio", info(true, 128, 0), 4, 40, "a NIC that does not tell its key size"),
            ("net_ice", info(true, 512, 52), 1, 0, "one queue"),
            ("net_tap", info(true, 128, 40), 4, 0, "a software driver that claims RSS"),
            ("net_x", info(false, 128, 40), 4, 0, "no hash over ports"),
            ("net_x", info(true, 0, 40), 4, 0, "no redirection table"),
            ("net_x", info(true, 96, 40), 4, 0, "a table that hash bits do not index"),
            ("net_x", info(true, 1024, 40), 4, 0, "a table too large for the shim"),
            ("net_x", info(true, 128, 65), 4, 0, "a key longer than ours"),
        ] {
            assert_eq!(key_size(driver, &info, queues), expected, "{why}");
        }
    }
}
