//! Netlink sockets (RFC 3549): requests with their answers, and the kernel's change notifications.
//!
//! Messages are encoded and parsed by `netlink-packet-route`. The sockets are used directly, because two things must
//! not be hidden from us: that a dump was interrupted by a change (`NLM_F_DUMP_INTR`), and that notifications were
//! lost (`ENOBUFS`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// The kernel's datagrams are 32 KiB at most (`netlink_dump` in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 << 10;

/// How often an interrupted dump is tried.
const DUMP_ATTEMPTS: usize = 4;

/// Receive buffer asked for, in bytes; the kernel grants no more than `net.core.rmem_max`.
const MONITOR_BUFFER: usize = 4 << 20;

/// Errors of the kernel that callers tell apart; include/uapi/asm-generic/errno*.h.
pub(super) mod errno {
    pub const EPERM: i32 = 1;
    pub const ENXIO: i32 = 6;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
    pub const EBADFD: i32 = 77;
    pub const EADDRNOTAVAIL: i32 = 99;
    pub const ENOBUFS: i32 = 105;
}

/// Message types as in include/uapi/linux/rtnetlink.h; `netlink-packet-route` keeps its own private.
pub(super) mod kind {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const NEWNEXTHOP: u16 = 104;
    pub const DELNEXTHOP: u16 = 105;
}

/// Multicast groups as in include/uapi/linux/rtnetlink.h: link, neighbour, IPv4 address and route, IPv6 address and
/// route, next-hop object.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];

/// A socket for requests, one at a time.
pub(super) struct Requests {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
    /// Messages that could not be parsed, since the start.
    unreadable: u64,
}

impl Requests {
    /// Opens a socket in the current network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: open()?, sequence: 0, buffer: Vec::with_capacity(DATAGRAM), unreadable: 0 })
    }

    /// Asks for all objects of a kind and collects what `select` makes of them. When objects change meanwhile, some
    /// may be missing; the dump is then repeated, and given up on in the end: the next notification brings another.
    pub async fn dump<T, C: Default + Extend<T>>(
        &mut self,
        request: &RouteNetlinkMessage,
        select: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<C> {
        let mut attempt = 1;
        loop {
            let mut objects = C::default();
            let consistent = self.dump_once(request.clone(), |object| objects.extend(select(object))).await?;
            if consistent || attempt == DUMP_ATTEMPTS {
                return Ok(objects);
            }
            attempt += 1;
        }
    }

    /// Passes each object to `each` and returns whether the dump is consistent.
    async fn dump_once(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_DUMP).await?;
        let mut consistent = true;
        loop {
            receive(&self.socket, &mut self.buffer).await?;
            for message in messages(&self.buffer).filter(|m| m.sequence_number() == sequence) {
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => return result_of(&message).map(|()| consistent),
                    _ => match parse(&message) {
                        Ok(object) => each(object),
                        Err(error) => {
                            if self.unreadable == 0 {
                                tracing::warn!(%error, "skipping netlink objects that cannot be parsed");
                            }
                            self.unreadable += 1;
                        }
                    },
                }
            }
        }
    }

    /// Sends a request that changes something and waits for the kernel's word. `flags` are those beyond
    /// `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub async fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags).await?;
        loop {
            receive(&self.socket, &mut self.buffer).await?;
            let answer = messages(&self.buffer)
                .find(|m| m.sequence_number() == sequence && matches!(m.message_type(), NLMSG_ERROR | NLMSG_DONE));
            if let Some(answer) = answer {
                return result_of(&answer);
            }
        }
    }

    async fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes).await?;
        Ok(self.sequence)
    }
}

/// The stream of change notifications.
pub(super) struct Monitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Subscribes to changes of links, addresses, routes, next-hop objects and neighbours.
    pub fn open() -> io::Result<Self> {
        let mut socket = open()?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        socket.socket_ref().set_rx_buf_sz(MONITOR_BUFFER as i32)?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for notifications; `false` means that some were lost and everything must be read anew. Nothing is lost
    /// when the future is dropped while it waits.
    pub async fn receive(&mut self) -> io::Result<bool> {
        match receive(&self.socket, &mut self.buffer).await {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(errno::ENOBUFS) => {
                self.buffer.clear();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The notifications received last.
    pub fn messages(&self) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
        messages(&self.buffer)
    }
}

/// Parses a message of the kernel.
pub(super) fn parse(message: &NetlinkBuffer<&[u8]>) -> io::Result<RouteNetlinkMessage> {
    let parsed = NetlinkMessage::deserialize(message.buffer).map_err(io::Error::other)?;
    match parsed.payload {
        NetlinkPayload::InnerMessage(object) => Ok(object),
        other => Err(io::Error::other(format!("unexpected netlink message of type {}", other.message_type()))),
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind_auto()?;
    // From now on datagrams of other processes are refused.
    socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    socket.recv(buffer).await
}

/// Splits a datagram into messages, each aligned to four bytes; stops at the first malformed one.
fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(rest).ok()?.length() as usize;
        let (message, _) = rest.split_at(length);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkBuffer::new(message))
    })
}

/// The outcome that an error, acknowledgement or end-of-dump message tells: a negative error number, or 0.
fn result_of(message: &NetlinkBuffer<&[u8]>) -> io::Result<()> {
    let code = match message.payload().first_chunk() {
        Some(&bytes) => i32::from_ne_bytes(bytes),
        None => 0,
    };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend_from_slice(payload);
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(16 + payload.len() as u32);
        header.set_message_type(kind);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn datagrams_are_split_at_message_boundaries() {
        let mut datagram = message(kind::NEWLINK, &[1, 2, 3]);
        datagram.extend(message(kind::DELLINK, &[]));
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        let kinds: Vec<u16> = messages(&datagram).map(|m| m.message_type()).collect();
        assert_eq!(kinds, [kind::NEWLINK, kind::DELLINK, NLMSG_DONE]);
        assert_eq!(messages(&datagram).next().unwrap().payload(), [1, 2, 3]);
    }

    #[test]
    fn a_malformed_rest_ends_the_datagram() {
        let mut datagram = message(kind::NEWLINK, &[0; 8]);
        let second = datagram.len();
        datagram.extend(message(kind::DELLINK, &[0; 8]));
        for cut in [second, second + 1, second + 15, second + 23] {
            assert_eq!(messages(&datagram[..cut]).count(), 1, "cut at {cut}");
        }
        // A length below the header's own must not loop.
        NetlinkBuffer::new(&mut datagram[second..]).set_length(4);
        assert_eq!(messages(&datagram).count(), 1);
        assert_eq!(messages(&[]).count(), 0);
    }

    #[test]
    fn outcomes_are_negative_error_numbers() {
        let outcome = |code: i32| {
            let bytes = message(NLMSG_ERROR, &code.to_ne_bytes());
            result_of(&messages(&bytes).next().unwrap()).map_err(|e| e.raw_os_error())
        };
        assert_eq!(outcome(0), Ok(()));
        assert_eq!(outcome(-errno::EEXIST), Err(Some(errno::EEXIST)));
    }
}
