//! Sequence adjustment: what the director inserts into the data of a TCP connection or takes out moves all that follows.
//!
//! Each direction of data remembers its last change and by how much the sequence numbers before and after it differ from
//! the sender's. Segments of that direction get their numbers moved; acknowledgements, and the blocks of selective ones
//! (RFC 2018), that come back from the receiver are moved the other way, so that neither end notices. The kernel's
//! counterparts are ip_vs_app.c and nf_conntrack_seqadj.c.
//!
//! A change is forgotten, and only its difference kept, once the receiver has acknowledged all of it. Until then a
//! second change makes what lies before the first one unknown: a retransmission from there would be moved wrongly, and
//! is repeated once the peer has asked for it again. Who changes data waits for answers in between, as FTP does, or
//! changes them once.

use proto::checksum::Delta;
use proto::tcp;

use super::Side;

/// The changes of a connection's data in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Data of the client, and of the server.
    directions: [Shift; 2],
}

/// How the data of one direction are moved. Numbers are the sender's own unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shift {
    /// False until the first change: all else is meaningless then.
    is_changed: bool,
    /// First of the bytes that the last change removed; or, when that is acknowledged, the byte up to which all is.
    start: u32,
    /// How many it removed ...
    removed: u16,
    /// ... and how many stand in their place.
    inserted: u16,
    /// What to add to numbers before the change ...
    before: u32,
    /// ... and to those after it.
    after: u32,
}

impl Sequence {
    /// Notes that `removed` bytes from the sequence number `start` on, in data from `side`, are replaced with `inserted`
    /// bytes. `start` is the sender's number, as it stands in the packet that was received.
    ///
    /// Returns the number that the receiver will know the first of the new bytes by, or `None`, and changes nothing, if
    /// data beyond `start` were changed before or are acknowledged already. The same change again belongs to a
    /// retransmission and makes no difference.
    #[must_use]
    pub fn change(&mut self, side: Side, start: u32, removed: u16, inserted: u16) -> Option<u32> {
        let shift = &mut self.directions[side as usize];
        let is_known = (shift.start, shift.removed, shift.inserted) == (start, removed, inserted);
        if !shift.is_changed || !is_known {
            let end = shift.start.wrapping_add(shift.removed.into());
            if shift.is_changed && distance(end, start) < 0 {
                return None;
            }
            let before = shift.after;
            let after = before.wrapping_add(inserted.into()).wrapping_sub(removed.into());
            *shift = Shift { is_changed: true, start, removed, inserted, before, after };
        }
        Some(start.wrapping_add(shift.before))
    }

    /// True when nothing has been changed in either direction.
    pub fn is_unchanged(&self) -> bool {
        self.directions.iter().all(|shift| !shift.is_changed)
    }

    /// Corrects the numbers of a segment from `side`, and its checksum for this. `segment` begins with the TCP header; if
    /// its length is wrong, the segment is left alone.
    ///
    /// To be called before the segment's data are changed. If they begin with inserted bytes then, and none removed, it
    /// begins where [`change`](Self::change) says.
    pub fn adjust(&mut self, side: Side, segment: &mut [u8]) {
        let Ok(view) = tcp::Tcp::new_checked(&*segment) else { return };
        let (seq, ack, flags, header_len) = (view.seq(), view.ack(), view.flags(), view.header_len());
        let [own, peer] = match side {
            Side::Inbound => [0, 1],
            Side::Outbound => [1, 0],
        };
        let mut new = [self.directions[own].moved(seq), ack];
        let mut delta = Delta::ZERO;
        let back = &mut self.directions[peer];
        if flags.contains(tcp::Flags::ACK) && back.is_changed {
            delta = back.restore_blocks(&mut segment[tcp::HEADER_LEN..header_len]);
            new[1] = back.restored(ack);
            back.settle(ack, new[1]);
        }
        let word = |[seq, ack]: [u32; 2]| (u64::from(seq) << 32 | u64::from(ack)).to_be_bytes();
        let numbers = &mut segment[tcp::SEQ..tcp::SEQ + 8];
        let delta = delta.replace_bytes(numbers, &word(new));
        numbers.copy_from_slice(&word(new));
        delta.apply_at(segment, tcp::CHECKSUM);
    }
}

impl Shift {
    /// The receiver's number for one of the sender's. Among removed bytes it is as if they were still there.
    fn moved(&self, number: u32) -> u32 {
        let is_after = distance(self.start, number) >= i32::from(self.removed);
        number.wrapping_add(if is_after { self.after } else { self.before })
    }

    /// The sender's number for one of the receiver's: all before it has arrived. Of bytes that were inserted the sender
    /// knows nothing: as long as not all are there, none is.
    fn restored(&self, number: u32) -> u32 {
        match self.place(number) {
            Place::Before => number.wrapping_sub(self.before),
            Place::Within => self.start,
            Place::After => number.wrapping_sub(self.after),
        }
    }

    /// Where a number of the receiver's lies.
    fn place(&self, number: u32) -> Place {
        match distance(self.start.wrapping_add(self.before), number) {
            ..0 => Place::Before,
            d if d >= i32::from(self.inserted) => Place::After,
            _ => Place::Within,
        }
    }

    /// Forgets the change once it is acknowledged as a whole: from then on numbers may wrap around. If nothing was removed,
    /// that takes a byte more: what is sent again from `start` on must not look like another change.
    fn settle(&mut self, acknowledged: u32, restored: u32) {
        if self.before == self.after && self.removed == 0 && self.inserted == 0 {
            if distance(self.start, restored) > 0 {
                self.start = restored;
            }
        } else if matches!(self.place(acknowledged), Place::After) && restored != self.start {
            *self = Self { start: restored, removed: 0, inserted: 0, before: self.after, ..*self };
        }
    }

    /// Corrects the blocks of a selective acknowledgement and returns the difference that makes.
    fn restore_blocks(&self, options: &mut [u8]) -> Delta {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        const SACK: u8 = 5;
        let mut at = 0;
        while let Some(&kind) = options.get(at) {
            let len = match (kind, options.get(at + 1)) {
                (END, _) | (_, None) => break,
                (NO_OPERATION, _) => 1,
                (_, Some(&len)) => usize::from(len),
            };
            if at + len > options.len() || (kind != NO_OPERATION && len < 2) {
                break;
            }
            if kind == SACK {
                let mut old = [0; 40];
                let old = &mut old[..options.len()];
                old.copy_from_slice(options);
                for block in options[at + 2..at + len].as_chunks_mut::<8>().0 {
                    self.restore_block(block);
                }
                return Delta::ZERO.replace_bytes(old, options);
            }
            at += len;
        }
        Delta::ZERO
    }

    /// A block covers what has arrived, so it shrinks if it ends among inserted bytes; perhaps to nothing, which makes
    /// it void.
    fn restore_block(&self, block: &mut [u8; 8]) {
        let (left, right) = block.split_at_mut(4);
        let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let end = self.restored(number(right));
        let start = match self.place(number(left)) {
            Place::Within if self.inserted > 0 => self.start.wrapping_add(self.removed.into()),
            _ => self.restored(number(left)),
        };
        let start = if distance(start, end) < 0 { end } else { start };
        left.copy_from_slice(&start.to_be_bytes());
        right.copy_from_slice(&end.to_be_bytes());
    }
}

enum Place {
    Before,
    Within,
    After,
}

/// From `a` to `b`; negative when `b` is before `a` (RFC 9293 section 3.4: numbers wrap around).
fn distance(a: u32, b: u32) -> i32 {
    b.wrapping_sub(a) as i32
}
