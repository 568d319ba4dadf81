//! Which packets open a connection, and which connections go on (net/netfilter/ipvs: ip_vs_in, tcp_conn_schedule).

use proto::state::State;
use proto::{Protocol, tcp};

use crate::conn::Conn;
use crate::ip::Ip;
use crate::snapshot::{Presence, Reuse, Snapshot};

/// What becomes of a connection that a client's packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The packet is forwarded.
    GoesOn,
    /// The server is gone, and the packet with it; the server may come back.
    Rests,
    /// The connection ends, and the packet is as if it had none.
    Ends,
}

/// Decides what becomes of `conn` when its client sends a packet, which has `flags` if it is a TCP segment.
pub(crate) fn fate<A: Ip>(snapshot: &Snapshot, conn: &Conn<A>, flags: tcp::Flags) -> Fate {
    let settings = &snapshot.settings;
    let presence = snapshot.services.presence(conn.server);
    let begins_anew = conn.protocol == Protocol::TCP && is_opening(flags);
    if begins_anew {
        let leaves = settings.expire_nodest_conn && presence == Presence::Quiescent;
        let is_over = match settings.reuse {
            Reuse::Never => false,
            Reuse::Ended => has_ended(conn.state),
            Reuse::Closing => has_ended(conn.state) || (conn.state == State::FinWait && !conn.mode.sees_replies()),
        };
        if leaves || is_over {
            return Fate::Ends;
        }
    }
    match presence {
        Presence::Gone if settings.expire_nodest_conn => Fate::Ends,
        Presence::Gone => Fate::Rests,
        Presence::Quiescent | Presence::Serving => Fate::GoesOn,
    }
}

fn has_ended(state: State) -> bool {
    matches!(state, State::TimeWait | State::Close)
}

/// True when a TCP segment with these flags opens a connection if it belongs to none. Other segments are the kernel's,
/// which answers them with a reset.
pub(crate) fn opens(snapshot: &Snapshot, flags: tcp::Flags) -> bool {
    is_opening(flags) || (snapshot.settings.sloppy_tcp && !flags.contains(tcp::Flags::RST))
}

fn is_opening(flags: tcp::Flags) -> bool {
    flags.contains(tcp::Flags::SYN) && !flags.contains(tcp::Flags::RST)
}
