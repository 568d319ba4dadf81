//! Ends IP-in-IP tunnels on a real server whose kernel has no module for them.
//!
//! Usage: `lab-decap TUN`. Every packet of protocol 4 (IPv4) or 41 (IPv6) that reaches the host has its outer header
//! taken off and is handed to the kernel through the TUN device, as RFC 2003 section 3.2 and RFC 2473 section 3.3
//! describe. Replies go straight to the client, so nothing is ever sent into a tunnel.
#![forbid(unsafe_code)]

use std::io::Read;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// What is inside, by protocol number, with the IP version that its first four bits must show.
const INNER: [(i32, u8); 2] = [(4, 4), (41, 6)];
/// Bytes that wait in a socket while the kernel takes a packet: a window of a fast client.
const RECEIVE_BUFFER: usize = 4 << 20;

fn main() -> anyhow::Result<()> {
    let Some(name) = std::env::args().nth(1) else { bail!("usage: lab-decap TUN") };
    let device = DeviceBuilder::new()
        .name(&name)
        .layer(Layer::L3)
        .inherit_enable_state()
        .build_sync()
        .with_context(|| format!("cannot open TUN device {name}"))?;
    let device = Arc::new(device);
    let mut threads = Vec::new();
    for domain in [Domain::IPV4, Domain::IPV6] {
        for (protocol, version) in INNER {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))
                .with_context(|| format!("cannot open a raw socket of protocol {protocol}"))?;
            // At most the system's limit (net.core.rmem_max); a smaller buffer only costs retransmissions.
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
            let device = Arc::clone(&device);
            threads.push(thread::spawn(move || decapsulate(socket, domain == Domain::IPV4, version, &device)));
        }
    }
    println!("ready");
    for thread in threads {
        thread.join().expect("decapsulation never panics")?;
    }
    Ok(())
}

/// Hands over inner packets until the socket or the device fails. Raw IPv4 sockets deliver the outer header too
/// (raw(7)), raw IPv6 sockets do not (RFC 3542 section 3).
fn decapsulate(mut socket: Socket, outer_header: bool, version: u8, device: &SyncDevice) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.read(&mut buffer).context("raw socket")?;
        let header = if outer_header { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
        let Some(inner) = buffer.get(header..length) else { continue };
        if inner.first().map(|byte| byte >> 4) == Some(version) {
            device.send(inner).context("TUN device")?;
        }
    }
}
