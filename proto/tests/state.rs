//! The state machine against the tables of IPVS, transcribed as text (net/netfilter/ipvs/ip_vs_proto_tcp.c).

use proto::state::{Direction, State, Timeouts, tcp_next, tcp_next_secure};
use proto::tcp::Flags;

const NORMAL: &str = "
             NO ES SS SR FW TW CL CW LA LI SA
In      syn  SR ES ES SR SR SR SR SR SR SR SR
In      fin  CL CW SS TW TW TW CL CW LA LI TW
In      ack  ES ES SS ES FW TW CL CW CL LI ES
In      rst  CL CL CL SR CL CL CL CL LA LI SR
Out     syn  SS ES SS SR SS SS SS SS SS LI SR
Out     fin  TW FW SS TW FW TW CL TW LA LI TW
Out     ack  ES ES SS ES FW TW CL CW LA ES ES
Out     rst  CL CL SS CL CL TW CL CL CL CL CL
InOnly  syn  SR ES ES SR SR SR SR SR SR SR SR
InOnly  fin  CL FW SS TW FW TW CL CW LA LI TW
InOnly  ack  ES ES SS ES FW TW CL CW CL LI ES
InOnly  rst  CL CL CL SR CL CL CL CL LA LI CL
";

const SECURE: &str = "
             NO ES SS SR FW TW CL CW LA LI SA
In      syn  SR ES ES SR SR SR SR SR SR SR SA
In      fin  CL CW SS TW TW TW CL CW LA LI SA
In      ack  ES ES SS SR FW TW CL CW CL LI SA
In      rst  CL CL CL SR CL CL CL CL LA LI CL
Out     syn  SS ES SS SA SS SS SS SS SS LI SA
Out     fin  TW FW SS TW FW TW CL TW LA LI TW
Out     ack  ES ES SS ES FW TW CL CW LA ES ES
Out     rst  CL CL SS CL CL TW CL CL CL CL CL
InOnly  syn  SA ES ES SR SA SA SA SA SA SA SA
InOnly  fin  CL FW SS TW FW TW CL CW LA LI TW
InOnly  ack  ES ES SS ES FW TW CL CW CL LI ES
InOnly  rst  CL CL CL SR CL CL CL CL LA LI CL
";

fn state(abbreviation: &str) -> State {
    match abbreviation {
        "NO" => State::None,
        "ES" => State::Established,
        "SS" => State::SynSent,
        "SR" => State::SynRecv,
        "FW" => State::FinWait,
        "TW" => State::TimeWait,
        "CL" => State::Close,
        "CW" => State::CloseWait,
        "LA" => State::LastAck,
        "LI" => State::Listen,
        "SA" => State::SynAck,
        other => panic!("no such state: {other}"),
    }
}

/// All flag bytes that select the row: the first of rst, syn, fin, ack that is set decides.
fn flags(row: &str) -> Vec<Flags> {
    let (needed, absent) = match row {
        "rst" => (0x04, 0x00),
        "syn" => (0x02, 0x04),
        "fin" => (0x01, 0x06),
        "ack" => (0x10, 0x07),
        other => panic!("no such row: {other}"),
    };
    (0..=255).filter(|bits| bits & needed != 0 && bits & absent == 0).map(Flags).collect()
}

fn check(table: &str, next: fn(State, Direction, Flags) -> State) {
    let mut lines = table.trim().lines();
    let columns: Vec<State> = lines.next().unwrap().split_whitespace().map(state).collect();
    let mut cells = 0;
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let direction = match fields[0] {
            "In" => Direction::In,
            "Out" => Direction::Out,
            "InOnly" => Direction::InOnly,
            other => panic!("no such direction: {other}"),
        };
        for (&from, to) in columns.iter().zip(&fields[2..]) {
            for flags in flags(fields[1]) {
                assert_eq!(next(from, direction, flags), state(to), "{from} {direction:?} {flags:?}");
            }
            cells += 1;
        }
    }
    assert_eq!(cells, 3 * 4 * 11);
}

#[test]
fn the_normal_table_is_that_of_ipvs() {
    check(NORMAL, tcp_next);
}

#[test]
fn the_secure_table_is_that_of_ipvs() {
    check(SECURE, tcp_next_secure);
}

#[test]
fn a_segment_without_flags_closes() {
    for from in State::ALL.into_iter().filter(|&s| s != State::Udp) {
        for bits in [0x00, 0x08, 0x20, 0xe8] {
            assert_eq!(tcp_next(from, Direction::In, Flags(bits)), State::Close);
            assert_eq!(tcp_next_secure(from, Direction::Out, Flags(bits)), State::Close);
        }
    }
}

#[test]
fn udp_stays_udp() {
    for bits in 0..=255 {
        assert_eq!(tcp_next(State::Udp, Direction::InOnly, Flags(bits)), State::Udp);
    }
}

/// The conversations that users see in a listing.
#[test]
fn connections_live_and_die() {
    use Direction::{In, InOnly, Out};
    let (syn, fin, ack, rst) = (Flags::SYN, Flags::FIN, Flags::ACK, Flags::RST);
    type Step = (Direction, Flags, State);
    let stories: [(&str, &[Step]); 5] = [
        (
            "translated, the client closes first",
            &[
                (In, syn, State::SynRecv),
                (Out, syn | ack, State::SynRecv),
                (In, ack, State::Established),
                (Out, ack, State::Established),
                (In, fin | ack, State::CloseWait),
                (Out, fin | ack, State::TimeWait),
                (In, ack, State::TimeWait),
            ],
        ),
        (
            "translated, the server closes first",
            &[
                (In, syn, State::SynRecv),
                (Out, syn | ack, State::SynRecv),
                (In, ack, State::Established),
                (Out, fin | ack, State::FinWait),
                (In, fin | ack, State::TimeWait),
            ],
        ),
        ("refused", &[(In, syn, State::SynRecv), (Out, rst | ack, State::Close)]),
        (
            "answers unseen",
            &[
                (InOnly, syn, State::SynRecv),
                (InOnly, ack, State::Established),
                (InOnly, fin | ack, State::FinWait),
                (InOnly, ack, State::FinWait),
            ],
        ),
        ("aborted", &[(In, syn, State::SynRecv), (In, ack, State::Established), (In, rst, State::Close)]),
    ];
    for (story, steps) in stories {
        let mut state = State::None;
        for &(direction, flags, expected) in steps {
            state = tcp_next(state, direction, flags);
            assert_eq!(state, expected, "{story}: {direction:?} {flags:?}");
        }
    }
}

#[test]
fn names_activity_and_timeouts_are_those_of_ipvs() {
    let table = [
        ("NONE", false, 2),
        ("ESTABLISHED", true, 900),
        ("SYN_SENT", true, 120),
        ("SYN_RECV", true, 60),
        ("FIN_WAIT", false, 120),
        ("TIME_WAIT", false, 120),
        ("CLOSE", false, 10),
        ("CLOSE_WAIT", false, 60),
        ("LAST_ACK", false, 30),
        ("LISTEN", false, 120),
        ("SYNACK", true, 120),
        ("UDP", false, 300),
    ];
    let timeouts = Timeouts::default();
    for (number, (state, expected)) in State::ALL.into_iter().zip(table).enumerate() {
        assert_eq!(state as usize, number);
        assert_eq!((state.name(), state.is_active(), timeouts.get(state)), expected);
    }
}

#[test]
fn three_timeouts_can_be_set() {
    let mut timeouts = Timeouts::default();
    timeouts.set_tcp(1);
    timeouts.set_fin(2);
    timeouts.set_udp(3);
    for state in State::ALL {
        let expected = match state {
            State::Established => 1,
            State::FinWait => 2,
            State::Udp => 3,
            other => Timeouts::default().get(other),
        };
        assert_eq!(timeouts.get(state), expected, "{state}");
    }
    let before = timeouts;
    timeouts.set_tcp(0);
    timeouts.set_fin(0);
    timeouts.set_udp(0);
    assert_eq!(timeouts, before);
}
