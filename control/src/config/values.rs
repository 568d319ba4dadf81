//! Values that TOML writes as strings.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A MAC address of a single station, as `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a MAC address: write six bytes, e.g. 02:00:00:00:00:01");
        let bytes: Vec<u8> = text
            .split(':')
            .map(|byte| match byte.len() {
                2 => u8::from_str_radix(byte, 16).ok(),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        let mac: [u8; 6] = bytes.try_into().map_err(|_| bad())?;
        // The lowest bit of the first byte marks group addresses (IEEE 802, section 8.2).
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(format!(
                "'{text}' is not the address of one station: the first byte must be even, and not all zero"
            ));
        }
        Ok(Self(mac))
    }
}

/// An address with the length of its network's prefix, as `192.0.2.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address itself, not the network's.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write ADDRESS/LENGTH, e.g. 192.0.2.1/24 or 2001:db8::1/64";
        let (address, length) =
            text.split_once('/').ok_or_else(|| format!("'{text}' has no prefix length: {example}"))?;
        let address: IpAddr = address.parse().map_err(|_| format!("'{address}' is not an IP address: {example}"))?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        match length.parse() {
            Ok(length) if (1..=max).contains(&length) => Ok(Self { address, length }),
            _ => Err(format!("'{length}' is not a prefix length for {address}: give 1 to {max}")),
        }
    }
}

/// A name in a client's certificate, as `CN=admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// Common name of the subject, `CN=`.
    Common(String),
    /// Organizational unit of the subject, `OU=`.
    Unit(String),
    /// Alternative name that is a domain name, `DNS=`.
    Dns(String),
    /// Alternative name that is an address of electronic mail, `EMAIL=`.
    Email(String),
    /// Alternative name that is a URI, `URI=`.
    Uri(String),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            CertificateName::Common(name) => ("CN", name),
            CertificateName::Unit(name) => ("OU", name),
            CertificateName::Dns(name) => ("DNS", name),
            CertificateName::Email(name) => ("EMAIL", name),
            CertificateName::Uri(name) => ("URI", name),
        };
        write!(f, "{kind}={name}")
    }
}

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = match text.split_once('=') {
            Some((_, "")) | None => None,
            Some(("CN", name)) => Some(CertificateName::Common(name.to_owned())),
            Some(("OU", name)) => Some(CertificateName::Unit(name.to_owned())),
            Some(("DNS", name)) => Some(CertificateName::Dns(name.to_owned())),
            Some(("EMAIL", name)) => Some(CertificateName::Email(name.to_owned())),
            Some(("URI", name)) => Some(CertificateName::Uri(name.to_owned())),
            Some(_) => None,
        };
        kind.ok_or_else(|| {
            format!(
                "'{text}' is no name in a certificate: write CN=, OU=, DNS=, EMAIL= or URI= and the name, e.g. CN=admin"
            )
        })
    }
}

macro_rules! as_text {
    ($type:ident, $pattern:literal, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

as_text!(CertificateName, "^(CN|OU|DNS|EMAIL|URI)=.+$", "A name in a client's certificate, e.g. CN=admin.");
as_text!(MacAddress, "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$", "A MAC address of one station, e.g. 02:00:00:00:00:01.");
as_text!(Prefix, "^[0-9a-fA-F:.]+/[0-9]{1,3}$", "An address with its network's prefix length, e.g. 192.0.2.1/24.");

/// Whether `text` has the form `[DOMAIN:]BUS:DEVICE.FUNCTION`, all hexadecimal.
pub(super) fn is_pci_address(text: &str) -> bool {
    let is_hex = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((rest, function)) = text.split_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts.as_slice() {
        [bus, device] => ("0000", *bus, *device),
        [domain, bus, device] => (*domain, *bus, *device),
        _ => return false,
    };
    is_hex(domain, 4..=8) && is_hex(bus, 2..=2) && is_hex(device, 2..=2) && is_hex(function, 1..=1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!("02:00:00:00:0a:Ff".parse(), Ok(MacAddress([2, 0, 0, 0, 10, 255])));
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02-00-00-00-00-01", "0g:00:00:00:00:01"]
        {
            assert!(bad.parse::<MacAddress>().unwrap_err().contains("write six bytes"), "{bad}");
        }
        for group in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(group.parse::<MacAddress>().unwrap_err().contains("one station"), "{group}");
        }
    }

    #[test]
    fn prefixes() {
        for good in ["192.0.2.1/24", "0.0.0.0/1", "192.0.2.1/32", "2001:db8::1/128"] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        for (bad, message) in [
            ("192.0.2.1", "no prefix length"),
            ("192.0.2/24", "'192.0.2' is not an IP address"),
            ("192.0.2.1/33", "give 1 to 32"),
            ("192.0.2.1/0", "give 1 to 32"),
            ("2001:db8::1/129", "give 1 to 128"),
            ("192.0.2.1/", "give 1 to 32"),
        ] {
            let error = bad.parse::<Prefix>().unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }

    #[test]
    fn certificate_names() {
        for good in ["CN=admin", "OU=a=b", "DNS=x.example", "EMAIL=a@x.example", "URI=spiffe://x/y"] {
            assert_eq!(good.parse::<CertificateName>().unwrap().to_string(), good);
        }
        for bad in ["admin", "CN=", "O=x", ""] {
            assert!(bad.parse::<CertificateName>().unwrap_err().contains("write CN="), "{bad}");
        }
    }

    #[test]
    fn pci_addresses() {
        for yes in ["0000:3b:00.0", "3b:00.1", "00010000:3b:1f.7"] {
            assert!(is_pci_address(yes), "{yes}");
        }
        for no in ["net_tap0", "0000:3b:00", "3b.00:1", "000:3b:00.0", "3b:00.10", "a:b:c:d.e", ""] {
            assert!(!is_pci_address(no), "{no}");
        }
    }
}
