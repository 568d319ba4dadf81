//! JSON Schema (2020-12) of types that are written as text, or whose fields come from a table. All others derive theirs.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Netmask, Network, PortRange, ServiceId, Sysctls};

/// The schema of a type that reads its text by `FromStr`: a pattern that all of it matches.
macro_rules! text {
    ($type:ident, $pattern:literal, $description:literal) => {
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

text!(
    ServiceId,
    r"^((tcp|udp|sctp)/([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}|fwmark/[0-9]+(/inet6?)?)$",
    "A service: PROTOCOL/ADDRESS:PORT, e.g. tcp/192.0.2.1:80 or udp/[2001:db8::1]:53; fwmark/MARK; or fwmark/MARK/inet6."
);
text!(
    Network,
    r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
    "A network, e.g. 192.0.2.0/24, or one address, without a prefix length."
);
text!(PortRange, r"^[0-9]{1,5}(-[0-9]{1,5})?$", "A port, e.g. 80, or the first and the last of some, e.g. 8000-8100.");
text!(
    Netmask,
    r"^([0-9]{1,3}|[0-9]{1,3}(\.[0-9]{1,3}){3})$",
    "A mask for IPv4, e.g. 255.255.255.0, or the length of a prefix, e.g. 24 or 64."
);

impl JsonSchema for Sysctls {
    fn schema_name() -> Cow<'static, str> {
        "Sysctls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let settings = Self::ALL.iter().map(|setting| {
            let schema = json_schema!({
                "type": "integer",
                "minimum": setting.min,
                "maximum": setting.max,
                "default": setting.default,
                "description": setting.meaning,
            });
            (setting.name, schema)
        });
        let fixed = Self::fixed().map(|(name, value, reason)| {
            (name, json_schema!({ "const": value, "description": format!("Always {value}: {reason}") }))
        });
        let properties: serde_json::Map<String, serde_json::Value> =
            settings.chain(fixed).map(|(name, schema)| (name.to_owned(), schema.into())).collect();
        json_schema!({
            "type": "object",
            "description": "Run-time settings by the names of IPVS's sysctls, net.ipv4.vs.*",
            "properties": properties,
            "additionalProperties": false,
        })
    }
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Operation, Service};

    fn validator<T: JsonSchema>() -> jsonschema::Validator {
        jsonschema::draft202012::new(schema_for!(T).as_value()).unwrap()
    }

    /// The schema takes what serde takes, and refuses what serde refuses.
    fn agrees<T: JsonSchema + serde::de::DeserializeOwned>(values: &[Value]) {
        let validator = validator::<T>();
        for value in values {
            let read = serde_json::from_value::<T>(value.clone());
            assert_eq!(validator.is_valid(value), read.is_ok(), "{value}: {:?}", read.err());
        }
    }

    #[test]
    fn texts() {
        let texts =
            ["tcp/192.0.2.1:80", "udp/[2001:db8::1]:53", "fwmark/7", "fwmark/7/inet6", "fwmark/", "tcp", "x/1.2.3.4:5"];
        agrees::<ServiceId>(&texts.map(Value::from));
        agrees::<Network>(&["192.0.2.0/24", "2001:db8::1", "x", "192.0.2.0/"].map(Value::from));
        agrees::<PortRange>(&["80", "80-90", "-", "80-"].map(Value::from));
        agrees::<Netmask>(&["255.255.255.0", "24", "x", "255.255"].map(Value::from));
    }

    #[test]
    fn settings() {
        agrees::<Sysctls>(&[
            json!({}),
            json!({ "conn_reuse_mode": 3 }),
            json!({ "conn_reuse_mode": 4 }),
            json!({ "snat_reroute": 1 }),
            json!({ "snat_reroute": 0 }),
            json!({ "nonsense": 1 }),
        ]);
    }

    #[test]
    fn services_are_flat() {
        let server = json!({ "address": "192.0.2.9:80", "mode": "nat" });
        agrees::<Service>(&[
            json!({ "protocol": "tcp", "address": "192.0.2.1:80", "servers": [server] }),
            json!({ "fwmark": 7, "family": "inet6", "persistence": { "timeout": 300 } }),
            json!({ "protocol": "tcp", "address": "192.0.2.1:80", "wieght": 1 }),
            json!({ "protocol": "icmp", "address": "192.0.2.1:80" }),
        ]);
        agrees::<Operation>(&[
            json!({ "op": "clear" }),
            json!({ "op": "add-server", "service": "tcp/192.0.2.1:80", "server": server }),
            json!({ "op": "add-server", "service": "tcp/192.0.2.1:80" }),
            json!({ "op": "nonsense" }),
        ]);
    }
}
