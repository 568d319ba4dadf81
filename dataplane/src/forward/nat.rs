//! Address and port translation for NAT and FULLNAT.

use proto::checksum::Delta;
use proto::{Protocol, Tuple, tcp, udp};

use crate::ip::{Ip, replace_address};

/// Gives the packet at `l3` of `frame` the source and destination of `new`; `l4` is the offset of its TCP or UDP header.
/// Checksums are updated incrementally (RFC 1624), so that damage done before stays visible to the receiver.
#[inline(always)]
pub fn rewrite<A: Ip>(frame: &mut [u8], l3: usize, l4: usize, new: &Tuple<A>) {
    let header = &mut frame[l3..];
    let addresses = replace_address(header, A::SRC, new.src).combine(replace_address(header, A::DST, new.dst));
    A::fix_header(header, addresses);
    let delta = replace_ports(&mut frame[l4..], new.sport, new.dport).combine(addresses);
    match new.protocol {
        Protocol::TCP => delta.apply_at(frame, l4 + tcp::CHECKSUM),
        _ => delta.apply_udp_at(frame, l4 + udp::CHECKSUM),
    }
}

/// Writes source and destination port, which TCP and UDP have at the same place.
#[inline(always)]
fn replace_ports(l4: &mut [u8], sport: u16, dport: u16) -> Delta {
    let old_sport = u16::from_be_bytes([l4[0], l4[1]]);
    let old_dport = u16::from_be_bytes([l4[2], l4[3]]);
    l4[0..2].copy_from_slice(&sport.to_be_bytes());
    l4[2..4].copy_from_slice(&dport.to_be_bytes());
    Delta::ZERO.replace_u16(old_sport, sport).replace_u16(old_dport, dport)
}
