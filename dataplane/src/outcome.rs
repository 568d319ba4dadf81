//! What becomes of connections: whether the server answers, for the control thread's passive health checks.
//!
//! Each connection counts at most once, by what is first heard of its server. Until then the connection is
//! [`Unanswered`]; packets that end that, and all that is counted here, take the long way anyway. Where replies go past the
//! director (DR, TUN), a SYN flood would look like a dead server: silence means nothing there, and only errors do.
//!
//! One-packet scheduling leaves no connection, and nothing is counted.

use proto::state::State;
use proto::tcp::Flags;

use crate::conn::{Conn, ConnId, TICKS_PER_SECOND, Tick, Unanswered};
use crate::counters::WorkerCounters;
use crate::ip::Ip;
use crate::lifecycle::{is_first, is_refusal};
use crate::packet::WorkerIo;
use crate::pipeline::{Job, Pipeline};

/// Ticks between two requests of a client at least, for the second to count: who repeats a SYN waits for a second (RFC 6298
/// section 2), less what a coarse clock takes off. A client cannot make a server look dead by asking three times before it can
/// answer.
const REPEATS_AFTER: u32 = TICKS_PER_SECOND - 1;

impl<Io: WorkerIo> Pipeline<Io> {
    /// A packet of the connection's server has come.
    #[inline(always)]
    pub(crate) fn hear_server<C: Ip, A: Ip>(&mut self, id: ConnId, job: &Job<Io::Packet, A>) {
        if C::table(&mut self.tables).get(id).to_client.is_none() {
            self.note_answer::<C, A>(id, job);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_answer<C: Ip, A: Ip>(&mut self, id: ConnId, job: &Job<Io::Packet, A>) {
        let conn = C::table(&mut self.tables).get_mut(id);
        let refuses = conn.state.is_opening() && is_refusal(conn.protocol, job.ip.flags, || job.segment());
        let (before, server) = (conn.set_answered(), conn.server);
        if !matches!(before, Some(Unanswered::Once | Unanswered::Again)) {
            return;
        }
        let outcomes = self.counters().outcomes(server);
        match refuses {
            true => outcomes.refused.add(1),
            false => outcomes.answered.add(1),
        }
    }

    /// An error has come about a packet to the connection's server. Once the server has answered, errors say nothing: they are
    /// easily forged then, and passing troubles of the network cause them (RFC 5927 section 4.1).
    pub(crate) fn note_error<A: Ip>(&mut self, id: ConnId, says_unreachable: bool) {
        let conn = A::table(&mut self.tables).get_mut(id);
        let server = conn.server;
        if says_unreachable && matches!(conn.unanswered(), Some(Unanswered::Once | Unanswered::Again)) {
            conn.set_unanswered(Unanswered::Failed);
            self.counters().outcomes(server).unreachable.add(1);
        }
    }
}

/// A further packet of a client has come whose connection was not open yet.
#[cold]
#[inline(never)]
pub(crate) fn note_opening<'a, A: Ip>(
    conn: &mut Conn<A>,
    flags: Flags,
    segment: impl FnOnce() -> &'a [u8],
    now: Tick,
    counters: &WorkerCounters,
) {
    let Some(unanswered) = conn.unanswered() else { return };
    let outcomes = counters.outcomes(conn.server);
    let asks = is_first(conn.protocol, flags, segment);
    match (conn.mode.sees_replies(), asks) {
        (true, true) if now.0.saturating_sub(conn.timer.last_seen().0) >= REPEATS_AFTER => match unanswered {
            Unanswered::Once => conn.set_unanswered(Unanswered::Again),
            Unanswered::Again => {
                conn.set_unanswered(Unanswered::Failed);
                outcomes.unanswered.add(1);
            }
            Unanswered::Failed => {}
        },
        (false, false) if matches!(conn.state, State::Established | State::SctpEstablished) => {
            conn.set_answered();
            if unanswered != Unanswered::Failed {
                outcomes.answered.add(1);
            }
        }
        _ => {}
    }
}

/// Counts a connection whose time is over, if its client has waited for the server in vain. UDP need not be answered.
#[inline(always)]
pub(crate) fn count_expired<A: Ip>(counters: &WorkerCounters, conn: &Conn<A>) {
    if conn.state.is_opening() {
        count_unopened(counters, conn);
    }
}

#[cold]
#[inline(never)]
fn count_unopened<A: Ip>(counters: &WorkerCounters, conn: &Conn<A>) {
    if conn.mode.sees_replies() && matches!(conn.unanswered(), Some(Unanswered::Once | Unanswered::Again)) {
        counters.outcomes(conn.server).expired.add(1);
    }
}
