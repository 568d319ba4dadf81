//! Sockets as checks want them: with a source address and a mark.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::Failure;
use crate::health::target::Spec;

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A socket towards a check's target, not connected yet.
pub(super) fn socket(spec: &Spec, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(spec.target), kind, protocol).map_err(Failure::io("socket"))?;
    socket.set_nonblocking(true).map_err(Failure::io("socket"))?;
    if let Some(mark) = spec.check.fwmark {
        socket.set_mark(mark).map_err(Failure::io("firewall mark"))?;
    }
    if let Some(source) = spec.check.source {
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(Failure::io("source address"))?;
    }
    Ok(socket)
}

/// Opens a TCP connection.
pub(super) async fn connect(spec: &Spec) -> Result<TcpStream, Failure> {
    let socket = socket(spec, Type::STREAM, Some(Protocol::TCP))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(spec.target).await;
    let stream = stream.map_err(Failure::io("connect"))?;
    // Requests are written in one piece; nothing is gained by waiting for more.
    stream.set_nodelay(true).map_err(Failure::io("connect"))?;
    Ok(stream)
}

/// A UDP socket that talks to the check's target only, and so hears of ICMP errors.
pub(super) async fn datagrams(spec: &Spec) -> Result<UdpSocket, Failure> {
    let socket = socket(spec, Type::DGRAM, Some(Protocol::UDP))?;
    let socket = UdpSocket::from_std(socket.into()).map_err(Failure::io("socket"))?;
    socket.connect(spec.target).await.map_err(Failure::io("connect"))?;
    Ok(socket)
}
