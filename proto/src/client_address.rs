//! How a director that translates the source address tells the server who the client is.
//!
//! *TOA*: a TCP option of kind 254 with the client's port and address, as in alibaba/LVS and DPVS, whose kernel module
//! on the server shows them as the peer's.

use std::net::{IpAddr, SocketAddr};

use crate::tcp_options::CLIENT_ADDRESS;

/// Length of the longest [`option`], for IPv6.
pub const MAX_OPTION_LEN: usize = 20;

/// Length of the TCP option for a client of this family, in bytes: 8 or 20.
pub const fn option_len(client_is_ipv4: bool) -> usize {
    if client_is_ipv4 { 8 } else { MAX_OPTION_LEN }
}

/// Writes the TCP option to the beginning of `out` and returns it: kind, length, port, address.
pub fn option(client: SocketAddr, out: &mut [u8; MAX_OPTION_LEN]) -> &[u8] {
    let len = option_len(client.is_ipv4());
    out[..2].copy_from_slice(&[CLIENT_ADDRESS, len as u8]);
    out[2..4].copy_from_slice(&client.port().to_be_bytes());
    match client.ip() {
        IpAddr::V4(address) => out[4..len].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => out[4..len].copy_from_slice(&address.octets()),
    }
    &out[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_has_port_and_address() {
        let mut out = [0; MAX_OPTION_LEN];
        let v4 = option("198.51.100.7:4660".parse().unwrap(), &mut out);
        assert_eq!(v4, [254, 8, 0x12, 0x34, 198, 51, 100, 7]);
        let v6 = option("[2001:db8::7]:80".parse().unwrap(), &mut out);
        assert_eq!(v6, [254, 20, 0, 80, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
}
