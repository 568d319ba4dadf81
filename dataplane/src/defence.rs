//! Defences against floods of new connections, as IPVS has them (net/netfilter/ipvs/ip_vs_ctl.c, update_defense_level).
//!
//! Linux begins to defend itself when memory is short. Here connection tables are allocated once and for all, so what
//! may be short is room in them: where Linux compares free pages with `amemthresh`, this compares free entries, those of
//! the director if all workers' tables were as full as this worker's. Each worker judges for itself, once a second.

use proto::state::{Direction, State, tcp_next, tcp_next_secure};
use proto::tcp::Flags;

use crate::conn::{TICKS_PER_SECOND, Tick};
use crate::counters::WorkerCounters;
use crate::snapshot::Settings;

/// When a defence acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never (0).
    #[default]
    Off,
    /// While entries are short (1, which IPVS turns into 2 meanwhile).
    Automatic,
    /// Always (3).
    Always,
}

impl Mode {
    fn acts(self, short: bool) -> bool {
        match self {
            Mode::Off => false,
            Mode::Automatic => short,
            Mode::Always => true,
        }
    }
}

/// The settings of the defences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defences {
    /// Connections that are half open or hardly used end at random.
    pub drop_entry: Mode,
    /// Packets that would open a connection are dropped at a rate.
    pub drop_packet: Mode,
    /// TCP connections count as established only when the server was heard.
    pub secure_tcp: Mode,
    /// Entries are short when fewer than this are free.
    pub amemthresh: u32,
    /// With [`drop_packet`](Self::drop_packet) always on, one packet in this many is dropped; 0: none.
    pub am_droprate: u32,
}

impl Default for Defences {
    /// All off; the kernel's numbers.
    fn default() -> Self {
        let mode = Mode::default();
        Self { drop_entry: mode, drop_packet: mode, secure_tcp: mode, amemthresh: 1024, am_droprate: 10 }
    }
}

/// In [`WorkerCounters::defences`]: `drop_entry` acts.
pub const DROP_ENTRY: u64 = 1;
/// `drop_packet` acts.
pub const DROP_PACKET: u64 = 2;
/// `secure_tcp` acts.
pub const SECURE_TCP: u64 = 4;

/// What a worker does at the moment to defend itself.
#[derive(Debug, Default)]
pub(crate) struct Defence {
    /// The second in which it was decided last.
    second: u32,
    /// Connections end at random.
    pub drop_entry: bool,
    /// The stricter table of TCP states is in use.
    pub secure_tcp: bool,
    /// One opening packet in this many is dropped; 0: none.
    drop_rate: u32,
    /// Opening packets until the next one is dropped.
    drop_counter: u32,
}

impl Defence {
    /// Decides anew if a second has passed or the settings may have changed; `free` gives the free entries. Returns true
    /// when a second has passed.
    pub fn update(
        &mut self,
        settings: &Settings,
        now: Tick,
        has_changed: bool,
        free: impl Fn() -> u64,
        counters: &WorkerCounters,
    ) -> bool {
        let second = now.0 / TICKS_PER_SECOND;
        let has_passed = second != self.second;
        if !has_passed && !has_changed {
            return false;
        }
        self.second = second;
        let Defences { drop_entry, drop_packet, secure_tcp, amemthresh, am_droprate } = settings.defences;
        let missing = u64::from(amemthresh).saturating_sub(free()) as u32;
        self.drop_entry = drop_entry.acts(missing > 0);
        self.secure_tcp = secure_tcp.acts(missing > 0);
        match drop_packet {
            Mode::Automatic if missing > 0 => {
                self.drop_rate = amemthresh / missing;
                self.drop_counter = self.drop_rate;
            }
            Mode::Always => self.drop_rate = am_droprate,
            Mode::Off | Mode::Automatic => self.drop_rate = 0,
        }
        let bit = |acts: bool, bit: u64| if acts { bit } else { 0 };
        counters.defences.set_release(
            bit(self.drop_entry, DROP_ENTRY)
                | bit(drop_packet.acts(missing > 0), DROP_PACKET)
                | bit(self.secure_tcp, SECURE_TCP),
        );
        has_passed
    }

    /// The state of a TCP connection after a segment.
    #[inline]
    pub fn tcp_next(&self, state: State, direction: Direction, flags: Flags) -> State {
        match self.secure_tcp {
            true => tcp_next_secure(state, direction, flags),
            false => tcp_next(state, direction, flags),
        }
    }

    /// Whether to drop a packet that would open a connection.
    pub fn drops_packet(&mut self) -> bool {
        if self.drop_rate == 0 {
            return false;
        }
        self.drop_counter = self.drop_counter.saturating_sub(1);
        if self.drop_counter > 0 {
            return false;
        }
        self.drop_counter = self.drop_rate;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decides with these settings and free entries, a second after the last time.
    fn update(defence: &mut Defence, counters: &WorkerCounters, defences: Defences, free: u64) {
        let now = Tick((defence.second + 1) * TICKS_PER_SECOND);
        let settings = Settings { defences, ..Settings::default() };
        assert!(defence.update(&settings, now, false, || free, counters));
    }

    #[test]
    fn automatic_defences_act_while_entries_are_short() {
        let counters = WorkerCounters::new(1, 1, 1);
        for mode in [Mode::Off, Mode::Automatic, Mode::Always] {
            let defences = Defences { drop_entry: mode, drop_packet: mode, secure_tcp: mode, ..Defences::default() };
            let mut defence = Defence::default();
            for free in [1024, 1023, 1024] {
                update(&mut defence, &counters, defences, free);
                let acts = mode == Mode::Always || mode == Mode::Automatic && free < 1024;
                assert_eq!((defence.drop_entry, defence.secure_tcp), (acts, acts), "{mode:?} {free}");
                assert_eq!(counters.defences.get_acquire(), if acts { 7 } else { 0 });
            }
        }
    }

    #[test]
    fn one_packet_in_a_number_is_dropped() {
        let counters = WorkerCounters::new(1, 1, 1);
        let dropped = |defence: &mut Defence| -> Vec<usize> { (0..25).filter(|_| defence.drops_packet()).collect() };
        let mut defence = Defence::default();
        let always = Defences { drop_packet: Mode::Always, ..Defences::default() };
        assert_eq!(dropped(&mut defence), []);
        update(&mut defence, &counters, always, 9999);
        assert_eq!(dropped(&mut defence), [0, 10, 20]);
        update(&mut defence, &counters, Defences { am_droprate: 0, ..always }, 9999);
        assert_eq!(dropped(&mut defence), []);
        // thresh / (thresh - free)
        let automatic = Defences { drop_packet: Mode::Automatic, amemthresh: 100, ..always };
        for (free, expected) in [(100, &[][..]), (90, &[9, 19]), (99, &[]), (0, &(0..25).collect::<Vec<_>>())] {
            update(&mut defence, &counters, automatic, free);
            assert_eq!(dropped(&mut defence), expected, "{free} free");
        }
    }

    #[test]
    fn it_is_decided_once_a_second_and_at_changes() {
        let counters = WorkerCounters::new(1, 1, 1);
        let mut defence = Defence::default();
        let defences = Defences { secure_tcp: Mode::Automatic, ..Defences::default() };
        let settings = Settings { defences, ..Settings::default() };
        let mut at = |tick, has_changed, free: u64| {
            let has_passed = defence.update(&settings, Tick(tick), has_changed, || free, &counters);
            (has_passed, defence.secure_tcp)
        };
        assert_eq!(at(8, false, 0), (true, true));
        assert_eq!(at(15, false, 9999), (false, true));
        assert_eq!(at(15, true, 9999), (false, false));
        assert_eq!(at(16, false, 0), (true, true));
    }
}
