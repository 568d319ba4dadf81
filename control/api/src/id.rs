//! What identifies a virtual service.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Protocol;

/// Address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    Inet,
    /// IPv6.
    Inet6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Family::Inet } else { Family::Inet6 }
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Inet6 => "inet6",
        }
    }
}

/// What identifies a virtual service; written `tcp/192.0.2.1:80`, `udp/[2001:db8::1]:53`, `fwmark/7` or `fwmark/7/inet6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceId {
    /// A service at an address.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address and port.
        address: SocketAddr,
    },
    /// A service of all packets with a firewall mark.
    Fwmark {
        /// The mark, at least 1.
        mark: u32,
        /// Family of the packets.
        family: Family,
    },
}

impl ServiceId {
    /// Family of its packets.
    pub fn family(self) -> Family {
        match self {
            ServiceId::Address { address, .. } => Family::of(address.ip()),
            ServiceId::Fwmark { family, .. } => family,
        }
    }

    /// Virtual address and port, if it has one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            ServiceId::Address { address, .. } => Some(address),
            ServiceId::Fwmark { .. } => None,
        }
    }

    /// Transport protocol, if there is only one.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            ServiceId::Address { protocol, .. } => Some(protocol),
            ServiceId::Fwmark { .. } => None,
        }
    }

    /// Virtual port; 0 if it has several.
    pub fn port(self) -> u16 {
        self.address().map_or(0, |address| address.port())
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceId::Address { protocol, address } => write!(f, "{protocol}/{address}"),
            ServiceId::Fwmark { mark, family: Family::Inet } => write!(f, "fwmark/{mark}"),
            ServiceId::Fwmark { mark, family } => write!(f, "fwmark/{mark}/{}", family.name()),
        }
    }
}

/// Text that is not a service id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a service: write PROTOCOL/ADDRESS:PORT, e.g. tcp/192.0.2.1:80 or udp/[2001:db8::1]:53, or fwmark/MARK, \
     or fwmark/MARK/inet6"
)]
pub struct ParseServiceIdError(pub String);

impl FromStr for ServiceId {
    type Err = ParseServiceIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parse = || -> Option<Self> {
            let (kind, rest) = s.split_once('/')?;
            if kind != "fwmark" {
                return Some(ServiceId::Address { protocol: Protocol::named(kind)?, address: rest.parse().ok()? });
            }
            let (mark, family) = match rest.split_once('/') {
                None | Some((_, "inet")) => (rest.trim_end_matches("/inet"), Family::Inet),
                Some((mark, "inet6")) => (mark, Family::Inet6),
                Some(_) => return None,
            };
            Some(ServiceId::Fwmark { mark: mark.parse().ok()?, family })
        };
        parse().ok_or_else(|| ParseServiceIdError(s.to_owned()))
    }
}

impl Serialize for ServiceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in
            ["tcp/192.0.2.1:80", "udp/[2001:db8::1]:53", "tcp/192.0.2.1:0", "fwmark/7", "fwmark/4294967295/inet6"]
        {
            assert_eq!(text.parse::<ServiceId>().unwrap().to_string(), text);
        }
        assert_eq!("fwmark/7/inet".parse(), Ok(ServiceId::Fwmark { mark: 7, family: Family::Inet }));
        for text in
            ["", "tcp", "192.0.2.1:80", "tcp/192.0.2.1", "icmp/192.0.2.1:80", "fwmark/", "fwmark/x", "fwmark/7/x"]
        {
            assert!(text.parse::<ServiceId>().is_err(), "{text}");
        }
    }
}
