//! Which interfaces the machine depends on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Root;

/// A route of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub prefix: IpAddr,
    pub length: u8,
    pub interface: String,
}

impl Route {
    fn covers(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((prefix, width), (address, other_width)) = (bits(self.prefix), bits(address));
        let difference = prefix ^ address;
        width == other_width && u32::from(self.length) <= difference.leading_zeros()
    }
}

/// The routes of /proc/net/route and /proc/net/ipv6_route.
pub(crate) fn routes(root: &Root) -> Vec<Route> {
    let v4 = root.read("proc/net/route").unwrap_or_default();
    let v6 = root.read("proc/net/ipv6_route").unwrap_or_default();
    v4.lines().skip(1).filter_map(route_v4).chain(v6.lines().filter_map(route_v6)).collect()
}

/// Interface, destination, gateway, flags, ..., and mask as the eighth; addresses are numbers of the host's byte order.
fn route_v4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let prefix = address_v4(fields.get(1)?)?;
    let mask = address_v4(fields.get(7)?)?;
    Some(Route {
        prefix: prefix.into(),
        length: mask.to_bits().count_ones() as u8,
        interface: (*fields.first()?).to_owned(),
    })
}

/// Destination, its length, ..., and the interface as the tenth.
fn route_v6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let interface = (*fields.get(9)?).to_owned();
    if interface == "lo" {
        return None;
    }
    let prefix = Ipv6Addr::from_bits(u128::from_str_radix(fields.first()?, 16).ok()?);
    Some(Route { prefix: prefix.into(), length: u8::from_str_radix(fields.get(1)?, 16).ok()?, interface })
}

fn address_v4(hex: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()))
}

/// What would be lost with an interface, as a reason not to take it away.
pub(crate) fn dependence(root: &Root, interface: &str) -> Option<String> {
    let routes = routes(root);
    if routes.iter().any(|route| route.length == 0 && route.interface == interface) {
        return Some("the default route leads out of it".to_owned());
    }
    for peer in ssh_peers(root) {
        let best = routes.iter().filter(|route| route.covers(peer)).max_by_key(|route| route.length);
        if best.is_some_and(|route| route.interface == interface) {
            return Some(format!("an SSH session with {peer} goes over it"));
        }
    }
    let above = root.names(&format!("sys/class/net/{interface}"));
    above.iter().find_map(|name| name.strip_prefix("upper_")).map(|upper| format!("interface {upper} is built on it"))
}

/// Peers of established connections to port 22 of this machine.
fn ssh_peers(root: &Root) -> Vec<IpAddr> {
    ["proc/net/tcp", "proc/net/tcp6"]
        .iter()
        .filter_map(|table| root.read(table))
        .flat_map(|text| text.lines().skip(1).filter_map(ssh_peer).collect::<Vec<_>>())
        .collect()
}

/// A line of /proc/net/tcp: number, local and remote ADDRESS:PORT, state; 01 is ESTABLISHED (include/net/tcp_states.h).
fn ssh_peer(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (_, port) = local.split_once(':')?;
    if state != "01" || u16::from_str_radix(port, 16) != Ok(22) {
        return None;
    }
    let (address, _) = remote.split_once(':')?;
    match address.len() {
        8 => address_v4(address).map(IpAddr::V4),
        32 => {
            // Four words, each in the host's byte order.
            let mut bytes = [0; 16];
            for (word, place) in bytes.chunks_exact_mut(4).enumerate() {
                let text = address.get(word * 8..word * 8 + 8)?;
                place.copy_from_slice(&u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Machine;

    const ROUTES: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                          eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                          eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                          eth1 006433C6 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";

    #[test]
    fn interfaces_that_are_needed_are_known() {
        let machine = Machine::empty();
        machine.write("proc/net/route", ROUTES);
        machine.write(
            "proc/net/ipv6_route",
            "20010db8000200000000000000000000 40 0 00 0 0 0 0 0 eth3\n00000000000000000000000000000000 00 0 00 0 0 0 0 0 lo\n",
        );
        let depends = |interface: &str| dependence(machine.root(), interface);
        assert_eq!(depends("eth0").as_deref(), Some("the default route leads out of it"));
        assert_eq!(depends("eth1"), None);
        // From 198.51.100.9 to port 22, and one that is over.
        machine.write(
            "proc/net/tcp",
            "sl local rem st\n0: 016433C6:0016 096433C6:C001 01 x\n1: 010200C0:0016 090200C0:C001 06 x\n",
        );
        assert_eq!(depends("eth1").as_deref(), Some("an SSH session with 198.51.100.9 goes over it"));
        assert_eq!(depends("eth3"), None);
        // From 2001:db8:2::9.
        machine.write("proc/net/tcp6", "sl\n0: 0:0016 B80D0120000002000000000009000000:C001 01 x\n");
        assert_eq!(depends("eth3").as_deref(), Some("an SSH session with 2001:db8:2::9 goes over it"));
        machine.write("sys/class/net/eth2/upper_bond0", "");
        assert_eq!(depends("eth2").as_deref(), Some("interface bond0 is built on it"));
    }
}
