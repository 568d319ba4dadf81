//! Frames of the detour: what the kernel sent becomes what a client would have sent, and the server's answers what the
//! kernel expects.

use std::net::IpAddr;

use dataplane::PortId;
use dataplane::forward::nat::replace_ports;
use dataplane::forward::tun::Tunnel;
use dataplane::icmp::tunnel::{about_inner, carried};
use dataplane::io::memory::HeapPacket;
use dataplane::ip::{Ip, replace_addresses};
use dataplane::packet::PacketBuf;
use dataplane::snapshot::Snapshot;
use proto::checksum::Sum;
use proto::icmp::{self, ErrorFields, parse_quoted};
use proto::parse::{Fragment, IpPacket, Parsed, parse};
use proto::{Family, Protocol, Tuple, ethernet, icmpv6, tcp, udp};

use super::table::{Detours, Flow, VirtualEnd};

/// A packet that cannot go through its server's tunnel: it would be too long for the port, no address of the director's is
/// known as its source, or its time to live is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DoesNotFit;

impl Detours {
    /// Has a frame of the kernel's, which is to leave by `port`, take its detour if it has one. What goes through a tunnel is
    /// returned as another frame. A fragment does not tell its ports and goes where the kernel sends it.
    pub(crate) fn to_server(
        &self,
        frame: &mut [u8],
        port: PortId,
        snapshot: &Snapshot,
    ) -> Result<Option<HeapPacket>, DoesNotFit> {
        match parse(frame) {
            Ok(Parsed::Ipv4(ip)) => self.redirect(frame, &ip, port, snapshot),
            Ok(Parsed::Ipv6(ip)) => self.redirect(frame, &ip, port, snapshot),
            Ok(Parsed::Other) | Err(_) => Ok(None),
        }
    }

    fn redirect<A: Ip>(
        &self,
        frame: &mut [u8],
        ip: &IpPacket<A>,
        port: PortId,
        snapshot: &Snapshot,
    ) -> Result<Option<HeapPacket>, DoesNotFit> {
        let (l3, l4, end) = bounds(ip);
        let Some(tuple) = ends(ip, &frame[l3 + l4..end]) else { return Ok(None) };
        let Some(VirtualEnd { end: (vaddr, vport), tunnel }) = self.of_kernel(&flow_of(&tuple)) else {
            return Ok(None);
        };
        let Some(vaddr) = A::from_ip(vaddr) else { return Ok(None) };
        readdress(&mut frame[l3..end], l4, &Tuple { dst: vaddr, dport: vport, ..tuple });
        let Some(encapsulation) = tunnel else { return Ok(None) };
        if ip.ttl <= 1 {
            return Err(DoesNotFit);
        }
        let tunnel = Tunnel::to::<A>(tuple.dst.into(), encapsulation, snapshot).ok_or(DoesNotFit)?;
        let mut packet = HeapPacket::from_frame(frame);
        // A hash of the flow whose upper bits count; checks of a service differ in nothing but this port.
        let hash = u32::from(tuple.sport).wrapping_mul(0x9e37_79b9);
        if !tunnel.wrap::<A>(&mut packet, ip.len, self.next_id(), hash) {
            return Err(DoesNotFit);
        }
        packet.data_mut()[..ethernet::ETHERTYPE].copy_from_slice(&frame[..ethernet::ETHERTYPE]);
        match snapshot.fib.ports.get(usize::from(port.0)) {
            Some(info) if packet.data().len() > ethernet::HEADER_LEN + usize::from(info.mtu) => Err(DoesNotFit),
            _ => Ok(Some(packet)),
        }
    }

    /// Makes a frame for the kernel one that it expects, if it belongs to a flow on a detour: in place, or as a new one in
    /// `spare`.
    pub(crate) fn to_kernel<'a>(&self, frame: &'a mut [u8], spare: &'a mut Vec<u8>, snapshot: &Snapshot) -> &'a [u8] {
        let is_replaced = match parse(frame) {
            Ok(Parsed::Ipv4(ip)) => self.restore(frame, &ip, spare, snapshot),
            Ok(Parsed::Ipv6(ip)) => self.restore(frame, &ip, spare, snapshot),
            Ok(Parsed::Other) | Err(_) => false,
        };
        if is_replaced { spare } else { frame }
    }

    fn restore<A: Ip>(&self, frame: &mut [u8], ip: &IpPacket<A>, spare: &mut Vec<u8>, snapshot: &Snapshot) -> bool {
        let (l3, l4, end) = bounds(ip);
        if let Some(tuple) = ends(ip, &frame[l3 + l4..end]) {
            if let Some((server, port)) = self.of_server(&flow_of(&tuple.reversed()))
                && let Some(server) = A::from_ip(server)
            {
                readdress(&mut frame[l3..end], l4, &Tuple { src: server, sport: port, ..tuple });
            }
            return false;
        }
        self.restore_error(&frame[..end], ip, spare, snapshot).is_some()
    }

    /// Writes to `out` what an error about a packet that took the detour says about the one that the kernel sent.
    fn restore_error<A: Ip>(
        &self,
        packet: &[u8],
        ip: &IpPacket<A>,
        out: &mut Vec<u8>,
        snapshot: &Snapshot,
    ) -> Option<()> {
        let message_at = usize::from(ip.l4);
        let message = error_message(packet, ip)?;
        let quote_at = message_at + icmp::HEADER_LEN;
        let outer = parse_quoted::<A>(packet, quote_at)?;
        let within = usize::from(outer.l4)..usize::from(outer.end);
        let (quoted, error) = match carried(snapshot, packet, &outer.tuple, within) {
            Some((family, at)) if family == A::FAMILY => {
                (parse_quoted::<A>(packet, at)?, about_inner::<A, A>(message, (at - quote_at) as u32))
            }
            Some(_) => return None,
            None => {
                let rest = u32::from_be_bytes(*message[icmp::REST..].first_chunk()?);
                (outer, ErrorFields { message_type: message[icmp::TYPE], code: message[icmp::CODE], rest })
            }
        };
        let tuple = with_echo(quoted.tuple, &packet[quoted.l4.into()..quoted.end.into()])?;
        let (server, port) = self.of_server(&flow_of(&tuple))?;
        let server = A::from_ip(server)?;
        let mut about = packet[quoted.l3.into()..quoted.end.into()].to_vec();
        readdress(&mut about, quoted.header_len.into(), &Tuple { dst: server, dport: port, ..tuple });
        let from = if ip.tuple.src == tuple.dst { server } else { ip.tuple.src };
        out.clear();
        out.extend_from_slice(&packet[..ip.l3.into()]);
        out.resize(usize::from(ip.l3) + A::error_len(about.len()), 0);
        A::emit_error(&mut out[ip.l3.into()..], from, &about, &error).map(drop)
    }
}

/// The IP packet in the frame, with the offset of its transport header.
fn bounds<A>(ip: &IpPacket<A>) -> (usize, usize, usize) {
    let l3 = usize::from(ip.l3);
    (l3, usize::from(ip.l4) - l3, l3 + usize::from(ip.len))
}

/// The ICMP message that is a packet's payload, if it reports an error and its checksum is right.
fn error_message<'a, A: Ip>(packet: &'a [u8], ip: &IpPacket<A>) -> Option<&'a [u8]> {
    let Tuple { src, dst, protocol, .. } = ip.tuple;
    let message = packet.get(ip.l4.into()..)?;
    let kind = *message.first()?;
    let (is_error, pseudo) = match A::FAMILY {
        // A redirect is about routes.
        Family::V4 => (icmp::is_error(kind) && kind != icmp::REDIRECT, Sum::ZERO),
        Family::V6 => (icmpv6::is_error(kind), Sum::pseudo(src, dst, A::ICMP, message.len() as u32)),
    };
    let is_whole = protocol == A::ICMP && ip.fragment == Fragment::None && message.len() >= icmp::HEADER_LEN;
    (is_whole && is_error && pseudo.add_bytes(message).finish() == 0).then_some(message)
}

/// The tuple of a whole packet that a check may send or get; `transport` is what follows the IP header.
fn ends<A: Ip>(ip: &IpPacket<A>, transport: &[u8]) -> Option<Tuple<A>> {
    (ip.fragment == Fragment::None).then(|| with_echo(ip.tuple, transport)).flatten()
}

/// The tuple of a packet that a check may send or get. For an echo, the identifier is the port of who asks, and the sequence
/// number that of who is asked.
fn with_echo<A: Ip>(tuple: Tuple<A>, transport: &[u8]) -> Option<Tuple<A>> {
    match tuple.protocol {
        Protocol::TCP | Protocol::UDP => Some(tuple),
        protocol if protocol == A::ICMP => {
            let (request, reply) = match A::FAMILY {
                Family::V4 => (icmp::ECHO_REQUEST, icmp::ECHO_REPLY),
                Family::V6 => (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY),
            };
            let &[kind, _, _, _, a, b, c, d] = transport.first_chunk()?;
            let (id, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            match kind {
                _ if kind == request => Some(Tuple { sport: id, dport: sequence, ..tuple }),
                _ if kind == reply => Some(Tuple { sport: sequence, dport: id, ..tuple }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The flow of a packet that the director sends.
fn flow_of<A: Ip>(tuple: &Tuple<A>) -> Flow {
    let Tuple { src, dst, sport, dport, protocol } = *tuple;
    let (src, dst): (IpAddr, IpAddr) = (src.into(), dst.into());
    Flow { protocol, local: (src, sport), remote: (dst, dport) }
}

/// Gives a packet the ends of `new`. It begins with the IP header, and may be quoted: its checksums are kept right as far as
/// they are there. Eight bytes of its transport header are.
fn readdress<A: Ip>(packet: &mut [u8], l4: usize, new: &Tuple<A>) {
    let addresses = replace_addresses(packet, new.src, new.dst);
    A::fix_header(packet, addresses);
    let transport = &mut packet[l4..];
    match new.protocol {
        Protocol::TCP => {
            let delta = replace_ports(transport, new.sport, new.dport).combine(addresses);
            if transport.len() >= tcp::CHECKSUM + 2 {
                delta.apply_at(transport, tcp::CHECKSUM);
            }
        }
        Protocol::UDP => {
            let delta = replace_ports(transport, new.sport, new.dport).combine(addresses);
            delta.apply_udp_at(transport, udp::CHECKSUM);
        }
        Protocol::ICMPV6 => addresses.apply_at(transport, icmp::CHECKSUM),
        // That of ICMP does not cover addresses.
        _ => {}
    }
}
