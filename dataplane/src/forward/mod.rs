//! Forwarding modes: how a packet of a connection is rewritten.
//!
//! * [`nat`] does NAT and FULLNAT, both directions. They differ only in the connection's local endpoint.
//! * [`translate`] does what is different where client and server have different IP versions.
//! * [`tun`] does IP-in-IP.
//!
//! Direct routing leaves the packet as it is: the Ethernet header that every packet gets on its way out
//! ([`crate::output`]) is all there is to it.

pub mod nat;
pub mod translate;
pub mod tun;
