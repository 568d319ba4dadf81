//! Connections that end before their time: half-open ones while the director defends itself, and those of removed
//! servers. A few entries are looked at in each turn, so that packets do not wait.

use arrayvec::ArrayVec;
use proto::state::State;

use crate::conn::{Conn, ConnId, TICKS_PER_SECOND, Tick};
use crate::conn_log::EndReason;
use crate::ip::Ip;
use crate::packet::WorkerIo;
use crate::pipeline::Pipeline;
use crate::snapshot::{Presence, Snapshot};

/// Entries looked at in a turn, per family and purpose.
const LOOKS: usize = 16;
/// Each second, one entry in this many is looked at when connections end at random.
const SHARE: u64 = 32;
/// Seconds that a connection must have been idle if it is not half open.
const IDLE: u32 = 60;
/// A connection that had more packets from its client than this is no attacker's.
const MAX_PACKETS: u8 = 8;

/// What a worker remembers between turns.
#[derive(Debug)]
pub(crate) struct Reaper {
    random: u64,
    /// By number of packets: connections found until the next one ends.
    turns: [u8; MAX_PACKETS as usize + 1],
    families: [Walk; 2],
}

/// The entries of one family that are yet to be looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// At random, in this second.
    random: u64,
    /// Parts of an entry, in [`SHARE`]s, that were left over.
    rest: u64,
    /// One after the other from `position` on, for connections of removed servers.
    sweep: usize,
    position: usize,
}

impl Reaper {
    pub fn new(seed: u64) -> Self {
        Self { random: seed | 1, turns: [0; MAX_PACKETS as usize + 1], families: [Walk::default(); 2] }
    }

    /// Whether a connection that is not half open has to go (ip_vs_conn.c, todrop_entry): one in as many as the packets
    /// it had.
    fn picks<A: Ip>(&mut self, conn: &Conn<A>, packets: Option<u8>, now: Tick) -> bool {
        let idle = now.0.saturating_sub(conn.timer.last_seen().0);
        let (Some(packets @ 1..=MAX_PACKETS), true) = (packets, idle >= IDLE * TICKS_PER_SECOND) else { return false };
        let turn = &mut self.turns[usize::from(packets)];
        *turn = turn.saturating_sub(1);
        if *turn > 0 {
            return false;
        }
        *turn = packets;
        true
    }

    fn draw(&mut self, below: usize) -> u32 {
        // xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators"): its high bits are good.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * below as u64) >> 32) as u32
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Decides how to defend, and ends connections before their time, a bounded number of them. `has_changed` says that
    /// the snapshot is another one than in the last turn.
    pub(crate) fn tend(&mut self, snapshot: &Snapshot, has_changed: bool) {
        let counters = &self.shared.workers[usize::from(self.id.0)].counters;
        let tables = &self.tables;
        let free = || {
            let free = [tables.v4.capacity() - tables.v4.len(), tables.v6.capacity() - tables.v6.len()];
            free.into_iter().min().unwrap_or(0) as u64 * self.shared.limits.workers as u64
        };
        let has_passed = self.defence.update(&snapshot.settings, self.now, has_changed, free, counters);
        let slots = [self.tables.v4.slots(), self.tables.v6.slots()];
        for (walk, slots) in self.reaper.families.iter_mut().zip(slots) {
            if has_passed {
                walk.rest += if self.defence.drop_entry { slots as u64 } else { 0 };
                walk.random = walk.rest / SHARE;
                walk.rest %= SHARE;
            }
            if has_changed && snapshot.settings.expire_nodest_conn {
                walk.sweep = slots;
            }
        }
        self.reap::<std::net::Ipv4Addr>(0);
        self.reap::<std::net::Ipv6Addr>(1);
        self.sweep::<std::net::Ipv4Addr>(snapshot, 0);
        self.sweep::<std::net::Ipv6Addr>(snapshot, 1);
    }

    /// Looks at some entries at random (ip_vs_conn.c, ip_vs_random_dropentry).
    fn reap<A: Ip>(&mut self, family: usize) {
        let walk = &mut self.reaper.families[family];
        let looks = walk.random.min(LOOKS as u64);
        if looks == 0 {
            return;
        }
        walk.random -= looks;
        let slots = A::table(&mut self.tables).slots();
        let ids: ArrayVec<ConnId, LOOKS> = (0..looks).map(|_| ConnId(self.reaper.draw(slots))).collect();
        let table = A::table(&mut self.tables);
        ids.iter().for_each(|&id| table.prefetch_slot(id));
        for id in ids {
            let table = A::table(&mut self.tables);
            let Some(conn) = table.live(id) else { continue };
            let packets = table.packets(id);
            let goes = match conn.state {
                State::SynRecv | State::SynAck | State::SctpInit1 | State::SctpInit => true,
                State::Established | State::Udp | State::SctpEstablished => self.reaper.picks(conn, packets, self.now),
                _ => false,
            };
            if goes && !table.is_controller(id) {
                self.end_connection::<A>(id, EndReason::DropEntry);
                self.counters().reaped.add(1);
            }
        }
    }

    /// Looks at some entries in turn, and ends connections whose server is gone (ip_vs_conn.c,
    /// ip_vs_expire_nodest_conn_flush).
    fn sweep<A: Ip>(&mut self, snapshot: &Snapshot, family: usize) {
        let Walk { sweep, position, .. } = self.reaper.families[family];
        let slots = A::table(&mut self.tables).slots();
        let looks = sweep.min(LOOKS);
        for n in 0..looks {
            let id = ConnId(((position + n) % slots) as u32);
            let conn = A::table(&mut self.tables).live(id);
            if conn.is_some_and(|conn| snapshot.services.presence(conn.server) == Presence::Gone) {
                self.end_connection::<A>(id, EndReason::ServerGone);
            }
        }
        let walk = &mut self.reaper.families[family];
        walk.sweep -= looks;
        walk.position = (position + looks) % slots.max(1);
    }
}
