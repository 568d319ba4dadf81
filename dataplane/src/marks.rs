//! Firewall marks: rules that sort packets of several addresses, ports and protocols into one service.

use std::net::IpAddr;

use hashbrown::HashMap;
use proto::{Address, Protocol, Tuple};

use crate::PortId;

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of it.
    pub address: IpAddr,
    /// Bits of its prefix.
    pub prefix_len: u8,
}

impl Network {
    /// True when it has only one address.
    pub fn is_host(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        self.prefix_len == 0 || differs >> (128 - u32::from(self.prefix_len)) == 0
    }
}

/// A rule: packets with all of this get the mark. What is `None` may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark, at least 1.
    pub mark: u32,
    /// Transport protocol.
    pub protocol: Option<Protocol>,
    /// Where packets come from.
    pub source: Option<Network>,
    /// Where packets go to.
    pub destination: Option<Network>,
    /// First and last source port.
    pub source_ports: Option<(u16, u16)>,
    /// First and last destination port.
    pub destination_ports: Option<(u16, u16)>,
    /// The port that packets come in by.
    pub ingress: Option<PortId>,
}

impl MarkRule {
    fn matches<A: Address>(&self, tuple: &Tuple<A>, ingress: PortId) -> bool {
        let within = |range: Option<(u16, u16)>, port| range.is_none_or(|(first, last)| (first..=last).contains(&port));
        let inside = |network: Option<Network>, address: A| network.is_none_or(|net| net.contains(address.into()));
        self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && within(self.destination_ports, tuple.dport)
            && within(self.source_ports, tuple.sport)
            && self.ingress.is_none_or(|port| port == ingress)
            && inside(self.destination, tuple.dst)
            && inside(self.source, tuple.src)
    }

    /// The one address that packets go to, if the rule names one.
    pub fn host(&self) -> Option<IpAddr> {
        self.destination.filter(Network::is_host).map(|network| network.address)
    }
}

/// Rules in order, indexed by the address that packets go to.
#[derive(Debug, Default)]
pub struct MarkTable {
    rules: Vec<MarkRule>,
    /// Rules for one destination each, in order.
    by_host: HashMap<IpAddr, Vec<u32>>,
    /// The others, in order.
    others: Vec<u32>,
}

impl MarkTable {
    /// The table of these rules.
    pub fn new(rules: Vec<MarkRule>) -> Self {
        let mut table = Self::default();
        for (index, rule) in (0..).zip(&rules) {
            match rule.host() {
                Some(host) => table.by_host.entry(host).or_default().push(index),
                None => table.others.push(index),
            }
        }
        table.rules = rules;
        table
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[MarkRule] {
        &self.rules
    }

    /// The mark of the first rule that matches.
    pub fn classify<A: Address>(&self, tuple: &Tuple<A>, ingress: PortId) -> Option<u32> {
        if self.rules.is_empty() {
            return None;
        }
        let first = |indices: &[u32], before: u32| {
            let candidates = indices.iter().copied().take_while(|&index| index < before);
            candidates.into_iter().find(|&index| self.rules[index as usize].matches(tuple, ingress))
        };
        let of_host = self.by_host.get(&tuple.dst.into()).and_then(|indices| first(indices, u32::MAX));
        let index = first(&self.others, of_host.unwrap_or(u32::MAX)).or(of_host)?;
        Some(self.rules[index as usize].mark)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const ANY: MarkRule = MarkRule {
        mark: 1,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
        ingress: None,
    };

    fn network(text: &str) -> Option<Network> {
        let (address, length) = text.split_once('/').unwrap();
        Some(Network { address: address.parse().unwrap(), prefix_len: length.parse().unwrap() })
    }

    fn tuple() -> Tuple<Ipv4Addr> {
        let (src, dst) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 1));
        Tuple { src, dst, sport: 4000, dport: 80, protocol: Protocol::TCP }
    }

    #[test]
    fn every_part_of_a_rule_counts() {
        let yes = [
            ANY,
            MarkRule { protocol: Some(Protocol::TCP), ..ANY },
            MarkRule { source: network("198.51.100.0/24"), ..ANY },
            MarkRule { source: network("0.0.0.0/0"), ..ANY },
            MarkRule { destination: network("192.0.2.1/32"), ..ANY },
            MarkRule { destination: network("192.0.0.0/22"), ..ANY },
            MarkRule { source_ports: Some((4000, 4000)), ..ANY },
            MarkRule { destination_ports: Some((1, 80)), ..ANY },
            MarkRule { ingress: Some(PortId(2)), ..ANY },
        ];
        for rule in yes {
            assert_eq!(MarkTable::new(vec![rule]).classify(&tuple(), PortId(2)), Some(1), "{rule:?}");
        }
        let no = [
            MarkRule { protocol: Some(Protocol::UDP), ..ANY },
            MarkRule { source: network("198.51.101.0/24"), ..ANY },
            MarkRule { source: network("::/0"), ..ANY },
            MarkRule { destination: network("192.0.2.2/32"), ..ANY },
            MarkRule { destination: network("192.0.2.0/32"), ..ANY },
            MarkRule { source_ports: Some((4001, 65535)), ..ANY },
            MarkRule { destination_ports: Some((81, 90)), ..ANY },
            MarkRule { ingress: Some(PortId(1)), ..ANY },
        ];
        for rule in no {
            assert_eq!(MarkTable::new(vec![rule]).classify(&tuple(), PortId(2)), None, "{rule:?}");
        }
    }

    #[test]
    fn ipv6_networks() {
        let tuple = Tuple {
            src: "2001:db8:1::7".parse::<std::net::Ipv6Addr>().unwrap(),
            dst: "2001:db8::1".parse().unwrap(),
            sport: 1,
            dport: 53,
            protocol: Protocol::UDP,
        };
        for (text, expected) in [("2001:db8::/32", Some(1)), ("2001:db8:1::/48", None), ("2001:db8::1/128", Some(1))] {
            let rule = MarkRule { destination: network(text), ..ANY };
            assert_eq!(MarkTable::new(vec![rule]).classify(&tuple, PortId(0)), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_first_rule_wins(rules in proptest::collection::vec((1u32..9, 0u8..4, 30u8..=32, 79u16..82), 0..12)) {
            let rules: Vec<MarkRule> = rules.into_iter().map(|(mark, host, prefix_len, port)| MarkRule {
                mark,
                destination: Some(Network { address: [192, 0, 2, host].into(), prefix_len }),
                destination_ports: Some((port, 80)),
                ..ANY
            }).collect();
            let expected = rules.iter().find(|rule| rule.matches(&tuple(), PortId(0))).map(|rule| rule.mark);
            prop_assert_eq!(MarkTable::new(rules).classify(&tuple(), PortId(0)), expected);
        }
    }
}
