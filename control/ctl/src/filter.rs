//! Which connections to list.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use dpvs_api::{Connection, ServiceId};

use crate::cli::ConnectionFilters;

/// An address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: IpAddr,
    l4_port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, l4_port: None });
        }
        let whole: SocketAddr =
            text.parse().map_err(|_| "write ADDRESS or ADDRESS:PORT, e.g. 10.0.0.1 or [2001:db8::1]:80")?;
        Ok(Self { address: whole.ip(), l4_port: Some(whole.port()) })
    }
}

impl Endpoint {
    fn matches(self, address: SocketAddr) -> bool {
        self.address == address.ip() && self.l4_port.is_none_or(|l4_port| l4_port == address.port())
    }
}

impl ConnectionFilters {
    /// True if all filters that are given let the connection pass.
    pub(crate) fn pass(&self, connection: &Connection) -> bool {
        let is_of_service = |id: ServiceId| match id {
            ServiceId::Address { protocol, address } => {
                Some(protocol) == connection.protocol && address == connection.virtual_service
            }
            // Connections do not tell.
            ServiceId::Fwmark { .. } => false,
        };
        self.protocol.is_none_or(|protocol| Some(protocol) == connection.protocol)
            && self.client.is_none_or(|client| client.matches(connection.client))
            && self.service.is_none_or(is_of_service)
            && self.server.is_none_or(|server| server.matches(connection.server))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};
    use crate::show::tests::connection;

    #[test]
    fn every_filter_counts() {
        for (line, expected) in [
            ("", true),
            ("--protocol tcp", true),
            ("--protocol udp", false),
            ("--client 198.51.100.7", true),
            ("--client 198.51.100.7:40000", true),
            ("--client 198.51.100.7:40001", false),
            ("--client 198.51.100.8", false),
            ("--service tcp/192.0.2.10:80", true),
            ("--service udp/192.0.2.10:80", false),
            ("--service tcp/192.0.2.10:81", false),
            ("--server 10.0.0.1", true),
            ("--server 10.0.0.1:80", false),
            ("--server 10.0.0.1 --client 198.51.100.7 --protocol udp", false),
        ] {
            let words = ["dpvs-ctl", "connections"].into_iter().chain(line.split_whitespace());
            let Command::Connections(filters) = Cli::parse_from(words).command else { panic!("{line}") };
            assert_eq!(filters.pass(&connection()), expected, "{line}");
        }
    }
}
