//! Address families.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6, where a value rather than a type is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Internet Protocol version 4 (RFC 791).
    V4,
    /// Internet Protocol version 6 (RFC 8200).
    V6,
}

impl Family {
    /// The family of `addr`.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// An address of one family; code that treats both families alike is generic over it.
pub trait Address: Copy + Eq + Ord + Hash + Debug + Display + Send + Sync + Into<IpAddr> + 'static {
    /// The unspecified address (`0.0.0.0`, `::`).
    const UNSPECIFIED: Self;
    /// Length on the wire in bytes: 4 or 16.
    const LEN: usize;
    /// The family as a value.
    const FAMILY: Family;
    /// Reads an address from the first [`LEN`](Self::LEN) bytes; `bytes` must hold that many.
    fn read(bytes: &[u8]) -> Self;
    /// Writes the address to the first [`LEN`](Self::LEN) bytes; `bytes` must hold that many.
    fn write(self, bytes: &mut [u8]);
    /// `addr`, when it belongs to this family.
    fn from_ip(addr: IpAddr) -> Option<Self>;
    /// The address as two words for hashing and summing, its bytes as they lie in memory: (0, IPv4) or two halves.
    fn words(self) -> (u64, u64);
}

impl Address for Ipv4Addr {
    const UNSPECIFIED: Self = Ipv4Addr::UNSPECIFIED;
    const LEN: usize = 4;
    const FAMILY: Family = Family::V4;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.octets());
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn words(self) -> (u64, u64) {
        (0, u32::from_ne_bytes(self.octets()).into())
    }
}

impl Address for Ipv6Addr {
    const UNSPECIFIED: Self = Ipv6Addr::UNSPECIFIED;
    const LEN: usize = 16;
    const FAMILY: Family = Family::V6;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[..16]);
        Ipv6Addr::from(octets)
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.octets());
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(a),
        }
    }

    #[inline(always)]
    fn words(self) -> (u64, u64) {
        let bits = u128::from_ne_bytes(self.octets());
        (bits as u64, (bits >> 64) as u64)
    }
}
