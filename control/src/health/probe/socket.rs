//! Sockets as checks want them: with a source address and a mark, and on a detour to the virtual address.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Failure, Run};
use crate::detour::{Detour, End, Flow, VirtualEnd};
use crate::health::target::{Spec, VirtualAddress};
use crate::registry::encapsulation;

/// Ports that are tried until one is found on which no other check, or earlier connection, waits for the same answers.
const ATTEMPTS: u32 = 16;

/// Maximum segment size through a tunnel. With the longest headers, IPv6 twice and GUE, a segment fits into 1280 bytes, which
/// every link of IPv6 carries, so nobody need ask for the way's MTU.
const TUNNEL_MSS: u32 = 1160;

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A socket towards a check's target, not connected yet.
pub(super) fn socket(spec: &Spec, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Failure> {
    let socket = unbound(spec, kind, protocol)?;
    if let Some(source) = spec.check.source {
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(Failure::io("source address"))?;
    }
    Ok(socket)
}

fn unbound(spec: &Spec, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(spec.target), kind, protocol).map_err(Failure::io("socket"))?;
    socket.set_nonblocking(true).map_err(Failure::io("socket"))?;
    if let Some(mark) = spec.check.fwmark {
        socket.set_mark(mark).map_err(Failure::io("firewall mark"))?;
    }
    Ok(socket)
}

/// Opens a TCP connection.
pub(super) async fn connect(run: &Run<'_>) -> Result<TcpStream, Failure> {
    let target = run.spec.target;
    let stream = match run.spec.detour {
        None => {
            let socket = socket(run.spec, Type::STREAM, Some(Protocol::TCP))?;
            TcpSocket::from_std_stream(socket.into()).connect(target).await
        }
        Some(to) => {
            let source = source(run.spec)?;
            let mut attempt = 1;
            loop {
                let socket = bound(run, source, to)?;
                match TcpSocket::from_std_stream(socket.into()).connect(target).await {
                    // An earlier connection of this port to the server waits for its last packets.
                    Err(error) if error.kind() == ErrorKind::AddrNotAvailable && attempt < ATTEMPTS => attempt += 1,
                    other => break other,
                }
            }
        }
    };
    let stream = stream.map_err(Failure::io("connect"))?;
    // Requests are written in one piece; nothing is gained by waiting for more.
    stream.set_nodelay(true).map_err(Failure::io("connect"))?;
    Ok(stream)
}

/// A UDP socket that talks to the check's target only, and so hears of ICMP errors.
pub(super) async fn datagrams(run: &Run<'_>) -> Result<UdpSocket, Failure> {
    let socket = socket(run.spec, Type::DGRAM, Some(Protocol::UDP))?;
    let socket = UdpSocket::from_std(socket.into()).map_err(Failure::io("socket"))?;
    socket.connect(run.spec.target).await.map_err(Failure::io("connect"))?;
    let local = socket.local_addr().map_err(Failure::io("socket"))?;
    run.take_detour(proto::Protocol::UDP, (local.ip(), local.port()))?;
    Ok(socket)
}

/// The address that the kernel sends a check's packets from.
fn source(spec: &Spec) -> Result<IpAddr, Failure> {
    if let Some(source) = spec.check.source {
        return Ok(source);
    }
    // Nothing is sent by this.
    let socket = socket(spec, Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&spec.target.into()).map_err(Failure::io("connect"))?;
    let address = socket.local_addr().map_err(Failure::io("socket"))?.as_socket();
    address.map(|address| address.ip()).ok_or_else(|| Failure::unexpected("the socket has no address"))
}

/// A TCP socket with a port whose packets take the run's detour: the kernel sends the first one as soon as it connects.
fn bound(run: &Run<'_>, source: IpAddr, to: VirtualAddress) -> Result<Socket, Failure> {
    for _ in 0..ATTEMPTS {
        let socket = unbound(run.spec, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true).map_err(Failure::io("socket"))?;
        if to.tunnel.is_some() {
            socket.set_tcp_mss(TUNNEL_MSS).map_err(Failure::io("maximum segment size"))?;
        }
        let port = run.tools.ports.draw();
        match socket.bind(&SocketAddr::new(source, port).into()) {
            // Somebody else's, whose packets are to stay as they are.
            Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
            other => other.map_err(Failure::io("source address"))?,
        }
        match run.take_detour(proto::Protocol::TCP, (source, port)) {
            Err(Failure::Busy) => {}
            other => return other.map(|()| socket),
        }
    }
    Err(Failure::Busy)
}

impl Run<'_> {
    /// Has the packets of a socket that is, or will be, connected to the target take the detour that the check has, if any.
    pub fn take_detour(&self, protocol: proto::Protocol, local: End) -> Result<(), Failure> {
        let target = self.spec.target;
        self.detour_between(protocol, local, target.port(), self.spec.asked().port())
    }

    /// The same for the ICMP echo of this identifier and sequence number.
    pub fn take_detour_of_echo(&self, local: IpAddr, number: [u8; 4]) -> Result<(), Failure> {
        let [a, b, c, d] = number;
        let (id, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let protocol = if local.is_ipv4() { proto::Protocol::ICMP } else { proto::Protocol::ICMPV6 };
        self.detour_between(protocol, (local, id), sequence, sequence)
    }

    fn detour_between(
        &self,
        protocol: proto::Protocol,
        local: End,
        server_port: u16,
        virtual_port: u16,
    ) -> Result<(), Failure> {
        let Some(VirtualAddress { address, tunnel }) = self.spec.detour else { return Ok(()) };
        if local.0 == address.ip() {
            return Err(Failure::unexpected(format!(
                "the kernel would send from the virtual address {} itself: give the check another source",
                address.ip()
            )));
        }
        let flow = Flow { protocol, local, remote: (self.spec.target.ip(), server_port) };
        let to = VirtualEnd { end: (address.ip(), virtual_port), tunnel: tunnel.map(encapsulation) };
        let detour: Detour = self.tools.detours.add(flow, to).ok_or(Failure::Busy)?;
        *self.detour.lock().unwrap_or_else(PoisonError::into_inner) = Some(detour);
        Ok(())
    }
}
