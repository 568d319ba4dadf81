//! Persistent services: a client's next connections go to the server of its first.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// For how long and for whom a service is persistent (`ipvsadm -p`, `-M`, `--pe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Persistence {
    /// Seconds after a client's last connection began, 1 to 31 days.
    pub timeout: u32,
    /// Clients whose addresses agree in this go to the same server; absent: each client for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netmask: Option<Netmask>,
    /// What tells clients apart besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
}

impl Default for Persistence {
    /// 360 seconds for each client, as in ipvsadm.
    fn default() -> Self {
        Self { timeout: 360, netmask: None, engine: None }
    }
}

/// Which part of a client's address counts: a mask for IPv4, written `255.255.255.0`, or the length of a prefix, written
/// `24` or `64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netmask {
    /// These bits.
    Mask(Ipv4Addr),
    /// So many bits from the first on.
    Prefix(u8),
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Netmask::Mask(mask) => mask.fmt(f),
            Netmask::Prefix(length) => length.fmt(f),
        }
    }
}

impl FromStr for Netmask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mask = text.parse().map(Netmask::Mask);
        let prefix = || text.parse().ok().filter(|length| *length <= 128).map(Netmask::Prefix);
        mask.ok().or_else(prefix).ok_or_else(|| {
            format!("'{text}' is no netmask: write one such as 255.255.255.0, or the length of a prefix")
        })
    }
}

impl Serialize for Netmask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Netmask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A persistence engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The Call-ID of SIP, over UDP.
    Sip,
}

impl Engine {
    /// The name that `ipvsadm --pe` takes.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Sip => "sip",
        }
    }
}
