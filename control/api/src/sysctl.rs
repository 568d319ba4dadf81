//! Run-time settings that have the names, values and defaults of IPVS's sysctls (`net.ipv4.vs.*`).
//!
//! What each means is in the kernel's Documentation/networking/ipvs-sysctl.rst. Here one row of a table is the whole
//! definition of a setting; the packet path gets it by way of `control/src/settings.rs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The sysctl's name without `net.ipv4.vs.`.
    pub name: &'static str,
    /// Its value at start-up.
    pub default: u32,
    /// Smallest value.
    pub min: u32,
    /// Largest value.
    pub max: u32,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// Why a setting cannot have a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// Neither IPVS nor dpvsd has it.
    #[error("there is no setting '{0}': 'dpvs-ctl get' lists those that there are")]
    Unknown(String),
    /// IPVS has it, dpvsd not yet.
    #[error("{name} is a setting of IPVS that dpvsd does not have yet ({feature}): leave it out")]
    NotYet {
        /// Its name.
        name: &'static str,
        /// What it belongs to.
        feature: &'static str,
    },
    /// IPVS has it, and nothing in dpvsd corresponds to it.
    #[error("{name} is a setting of IPVS that means nothing to dpvsd ({reason}): leave it out")]
    WithoutMeaning {
        /// Its name.
        name: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// dpvsd always works as if it had this value.
    #[error("{name} cannot be {value}, only {fixed}: {reason}")]
    Fixed {
        /// Its name.
        name: &'static str,
        /// The value asked for.
        value: u32,
        /// The only value.
        fixed: u32,
        /// Why.
        reason: &'static str,
    },
    /// The value is none of those that IPVS knows.
    #[error("{value} is out of range for {name}: give {min} to {max}")]
    Range {
        /// Its name.
        name: &'static str,
        /// The value asked for.
        value: u32,
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
    },
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal, $min:literal to $max:literal;)+) => {
        /// The settings; a value out of its range is not set by [`set`](Self::set).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Sysctls {
            $($(#[doc = $doc])+ pub $name: u32,)+
        }

        impl Default for Sysctls {
            /// The kernel's values.
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Sysctls {
            /// All settings, in alphabetical order.
            pub const ALL: &[Setting] = &[$(Setting {
                name: stringify!($name),
                default: $default,
                min: $min,
                max: $max,
                meaning: concat!($($doc),+).trim_ascii(),
            },)+];

            fn value_mut(&mut self, name: &str) -> Option<&mut u32> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }

            /// The value of a setting; `None` if there is none of this name.
            pub fn get(&self, name: &str) -> Option<u32> {
                match name {
                    $(stringify!($name) => Some(self.$name),)+
                    _ => FIXED.iter().find(|fixed| fixed.0 == name).map(|fixed| fixed.1),
                }
            }
        }
    };
}

settings! {
    /// With drop_packet at 3, one packet in this many that would open a connection is dropped; 0 drops none
    am_droprate = 10, 0 to 2147483647;
    /// Free connection entries below which drop_entry, drop_packet and secure_tcp at 1 act (Linux compares free pages): those of the worker with the fewest, times the number of workers
    amemthresh = 1024, 0 to 2147483647;
    /// A client's new connection from the port of an old one that is still kept: 0 goes to the old one's server; 1 is scheduled anew if the old one has ended; 2 and 3 also if it is in FIN_WAIT and the director does not see its replies
    conn_reuse_mode = 1, 0 to 3;
    /// Ends connections at random, 1/32 of the table a second: half-open ones, and those idle for a minute after 1 to 8 packets. 0 never; 1 while entries are short, shown as 2 meanwhile; 3 always
    drop_entry = 0, 0 to 3;
    /// Drops packets that would open a connection, one in amemthresh / (amemthresh - free entries) or in am_droprate. 0 never; 1 while entries are short, shown as 2 meanwhile; 3 always
    drop_packet = 0, 0 to 3;
    /// Connections of a removed server: 0 their packets are dropped; 1 they end, and their packets are scheduled anew. With 1, new connections of a client leave a server of weight 0 even if they come from the port of an old one
    expire_nodest_conn = 0, 0 to 1;
    /// 1: clients of persistent services whose server has weight 0 get another one with their next connection
    expire_quiescent_template = 0, 0 to 1;
    /// Seconds without a new connection after which lblc forgets the server of a destination, in passes half an hour apart
    lblc_expiration = 86400, 0 to 2147483647;
    /// Seconds without a new connection after which lblcr forgets the servers of a destination, in passes half an hour apart; also those after which the most loaded of them leaves if they stay the same
    lblcr_expiration = 86400, 0 to 2147483647;
    /// 1: a packet of a NAT server that belongs to no connection is answered with port unreachable; 0: it goes to the kernel, which routes it
    nat_icmp_send = 0, 0 to 1;
    /// IPv4 packets that are too large for a tunnel and must not be fragmented: 1: their sender is told the size that fits; 0: they go through it in fragments
    pmtu_disc = 1, 0 to 1;
    /// 1: an ICMP error about a reply of a virtual service to a client whose connection is not known opens a connection, and goes to its server; 0: it goes to the kernel
    schedule_icmp = 0, 0 to 1;
    /// Uses the table of TCP states in which only the server makes a connection established. 0 never; 1 while entries are short, shown as 2 meanwhile; 3 always
    secure_tcp = 0, 0 to 3;
    /// 1: any SCTP packet but an ABORT opens a connection, not only an INIT
    sloppy_sctp = 0, 0 to 1;
    /// 1: any TCP segment but a RST opens a connection, not only a SYN
    sloppy_tcp = 0, 0 to 1;
}

/// Settings of IPVS that have one value here, with the reason why no other.
const FIXED: &[(&str, u32, &str)] = &[
    (
        "backup_only",
        0,
        "a director that forwards nothing while it is a backup needs no packet of the services: let the router not send any",
    ),
    (
        "cache_bypass",
        0,
        "dpvsd forwards nothing to addresses that are no virtual service's; add the origin servers as real servers of a low weight",
    ),
    ("conntrack", 0, "dpvsd does not use Netfilter, so there is no other connection table to keep"),
    (
        "debug_level",
        0,
        "dpvsd writes no line for a packet; 'dpvs-ctl drops' and 'dpvs-ctl connections' tell what becomes of them",
    ),
    (
        "ignore_tunneled",
        1,
        "tunnels that end at this host are its kernel's, and what was in them does not come back to dpvsd",
    ),
    ("run_estimation", 1, "rates cost nothing on the packet path, so they are always kept"),
    ("snat_reroute", 1, "replies are always routed by the address of their client"),
];

/// Settings of IPVS that have no value here, with the reason.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("est_cpulist", "rates are computed by the control thread, beside the packet path"),
    ("est_nice", "rates are computed by the control thread, whose priority is that of the process"),
];

/// Settings of IPVS that belong to something not built yet.
const NOT_YET: &[(&str, &str)] = &[
    ("sync_persist_mode", "connection synchronisation"),
    ("sync_ports", "connection synchronisation"),
    ("sync_qlen_max", "connection synchronisation"),
    ("sync_refresh_period", "connection synchronisation"),
    ("sync_retries", "connection synchronisation"),
    ("sync_sock_size", "connection synchronisation"),
    ("sync_threshold", "connection synchronisation"),
    ("sync_version", "connection synchronisation"),
];

impl Sysctls {
    /// Gives a setting a value.
    pub fn set(&mut self, name: &str, value: u32) -> Result<(), SysctlError> {
        if let Some(&(name, fixed, reason)) = FIXED.iter().find(|fixed| fixed.0 == name) {
            return match value == fixed {
                true => Ok(()),
                false => Err(SysctlError::Fixed { name, value, fixed, reason }),
            };
        }
        let setting = Self::ALL.iter().find(|setting| setting.name == name);
        let Setting { name, min, max, .. } = *setting.ok_or_else(|| Self::refusal(name))?;
        if !(min..=max).contains(&value) {
            return Err(SysctlError::Range { name, value, min, max });
        }
        *self.value_mut(name).ok_or_else(|| Self::refusal(name))? = value;
        Ok(())
    }

    /// Why there is no setting of this name, whatever the value; `None` if there is one.
    pub fn is_refused(name: &str) -> Option<SysctlError> {
        let has_values = FIXED.iter().any(|fixed| fixed.0 == name) || Self::ALL.iter().any(|s| s.name == name);
        (!has_values).then(|| Self::refusal(name))
    }

    fn refusal(name: &str) -> SysctlError {
        if let Some(&(name, feature)) = NOT_YET.iter().find(|missing| missing.0 == name) {
            return SysctlError::NotYet { name, feature };
        }
        match WITHOUT_MEANING.iter().find(|other| other.0 == name) {
            Some(&(name, reason)) => SysctlError::WithoutMeaning { name, reason },
            None => SysctlError::Unknown(name.to_owned()),
        }
    }

    /// Settings of IPVS that have one value here: name, value and reason.
    pub(crate) fn fixed() -> impl Iterator<Item = (&'static str, u32, &'static str)> {
        FIXED.iter().copied()
    }

    /// All settings with their values, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, u32)> {
        Self::ALL.iter().filter_map(|setting| Some((setting, self.get(setting.name)?)))
    }

    /// What has to be set to come from `self` to `other`.
    pub fn difference(&self, other: &Self) -> BTreeMap<String, u32> {
        let changed = other.iter().filter(|(setting, value)| self.get(setting.name) != Some(*value));
        changed.map(|(setting, value)| (setting.name.to_owned(), value)).collect()
    }
}

impl Serialize for Sysctls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Self::ALL.len()))?;
        for (setting, value) in self.iter() {
            map.serialize_entry(setting.name, &value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Sysctls {
    /// From names and values; those not named have their default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = Sysctls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings and their values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Sysctls, M::Error> {
                let mut sysctls = Sysctls::default();
                while let Some(name) = map.next_key::<String>()? {
                    map.next_value_seed(Value { sysctls: &mut sysctls, name: &name })?;
                }
                Ok(sysctls)
            }
        }

        deserializer.deserialize_map(Values)
    }
}

/// The value of one name; sets it, so that an error is about this value and not about the whole map.
struct Value<'a> {
    sysctls: &'a mut Sysctls,
    name: &'a str,
}

impl<'de> de::DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Its value need not be a number.
        if let Some(error) = Sysctls::is_refused(self.name) {
            return Err(de::Error::custom(error));
        }
        let value = u32::deserialize(deserializer)?;
        self.sysctls.set(self.name, value).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let names: Vec<&str> = Sysctls::ALL.iter().map(|s| s.name).collect();
        assert!(names.is_sorted());
        let missing = NOT_YET.iter().chain(WITHOUT_MEANING).map(|missing| missing.0);
        let others = FIXED.iter().map(|fixed| fixed.0).chain(missing);
        for other in others {
            assert!(!names.contains(&other), "{other} is in two tables");
        }
        for (setting, value) in Sysctls::default().iter() {
            assert!((setting.min..=setting.max).contains(&value), "{}", setting.name);
            assert!(!setting.meaning.is_empty());
        }
    }

    /// Of Linux 6.1 (/proc/sys/net/ipv4/vs), and of later ones.
    #[test]
    fn every_setting_of_ipvs_is_known() {
        let names = "am_droprate amemthresh backup_only cache_bypass conn_reuse_mode conntrack debug_level drop_entry \
                     drop_packet expire_nodest_conn expire_quiescent_template ignore_tunneled lblc_expiration \
                     lblcr_expiration nat_icmp_send pmtu_disc run_estimation schedule_icmp secure_tcp sloppy_sctp \
                     sloppy_tcp snat_reroute sync_persist_mode sync_ports sync_qlen_max sync_refresh_period \
                     sync_retries sync_sock_size sync_threshold sync_version est_cpulist est_nice";
        for name in names.split(' ') {
            let error = Sysctls::is_refused(name);
            assert!(!matches!(error, Some(SysctlError::Unknown(_))), "{name}");
            let has_value = Sysctls::default().get(name).is_some();
            assert_eq!(has_value, error.is_none(), "{name}");
        }
    }

    #[test]
    fn values_are_set_within_their_range() {
        let mut sysctls = Sysctls::default();
        sysctls.set("conn_reuse_mode", 3).unwrap();
        assert_eq!((sysctls.conn_reuse_mode, sysctls.get("conn_reuse_mode")), (3, Some(3)));
        sysctls.set("snat_reroute", 1).unwrap();
        assert_eq!((sysctls.get("snat_reroute"), sysctls.get("x")), (Some(1), None));
        for (name, value, message) in [
            ("conn_reuse_mode", 4, "4 is out of range for conn_reuse_mode: give 0 to 3"),
            ("conn_reuse", 1, "there is no setting 'conn_reuse': 'dpvs-ctl get' lists those that there are"),
            ("sync_version", 1, "sync_version is a setting of IPVS that dpvsd does not have yet (connection"),
            ("snat_reroute", 0, "snat_reroute cannot be 0, only 1: replies are always routed"),
            (
                "ignore_tunneled",
                0,
                "ignore_tunneled cannot be 0, only 1: tunnels that end at this host are its kernel's",
            ),
            ("est_nice", 0, "est_nice is a setting of IPVS that means nothing to dpvsd (rates are computed by"),
        ] {
            let error = sysctls.set(name, value).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert_eq!(sysctls, Sysctls { conn_reuse_mode: 3, ..Sysctls::default() });
    }

    #[test]
    fn as_json() {
        let sysctls = Sysctls { sloppy_tcp: 1, ..Sysctls::default() };
        let text = serde_json::to_string(&sysctls).unwrap();
        assert!(text.contains("\"sloppy_tcp\":1"), "{text}");
        assert_eq!(serde_json::from_str::<Sysctls>(&text).unwrap(), sysctls);
        assert_eq!(serde_json::from_str::<Sysctls>("{\"sloppy_tcp\":1}").unwrap(), sysctls);
        for (text, message) in [
            ("{\"sloppy_tcp\":2}", "2 is out of range for sloppy_tcp: give 0 to 1"),
            (
                "{\"sync_threshold\":\"3 50\"}",
                "sync_threshold is a setting of IPVS that dpvsd does not have yet (connection",
            ),
        ] {
            let error = serde_json::from_str::<Sysctls>(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert_eq!(Sysctls::default().difference(&sysctls), BTreeMap::from([("sloppy_tcp".to_owned(), 1)]));
    }
}
