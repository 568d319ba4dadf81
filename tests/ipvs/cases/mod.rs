//! The table, a file for each area.

pub mod nat;
