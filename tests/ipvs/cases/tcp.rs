//! The TCP state table: every state that segments lead to, and what each kind of segment makes of it, seen from both sides.

use std::time::Duration;

use dpvs_e2e::wire::{Packet, tcp};

use crate::case::{Case, Step, both, case};

/// Segments of one kind each. The flags are looked at in the order rst, syn, fin, ack.
const KINDS: [(&str, &str); 5] = [("syn", "S"), ("fin", "F"), ("ack", "A"), ("rst", "R"), ("none", "P")];

/// Who sends a segment.
#[derive(Clone, Copy)]
enum Sender {
    Client,
    Server,
}
use Sender::{Client, Server};

/// Flags of the segments that lead to a state.
type Way = &'static [(Sender, &'static str)];

/// Of a director that sees both directions.
const NAT: [(&str, Way); 7] = [
    ("SYN_RECV", &[(Client, "S")]),
    ("ESTABLISHED", &[(Client, "S"), (Server, "SA"), (Client, "A")]),
    ("FIN_WAIT", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Server, "FA")]),
    ("CLOSE_WAIT", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Client, "FA")]),
    ("TIME_WAIT", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Server, "FA"), (Client, "FA")]),
    ("CLOSE", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Server, "R")]),
    ("SYN_SENT", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Client, "FA"), (Server, "S")]),
];

/// Of a director that sees the client's segments only.
const ONE_WAY: [(&str, Way); 5] = [
    ("SYN_RECV", &[(Client, "S")]),
    ("ESTABLISHED", &[(Client, "S"), (Client, "A")]),
    ("FIN_WAIT", &[(Client, "S"), (Client, "A"), (Client, "FA")]),
    ("TIME_WAIT", &[(Client, "S"), (Client, "FA")]),
    ("CLOSE", &[(Client, "S"), (Client, "A"), (Client, "R")]),
];

/// States that exist only while `secure_tcp` is in force, or are reached in another way then.
const SECURE_NAT: [(&str, Way); 4] = [
    ("SYN_RECV", &[(Client, "S")]),
    ("SYNACK", &[(Client, "S"), (Server, "SA")]),
    ("ESTABLISHED", &[(Client, "S"), (Server, "SA"), (Client, "A"), (Server, "PA")]),
    ("CLOSE", &[(Client, "S"), (Server, "R")]),
];
const SECURE_ONE_WAY: [(&str, Way); 1] = [("SYNACK", &[(Client, "S")])];

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (state, way) in NAT {
        for (last, name) in [(Client, "client"), (Server, "server")] {
            all.extend(both(transitions(format!("NAT, {state}, from the {name}"), 'm', state, way, last)));
        }
    }
    for (mode, option) in [("DR", 'g'), ("TUN", 'i')] {
        for (state, way) in ONE_WAY {
            all.extend(both(transitions(format!("{mode}, {state}"), option, state, way, Client)));
        }
    }
    // Linux takes notice of a change within a second.
    let secure = |mut case: Case| {
        case.name += ", secure_tcp";
        case.steps.insert(0, Step::Wait(Duration::from_millis(1500)));
        case.set("secure_tcp", 3)
    };
    for (state, way) in SECURE_NAT {
        for (last, name) in [(Client, "client"), (Server, "server")] {
            all.push(secure(transitions(format!("NAT, {state}, from the {name}"), 'm', state, way, last)));
        }
    }
    for (mode, option) in [("DR", 'g'), ("TUN", 'i')] {
        for (state, way) in SECURE_ONE_WAY {
            all.push(secure(transitions(format!("{mode}, {state}"), option, state, way, Client)));
        }
    }
    all
}

/// A connection for each kind of segment is led to a state, then gets it.
fn transitions(name: String, mode: char, state: &str, way: Way, last: Sender) -> Case {
    let port = |n: usize| 4000 + n;
    let segment = |n: usize, from: Sender, flags: &str| -> Packet {
        let client = format!("C1:{}", port(n));
        match from {
            Client => tcp(&client, "V1:80", flags),
            Server => tcp(&format!("@{client}"), &client, flags),
        }
    };
    let mut case = case(name, &format!("-A -t {{V1}}:80 -s rr\n-a -t {{V1}}:80 -r {{S1}}:80 -{mode}"));
    for &(from, flags) in way {
        case = case.send_all((0..KINDS.len()).map(|n| segment(n, from, flags)));
    }
    case = case.connections().expect(state).seen();
    case = case.send_all(KINDS.iter().enumerate().map(|(n, (_, flags))| segment(n, last, flags)));
    case.connections().seen()
}
