//! Every way a packet can leave the pipeline.

use std::fmt;

use crate::{PortId, WorkerId};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent out of this port.
    Transmit(PortId),
    /// Handed to the kernel through the mirror interface of the port it came in by.
    Punt,
    /// Passed to the worker that owns the packet's connection.
    Steer(WorkerId),
    /// Held until the kernel has resolved its next hop.
    Wait,
    /// Freed and counted.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Each reason has a counter per worker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that users see in `dpvs-ctl drops`.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One line that says what the reason means.
            pub fn description(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before the header it promises.
    Truncated = "truncated",
    /// The frame spans several buffers: it is larger than the port's MTU allows.
    MultiSegment = "multi_segment",
    /// Unicast frame for another station's MAC address.
    WrongMac = "wrong_mac",
    /// The version field of the IP header contradicts the EtherType.
    BadIpVersion = "bad_ip_version",
    /// The IP header length is below the minimum or beyond the frame.
    BadIpHeaderLength = "bad_ip_header_length",
    /// The IP total or payload length is below the header's or beyond the frame.
    BadIpLength = "bad_ip_length",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad_ip_checksum",
    /// More IPv6 extension headers than the parser follows.
    ExtensionHeaders = "extension_headers",
    /// The TCP data offset is below the minimum or beyond the packet.
    BadTcpHeader = "bad_tcp_header",
    /// The UDP length is below the header's or beyond the packet.
    BadUdpLength = "bad_udp_length",
    /// A source or destination address that must not appear on the wire (RFC 1812 section 5.3.7).
    Martian = "martian",
    /// The other fragments of the packet did not come within 30 seconds.
    FragmentTimeout = "fragment_timeout",
    /// Fragments of a packet overlap or contradict each other; the whole packet is dropped.
    FragmentOverlap = "fragment_overlap",
    /// The same fragment came again.
    FragmentDuplicate = "fragment_duplicate",
    /// A fragment of wrong length, or of a packet that cannot be put together.
    FragmentInvalid = "fragment_invalid",
    /// Too many fragments: of one packet, of one source, or of all.
    FragmentLimit = "fragment_limit",
    /// The owner's steering ring was full.
    SteerFull = "steer_full",
    /// The rate limit of packets to the kernel was exceeded.
    PuntLimit = "punt_limit",
    /// The ring of packets to the kernel was full.
    PuntFull = "punt_full",
    /// New connection while drop_packet defends the director against a flood of them.
    DropPacket = "drop_packet",
    /// The service has no server that takes new connections.
    NoServer = "no_server",
    /// There is no room for another client of persistent services.
    TemplatesFull = "templates_full",
    /// A packet for a service of persistence engine sip has no Call-ID.
    NoCallId = "no_call_id",
    /// The connection's real server was removed.
    ServerGone = "server_gone",
    /// From a NAT server and of no connection; port unreachable was sent (nat_icmp_send), rate permitting.
    Stray = "stray",
    /// The connection table is full.
    TableFull = "table_full",
    /// The service's local addresses have no free port for a new FULLNAT connection.
    LocalPortExhausted = "local_port_exhausted",
    /// A FULLNAT server's service has no local address of the server's family.
    NoLocalAddress = "no_local_address",
    /// The server has a connection with the same client address and port already.
    TupleConflict = "tuple_conflict",
    /// A helper found no room for a connection that another one announced, or no port for it.
    HelperFull = "helper_full",
    /// New connection while the director drains before it stops.
    Draining = "draining",
    /// An ICMP error whose checksum or quoted header is invalid.
    BadIcmp = "bad_icmp",
    /// For a server or client of the other IP version, which has nothing like it: an ICMP error, or IPv4 with a source route.
    Untranslatable = "untranslatable",
    /// Time to live or hop limit reached zero; time exceeded was sent, rate permitting.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the way out and not to be fragmented; the sender was told, rate permitting.
    TooBig = "too_big",
    /// No route to the next hop, or one that says unreachable, prohibit or blackhole.
    NoRoute = "no_route",
    /// The queue of packets that wait for neighbour resolution was full.
    NeighbourQueueFull = "neighbour_queue_full",
    /// The neighbour was not resolved in time.
    NeighbourUnresolved = "neighbour_unresolved",
    /// No free packet buffer, or no room for a header in it.
    NoBuffer = "no_buffer",
    /// The port's transmit queue stayed full.
    TxFull = "tx_full",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
