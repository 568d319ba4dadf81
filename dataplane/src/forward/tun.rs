//! IP-in-IP encapsulation: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 (RFC 2473).

use proto::checksum::Delta;
use proto::ethernet;

use crate::ip::Ip;
use crate::packet::PacketBuf;

/// Forwards the packet of `len` bytes behind the Ethernet header in one from `src` to `dst`: its own time to live is
/// decremented (RFC 2003 section 3.1, RFC 2473 section 3.1). Returns false, and leaves it as it is but for padding, when
/// the buffer has no room in front, or the packet would be longer than 65535 bytes.
#[inline(always)]
pub fn encapsulate<A: Ip>(packet: &mut impl PacketBuf, len: u16, src: A, dst: A, id: u16) -> bool {
    // Ethernet padding must not become part of the tunnel's payload.
    packet.truncate(ethernet::HEADER_LEN + usize::from(len));
    let fits = usize::from(len) + A::HEADER_LEN <= usize::from(u16::MAX);
    if !fits || !packet.prepend(A::HEADER_LEN) {
        return false;
    }
    // The Ethernet header in front is written on the way out; only its EtherType must be there.
    let frame = packet.data_mut();
    // Checked once, here; it is always so.
    if frame.len() < ethernet::HEADER_LEN + 2 * A::HEADER_LEN {
        return false;
    }
    let (ethernet, ip) = frame.split_at_mut(ethernet::HEADER_LEN);
    ethernet[12..14].copy_from_slice(&A::ETHER_TYPE.to_be_bytes());
    let (outer, inner) = ip.split_at_mut(A::HEADER_LEN);
    A::decrement_ttl(inner, Delta::ZERO);
    A::write_outer(outer, inner, len, src, dst, id);
    true
}
