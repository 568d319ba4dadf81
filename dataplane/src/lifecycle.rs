//! Which packets open a connection, and which connections go on (net/netfilter/ipvs: ip_vs_in, tcp_conn_schedule, sctp_conn_schedule).

use proto::state::State;
use proto::{Protocol, Tuple, sctp, tcp};

use crate::WorkerId;
use crate::conn::{Conn, ConnFlags};
use crate::ip::Ip;
use crate::packet::PacketBuf;
use crate::pipeline::Job;
use crate::shared::Shared;
use crate::snapshot::{Presence, Reuse, Snapshot};
use crate::templates::TemplateId;

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

/// Decides what becomes of `conn` when its client sends a packet that [`begins`] a connection, or one that does not.
pub(crate) fn fate<A: Ip>(snapshot: &Snapshot, conn: &Conn<A>, begins_anew: bool) -> Fate {
    let settings = &snapshot.settings;
    let presence = snapshot.services.presence(conn.server);
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
    matches!(state, State::TimeWait | State::Close | State::SctpClosed)
}

/// True for a SYN and for an INIT: the client knows of no connection. UDP has nothing like it.
pub(crate) fn begins<P: PacketBuf, A>(job: &Job<P, A>) -> bool {
    is_first(job.ip.tuple.protocol, job.ip.flags, || job.segment())
}

/// [`begins`], of a packet's transport header.
pub(crate) fn is_first<'a>(protocol: Protocol, flags: tcp::Flags, segment: impl FnOnce() -> &'a [u8]) -> bool {
    match protocol {
        Protocol::TCP => flags.contains(tcp::Flags::SYN) && !flags.contains(tcp::Flags::RST),
        Protocol::SCTP => sctp::Event::of(segment()) == Some(sctp::Event::Init),
        _ => false,
    }
}

/// True when a server's first packet with this transport header refuses what its client asks for.
pub(crate) fn is_refusal<'a>(protocol: Protocol, flags: tcp::Flags, segment: impl FnOnce() -> &'a [u8]) -> bool {
    match protocol {
        Protocol::TCP => flags.contains(tcp::Flags::RST),
        Protocol::SCTP => sctp::Event::of(segment()) == Some(sctp::Event::Abort),
        _ => false,
    }
}

/// True when a packet opens a connection if it belongs to none. Others are the kernel's, which answers them with a reset
/// or an ABORT.
pub(crate) fn opens<P: PacketBuf, A>(snapshot: &Snapshot, job: &Job<P, A>) -> bool {
    let settings = &snapshot.settings;
    begins(job)
        || match job.ip.tuple.protocol {
            Protocol::TCP => settings.sloppy_tcp && !job.ip.flags.contains(tcp::Flags::RST),
            Protocol::SCTP => {
                settings.sloppy_sctp && sctp::Event::of(job.segment()).is_some_and(|event| event != sctp::Event::Abort)
            }
            _ => true,
        }
}

/// True when a packet of no connection comes from a NAT server, which is to be told so (`nat_icmp_send`).
pub(crate) fn is_stray<P: PacketBuf, A: Ip>(snapshot: &Snapshot, job: &Job<P, A>) -> bool {
    let Tuple { src, sport, protocol, .. } = job.ip.tuple;
    let ends = match protocol {
        Protocol::TCP => job.ip.flags.contains(tcp::Flags::RST),
        Protocol::SCTP => sctp::Event::of(job.segment()) == Some(sctp::Event::Abort),
        _ => false,
    };
    snapshot.settings.nat_icmp_send && !ends && !snapshot.services.nat_services(protocol, src, sport).is_empty()
}

/// Takes an ended connection out of what is shared: its server's counters, its template, the directory of replies.
pub(crate) fn count_ended<A: Ip>(shared: &Shared, worker: WorkerId, conn: &Conn<A>, template: Option<TemplateId>) {
    let load = shared.worker(worker).counters.load(conn.server);
    template.inspect(|&template| shared.templates.release(template));
    if conn.flags.contains(ConnFlags::NOTED) {
        shared.replies.as_ref().inspect(|replies| replies.remove(&conn.outbound(), worker));
    }
    match conn.state.is_active() {
        true => load.active.sub(1),
        false => load.inactive.sub(1),
    }
}
