//! A tracked connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::state::State;
use proto::{Address, Protocol, Tuple};

use crate::ServerId;
use crate::fib::AdjacencyId;
use crate::snapshot::{ForwardMode, Snapshot};

use super::wheel::{Tick, Timed, Timer};

/// Slot of a connection in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(pub u32);

/// Which of a connection's two tuples a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client: caddr:cport to vaddr:vport.
    Inbound,
    /// From the real server: daddr:dport to laddr:lport.
    Outbound,
}

bitflags::bitflags! {
    /// What is special about a connection.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ConnFlags: u8 {
        /// The service has a timeout of its own for established connections.
        const OWN_TIMEOUT = 1 << 0;
        /// Its packets need more than what is done for nearly all: they never take the short way of established ones.
        const LONG_WAY = 1 << 1;
        /// It has an [`Extra`](super::Extra). The table sets it.
        const EXTRA = 1 << 2;
        /// The client's segments carry its address as an option, until the server's end of the connection exists.
        const TOA = 1 << 3;
        /// The packets of its client are counted, up to a few. The table sets it.
        const COUNTING = 1 << 4;
        /// A persistence template is held for it.
        const CONTROLLED = 1 << 5;
        /// Its worker is noted in [`Replies`](crate::replies::Replies).
        const NOTED = 1 << 6;
        /// The server is of the other IP version: its address and the local one are in the [`Extra`](super::Extra), those
        /// of the entry mean nothing. The table sets it.
        const FAR = 1 << 7;
        /// With any of these, packets take the long way.
        const NOT_PLAIN = Self::LONG_WAY.bits() | Self::TOA.bits() | Self::COUNTING.bits() | Self::FAR.bits();
    }
}

/// How far a connection has come whose server has not been heard, or not directly.
///
/// It takes the place of the way to the client, which is first needed for the server's first packet: that packet takes the
/// long way anyway, so that nothing has to be asked on the short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The client has asked once.
    Once,
    /// The client has asked again.
    Again,
    /// It counts as failed.
    Failed,
}

impl Unanswered {
    /// What stands for it in [`Conn::to_client`].
    pub const fn code(self) -> AdjacencyId {
        AdjacencyId(AdjacencyId::FIRST_NONE.0 + self as u32)
    }
}

const _: () = assert!(Unanswered::Failed.code().0 < AdjacencyId::NONE.0);

/// A connection. Addresses of client, virtual service, director and real server ("destination").
///
/// In FULLNAT mode the director's local address talks to the server, in TUN mode it is the source of the outer header. In NAT
/// and DR modes laddr:lport equal caddr:cport: the server sees the client, and NAT needs no code of its own.
///
/// One cache line for IPv4; two for IPv6, the addresses in the first. The members of each tuple lie side by side in the
/// tuple's own order, so that a comparison takes few loads.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Conn<A> {
    /// Client address.
    pub caddr: A,
    /// Virtual address.
    pub vaddr: A,
    /// Real server's address.
    pub daddr: A,
    /// Address that the server sees as its client.
    pub laddr: A,
    /// Client port.
    pub cport: u16,
    /// Virtual port.
    pub vport: u16,
    /// Real server's port.
    pub dport: u16,
    /// Port that the server sees as its client's.
    pub lport: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// How packets reach the server.
    pub mode: ForwardMode,
    /// State of the protocol's machine.
    pub state: State,
    /// What is special about the connection.
    pub flags: ConnFlags,
    /// The real server.
    pub server: ServerId,
    /// Where packets to the server go, valid while the FIB is that of `epoch`.
    pub to_server: AdjacencyId,
    /// Where packets to the client go, likewise. Until the server's first packet, which is the first to need it, see
    /// [`Unanswered`].
    pub to_client: AdjacencyId,
    /// [Epoch](Snapshot::epoch) of the snapshot that the connection was last compared with: its server is configured
    /// there, its timeout and the two adjacencies are right.
    pub epoch: u32,
    /// When the connection ends. The table sets it; a connection that is not in one has `Timer::default()`.
    pub timer: Timer,
}

const _: () = assert!(size_of::<Conn<Ipv4Addr>>() == 64);
const _: () = assert!(size_of::<Conn<Ipv6Addr>>() == 128);

impl<A: Address> Conn<A> {
    /// Forgets ways that were found in another FIB.
    pub fn forget_stale_ways(&mut self, snapshot: &Snapshot) {
        if !snapshot.has_fib_of(self.epoch) {
            self.to_server = AdjacencyId::NONE;
            if !self.to_client.is_none() {
                self.to_client = AdjacencyId::NONE;
            }
        }
    }

    /// How far it has come, if its server has not been heard.
    #[inline(always)]
    pub fn unanswered(&self) -> Option<Unanswered> {
        [Unanswered::Once, Unanswered::Again, Unanswered::Failed].into_iter().find(|how| how.code() == self.to_client)
    }

    /// Notes how far it has come while its server is silent.
    pub fn set_unanswered(&mut self, how: Unanswered) {
        self.to_client = how.code();
    }

    /// Notes that its server is heard; returns how far it had come before.
    pub fn set_answered(&mut self) -> Option<Unanswered> {
        let before = self.unanswered();
        if before.is_some() {
            self.to_client = AdjacencyId::NONE;
        }
        before
    }

    /// Notes that the connection had a packet, so that it does not end for another timeout.
    #[inline(always)]
    pub fn touch(&mut self, now: Tick) {
        self.timer.touch(now);
    }

    /// Where packets from `side` go, as far as the connection remembers.
    #[inline(always)]
    pub fn way(&self, side: Side) -> AdjacencyId {
        match side {
            Side::Inbound => self.to_server,
            Side::Outbound => self.to_client,
        }
    }

    /// The tuple that packets from `side` leave with in the modes that translate.
    #[inline(always)]
    pub fn translated(&self, side: Side) -> Tuple<A> {
        match side {
            Side::Inbound => self.outbound().reversed(),
            Side::Outbound => self.inbound().reversed(),
        }
    }

    /// The tuple of packets from the client.
    #[inline]
    pub fn inbound(&self) -> Tuple<A> {
        Tuple { src: self.caddr, dst: self.vaddr, sport: self.cport, dport: self.vport, protocol: self.protocol }
    }

    /// The tuple of packets from the server, as they arrive at the director.
    #[inline]
    pub fn outbound(&self) -> Tuple<A> {
        Tuple { src: self.daddr, dst: self.laddr, sport: self.dport, dport: self.lport, protocol: self.protocol }
    }

    /// True when packets with this tuple are the connection's, coming from that side.
    #[inline(always)]
    pub(super) fn has_tuple(&self, side: Side, tuple: &Tuple<A>) -> bool {
        let own = match side {
            Side::Inbound => self.inbound(),
            Side::Outbound => self.outbound(),
        };
        difference(&own, tuple) == 0
    }

    /// Seconds that the connection may be idle in its state: what its service says of established connections, or else
    /// the director.
    pub fn timeout(&self, snapshot: &Snapshot) -> u32 {
        let of_service = || snapshot.services.service_of(self.server)?.timeout;
        match self.flags.contains(ConnFlags::OWN_TIMEOUT)
            && matches!(self.state, State::Established | State::Udp | State::SctpEstablished)
        {
            true => of_service(),
            false => None,
        }
        .unwrap_or_else(|| snapshot.settings.timeouts.get(self.state))
    }

    /// The connection as the control thread sees it, without what is in its [`Extra`](super::Extra).
    pub fn record(&self, now: Tick) -> ConnRecord {
        let client = (self.caddr.into(), self.cport);
        ConnRecord {
            protocol: self.protocol,
            state: self.state,
            mode: self.mode,
            client,
            virt: (self.vaddr.into(), self.vport),
            local: if self.mode == ForwardMode::Tunnel { client } else { (self.laddr.into(), self.lport) },
            server: (self.daddr.into(), self.dport),
            server_id: self.server,
            expires: self.timer.seconds_left(now),
        }
    }
}

/// 0 exactly when the tuples are equal.
#[inline(always)]
fn difference<A: Address>(a: &Tuple<A>, b: &Tuple<A>) -> u64 {
    let ports = |t: &Tuple<A>| u64::from(t.sport) | u64::from(t.dport) << 16;
    let rest = (ports(a) ^ ports(b)) | u64::from(a.protocol.0 ^ b.protocol.0);
    if A::LEN == 4 {
        let addresses = |t: &Tuple<A>| t.src.words().1 | t.dst.words().1 << 32;
        rest | (addresses(a) ^ addresses(b))
    } else {
        let address = |a: A, b: A| {
            let ((a_high, a_low), (b_high, b_low)) = (a.words(), b.words());
            (a_high ^ b_high) | (a_low ^ b_low)
        };
        rest | address(a.src, b.src) | address(a.dst, b.dst)
    }
}

impl<A> Timed for Conn<A> {
    #[inline(always)]
    fn timer(&self) -> &Timer {
        &self.timer
    }

    #[inline(always)]
    fn timer_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }
}

/// A connection without its bookkeeping, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRecord {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// State of the protocol's machine.
    pub state: State,
    /// How packets reach the server.
    pub mode: ForwardMode,
    /// Client endpoint.
    pub client: (IpAddr, u16),
    /// Virtual endpoint.
    pub virt: (IpAddr, u16),
    /// Local endpoint; the client's own except in FULLNAT mode.
    pub local: (IpAddr, u16),
    /// Real server's endpoint.
    pub server: (IpAddr, u16),
    /// The real server.
    pub server_id: ServerId,
    /// Seconds until the connection ends if it stays idle.
    pub expires: u32,
}
