//! The table, a file for each area.

pub mod changes;
pub mod fragments;
pub mod ftp;
pub mod icmp;
pub mod lifecycle;
pub mod listings;
pub mod nat;
pub mod packets;
pub mod persistence;
pub mod protocols;
pub mod refused;
pub mod schedulers;
pub mod tcp;
pub mod tunnel;
