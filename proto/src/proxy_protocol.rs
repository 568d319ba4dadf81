//! Headers of the PROXY protocol, version 1 and 2 (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::Protocol;

/// Length of the longest header: one of version 1 with two IPv6 addresses written out.
pub const MAX_LEN: usize = 104;

/// What headers of version 2 begin with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text; for TCP only.
    V1,
    /// Binary.
    V2,
}

/// Writes the header of a connection to the beginning of `out` and returns it. `client` and `virt`, the address and port
/// that the client connected to, are of one family; `protocol` is TCP or, in version 2, UDP.
pub fn header(
    version: Version,
    protocol: Protocol,
    client: SocketAddr,
    virt: SocketAddr,
    out: &mut [u8; MAX_LEN],
) -> &[u8] {
    let len = match version {
        Version::V1 => v1(client, virt, out),
        Version::V2 => v2(protocol, client, virt, out),
    };
    &out[..len]
}

fn v1(client: SocketAddr, virt: SocketAddr, out: &mut [u8; MAX_LEN]) -> usize {
    let family = if client.is_ipv4() { 4 } else { 6 };
    let mut rest = &mut out[..];
    // It fits: 16 bytes of text, two addresses of 39 at most, two ports of 5.
    let _ = write!(rest, "PROXY TCP{family} {} {} {} {}\r\n", client.ip(), virt.ip(), client.port(), virt.port());
    MAX_LEN - rest.len()
}

fn v2(protocol: Protocol, client: SocketAddr, virt: SocketAddr, out: &mut [u8; MAX_LEN]) -> usize {
    const FIXED: usize = 16;
    const PROXY_COMMAND: u8 = 0x21;
    const INET: u8 = 0x10;
    const INET6: u8 = 0x20;
    const STREAM: u8 = 1;
    const DATAGRAM: u8 = 2;
    let (family, addr_len) = if client.is_ipv4() { (INET, 4) } else { (INET6, 16) };
    let transport = if protocol == Protocol::UDP { DATAGRAM } else { STREAM };
    let len = 2 * addr_len + 4;
    out[..12].copy_from_slice(&SIGNATURE);
    out[12..FIXED].copy_from_slice(&[PROXY_COMMAND, family | transport, 0, len as u8]);
    let addresses = &mut out[FIXED..FIXED + len];
    let (sources, rest) = addresses.split_at_mut(addr_len);
    write_address(sources, client.ip());
    write_address(&mut rest[..addr_len], virt.ip());
    rest[addr_len..addr_len + 2].copy_from_slice(&client.port().to_be_bytes());
    rest[addr_len + 2..].copy_from_slice(&virt.port().to_be_bytes());
    FIXED + len
}

fn write_address(out: &mut [u8], address: IpAddr) {
    let mut copy = |octets: &[u8]| out.iter_mut().zip(octets).for_each(|(out, octet)| *out = *octet);
    match address {
        IpAddr::V4(address) => copy(&address.octets()),
        IpAddr::V6(address) => copy(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use ppp::{HeaderResult, PartialResult, v1, v2};
    use proptest::prelude::*;

    use super::*;

    fn endpoint(is_v4: bool) -> BoxedStrategy<SocketAddr> {
        match is_v4 {
            true => any::<([u8; 4], u16)>().prop_map(SocketAddr::from).boxed(),
            false => any::<([u8; 16], u16)>().prop_map(SocketAddr::from).boxed(),
        }
    }

    fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        any::<bool>().prop_flat_map(|is_v4| (endpoint(is_v4), endpoint(is_v4)))
    }

    #[test]
    fn the_longest_line_fits() {
        let longest: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let mut out = [0; MAX_LEN];
        assert_eq!(header(Version::V1, Protocol::TCP, longest, longest, &mut out).len(), MAX_LEN);
        let (client, virt) = ("192.0.2.7:4000".parse().unwrap(), "203.0.113.1:80".parse().unwrap());
        let line = header(Version::V1, Protocol::TCP, client, virt, &mut out);
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 203.0.113.1 4000 80\r\n");
    }

    #[test]
    fn a_binary_header_is_as_specified() {
        let (client, virt) = ("192.0.2.7:4000".parse().unwrap(), "203.0.113.1:53".parse().unwrap());
        let mut out = [0; MAX_LEN];
        let datagram = header(Version::V2, Protocol::UDP, client, virt, &mut out);
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x07\xcb\0\x71\x01\x0f\xa0\0\x35";
        assert_eq!(datagram, expected);
    }

    proptest! {
        #[test]
        fn others_read_the_same((client, virt) in pair()) {
            let mut out = [0; MAX_LEN];
            let line = header(Version::V1, Protocol::TCP, client, virt, &mut out);
            let expected = match (client, virt) {
                (SocketAddr::V4(client), SocketAddr::V4(virt)) => {
                    v1::Addresses::new_tcp4(*client.ip(), *virt.ip(), client.port(), virt.port())
                }
                (SocketAddr::V6(client), SocketAddr::V6(virt)) => {
                    v1::Addresses::new_tcp6(*client.ip(), *virt.ip(), client.port(), virt.port())
                }
                _ => unreachable!(),
            };
            let HeaderResult::V1(Ok(read)) = HeaderResult::parse(line) else { panic!("{line:?}") };
            prop_assert_eq!(read.addresses, expected);

            for (protocol, expected) in [(Protocol::TCP, v2::Protocol::Stream), (Protocol::UDP, v2::Protocol::Datagram)] {
                let binary = header(Version::V2, protocol, client, virt, &mut out);
                let result = HeaderResult::parse(binary);
                prop_assert!(result.is_complete());
                let HeaderResult::V2(Ok(read)) = result else { panic!("{binary:?}") };
                prop_assert_eq!((read.version, read.command, read.protocol), (v2::Version::Two, v2::Command::Proxy, expected));
                prop_assert_eq!(read.addresses, v2::Addresses::from((client, virt)));
                prop_assert_eq!(read.len(), binary.len());
                prop_assert!(binary.len().is_multiple_of(2));
            }
        }
    }
}
