//! Paths of the API.

use std::fmt::Write;

use dpvs_api::ServiceId;

/// `/v1/services/tcp/2001:db8::1/80`: IPv6 addresses stand without brackets.
pub(crate) fn service(id: ServiceId) -> String {
    match id {
        ServiceId::Address { protocol, address } => {
            format!("/v1/services/{protocol}/{}/{}", address.ip(), address.port())
        }
        ServiceId::Fwmark { mark, family } => format!("/v1/services/fwmark/{mark}/{}", family.name()),
    }
}

/// The page of a listing at a cursor, which the daemon chose and which may hold any character.
pub(crate) fn page(listing: &str, cursor: Option<&str>, limit: usize) -> String {
    let mut path = format!("/v1/{listing}?limit={limit}");
    if let Some(cursor) = cursor {
        path.push_str("&cursor=");
        for byte in cursor.bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
                // Writing to a string cannot fail.
                _ => _ = write!(path, "%{byte:02X}"),
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(service("tcp/192.0.2.1:80".parse().unwrap()), "/v1/services/tcp/192.0.2.1/80");
        assert_eq!(service("udp/[2001:db8::1]:53".parse().unwrap()), "/v1/services/udp/2001:db8::1/53");
        assert_eq!(service("fwmark/7/inet6".parse().unwrap()), "/v1/services/fwmark/7/inet6");
        assert_eq!(page("connections", None, 7), "/v1/connections?limit=7");
        assert_eq!(page("services", Some("a/1&b=é"), 7), "/v1/services?limit=7&cursor=a%2F1%26b%3D%C3%A9");
    }
}
