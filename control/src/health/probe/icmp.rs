//! ICMP echo (keepalived's `PING_CHECK`).
//!
//! A raw socket needs no permission from `net.ipv4.ping_group_range`. It is connected, so that it gets only what comes
//! from the server.

use std::sync::atomic::{AtomicU32, Ordering};

use proto::checksum::Sum;
use socket2::{Protocol, Type};
use tokio::net::UdpSocket;

use super::{Failure, Run, socket};

/// Data of the request, after the header of 8 bytes.
const DATA: &[u8; 8] = b"dpvsd\0\0\0";
/// Header and data.
const LENGTH: usize = 8 + DATA.len();

/// Tells requests apart that are under way at the same time: identifier and sequence number.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub(super) async fn run(run: &Run<'_>) -> Result<(), Failure> {
    let target = run.spec.target;
    let is_v4 = target.is_ipv4();
    let (protocol, request, reply) = if is_v4 { (Protocol::ICMPV4, 8, 0) } else { (Protocol::ICMPV6, 128, 129) };
    let socket = socket::socket(run.spec, Type::RAW, Some(protocol))?;
    socket.connect(&target.into()).map_err(Failure::io("connect"))?;
    // To the standard library, a socket that sends and receives messages is one of UDP.
    let socket = UdpSocket::from_std(socket.into()).map_err(Failure::io("socket"))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() << 16).to_be_bytes();
    let local = socket.local_addr().map_err(Failure::io("socket"))?;
    run.take_detour_of_echo(local.ip(), number)?;
    socket.send(&message(request, number, is_v4)).await.map_err(Failure::io("send"))?;
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(Failure::io("receive"))?;
        if is_reply(&buffer[..length], reply, number, is_v4) {
            return Ok(());
        }
    }
}

/// The request; the kernel fills in ICMPv6's checksum.
fn message(kind: u8, number: [u8; 4], is_v4: bool) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = kind;
    message[4..8].copy_from_slice(&number);
    message[8..].copy_from_slice(DATA);
    if is_v4 {
        let sum = Sum::ZERO.add_bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether a received packet is the reply. IPv4 ones come with their IP header.
fn is_reply(packet: &[u8], kind: u8, number: [u8; 4], is_v4: bool) -> bool {
    let header = if is_v4 { usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4 } else { 0 };
    packet.get(header..).is_some_and(|icmp| {
        icmp.len() >= LENGTH && icmp[0] == kind && icmp[1] == 0 && icmp[4..8] == number && icmp[8..LENGTH] == *DATA
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_the_request_with_another_type() {
        let number = [1, 2, 3, 4];
        let mut reply = message(8, number, true);
        assert_eq!(Sum::ZERO.add_bytes(&reply).finish(), 0, "the checksum is right");
        reply[0] = 0;
        let mut packet = vec![0x46; 24];
        packet.extend_from_slice(&reply);
        assert!(is_reply(&packet, 0, number, true));
        assert!(!is_reply(&packet, 0, [1, 2, 3, 5], true));
        assert!(!is_reply(&packet, 8, number, true));
        assert!((0..packet.len()).all(|end| !is_reply(&packet[..end], 0, number, true)));
        assert!(is_reply(&reply, 0, number, false));
    }
}
