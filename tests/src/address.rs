//! The lab's addresses, as `deploy/lab` assigns them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How the hosts are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Clients, director and servers on one network.
    OneArm,
    /// The director is the router between the clients' network and the servers'.
    TwoArm,
}

impl Topology {
    /// As `deploy/lab` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Topology::OneArm => "one-arm",
            Topology::TwoArm => "two-arm",
        }
    }

    /// Number of the network that the servers are on; the clients are on 0.
    fn server_network(self) -> u8 {
        match self {
            Topology::OneArm => 0,
            Topology::TwoArm => 1,
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Host `n` of network `network`: 192.0.2.n and 2001:db8:1::n, 198.51.100.n and 2001:db8:2::n. The number is
    /// read in decimal in both, so that the two addresses of a host look alike.
    pub(crate) fn host(self, network: u8, n: u8) -> IpAddr {
        match (self, network) {
            (Family::V4, 0) => Ipv4Addr::new(192, 0, 2, n).into(),
            (Family::V4, _) => Ipv4Addr::new(198, 51, 100, n).into(),
            (Family::V6, _) => {
                let digits = u16::from_str_radix(&n.to_string(), 16).expect("decimal digits are hexadecimal digits");
                Ipv6Addr::new(0x2001, 0xdb8, u16::from(network) + 1, 0, 0, 0, 0, digits).into()
            }
        }
    }

    /// Virtual address number `n`, 0 to 3.
    pub fn virtual_address(self, n: u8) -> IpAddr {
        self.host(0, 100 + n)
    }

    /// The director's own address on the clients' network.
    pub fn director(self) -> IpAddr {
        self.host(0, 1)
    }

    /// Client `n`, from 1.
    pub fn client(self, n: u8) -> IpAddr {
        self.host(0, 10 + n)
    }

    /// Real server `n`, from 1.
    pub fn server(self, topology: Topology, n: u8) -> IpAddr {
        self.host(topology.server_network(), 20 + n)
    }

    /// Local address `n`, 0 or 1, for FULLNAT.
    pub fn local_address(self, topology: Topology, n: u8) -> IpAddr {
        self.host(topology.server_network(), 201 + n)
    }

    /// The `-4` or `-6` that many programs take.
    pub fn flag(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }
}

/// How a director reaches the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Translation of the destination.
    Nat,
    /// Translation of source and destination.
    Fullnat,
    /// Direct routing.
    Dr,
    /// IP-in-IP.
    Tun,
}

impl Mode {
    /// A topology in which the mode works.
    pub fn topology(self) -> Topology {
        match self {
            Mode::Nat => Topology::TwoArm,
            Mode::Fullnat | Mode::Dr | Mode::Tun => Topology::OneArm,
        }
    }

    /// The option of `ipvsadm`.
    pub fn flag(self) -> &'static str {
        match self {
            Mode::Nat => "-m",
            Mode::Fullnat => "-b",
            Mode::Dr => "-g",
            Mode::Tun => "-i",
        }
    }
}

/// `http://ADDRESS:PORT/PATH`.
pub fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_lab_script() {
        let table = [
            (Family::V4.virtual_address(0), "192.0.2.100"),
            (Family::V6.virtual_address(3), "2001:db8:1::103"),
            (Family::V4.server(Topology::TwoArm, 1), "198.51.100.21"),
            (Family::V6.server(Topology::TwoArm, 2), "2001:db8:2::22"),
            (Family::V6.server(Topology::OneArm, 3), "2001:db8:1::23"),
            (Family::V6.local_address(Topology::TwoArm, 1), "2001:db8:2::202"),
            (Family::V6.client(1), "2001:db8:1::11"),
        ];
        for (address, text) in table {
            assert_eq!(address.to_string(), text);
        }
    }
}
