//! How the servers of a FULLNAT service learn their clients' addresses, which the packets no longer carry.
//!
//! * [`toa`]: an option in the first TCP segments.
//! * [`proxy`]: a header of the PROXY protocol before the data.

pub(crate) mod proxy;
pub(crate) mod toa;

use proto::checksum::Delta;
use proto::{Family, ipv4, ipv6};

pub use proxy::ProxyHeader;

use crate::ip::Ip;

/// Writes the length of an IP packet in bytes, its header included, to the header.
fn set_length<A: Ip>(header: &mut [u8], len: u16) {
    let (at, len) = match A::FAMILY {
        Family::V4 => (ipv4::TOTAL_LEN, len),
        Family::V6 => (ipv6::PAYLOAD_LEN, len - ipv6::HEADER_LEN as u16),
    };
    let before = u16::from_be_bytes([header[at], header[at + 1]]);
    header[at..at + 2].copy_from_slice(&len.to_be_bytes());
    A::fix_header(header, Delta::ZERO.replace_u16(before, len));
}

/// The difference that `bytes` make to a checksum where there were none, at an even offset and up to the end of the
/// packet if they are odd in number. They are at most [`proto::proxy_protocol::MAX_LEN`].
fn appended(bytes: &[u8]) -> Delta {
    let mut padded = [0; proto::proxy_protocol::MAX_LEN];
    padded[..bytes.len()].copy_from_slice(bytes);
    Delta::ZERO.replace_bytes(&[0; proto::proxy_protocol::MAX_LEN], &padded)
}
