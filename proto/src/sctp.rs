//! SCTP (RFC 9260): the common header, the first chunk of a packet, the checksum, and the states of associations as IPVS
//! has them (net/netfilter/ipvs/ip_vs_proto_sctp.c, Linux 6.1).
//!
//! A director sees packets, not associations: of a packet with several chunks it goes by the first. Addresses that the
//! ends tell each other inside INIT and INIT ACK (multi-homing) are not translated.

use crate::bytes::get_u16;
use crate::state::{Direction, State};

/// Length of the common header.
pub const HEADER_LEN: usize = 12;
/// Offset of the source port.
pub const SPORT: usize = 0;
/// Offset of the destination port.
pub const DPORT: usize = 2;
/// Offset of the CRC32c, which stands in little-endian order and covers the whole packet, itself as zeros, but no
/// addresses (RFC 9260 section 6.8 and appendix A).
pub const CHECKSUM: usize = 8;

/// What a packet means to its association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Event {
    /// DATA, SACK, HEARTBEAT and all that moves no state.
    Data,
    /// INIT: the sender opens an association.
    Init,
    /// INIT ACK.
    InitAck,
    /// COOKIE ECHO.
    CookieEcho,
    /// COOKIE ACK: the association is established.
    CookieAck,
    /// SHUTDOWN: the sender has sent all it had.
    Shutdown,
    /// SHUTDOWN ACK.
    ShutdownAck,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete,
    /// ERROR.
    Error,
    /// ABORT.
    Abort,
}

impl Event {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All, in the order of their numbers.
    pub const ALL: [Event; Self::COUNT] = [
        Event::Data,
        Event::Init,
        Event::InitAck,
        Event::CookieEcho,
        Event::CookieAck,
        Event::Shutdown,
        Event::ShutdownAck,
        Event::ShutdownComplete,
        Event::Error,
        Event::Abort,
    ];

    /// What the first chunk of the SCTP packet `segment` says, or an ABORT behind a COOKIE ECHO or COOKIE ACK. `None` if
    /// there is no chunk in it.
    pub fn of(segment: &[u8]) -> Option<Event> {
        let (first, len) = chunk(segment, HEADER_LEN)?;
        if matches!(first, Event::CookieEcho | Event::CookieAck) && len >= CHUNK_HEADER_LEN {
            let next = HEADER_LEN + len.next_multiple_of(4);
            if let Some((Event::Abort, _)) = chunk(segment, next) {
                return Some(Event::Abort);
            }
        }
        Some(first)
    }
}

const CHUNK_HEADER_LEN: usize = 4;

/// The kind of the chunk at an offset and the length that it claims to have.
fn chunk(segment: &[u8], at: usize) -> Option<(Event, usize)> {
    let header = segment.get(at..)?.first_chunk::<CHUNK_HEADER_LEN>()?;
    // RFC 9260 section 3.2.
    let event = match header[0] {
        1 => Event::Init,
        2 => Event::InitAck,
        6 => Event::Abort,
        7 => Event::Shutdown,
        8 => Event::ShutdownAck,
        9 => Event::Error,
        10 => Event::CookieEcho,
        11 => Event::CookieAck,
        14 => Event::ShutdownComplete,
        _ => Event::Data,
    };
    Some((event, get_u16(header, 2).into()))
}

/// Writes source and destination port of the SCTP packet `segment`, and what they change of its checksum: damage done
/// before stays visible to the receiver. Does nothing if `segment` has no whole header.
pub fn replace_ports(segment: &mut [u8], sport: u16, dport: u16) {
    let len = segment.len();
    let Some(header) = segment.first_chunk_mut::<HEADER_LEN>() else { return };
    let old = [header[0], header[1], header[2], header[3]];
    header[SPORT..SPORT + 2].copy_from_slice(&sport.to_be_bytes());
    header[DPORT..DPORT + 2].copy_from_slice(&dport.to_be_bytes());
    let change: [u8; 4] = std::array::from_fn(|i| old[i] ^ header[i]);
    if change == [0; 4] {
        return;
    }
    // The CRC is linear: what changes of it is the CRC of the change alone, with nothing but zeros around.
    let mut crc = raw_crc(0, &change);
    let mut rest = len - change.len();
    while rest > 0 {
        let zeros = rest.min(ZEROS.len());
        crc = raw_crc(crc, &ZEROS[..zeros]);
        rest -= zeros;
    }
    let checksum = &mut header[CHECKSUM..];
    for (byte, change) in checksum.iter_mut().zip(crc.to_le_bytes()) {
        *byte ^= change;
    }
}

const ZEROS: [u8; 1024] = [0; 1024];

/// The CRC's register after `data`, without the inversions at the beginning and the end.
fn raw_crc(register: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!register, data)
}

/// The checksum of the SCTP packet `segment`, whatever stands in its place, as the number whose little-endian bytes go
/// there. `None` if there is no whole header.
pub fn checksum(segment: &[u8]) -> Option<u32> {
    let (header, chunks) = segment.split_first_chunk::<HEADER_LEN>()?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..CHECKSUM]), &[0; 4]);
    Some(crc32c::crc32c_append(crc, chunks))
}

/// How many of the states are SCTP's: the columns of the table.
const STATES: usize = 14;

/// `[direction][event][state]`
type Table = [[[State; STATES]; Event::COUNT]; 3];

mod table {
    use super::Table;
    use crate::state::State::{
        SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR, SctpCookieSent as CS,
        SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1, SctpRejected as RJ,
        SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
    };

    #[rustfmt::skip] // A table is read by its columns.
    pub(super) const NEXT: Table = [
        // Client to server.
        //NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA and others: only a connection whose beginning was missed moves
            [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN], // INIT
            [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
            [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
            [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // SHUTDOWN
            [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL], // SHUTDOWN ACK
            [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL], // SHUTDOWN COMPLETE
            [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL], // ERROR
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
        ],
        // Server to client.
        //NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA and others: only a connection whose beginning was missed moves
            [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW], // INIT
            [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
            [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
            [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
            [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL], // SHUTDOWN
            [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL], // SHUTDOWN ACK
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // SHUTDOWN COMPLETE
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ERROR
            [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
        ],
        // Client to server, answers unseen.
        //NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [
            [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA and others: only a connection whose beginning was missed moves
            [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN], // INIT
            [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
            [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
            [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // SHUTDOWN
            [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL], // SHUTDOWN ACK
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL], // SHUTDOWN COMPLETE
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // ERROR
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
        ],
    ];
}

/// The state of an SCTP connection in `state` after `event` in `direction`. A state that is not SCTP's stays.
pub fn next(state: State, direction: Direction, event: Event) -> State {
    let column = (state as usize).checked_sub(State::SctpNone as usize);
    let row = &table::NEXT[direction as usize][event as usize];
    column.and_then(|column| row.get(column)).copied().unwrap_or(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9260 appendix A, bit by bit.
    fn reference(segment: &[u8]) -> u32 {
        let mut zeroed = segment.to_vec();
        zeroed[CHECKSUM..CHECKSUM + 4].fill(0);
        !zeroed.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 })
        })
    }

    fn packet(chunks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0x12; HEADER_LEN];
        bytes.extend(chunks.concat());
        bytes
    }

    #[test]
    fn events() {
        let kinds = [
            (0, Event::Data),
            (1, Event::Init),
            (2, Event::InitAck),
            (3, Event::Data),
            (4, Event::Data),
            (5, Event::Data),
            (6, Event::Abort),
            (7, Event::Shutdown),
            (8, Event::ShutdownAck),
            (9, Event::Error),
            (10, Event::CookieEcho),
            (11, Event::CookieAck),
            (12, Event::Data),
            (13, Event::Data),
            (14, Event::ShutdownComplete),
            (15, Event::Data),
            (130, Event::Data),
            (255, Event::Data),
        ];
        for (kind, event) in kinds {
            assert_eq!(Event::of(&packet(&[&[kind, 0, 0, 4]])), Some(event), "chunk type {kind}");
        }
        let abort = [6, 0, 0, 4];
        for (first, expected) in [
            (&[10, 0, 0, 8, 1, 2, 3, 4][..], Event::Abort),
            (&[10, 0, 0, 7, 1, 2, 3, 0], Event::Abort),
            (&[11, 0, 0, 4], Event::Abort),
            (&[10, 0, 0, 3], Event::CookieEcho),
            (&[10, 0, 0xff, 0xff], Event::CookieEcho),
            (&[0, 0, 0, 4], Event::Data),
            (&[7, 0, 0, 4], Event::Shutdown),
        ] {
            assert_eq!(Event::of(&packet(&[first, &abort])), Some(expected), "{first:?} and ABORT");
        }
        assert_eq!(Event::of(&packet(&[&[1, 0, 0]])), None);
        assert_eq!(Event::of(&packet(&[])), None);
        assert_eq!(Event::of(&[]), None);
    }

    #[test]
    fn an_association_begins_and_ends() {
        use Direction::{In, InOnly, Out};
        let run = |steps: &[(Direction, Event, State)]| {
            steps.iter().fold(State::SctpNone, |state, &(direction, event, expected)| {
                let after = next(state, direction, event);
                assert_eq!(after, expected, "{state:?}, {event:?} {direction:?}");
                after
            })
        };
        run(&[
            (In, Event::Init, State::SctpInit1),
            (In, Event::Init, State::SctpInit),
            (Out, Event::InitAck, State::SctpCookieSent),
            (In, Event::CookieEcho, State::SctpCookieReplied),
            (Out, Event::CookieAck, State::SctpEstablished),
            (In, Event::Data, State::SctpEstablished),
            (In, Event::Shutdown, State::SctpShutdownReceived),
            (Out, Event::ShutdownAck, State::SctpShutdownAckSent),
            (In, Event::ShutdownComplete, State::SctpClosed),
            (In, Event::Init, State::SctpInit),
        ]);
        run(&[(In, Event::Init, State::SctpInit1), (Out, Event::Abort, State::SctpRejected)]);
        run(&[
            (InOnly, Event::Init, State::SctpInit1),
            (InOnly, Event::CookieEcho, State::SctpEstablished),
            (InOnly, Event::ShutdownAck, State::SctpClosed),
        ]);
        assert_eq!(next(State::Established, In, Event::Abort), State::Established, "TCP's");
        assert_eq!(next(State::Udp, In, Event::Abort), State::Udp);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            let event = Event::of(&bytes);
            prop_assert_eq!(event.is_some(), bytes.len() >= HEADER_LEN + CHUNK_HEADER_LEN);
            prop_assert_eq!(checksum(&bytes), (bytes.len() >= HEADER_LEN).then(|| reference(&bytes)));
            replace_ports(&mut bytes, 1, 2);
        }

        #[test]
        fn new_ports_keep_the_checksum_as_right_or_wrong_as_it_was(
            payload in proptest::collection::vec(any::<u8>(), 0..3000),
            header in any::<[u8; HEADER_LEN]>(),
            ports in any::<(u16, u16)>(),
            damage in prop_oneof![Just(0u32), any::<u32>()],
        ) {
            let mut segment = [&header[..], &payload].concat();
            let right = reference(&segment);
            segment[CHECKSUM..CHECKSUM + 4].copy_from_slice(&(right ^ damage).to_le_bytes());
            replace_ports(&mut segment, ports.0, ports.1);
            prop_assert_eq!((get_u16(&segment, SPORT), get_u16(&segment, DPORT)), ports);
            let field = u32::from_le_bytes(segment[CHECKSUM..CHECKSUM + 4].try_into().unwrap());
            prop_assert_eq!(field ^ damage, reference(&segment));
            prop_assert_eq!(&segment[HEADER_LEN..], &payload[..]);
        }
    }
}
