//! Network protocols as pure code on byte slices.
//!
//! * [`ethernet`], [`arp`], [`ipv4`], [`ipv6`], [`tcp`], [`tcp_options`], [`udp`], [`icmp`], [`icmpv6`], [`gre`],
//!   [`gue`]: wire formats. A
//!   header type is a view over a slice; once `new_checked` has accepted the slice, no accessor panics.
//! * [`checksum`]: the Internet checksum, in full (RFC 1071) and incremental (RFC 1624).
//! * [`parse`]: one pass over a received frame that yields what the packet path needs of it.
//! * [`plain`]: the same for most frames, in less time.
//! * [`fragment`]: where a fragment belongs in its packet.
//! * [`quic`]: connection ids.
//! * [`sip`]: the Call-ID of a message.
//! * [`toeplitz`]: the hash by which NICs spread flows over receive queues.
//! * [`client_address`], [`proxy_protocol`]: how a server is told who the client is.
//! * [`sctp`]: SCTP's header, chunks, checksum and states.
//! * [`state`]: TCP and UDP connection states, transitions and timeouts, as IPVS has them.
//! * [`Address`], [`Tuple`]: the one definition of an address family and of a flow's five-tuple.
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod client_address;
pub mod ethernet;
pub mod fragment;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod parse;
pub mod plain;
pub mod proxy_protocol;
pub mod quic;
pub mod sctp;
pub mod sip;
pub mod state;
pub mod tcp;
pub mod tcp_options;
pub mod toeplitz;
pub mod translation;
pub mod udp;

mod addr;
mod bytes;
mod quoted;
mod tuple;

pub use addr::{Address, Family};
pub use tuple::{Protocol, Tuple};
