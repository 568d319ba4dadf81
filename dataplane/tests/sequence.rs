//! Sequence adjustment between two ends that lose, repeat and reorder segments, against what really arrived.

use std::collections::VecDeque;
use std::ops::Range;

use dataplane::conn::{Sequence, Side};
use proptest::prelude::*;
use proto::checksum::Sum;
use proto::tcp::{self, Tcp};

/// A piece of a stream: what its sender sends in one segment, and what arrives of it.
#[derive(Clone, Debug)]
struct Piece {
    sent: Vec<u8>,
    arrives: Vec<u8>,
    is_changed: bool,
}

impl Piece {
    /// How many bytes make room for others: an insertion in front leaves the data themselves as they are.
    fn removed(&self) -> usize {
        if self.arrives.ends_with(&self.sent) { 0 } else { self.sent.len() }
    }
}

/// One direction: its sender's and its receiver's view.
struct Direction {
    side: Side,
    isn: u32,
    pieces: Vec<Piece>,
    /// Bytes that the sender knows to have arrived.
    acknowledged: usize,
    /// Bytes that have come to the director.
    directed: usize,
    /// By place in the stream that arrives.
    received: Vec<Option<u8>>,
}

impl Direction {
    fn new(side: Side, isn: u32, pieces: Vec<Piece>) -> Self {
        let len = pieces.iter().map(|piece| piece.arrives.len()).sum();
        Self { side, isn, pieces, acknowledged: 0, directed: 0, received: vec![None; len] }
    }

    /// The pieces with the ranges that they have in both streams.
    fn places(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>, &Piece)> {
        let mut at = (0, 0);
        self.pieces.iter().map(move |piece| {
            let (sent, arrives) = (at.0..at.0 + piece.sent.len(), at.1..at.1 + piece.arrives.len());
            at = (sent.end, arrives.end);
            (sent, arrives, piece)
        })
    }

    /// What the sender may have in flight: up to the second change that is not acknowledged, and beyond the first one
    /// only when the director knows of it.
    fn pieces_in_flight(&self) -> Vec<(usize, Vec<u8>)> {
        let mut changes = 0;
        let mut is_known = true;
        let open = self.places().filter(|(sent, ..)| sent.end > self.acknowledged);
        let allowed = open.take_while(|(sent, _, piece)| {
            changes += usize::from(piece.is_changed);
            let is_allowed = changes < 2 && is_known;
            is_known &= !piece.is_changed || sent.end <= self.directed;
            is_allowed
        });
        allowed
            .map(|(sent, _, piece)| {
                // What is acknowledged in part is sent from there, but a changed piece always as a whole.
                let skipped = if piece.is_changed { 0 } else { self.acknowledged.saturating_sub(sent.start) };
                (sent.start + skipped, piece.sent[skipped..].to_vec())
            })
            .collect()
    }

    fn next_expected(&self) -> usize {
        self.received.iter().position(Option::is_none).unwrap_or(self.received.len())
    }

    /// True when all that the sender has in this range of its own stream is with the receiver.
    fn has(&self, range: Range<usize>) -> bool {
        self.places().filter(|(sent, ..)| sent.start < range.end && range.start < sent.end).all(
            |(sent, arrives, piece)| {
                let (start, end) = (range.start.max(sent.start) - sent.start, range.end.min(sent.end) - sent.start);
                let part = match (piece.is_changed, piece.removed()) {
                    (false, _) => arrives.start + start..arrives.start + end,
                    // All that is in front comes with the first byte.
                    (true, 0) => arrives.start..arrives.end - (sent.len() - end),
                    (true, _) => arrives,
                };
                self.received[part].iter().all(Option::is_some)
            },
        )
    }

    fn number(&self, place: usize) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(place as u32)
    }

    /// Of a sequence number: the place in the stream.
    fn place(&self, number: u32) -> usize {
        number.wrapping_sub(self.isn.wrapping_add(1)) as usize
    }
}

/// A segment from one end: data of `own` from `place` on, and what has arrived of `peer`.
fn segment(own: &Direction, place: usize, data: &[u8], peer: &Direction, sack_at: usize) -> Vec<u8> {
    let expected = peer.next_expected();
    let mut options = vec![1; sack_at];
    let mut blocks = Vec::new();
    let mut at = expected;
    while at < peer.received.len() && blocks.len() < 3 {
        if peer.received[at].is_some() {
            let end = at + peer.received[at..].iter().take_while(|byte| byte.is_some()).count();
            blocks.push(at..end);
            at = end;
        }
        at += 1;
    }
    if !blocks.is_empty() {
        options.extend([5, 2 + 8 * blocks.len() as u8]);
        for block in blocks {
            options.extend(peer.number(block.start).to_be_bytes());
            options.extend(peer.number(block.end).to_be_bytes());
        }
    }
    while !options.len().is_multiple_of(4) {
        options.push(0);
    }
    let mut bytes = vec![0; tcp::HEADER_LEN];
    let fields = tcp::Fields {
        sport: 1,
        dport: 2,
        seq: own.number(place),
        ack: peer.number(expected),
        flags: tcp::Flags::ACK,
        window: 9,
    };
    tcp::emit(&mut bytes, &fields);
    bytes[tcp::DATA_OFFSET] = ((tcp::HEADER_LEN + options.len()) << 2) as u8;
    bytes.extend(options);
    bytes.extend(data);
    fill_checksum(&mut bytes);
    bytes
}

fn fill_checksum(bytes: &mut [u8]) {
    Tcp::new_checked(&mut *bytes).unwrap().set_checksum(0);
    let checksum = Sum::ZERO.add_bytes(bytes).finish();
    Tcp::new_checked(bytes).unwrap().set_checksum(checksum);
}

/// The director: adjusts a segment, then changes its data if they are to be changed.
fn direct(sequence: &mut Sequence, own: &Direction, mut bytes: Vec<u8>) -> Vec<u8> {
    let seq = Tcp::new_checked(&bytes).unwrap().seq();
    sequence.adjust(own.side, &mut bytes);
    assert_eq!(Sum::ZERO.add_bytes(&bytes).finish(), 0, "the checksum is kept right");
    let header_len = Tcp::new_checked(&bytes).unwrap().header_len();
    let data = bytes[header_len..].to_vec();
    let start = own.place(seq);
    let change = own.places().find(|(sent, _, piece)| piece.is_changed && sent.start == start && !data.is_empty());
    let Some((sent, arrives, piece)) = change else { return bytes };
    let removed = piece.removed();
    let inserted = arrives.len() - (sent.len() - removed);
    if let Some(first) = sequence.change(own.side, seq, removed as u16, inserted as u16) {
        bytes.truncate(header_len);
        bytes.extend(&piece.arrives);
        Tcp::new_checked(&mut bytes[..]).unwrap().set_seq(first);
        fill_checksum(&mut bytes);
    }
    bytes
}

/// An end takes a segment: its data, the last `cut` of them not, and what it acknowledges.
fn receive(bytes: &[u8], incoming: &mut Direction, outgoing: &mut Direction, cut: usize) {
    assert_eq!(Sum::ZERO.add_bytes(bytes).finish(), 0);
    let view = Tcp::new_checked(bytes).unwrap();
    let (data, start) = (view.payload(), incoming.place(view.seq()));
    let expected = incoming.next_expected();
    for (i, &byte) in data.iter().enumerate().take(data.len() - cut.min(data.len())) {
        let place = start.wrapping_add(i);
        // What is below what is expected is not looked at.
        if (place as u32).wrapping_sub(expected as u32) as i32 >= 0 {
            assert!(place < incoming.received.len(), "data beyond the end, at {place}");
            assert!(incoming.received[place].is_none_or(|old| old == byte), "other data at {place}");
            incoming.received[place] = Some(byte);
        }
    }
    let acknowledged = outgoing.place(view.ack());
    assert!(outgoing.has(0..acknowledged), "acknowledged up to {acknowledged}");
    outgoing.acknowledged = outgoing.acknowledged.max(acknowledged);
    let mut options = view.options();
    while let [1, rest @ ..] = options {
        options = rest;
    }
    if let [5, len, rest @ ..] = options {
        for block in rest[..usize::from(*len) - 2].as_chunks::<8>().0 {
            let number = |at: usize| u32::from_be_bytes(block[at..at + 4].try_into().unwrap());
            let (left, right) = (outgoing.place(number(0)), outgoing.place(number(4)));
            assert!(left <= right && outgoing.has(left..right), "block {left}..{right}");
        }
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..12);
    let plain = bytes().prop_map(|sent| Piece { arrives: sent.clone(), sent, is_changed: false });
    let replaced = (bytes(), bytes()).prop_map(|(sent, arrives)| Piece { sent, arrives, is_changed: true });
    let prefixed = (bytes(), bytes()).prop_map(|(sent, prefix)| {
        let arrives = [prefix, sent.clone()].concat();
        Piece { sent, arrives, is_changed: true }
    });
    prop_oneof![3 => plain, 1 => replaced, 1 => prefixed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn both_ends_understand_each_other(
        streams in prop::collection::vec(prop::collection::vec(piece(), 0..12), 2),
        isns in prop::array::uniform2(prop_oneof![any::<u32>(), (u32::MAX - 60)..=u32::MAX, Just(0x7fff_ffe0)]),
        luck in prop::collection::vec(any::<u8>(), 1..400),
    ) {
        let [to_server, to_client]: [Vec<Piece>; 2] = streams.try_into().unwrap();
        let mut ends = [
            Direction::new(Side::Inbound, isns[0], to_server),
            Direction::new(Side::Outbound, isns[1], to_client),
        ];
        let mut sequence = Sequence::default();
        // The network is kind in the end.
        let mut luck = luck.into_iter().chain(std::iter::repeat(0x80));
        let mut chance = || usize::from(luck.next().unwrap());
        let mut wire: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
        for _ in 0..600 {
            for from in [0, 1] {
                let own = &ends[from];
                let mut segments = own.pieces_in_flight();
                segments.push((segments.first().map_or(own.acknowledged, |first| first.0), Vec::new()));
                for (place, data) in segments {
                    let [own, peer] = [&ends[from], &ends[1 - from]];
                    match chance() {
                        0..20 => {} // lost in front of the director
                        luck => {
                            let bytes = segment(own, place, &data, peer, luck % 3);
                            let bytes = direct(&mut sequence, own, bytes);
                            ends[from].directed = ends[from].directed.max(place + data.len());
                            match luck {
                                20..40 => {} // lost behind the director
                                40..80 => wire.push_front((from, bytes)), // first
                                80..100 => wire.extend([(from, bytes.clone()), (from, bytes)]), // twice
                                _ => wire.push_back((from, bytes)),
                            }
                        }
                    }
                }
                let some = wire.len() - wire.len() * (chance() % 3) / 4;
                for (from, bytes) in wire.drain(..some) {
                    let [client, server] = &mut ends;
                    let (own, peer) = if from == 0 { (client, server) } else { (server, client) };
                    let cut = match chance() { 0..20 => 3, _ => 0 };
                    receive(&bytes, own, peer, cut);
                }
            }
            if ends.iter().all(|end| end.acknowledged == end.pieces.iter().map(|p| p.sent.len()).sum::<usize>()) {
                break;
            }
        }
        for end in &ends {
            let arrived: Vec<u8> = end.received.iter().map_while(|byte| *byte).collect();
            prop_assert_eq!(arrived, end.pieces.iter().flat_map(|p| p.arrives.clone()).collect::<Vec<_>>());
            prop_assert_eq!(end.acknowledged, end.pieces.iter().map(|p| p.sent.len()).sum::<usize>());
        }
    }

    /// Options of any kind and a header of any length are no reason to panic.
    #[test]
    fn no_segment_is_trusted(mut bytes in prop::collection::vec(any::<u8>(), 0..80), start in any::<u32>()) {
        let mut sequence = Sequence::default();
        for side in [Side::Inbound, Side::Outbound] {
            prop_assert!(sequence.change(side, start, 3, 7).is_some());
        }
        let before = bytes.clone();
        sequence.adjust(Side::Inbound, &mut bytes);
        prop_assert_eq!(before.len(), bytes.len());
    }
}

/// Gigabytes after a change that was acknowledged, numbers are still moved by the same.
#[test]
fn numbers_may_wrap_around_after_a_change() {
    let header = |seq, ack| {
        let mut bytes = vec![0; tcp::HEADER_LEN];
        tcp::emit(&mut bytes, &tcp::Fields { sport: 1, dport: 2, seq, ack, flags: tcp::Flags::ACK, window: 9 });
        bytes
    };
    let mut sequence = Sequence::default();
    assert_eq!(sequence.change(Side::Inbound, 1000, 0, 50), Some(1000));
    for gigabytes in 0..9u32 {
        let place = (gigabytes << 30).wrapping_add(1001);
        let mut data = header(place, 7);
        sequence.adjust(Side::Inbound, &mut data);
        assert_eq!(Tcp::new_checked(&data).unwrap().seq(), place.wrapping_add(50), "after {gigabytes} GiB");
        let mut reply = header(7, place.wrapping_add(60));
        sequence.adjust(Side::Outbound, &mut reply);
        assert_eq!(Tcp::new_checked(&reply).unwrap().ack(), place.wrapping_add(10), "after {gigabytes} GiB");
    }
    assert_eq!(sequence.change(Side::Inbound, 1005, 1, 1), None, "it is acknowledged");
}
