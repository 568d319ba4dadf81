//! TCP connections from the first packet to the last. Each packet that comes is turned into the next one of its connection,
//! so that no end needs to remember anything.

use std::cell::Cell;
use std::marker::PhantomData;

use dpdk::Mbuf;
use proto::checksum::Delta;
use proto::{Protocol, ethernet, tcp};

use super::cable::{Fate, Sink, Source, Stream};
use super::inspect::turn_around;
use super::maker::{Tag, checksum_offset};
use crate::flows::Family;
use crate::frame::{header_len, l4_offset};

const fn flags(a: tcp::Flags, b: tcp::Flags) -> tcp::Flags {
    tcp::Flags(a.0 | b.0)
}

/// Flags by step. Even steps are the client's, odd ones the server's, which speaks first and closes first.
const STEPS: [tcp::Flags; 8] = [
    tcp::Flags::SYN,
    flags(tcp::Flags::SYN, tcp::Flags::ACK),
    tcp::Flags::ACK,
    flags(tcp::Flags::PSH, tcp::Flags::ACK),
    flags(tcp::Flags::PSH, tcp::Flags::ACK),
    flags(tcp::Flags::FIN, tcp::Flags::ACK),
    flags(tcp::Flags::FIN, tcp::Flags::ACK),
    tcp::Flags::ACK,
];

/// Packets of a connection from its SYN to the last ACK.
pub const WHOLE_LIFE: u32 = STEPS.len() as u32;

/// Connections under way at a time: fewer than a ring has places, so that the last packets of none are dropped for lack of
/// room.
const WINDOW: u64 = 512;

/// Both ends of all connections.
pub struct Lives<'a, A> {
    protocol: Protocol,
    /// The step after which a connection needs nothing more.
    last: u32,
    completed: &'a Cell<u64>,
    family: PhantomData<A>,
}

impl<'a, A: Family> Lives<'a, A> {
    /// Which end after step `last`, from 0 on, and are then counted. With UDP there are no flags.
    pub fn new(protocol: Protocol, last: u32, completed: &'a Cell<u64>) -> Self {
        Self { protocol, last, completed, family: PhantomData }
    }

    /// Turns a packet into the next one; false when it was the last, or is none of ours.
    #[inline(always)]
    fn next(&self, frame: &mut [u8]) -> bool {
        // In a tunnel the tag is elsewhere; tunnels have no answers.
        if self.last == 0 {
            self.completed.set(self.completed.get() + 1);
            return false;
        }
        let payload = header_len::<A>(self.protocol);
        let Some(tag) = Tag::read(frame, payload) else { return false };
        if tag.sequence >= self.last {
            self.completed.set(self.completed.get() + 1);
            return false;
        }
        turn_around::<A>(frame);
        let step = tag.sequence + 1;
        let checksum = checksum_offset::<A>(self.protocol);
        if self.protocol == Protocol::TCP {
            set_flags(frame, l4_offset::<A>(), STEPS[step as usize % STEPS.len()]);
        }
        Tag { sequence: step, ..tag }.write(frame, payload, checksum, self.protocol);
        true
    }
}

impl<A: Family> Sink for Lives<'_, A> {
    #[inline(always)]
    fn take(&mut self, packet: &mut Mbuf, _now: u64) -> Fate {
        if self.next(packet.data_mut()) { Fate::Answer } else { Fate::Done }
    }
}

/// Changes the flags, and the checksum with them.
#[inline(always)]
fn set_flags(frame: &mut [u8], l4: usize, flags: tcp::Flags) {
    debug_assert!(l4 > ethernet::HEADER_LEN);
    let at = l4 + tcp::DATA_OFFSET;
    let Some(word) = frame.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([word[0], word[1]]);
    let new = u16::from_be_bytes([word[0], flags.0]);
    word[1] = flags.0;
    Delta::ZERO.replace_u16(old, new).apply_at(frame, l4 + tcp::CHECKSUM);
}

/// Begins connections, no more at a time than there is room for.
pub struct Newcomers<'a, A> {
    stream: Stream<'a, A>,
    begun: u64,
    completed: &'a Cell<u64>,
    /// How many were complete when somebody last asked, and since how many questions that has not changed.
    progress: (u64, u32),
}

impl<'a, A: Family> Newcomers<'a, A> {
    /// Of the connections whose first packets are in the stream.
    pub fn new(stream: Stream<'a, A>, completed: &'a Cell<u64>) -> Self {
        Self { stream, begun: 0, completed, progress: (0, 0) }
    }
}

impl<A: Family> Source for Newcomers<'_, A> {
    #[inline(always)]
    fn available(&mut self, n: usize) -> usize {
        let completed = self.completed.get();
        if self.progress.0 != completed {
            self.progress = (completed, 0);
        }
        let under_way = self.begun.saturating_sub(completed);
        if under_way >= WINDOW {
            self.progress.1 += 1;
            // Nothing has ended for some milliseconds: those under way are lost.
            if self.progress.1 > 100_000 {
                self.begun = completed;
            }
            return 0;
        }
        self.stream.available(n.min((WINDOW - under_way) as usize))
    }

    #[inline(always)]
    fn make(&mut self, packet: &mut Mbuf, now: u64) {
        self.begun += 1;
        self.stream.make(packet, now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use dataplane::snapshot::ForwardMode;

    use super::*;
    use crate::flows::{Flows, Way};
    use crate::frame::{Expected, OWN_MAC, Shape, TTL, check};
    use crate::wire::maker::{Macs, Maker};

    fn a_life_has_the_right_packets<A: Family>() {
        let flows = Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, 10);
        let client = [2, 9, 9, 9, 9, 9];
        let macs = Macs { device: OWN_MAC, sender: client };
        let len = header_len::<A>(Protocol::TCP) + Tag::LEN + 4;
        let shape = Shape { flags: tcp::Flags::SYN, ..Shape::new::<A>(Protocol::TCP, len) };
        let mut maker = Maker::new::<A>(flows.clone(), macs, &[shape], true);
        let mut frame = vec![0; maker.next_len()];
        maker.fill::<A>(&mut frame, Tag { flow: 6, ..Tag::default() });
        let completed = Cell::new(0);
        let lives = Lives::<A>::new(Protocol::TCP, WHOLE_LIFE - 1, &completed);
        for step in 0..WHOLE_LIFE {
            assert_eq!(frame[l4_offset::<A>() + tcp::FLAGS], STEPS[step as usize].0, "step {step}");
            let (tuple, to, from) = match step % 2 {
                0 => (flows.arriving::<A>(6, Way::In), OWN_MAC, client),
                _ => (flows.arriving::<A>(6, Way::In).reversed(), client, OWN_MAC),
            };
            let expected =
                Expected { own_mac: from, ttl: Some(TTL), unpainted: Tag::LEN, ..Expected::of(tuple, frame.len(), to) };
            check(&frame, &expected).unwrap();
            assert_eq!(completed.get(), 0);
            assert_eq!(lives.next(&mut frame), step + 1 < WHOLE_LIFE, "step {step}");
        }
        assert_eq!(completed.get(), 1);
    }

    #[test]
    fn lives_have_the_right_packets() {
        a_life_has_the_right_packets::<Ipv4Addr>();
        a_life_has_the_right_packets::<Ipv6Addr>();
    }
}
