//! Connection states, their transitions and timeouts, as IPVS has them (net/netfilter/ipvs, Linux 6.1).
//!
//! A load balancer does not follow sequence numbers: it looks at the flags of each segment and at its direction, and
//! decides from that how long an idle connection is kept and whether a scheduler counts it as active. The states carry
//! the names of RFC 9293 section 3.3.2 but mean what the director believes of *both* ends together.

use std::fmt;

use crate::tcp::Flags;

/// State of a connection. The TCP states stand in the order of the columns of [`tcp_next`]'s table, those of
/// SCTP in that of [`sctp::next`](crate::sctp::next)'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// No segment seen yet.
    None,
    /// Data may flow in both directions.
    Established,
    /// The server side sent a SYN first.
    SynSent,
    /// The client sent a SYN.
    SynRecv,
    /// One side sent a FIN.
    FinWait,
    /// Both sides sent a FIN, or nothing more is expected.
    TimeWait,
    /// Reset, or a segment that fits no connection.
    Close,
    /// The client sent a FIN to an established connection.
    CloseWait,
    /// The last FIN waits to be acknowledged.
    LastAck,
    /// The server listens; kept for the table's completeness.
    Listen,
    /// `secure_tcp`: the handshake is not complete yet.
    SynAck,
    /// UDP has this one state.
    Udp,
    /// SCTP: no packet seen yet.
    SctpNone,
    /// SCTP: the client sent its first INIT.
    SctpInit1,
    /// SCTP: the client sent INIT again, or over the remains of an old association.
    SctpInit,
    /// SCTP: the server answered INIT; the cookie is with the client.
    SctpCookieSent,
    /// SCTP: the client sent the cookie back.
    SctpCookieReplied,
    /// SCTP: the server sent INIT.
    SctpCookieWait,
    /// SCTP: the client answered the server's INIT.
    SctpCookie,
    /// SCTP: the server sent the client's cookie back.
    SctpCookieEchoed,
    /// SCTP: data may flow in both directions.
    SctpEstablished,
    /// SCTP: the server has sent all it had.
    SctpShutdownSent,
    /// SCTP: the client has sent all it had.
    SctpShutdownReceived,
    /// SCTP: the server confirmed the end.
    SctpShutdownAckSent,
    /// SCTP: the client's first INIT was aborted.
    SctpRejected,
    /// SCTP: the association ended.
    SctpClosed,
}

/// From which side a packet comes, and whether both sides are visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Client to server, where the director sees both directions (NAT, FULLNAT).
    In,
    /// Server to client.
    Out,
    /// Client to server, where the server answers past the director (DR, TUN).
    InOnly,
}

impl State {
    /// How many states there are.
    pub const COUNT: usize = 26;

    /// All states, in the order of their numbers.
    pub const ALL: [State; Self::COUNT] = [
        State::None,
        State::Established,
        State::SynSent,
        State::SynRecv,
        State::FinWait,
        State::TimeWait,
        State::Close,
        State::CloseWait,
        State::LastAck,
        State::Listen,
        State::SynAck,
        State::Udp,
        State::SctpNone,
        State::SctpInit1,
        State::SctpInit,
        State::SctpCookieSent,
        State::SctpCookieReplied,
        State::SctpCookieWait,
        State::SctpCookie,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpRejected,
        State::SctpClosed,
    ];

    /// The name that `ipvsadm -Lc` prints.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::Established => "ESTABLISHED",
            State::SynSent => "SYN_SENT",
            State::SynRecv => "SYN_RECV",
            State::FinWait => "FIN_WAIT",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::Listen => "LISTEN",
            State::SynAck => "SYNACK",
            State::Udp => "UDP",
            State::SctpNone => "NONE",
            State::SctpInit1 => "INIT1",
            State::SctpInit => "INIT",
            State::SctpCookieSent => "C-SENT",
            State::SctpCookieReplied => "C-REPLIED",
            State::SctpCookieWait => "C-WAIT",
            State::SctpCookie => "COOKIE",
            State::SctpCookieEchoed => "C-ECHOED",
            State::SctpEstablished => "ESTABLISHED",
            State::SctpShutdownSent => "S-SENT",
            State::SctpShutdownReceived => "S-RECEIVED",
            State::SctpShutdownAckSent => "S-ACK-SENT",
            State::SctpRejected => "REJECTED",
            State::SctpClosed => "CLOSED",
        }
    }

    /// The connection counts as active (`ActiveConn`), not as inactive (`InActConn`), at its server.
    ///
    /// UDP connections are inactive for all their life, as in IPVS: a server's connections start inactive, and only
    /// the transitions of TCP and SCTP ever change that.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        matches!(self, State::Established | State::SynSent | State::SynRecv | State::SynAck | State::SctpEstablished)
    }
}

impl State {
    /// The client has asked for a connection, and nobody knows yet whether it comes about.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        // A bit for each state: one test instead of four.
        const OPENING: u32 = 1 << State::SynRecv as u32
            | 1 << State::SynAck as u32
            | 1 << State::SctpInit1 as u32
            | 1 << State::SctpInit as u32;
        OPENING & (1 << self as u32) != 0
    }

    /// True when a packet with these flags, from either side, surely leaves a connection in this state. UDP has no flags.
    #[inline(always)]
    pub const fn stays_with(self, flags: Flags) -> bool {
        const LOOKED_AT: u8 = Flags::RST.0 | Flags::SYN.0 | Flags::FIN.0 | Flags::ACK.0;
        match self {
            State::Established => flags.0 & LOOKED_AT == Flags::ACK.0,
            State::Udp => flags.0 & LOOKED_AT == 0,
            _ => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many of the states are TCP's: the columns of a table.
const TCP_STATES: usize = 11;

/// `[direction][row of the flags][state]`; rows in the order SYN, FIN, ACK, RST.
type Table = [[[State; TCP_STATES]; 4]; 3];

const SYN: usize = 0;
const FIN: usize = 1;
const ACK: usize = 2;
const RST: usize = 3;

/// The normal table and the one of `secure_tcp`.
mod tables {
    use super::Direction::{In, InOnly};
    use super::State::{
        Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, SynAck as SA,
        SynRecv as SR, SynSent as SS, TimeWait as TW,
    };
    use super::{ACK, Direction, FIN, RST, SYN, Table};

    #[rustfmt::skip] // A table is read by its columns.
    pub(super) const NORMAL: Table = [
        // Client to server.
        //NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR], // SYN: a handshake begins, also over the remains of an old one
            [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW], // FIN: the client is done; after the server's FIN, both are
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES], // ACK: the third step of the handshake, or data
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR], // RST: ends it, but cannot kill a handshake blindly
        ],
        // Server to client.
        [
            [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR], // SYN: with ACK, the second step; alone, the server connects
            [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW], // FIN: the server is done; after the client's FIN, both are
            [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES], // ACK: data, so the handshake is complete
            [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL], // RST: the server refuses or aborts
        ],
        // Client to server, answers unseen.
        [
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR], // SYN: as above
            [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW], // FIN: the server's FIN will not be seen, do not wait for it
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES], // ACK: as above
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL], // RST: as above
        ],
    ];

    /// Under attack a half-open connection stays in SYNACK, which `drop_entry` may reap, until the server is heard.
    pub(super) const SECURE: Table = {
        const OUT: usize = Direction::Out as usize;
        const IN: usize = In as usize;
        const IN_ONLY: usize = InOnly as usize;
        let mut t = NORMAL;
        t[IN][SYN][SA as usize] = SA;
        t[IN][FIN][SA as usize] = SA;
        t[IN][ACK][SR as usize] = SR; // The client alone cannot establish a connection.
        t[IN][ACK][SA as usize] = SA;
        t[IN][RST][SA as usize] = CL;
        t[OUT][SYN][SR as usize] = SA;
        t[OUT][SYN][SA as usize] = SA;
        t[IN_ONLY][SYN] = [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA];
        t
    };
}

/// The state of a TCP connection in `state` after a segment with `flags` in `direction`.
///
/// The flags are looked at in the order RST, SYN, FIN, ACK; a segment with none of them closes the connection. A state
/// that is not TCP's stays.
#[inline]
pub fn tcp_next(state: State, direction: Direction, flags: Flags) -> State {
    next(&tables::NORMAL, state, direction, flags)
}

/// [`tcp_next`] while the `secure_tcp` defence is on.
#[inline]
pub fn tcp_next_secure(state: State, direction: Direction, flags: Flags) -> State {
    next(&tables::SECURE, state, direction, flags)
}

#[inline(always)]
fn next(table: &'static Table, state: State, direction: Direction, flags: Flags) -> State {
    let row = if flags.contains(Flags::RST) {
        RST
    } else if flags.contains(Flags::SYN) {
        SYN
    } else if flags.contains(Flags::FIN) {
        FIN
    } else if flags.contains(Flags::ACK) {
        ACK
    } else {
        return if state == State::Udp { state } else { State::Close };
    };
    table[direction as usize][row].get(state as usize).copied().unwrap_or(state)
}

/// How long an idle connection is kept in each state, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; State::COUNT]);

impl Default for Timeouts {
    /// The values of IPVS.
    fn default() -> Self {
        Timeouts(State::ALL.map(|state| match state {
            State::None => 2,
            State::Established => 15 * 60,
            State::SynSent => 2 * 60,
            State::SynRecv => 60,
            State::FinWait => 2 * 60,
            State::TimeWait => 2 * 60,
            State::Close => 10,
            State::CloseWait => 60,
            State::LastAck => 30,
            State::Listen => 2 * 60,
            State::SynAck => 2 * 60,
            State::Udp => 5 * 60,
            State::SctpNone => 2,
            State::SctpInit1 | State::SctpRejected => 4,
            State::SctpEstablished => 15 * 60,
            // The longest time between retransmissions, and a second.
            State::SctpInit
            | State::SctpCookieSent
            | State::SctpCookieReplied
            | State::SctpCookieWait
            | State::SctpCookie
            | State::SctpCookieEchoed
            | State::SctpShutdownSent
            | State::SctpShutdownReceived
            | State::SctpShutdownAckSent
            | State::SctpClosed => 61,
        }))
    }
}

impl Timeouts {
    /// The timeout of `state` in seconds.
    #[inline(always)]
    pub fn get(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// Sets the timeout of established TCP connections in seconds; 0 leaves it, as in `ipvsadm --set`.
    pub fn set_tcp(&mut self, seconds: u32) {
        self.set(State::Established, seconds);
    }

    /// Sets the timeout of TCP connections after a FIN (`FIN_WAIT`) in seconds; 0 leaves it.
    pub fn set_fin(&mut self, seconds: u32) {
        self.set(State::FinWait, seconds);
    }

    /// Sets the timeout of UDP connections in seconds; 0 leaves it.
    pub fn set_udp(&mut self, seconds: u32) {
        self.set(State::Udp, seconds);
    }

    fn set(&mut self, state: State, seconds: u32) {
        if seconds != 0 {
            self.0[state as usize] = seconds;
        }
    }
}
