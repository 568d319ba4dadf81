//! Received packets in words, field by field, so that two of them are compared as text.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{GUE_PORT, checksum, transport_checksum};

/// Identifications that are shown: those of fragments that a test sends. Others are numbers that a director makes up.
const IDS: std::ops::Range<u32> = 0x4300..0x4400;

/// How addresses are shown.
pub type Names<'a> = &'a dyn Fn(IpAddr) -> String;

/// An IP packet in one line. Wrong lengths and checksums are said; right ones are not. Identifications are left out, except
/// those of fragments that a test has sent: every sender counts in its own way.
pub fn describe(packet: &[u8], names: Names) -> String {
    ip(packet, names, true).unwrap_or_else(|| format!("garbage {}", hex(packet)))
}

/// Source, destination and protocol of an IP packet, those of the packet that a tunnel or an ICMP error holds too.
pub fn addresses(packet: &[u8]) -> Vec<IpAddr> {
    let mut all = Vec::new();
    let mut rest = packet;
    while let Some(header) = Header::parse(rest) {
        all.extend([header.from, header.to]);
        let Some(body) = rest.get(header.length..) else { break };
        rest = match header.protocol {
            4 | 41 => body,
            1 | 58 => body.get(8..).unwrap_or_default(),
            47 | 17 => match carried(header.protocol, body) {
                Some((_, packet)) => packet,
                None => break,
            },
            _ => break,
        };
    }
    all
}

/// The header of GRE, or those of UDP and GUE, at the start of `body` in words, and the packet behind. Checksums of GRE
/// are checked here, the source port of GUE is left out but for its range.
fn carried(protocol: u8, body: &[u8]) -> Option<(String, &[u8])> {
    let word = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match protocol {
        47 => {
            let (flags, ethertype) = (word(0)?, word(2)?);
            let sum = match flags >> 15 {
                0 => "",
                _ if checksum(body, &[]) == 0 => " sum",
                _ => " sum (bad or cut short)",
            };
            Some((
                format!("gre flags {flags:04x} type {ethertype:04x}{sum}"),
                body.get(if sum.is_empty() { 4 } else { 8 }..)?,
            ))
        }
        17 if word(2)? == GUE_PORT => {
            let port = if (32768..61000).contains(&word(0)?) { "ephemeral" } else { "ODD" };
            let header = hex(body.get(8..12)?);
            let options = 4 * usize::from(body[8] & 31);
            Some((format!("gue from {port} port, {header}"), body.get(12 + options..)?))
        }
        _ => None,
    }
}

/// What an IP header says, its extension headers included.
struct Header {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    length: usize,
    total: usize,
    ttl: u8,
    tos: u8,
    /// Offset in bytes, whether more follow, identification.
    fragment: Option<(usize, bool, u32)>,
    df: bool,
    options: Vec<u8>,
    sum_is_wrong: bool,
}

impl Header {
    fn parse(packet: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        match packet.first()? >> 4 {
            4 => {
                let length = usize::from(packet[0] & 15) * 4;
                let header = packet.get(..length.max(20))?;
                let place = word(6)?;
                let part = place & 0x3fff != 0;
                Some(Self {
                    from: Ipv4Addr::from(*header[12..].first_chunk()?).into(),
                    to: Ipv4Addr::from(*header[16..].first_chunk()?).into(),
                    protocol: header[9],
                    length,
                    total: word(2)?.into(),
                    ttl: header[8],
                    tos: header[1],
                    fragment: part.then_some((usize::from(place & 0x1fff) * 8, place & 0x2000 != 0, word(4)?.into())),
                    df: place & 0x4000 != 0,
                    options: header[20..].to_vec(),
                    sum_is_wrong: checksum(header, &[]) != 0,
                })
            }
            6 => {
                let header = packet.get(..40)?;
                let mut parsed = Self {
                    from: Ipv6Addr::from(*header[8..].first_chunk()?).into(),
                    to: Ipv6Addr::from(*header[24..].first_chunk()?).into(),
                    protocol: header[6],
                    length: 40,
                    total: 40 + usize::from(word(4)?),
                    ttl: header[7],
                    tos: header[0] << 4 | header[1] >> 4,
                    fragment: None,
                    df: false,
                    options: Vec::new(),
                    sum_is_wrong: false,
                };
                if parsed.protocol == 44 {
                    let place = word(42)?;
                    let id = u32::from_be_bytes(*packet.get(44..)?.first_chunk()?);
                    parsed.fragment = Some(((place & 0xfff8).into(), place & 1 != 0, id));
                    parsed.protocol = packet[40];
                    parsed.length = 48;
                }
                Some(parsed)
            }
            _ => None,
        }
    }
}

/// A packet that an ICMP error quotes is not `whole`: it is cut short, its checksums are of no use, and its hops are those
/// before or after the router that quotes it.
fn ip(packet: &[u8], names: Names, whole: bool) -> Option<String> {
    let header = Header::parse(packet)?;
    let mut text = String::new();
    let (from, to) = (names(header.from), names(header.to));
    let body = packet.get(header.length..header.total.clamp(header.length, packet.len()))?;
    let first = header.fragment.is_none_or(|(offset, ..)| offset == 0);
    let complete = whole && header.fragment.is_none() && header.total <= packet.len();
    let checked = |wrong: bool| if wrong && complete { " BAD SUM" } else { "" };
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match header.protocol {
        6 | 17 | 132 if first && body.len() >= 8 => {
            let (sport, dport) = (port(0)?, port(2)?);
            let name = match header.protocol {
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            let _ = write!(text, "{name} {from}:{sport} > {to}:{dport}");
            let wrong = transport_checksum(header.from, header.to, header.protocol, body) != 0;
            match header.protocol {
                6 if body.len() >= 20 => {
                    let number = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
                    let flags: String = "FSRPAUEC"
                        .chars()
                        .enumerate()
                        .filter(|(n, _)| body[13] >> n & 1 != 0)
                        .map(|(_, c)| c)
                        .collect();
                    let offset = usize::from(body[12] >> 4) * 4;
                    let _ = write!(text, " {flags} seq {} ack {} win {}", number(4), number(8), port(14)?);
                    if let Some(options) = body.get(20..offset).filter(|options| !options.is_empty()) {
                        let _ = write!(text, " options {}", hex(options));
                    }
                    let _ = write!(text, "{}{}", payload(body.get(offset..).unwrap_or_default()), checked(wrong));
                }
                6 => {
                    let _ = write!(text, " seq {}", u32::from_be_bytes(*body[4..].first_chunk()?));
                }
                17 if let Some((words, packet)) = carried(17, body) => {
                    let absent = port(6)? == 0;
                    text = format!("{words} {from} > {to} length {}", port(4)?);
                    text += if absent { " no checksum" } else { checked(wrong) };
                    text += &held(packet, names, complete);
                }
                17 => {
                    let absent = port(6)? == 0;
                    let _ = write!(text, " length {}{}", port(4)?, payload(&body[8..]));
                    text += if absent { " no checksum" } else { checked(wrong) };
                }
                _ => {
                    let _ =
                        write!(text, " tag {:08x} {}", u32::from_be_bytes(*body[4..].first_chunk()?), hex(&body[8..]));
                }
            }
        }
        1 | 58 if first && body.len() >= 8 => {
            let wrong = match header.protocol {
                1 => checksum(body, &[]) != 0,
                _ => transport_checksum(header.from, header.to, 58, body) != 0,
            };
            let rest = u32::from_be_bytes(*body[4..].first_chunk()?);
            let name = if header.protocol == 1 { "icmp" } else { "icmpv6" };
            let _ = write!(text, "{name} {from} > {to} {}/{} {rest:08x}{}", body[0], body[1], checked(wrong));
            let error = match header.protocol {
                1 => matches!(body[0], 3 | 4 | 5 | 11 | 12),
                _ => body[0] < 128,
            };
            match ip(&body[8..], names, false).filter(|_| error) {
                Some(quoted) => {
                    let _ = write!(text, " about {} bytes [{quoted}]", body.len() - 8);
                }
                None => text += &payload(&body[8..]),
            }
        }
        4 | 41 if first => {
            let _ = write!(text, "ipip {} {from} > {to}{}", header.protocol, held(body, names, complete));
        }
        47 if first && carried(47, body).is_some() => {
            let (words, packet) = carried(47, body)?;
            let _ = write!(text, "{words} {from} > {to}{}", held(packet, names, complete));
        }
        protocol => {
            let _ = write!(text, "protocol {protocol} {from} > {to}{}", payload(body));
        }
    }
    text += ";";
    if whole {
        let _ = write!(text, " ttl {}", header.ttl);
    }
    if header.tos != 0 {
        let _ = write!(text, " tos {:02x}", header.tos);
    }
    if header.df {
        text += " DF";
    }
    if let Some((offset, more, id)) = header.fragment {
        let _ = write!(text, " fragment at {offset}{}", if more { " more" } else { " last" });
        // The director counts its own as it likes, through that range, too.
        if IDS.contains(&id) && from != "D" && from != "E" {
            let _ = write!(text, " id {id:x}");
        }
    }
    if !header.options.is_empty() {
        let _ = write!(text, " ip options {}", hex(&header.options));
    }
    if header.sum_is_wrong {
        text += " BAD IP SUM";
    }
    if whole && header.total != packet.len() {
        let _ = write!(text, " total length {} of {}", header.total, packet.len());
    }
    Some(text)
}

/// The packet in a tunnel.
fn held(packet: &[u8], names: Names, whole: bool) -> String {
    match ip(packet, names, whole) {
        Some(inner) => format!(" [{inner}]"),
        None => payload(packet),
    }
}

/// Length of a payload, and its bytes as a hash: enough to see that it changed.
fn payload(bytes: &[u8]) -> String {
    match bytes.len() {
        0 => String::new(),
        1..=40 => format!(" data {}", bytes.escape_ascii()),
        length => {
            // FNV-1a.
            let hash = bytes
                .iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            format!(" data of {length} bytes, hash {:08x}", hash as u32)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::{Kind, Packet, icmp_error, tcp, udp};

    fn shown(packet: &Packet) -> Vec<String> {
        let resolve = |name: &str| name.parse().or_else(|_| format!("{name}:0").parse()).expect("an address");
        packet.encode(&resolve).iter().map(|packet| describe(packet, &|address| address.to_string())).collect()
    }

    #[test]
    fn packets_are_shown_as_they_were_described() {
        let segment = tcp("10.0.0.1:4000", "10.0.0.2:80", "SA").seq(7).ack(9).df().ttl(3);
        assert_eq!(shown(&segment), ["tcp 10.0.0.1:4000 > 10.0.0.2:80 SA seq 7 ack 9 win 8192; ttl 3 DF"]);
        let error = icmp_error("10.9.9.9", "10.0.0.1", Kind::TooBig(1300), segment).quote(28);
        assert_eq!(
            shown(&error),
            [
                "icmp 10.9.9.9 > 10.0.0.1 3/4 00000514 about 28 bytes [tcp 10.0.0.1:4000 > 10.0.0.2:80 seq 7; DF]; ttl 64"
            ]
        );
        let datagram = udp("[fd00::1]:5", "[fd00::2]:53", 20);
        assert_eq!(shown(&datagram), ["udp fd00::1:5 > fd00::2:53 length 28 data abcdefghijklmnopqrst; ttl 64"]);
        assert_eq!(shown(&datagram.fragmented(16)).len(), 2);
    }

    #[test]
    fn damage_is_seen() {
        let resolve = |name: &str| name.parse().expect("an address");
        let mut packet = udp("10.0.0.1:5", "10.0.0.2:53", 20).encode(&resolve).remove(0);
        packet[30] ^= 1;
        assert!(describe(&packet, &|address| address.to_string()).contains("BAD SUM"));
        packet[1] ^= 1;
        assert!(describe(&packet, &|address| address.to_string()).contains("BAD IP SUM"));
        packet.truncate(22);
        assert!(!describe(&packet, &|address| address.to_string()).contains("BAD SUM"));
    }
}
