//! The order of listings.
//!
//! The real ipvsadm compares IPv4 addresses by their difference as a signed 32-bit number, so that 192.0.2.1 comes
//! before 10.0.0.1. That is no order (it runs in a circle), and what a sort makes of it depends on the algorithm; this
//! is the C library's, a top-down merge sort. The order of the listing is kept because scripts compare listings.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use dpvs_api::{Protocol, ServerStatus, ServiceId, ServiceStatus};

/// Sorts services by mark, family, protocol, address and port. Marks are compared as addresses are.
pub(crate) fn services(services: &mut Vec<ServiceStatus>) {
    merge_sort(services, &|a: &ServiceStatus, b: &ServiceStatus| {
        let (a, b) = (a.service.id, b.service.id);
        let marks = mark(a).wrapping_sub(mark(b)).cast_signed().cmp(&0);
        let place = |id: ServiceId| (id.protocol().map(number), id.address());
        marks.then_with(|| a.family().cmp(&b.family())).then_with(|| match (place(a), place(b)) {
            ((a_protocol, Some(a)), (b_protocol, Some(b))) => a_protocol.cmp(&b_protocol).then_with(|| compare(a, b)),
            _ => Ordering::Equal,
        })
    });
}

/// The mark of a service, 0 if it has none.
fn mark(id: ServiceId) -> u32 {
    match id {
        ServiceId::Address { .. } => 0,
        ServiceId::Fwmark { mark, .. } => mark,
    }
}

/// Sorts servers by family, address and port. Where addresses run in a circle, the order before decides: newest
/// first, as dpvsd and the kernel keep them.
pub(crate) fn servers(servers: &mut Vec<ServerStatus>) {
    merge_sort(servers, &|a: &ServerStatus, b: &ServerStatus| {
        let (a, b) = (a.server.address, b.server.address);
        a.is_ipv6().cmp(&b.is_ipv6()).then_with(|| compare(a, b))
    });
}

/// The protocol's number in the IP header.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn compare(a: SocketAddr, b: SocketAddr) -> Ordering {
    let words = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => vec![u32::from(address)],
        IpAddr::V6(address) => address.octets().chunks(4).map(word).collect(),
    };
    let differences = words(a).into_iter().zip(words(b)).map(|(a, b)| a.wrapping_sub(b).cast_signed());
    let first = differences.map(|difference| difference.cmp(&0)).find(|order| order.is_ne());
    first.unwrap_or_else(|| a.port().cmp(&b.port()))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// Splits in the middle, the left part being the smaller; takes from the left where both are equal.
fn merge_sort<T>(items: &mut Vec<T>, compare: &dyn Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let mut right = items.split_off(items.len() / 2);
    merge_sort(items, compare);
    merge_sort(&mut right, compare);
    let mut left = std::mem::take(items).into_iter().peekable();
    let mut right = right.into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        items.extend(if compare(a, b).is_gt() { right.next() } else { left.next() });
    }
    items.extend(left);
    items.extend(right);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_sort_sorts() {
        let mut items: Vec<u32> = (0..1000).map(|index: u32| index.wrapping_mul(2_654_435_761) % 97).collect();
        let mut expected = items.clone();
        expected.sort_unstable();
        merge_sort(&mut items, &u32::cmp);
        assert_eq!(items, expected);
    }

    #[test]
    fn addresses_run_in_a_circle() {
        let address = |text: &str| text.parse().unwrap();
        let less = |a, b| compare(address(a), address(b)).is_lt();
        assert!(less("10.0.0.1:80", "127.0.0.1:80"));
        assert!(less("127.0.0.1:80", "192.0.2.1:80"));
        assert!(less("192.0.2.1:80", "10.0.0.1:80"));
        assert!(less("10.0.0.1:80", "10.0.0.1:81"));
        assert!(less("[2001:db8::1]:80", "[2001:db8::2]:79"));
    }
}
