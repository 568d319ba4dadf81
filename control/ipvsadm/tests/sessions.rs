//! Replays what was recorded from ipvsadm 1.31 (`tests/sessions`) and compares every byte and every exit status.
//!
//! Lines of ours that begin with "dpvsd: " are left out of the comparison: they add a reason to an error of the real
//! one.

mod common;

use common::{FixedNames, Model, ipvsadm};
use dpvs_api::{Connection, FlowStats, ForwardMode};

/// One command of a session.
#[derive(Debug, Default)]
struct Step {
    words: Vec<String>,
    input: String,
    output: String,
    status: u8,
}

/// The names and the steps of a session.
fn read_session(text: &str) -> (FixedNames, Vec<Step>) {
    let mut names = FixedNames::default();
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(host) = line.strip_prefix("# hosts: ") {
            let (address, name) = host.split_once(' ').unwrap();
            names.hosts.push((address.parse().unwrap(), name.to_owned()));
        } else if line.starts_with('#') {
        } else if let Some(command) = line.strip_prefix("$ ") {
            let mut words = shell_words(command);
            let mut input = String::new();
            if words.last().is_some_and(|word| word == "<<END") {
                words.pop();
                for line in lines.by_ref().take_while(|line| *line != "END") {
                    input.push_str(line);
                    input.push('\n');
                }
            }
            steps.push(Step { words, input, ..Step::default() });
        } else if let Some(status) = line.strip_prefix("[exit ").and_then(|line| line.strip_suffix(']')) {
            steps.last_mut().unwrap().status = status.parse().unwrap();
        } else {
            let step = steps.last_mut().unwrap();
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    (names, steps)
}

/// Splits at blanks, with single quotes.
fn shell_words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in command.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Runs a session against the model; `on_other` is called for commands that are not ipvsadm.
fn replay(text: &str, on_other: impl Fn(&Model)) {
    let model = Model::default();
    let (names, steps) = read_session(text);
    assert!(!steps.is_empty());
    let mut wrong = Vec::new();
    for step in steps {
        if step.words[0] != "ipvsadm" {
            on_other(&model);
            continue;
        }
        let words: Vec<&str> = step.words[1..].iter().map(String::as_str).collect();
        let (output, status) = ipvsadm(&model, &names, &words, &step.input);
        let output: String = output.split_inclusive('\n').filter(|line| !line.starts_with("dpvsd: ")).collect();
        if (&output, status) != (&step.output, step.status) {
            let command = step.words.join(" ");
            wrong.push(format!(
                "$ {command}\n--- the real one, exit {}\n{}--- ours, exit {status}\n{output}",
                step.status, step.output
            ));
        }
    }
    assert!(wrong.is_empty(), "{} steps differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn nothing_else(_: &Model) {
    panic!("this session has only ipvsadm in it");
}

#[test]
fn table() {
    replay(include_str!("sessions/table.txt"), nothing_else);
}

#[test]
fn errors() {
    replay(include_str!("sessions/errors.txt"), nothing_else);
}

#[test]
fn usage() {
    replay(include_str!("sessions/usage.txt"), nothing_else);
}

#[test]
fn spelling() {
    replay(include_str!("sessions/spelling.txt"), nothing_else);
}

#[test]
fn names() {
    replay(include_str!("sessions/names.txt"), nothing_else);
}

#[test]
fn schedulers() {
    replay(include_str!("sessions/schedulers.txt"), nothing_else);
}

#[test]
fn one_packet() {
    replay(include_str!("sessions/one_packet.txt"), nothing_else);
}

#[test]
fn sctp() {
    replay(include_str!("sessions/sctp.txt"), nothing_else);
}

#[test]
fn tunnel() {
    replay(include_str!("sessions/tunnel.txt"), nothing_else);
}

#[test]
fn encapsulation() {
    replay(include_str!("sessions/encapsulation.txt"), nothing_else);
}

#[test]
fn persistence() {
    replay(include_str!("sessions/persistence.txt"), nothing_else);
}

#[test]
fn options() {
    replay(include_str!("sessions/options.txt"), nothing_else);
}

#[test]
fn restore() {
    replay(include_str!("sessions/restore.txt"), nothing_else);
}

#[test]
fn traffic() {
    replay(include_str!("sessions/traffic.txt"), after_traffic);
}

/// Puts the state that the recorded traffic led to into the model.
fn after_traffic(model: &Model) {
    let mut table = model.table.borrow_mut();
    let connection = |id: &str, state: &str, expires, client: &str, server: &str| Connection {
        protocol: id.parse::<dpvs_api::ServiceId>().unwrap().protocol(),
        state: state.into(),
        mode: ForwardMode::Nat,
        client: client.parse().unwrap(),
        virtual_service: id.parse::<dpvs_api::ServiceId>().unwrap().address().unwrap(),
        local: client.parse().unwrap(),
        server: server.parse().unwrap(),
        expires,
        worker: Some(0),
        call_id: None,
    };
    let (tcp, udp, six) = ("tcp/10.66.0.50:80", "udp/10.66.0.50:53", "tcp/[fd66::50]:80");
    table.connections = vec![
        connection(udp, "UDP", 296, "10.66.0.2:5000", "10.66.0.1:53"),
        connection(tcp, "SYN_RECV", 54, "10.66.0.2:40001", "10.66.0.77:9001"),
        connection(tcp, "SYN_RECV", 57, "10.66.0.2:40003", "10.66.0.77:9001"),
        connection(six, "ESTABLISHED", 896, "[fd66::2]:40009", "[fd66::1]:9001"),
        connection(udp, "UDP", 296, "10.66.0.2:40006", "10.66.0.1:53"),
        connection(tcp, "ESTABLISHED", 895, "10.66.0.2:40002", "10.66.0.1:9001"),
    ];
    let stats = |counters: [u64; 5], rates: [u64; 5]| {
        let [connections, in_packets, out_packets, in_bytes, out_bytes] = counters;
        let [cps, in_pps, out_pps, in_bps, out_bps] = rates;
        FlowStats { connections, in_packets, out_packets, in_bytes, out_bytes, cps, in_pps, out_pps, in_bps, out_bps }
    };
    for (id, server, counters, rates) in [
        (tcp, None, [3, 11, 10, 2604, 6600], [0, 1, 1, 184, 468]),
        (tcp, Some("10.66.0.1:9001"), [1, 8, 8, 2424, 6424], [0, 1, 1, 170, 452]),
        (tcp, Some("10.66.0.77:9001"), [2, 3, 2, 180, 176], [0, 0, 0, 14, 16]),
        (udp, None, [2, 2, 2, 116, 172], [0, 0, 0, 11, 16]),
        (udp, Some("10.66.0.1:53"), [2, 2, 2, 116, 172], [0, 0, 0, 11, 16]),
        (six, None, [1, 8, 8, 2584, 6584], [0, 1, 1, 242, 617]),
        (six, Some("[fd66::1]:9001"), [1, 8, 8, 2584, 6584], [0, 1, 1, 242, 617]),
    ] {
        let server = server.map(|server: &str| server.parse().unwrap());
        table.stats.insert((id.parse().unwrap(), server), stats(counters, rates));
    }
    for (server, load) in
        [("10.66.0.1:9001", (1, 0)), ("10.66.0.77:9001", (2, 0)), ("10.66.0.1:53", (0, 2)), ("[fd66::1]:9001", (1, 0))]
    {
        table.loads.insert(server.parse().unwrap(), load);
    }
}
