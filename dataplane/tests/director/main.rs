//! The director as a whole, in memory: workers, steering rings, tables, queues and a network of plain buffers.
//!
//! Frames arrive at a chosen worker and port; every frame that leaves is examined by code of the tests' own
//! ([`support::check`]), and at the end of each test every packet must be accounted for ([`support::Director::settle`]).

mod support;

mod conn_log;
mod cross;
mod cross_icmp;
mod defence;
mod forward;
mod fragments;
mod ftp;
mod fullnat;
mod icmp;
mod icmp_opening;
mod ipsec;
mod lifecycle;
mod neighbours;
mod one_packet;
mod outcome;
mod proxy;
mod robustness;
mod scheduling;
mod sctp;
mod steering;
mod tftp;
mod toa;
mod tunnels;
