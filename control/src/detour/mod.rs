//! Health checks by the virtual address.
//!
//! A client's packet comes to a DR or TUN server with the virtual address as its destination, and the server answers from
//! there. A check is to see the same, but the virtual address is one of the director's own: its kernel would connect to
//! itself. So a check's socket is connected to the server's address, and what the kernel makes of it, from routes over
//! neighbours to retransmissions, stays the kernel's business. On their way through the mirror interface the packets take a
//! detour (`frame`): those to the server get the virtual address, and the server's tunnel if there is one, and those from
//! the virtual address to the check's socket get the server's. Errors that routers or the server report are about the
//! packet as the kernel sent it, then.
//!
//! Checks note their flows in a bounded table (`table`), which the thread of the kernel's frames looks into while there are
//! any. A server's answer tells by its two endpoints whose it is, so no two flows to a virtual address and port share a
//! local port, though they go to different servers.

mod frame;
mod table;

pub(crate) use frame::DoesNotFit;
pub use table::Detours;
pub(crate) use table::{Detour, End, Flow, VirtualEnd};

#[cfg(test)]
mod tests;
