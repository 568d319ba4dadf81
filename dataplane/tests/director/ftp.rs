//! FTP: control connections whose text is rewritten, and the data connections that they announce.

use std::net::{IpAddr, SocketAddr};

use dataplane::ServerId;
use dataplane::snapshot::ForwardMode::{self, FullNat, Nat};
use dataplane::verdict::DropReason;
use proto::state::State;
use proto::tcp::{Flags, Tcp};
use proto::{Family, Protocol};

use crate::support::check::SeenIp;
use crate::support::packet::{Packet, tcp};
use crate::support::*;

const ACK: Flags = Flags::ACK;

/// One end of a connection, as it sees it.
#[derive(Clone, Debug)]
struct End {
    addr: SocketAddr,
    peer: SocketAddr,
    port: dataplane::PortId,
    /// The next number that it sends, and the next that it expects.
    next: u32,
    expected: u32,
}

/// A director with control connections.
struct Ftp {
    director: Director,
    family: Family,
    workers: usize,
    /// Where the next packet arrives.
    at: usize,
}

impl Ftp {
    fn new(family: Family, mode: ForwardMode, workers: usize) -> Self {
        let ftp = service(1, family, Protocol::TCP, mode, &[1, 2, 3]);
        let mut director = Director::new(Setup::workers(workers), vec![ftp]);
        director.settings.helper_ports.ftp.push(VPORT);
        director.publish();
        Self { director, family, workers, at: 0 }
    }

    /// A packet goes through, whichever worker it comes to.
    fn forward(&mut self, port: dataplane::PortId, packet: &Packet) -> SeenIp {
        self.at = (self.at + 1) % self.workers;
        let (out, seen) = self.director.forward(self.at, port, packet);
        assert_ne!(out, port, "{packet:?}");
        seen.ip
    }

    /// Opens a connection from an end to an endpoint; returns both ends.
    fn open(&mut self, port: dataplane::PortId, addr: SocketAddr, to: SocketAddr) -> (End, End) {
        let first = 0xffff_ffe0;
        let syn = self.forward(port, &tcp(addr, to, Flags::SYN).with_numbers(first, 0));
        let other = if port == CLIENTS { SERVERS } else { CLIENTS };
        let mut a = End { addr, peer: to, port, next: first.wrapping_add(1), expected: 101 };
        let mut b = End { addr: syn.dst, peer: syn.src, port: other, next: 100, expected: a.next };
        let packet = tcp(b.addr, b.peer, Flags::SYN | ACK).with_numbers(b.next, b.expected);
        let seen = self.forward(other, &packet);
        assert_eq!((seen.src, seen.dst), (to, addr));
        b.next += 1;
        self.say(&mut a, &mut b, "");
        (a, b)
    }

    /// An end sends text; the other must get it as the next in turn. Returns what it gets.
    fn say(&mut self, from: &mut End, to: &mut End, text: &str) -> String {
        let packet = tcp(from.addr, from.peer, ACK | Flags::PSH).with_payload(text.as_bytes().to_vec());
        let seen = self.forward(from.port, &packet.with_numbers(from.next, from.expected));
        from.next = from.next.wrapping_add(text.len() as u32);
        assert_eq!((seen.src, seen.dst), (to.peer, to.addr));
        let (seq, ack) = numbers(&seen);
        assert_eq!((seq, ack), (to.expected, to.next), "{text:?}");
        to.expected = to.expected.wrapping_add(seen.payload.len() as u32);
        String::from_utf8(seen.payload).unwrap()
    }

    /// A control connection.
    fn control(&mut self, cport: u16) -> (End, End) {
        let (mut client, mut server) = self.open(CLIENTS, client(self.family, cport), virt(self.family, 1));
        let banner = "220 ready\r\n";
        assert_eq!(self.say(&mut server, &mut client, banner), banner);
        (client, server)
    }

    /// Asks for passive mode, lets the server answer, and returns the text and endpoint that the client is told.
    fn passive(&mut self, client: &mut End, server: &mut End, dport: u16) -> (String, SocketAddr) {
        let (command, answer) = passive(self.family, server.addr.ip(), dport);
        assert_eq!(self.say(client, server, command), command);
        let text = self.say(server, client, &answer);
        let told = named(&text, client.peer.ip());
        (text, told)
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.director.now = self.director.now.after(1);
            while self.director.turn() > 0 {}
        }
    }

    /// The packet is not the director's.
    fn is_punted(&mut self, port: dataplane::PortId, packet: &Packet) {
        self.at = (self.at + 1) % self.workers;
        let sent = self.director.receive(self.at, port, packet);
        assert_eq!(sent.len(), 0);
        assert_eq!(self.director.punted().len(), 1, "{packet:?}");
    }

    fn finish(mut self) {
        // Data connections end; the control connections may be looked at again a minute later only.
        self.pass(901);
        let shared = self.director.shared.clone();
        self.director.finish();
        assert!(shared.directory.is_empty(), "{} tuples are left", shared.directory.len());
    }
}

fn numbers(seen: &SeenIp) -> (u32, u32) {
    let header_len = if seen.src.is_ipv4() { 20 } else { 40 };
    let view = Tcp::new_checked(&seen.bytes[header_len..]).unwrap();
    (view.seq(), view.ack())
}

/// Command and answer of passive mode.
fn passive(family: Family, addr: IpAddr, port: u16) -> (&'static str, String) {
    match addr {
        IpAddr::V4(_) if family == Family::V4 => {
            ("PASV\r\n", format!("227 Entering Passive Mode ({}).\r\n", six(addr, port)))
        }
        _ => ("EPSV\r\n", format!("229 Entering Extended Passive Mode (|||{port}|)\r\n")),
    }
}

fn six(addr: IpAddr, port: u16) -> String {
    format!("{},{},{}", addr.to_string().replace('.', ","), port >> 8, port & 255)
}

/// The endpoint in a text; `addr` if it names only the port.
fn named(text: &str, addr: IpAddr) -> SocketAddr {
    let inner = text.split(['(', ')', ' ']).find(|part| part.contains([',', '|'])).unwrap().trim();
    if inner.starts_with('|') {
        let parts: Vec<&str> = inner.split('|').collect();
        let addr = if parts[2].is_empty() { addr } else { parts[2].parse().unwrap() };
        return SocketAddr::new(addr, parts[3].parse().unwrap());
    }
    let numbers: Vec<u8> = inner.split(',').map(|number| number.parse().unwrap()).collect();
    let addr: [u8; 4] = numbers[..4].try_into().unwrap();
    SocketAddr::new(addr.into(), u16::from_be_bytes([numbers[4], numbers[5]]))
}

fn active(addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V4(_) => format!("PORT {}\r\n", six(addr.ip(), addr.port())),
        SocketAddr::V6(_) => format!("EPRT |2|{}|{}|\r\n", addr.ip(), addr.port()),
    }
}

fn each(test: impl Fn(Family, ForwardMode, usize)) {
    for family in FAMILIES {
        for mode in [Nat, FullNat] {
            for workers in [1, 2, 4] {
                println!("{family:?} {mode:?} with {workers} workers");
                test(family, mode, workers);
            }
        }
    }
}

#[test]
fn passive_data_connections_reach_the_server() {
    each(|family, mode, workers| {
        let mut ftp = Ftp::new(family, mode, workers);
        for round in 0..6u16 {
            let (mut client, mut server) = ftp.control(5000 + round);
            let mut told = Vec::new();
            for transfer in 0..3 {
                let dport = 30_000 + 100 * round + transfer;
                let (_, offered) = ftp.passive(&mut client, &mut server, dport);
                assert_eq!(offered, SocketAddr::new(virt(family, 1).ip(), dport), "the server's own port is free");
                let from = SocketAddr::new(client.addr.ip(), 40_000 + round * 50 + transfer * 7);
                let (mut receiver, mut sender) = ftp.open(CLIENTS, from, offered);
                assert_eq!(sender.addr, SocketAddr::new(server.addr.ip(), dport));
                assert_eq!(sender.peer.ip() == from.ip(), mode == Nat);
                assert_eq!(ftp.say(&mut sender, &mut receiver, "data"), "data");
                assert_eq!(ftp.say(&mut receiver, &mut sender, "more"), "more");
                assert_eq!(ftp.say(&mut server, &mut client, "150 here\r\n"), "150 here\r\n");
                assert_eq!(ftp.say(&mut client, &mut server, "NOOP\r\n"), "NOOP\r\n");
                told.push((receiver, sender));
            }
            for (receiver, sender) in &mut told {
                assert_eq!(ftp.say(sender, receiver, "end"), "end");
            }
        }
        ftp.director.settle();
        ftp.finish();
    });
}

#[test]
fn active_data_connections_reach_the_client() {
    each(|family, mode, workers| {
        let mut ftp = Ftp::new(family, mode, workers);
        for round in 0..8u16 {
            let (mut client, mut server) = ftp.control(5000 + round);
            let listening = SocketAddr::new(client.addr.ip(), 41_000 + round);
            let command = active(listening);
            let heard = ftp.say(&mut client, &mut server, &command);
            let told = named(&heard, listening.ip());
            match mode {
                Nat => assert_eq!(heard, command),
                _ => assert_eq!(told.ip(), server.peer.ip(), "the server knows the client by a local address"),
            }
            assert_eq!(ftp.say(&mut server, &mut client, "200 PORT\r\n"), "200 PORT\r\n");
            // In FULLNAT mode the server may come from any port.
            let dport = if mode == FullNat && round % 2 == 1 { 50_000 + round } else { DPORT - 1 };
            let (mut sender, mut receiver) = ftp.open(SERVERS, SocketAddr::new(server.addr.ip(), dport), told);
            assert_eq!(receiver.addr, listening);
            assert_eq!(receiver.peer, SocketAddr::new(virt(family, 1).ip(), VPORT - 1));
            assert_eq!(ftp.say(&mut sender, &mut receiver, "data"), "data");
            assert_eq!(ftp.say(&mut receiver, &mut sender, "more"), "more");
            assert_eq!(ftp.say(&mut client, &mut server, "NOOP\r\n"), "NOOP\r\n");
        }
        ftp.director.settle();
        ftp.finish();
    });
}

#[test]
fn a_retransmission_says_the_same() {
    each(|family, mode, workers| {
        let mut ftp = Ftp::new(family, mode, workers);
        let (mut client, mut server) = ftp.control(5000);
        let (_, answer) = passive(family, server.addr.ip(), 30_000);
        let again = (server.clone(), client.clone());
        let (text, _) = ftp.passive(&mut client, &mut server, 30_000);
        let (mut server_again, mut client_again) = again;
        // The command had arrived.
        (server_again.expected, client_again.next) = (server.expected, client.next);
        for _ in 0..2 {
            let (mut from, mut to) = (server_again.clone(), client_again.clone());
            assert_eq!(ftp.say(&mut from, &mut to, &answer), text);
        }
        // The client acknowledges it, and the conversation goes on.
        assert_eq!(ftp.say(&mut client, &mut server, "NOOP\r\n"), "NOOP\r\n");

        let command = active(SocketAddr::new(client.addr.ip(), 41_000));
        let (mut from, mut to) = (client.clone(), server.clone());
        let heard = ftp.say(&mut client, &mut server, &command);
        assert_eq!(ftp.say(&mut from, &mut to, &command), heard);
        assert_eq!(ftp.say(&mut server, &mut client, "200 PORT\r\n"), "200 PORT\r\n");
        let listening = ftp.director.connections().iter().filter(|conn| conn.state == State::Listen).count();
        assert_eq!(listening, 2, "one for each");
        ftp.finish();
    });
}

#[test]
fn nobody_else_gets_through() {
    each(|family, mode, workers| {
        let mut ftp = Ftp::new(family, mode, workers);
        let (mut client, mut server) = ftp.control(5000);
        // Without being asked, the server's text is its own.
        let (_, answer) = passive(family, server.addr.ip(), 30_000);
        assert_eq!(ftp.say(&mut server, &mut client, &answer), answer);
        let offered = SocketAddr::new(virt(family, 1).ip(), 30_000);
        ftp.is_punted(CLIENTS, &tcp(client.addr, offered, Flags::SYN));

        let (_, offered) = ftp.passive(&mut client, &mut server, 30_000);
        let stranger = SocketAddr::new(on_client_link(family, 101), 40_000);
        ftp.is_punted(CLIENTS, &tcp(stranger, offered, Flags::SYN));
        ftp.is_punted(CLIENTS, &tcp(client.addr, SocketAddr::new(offered.ip(), 30_001), Flags::SYN));
        ftp.is_punted(CLIENTS, &tcp(client.addr, offered, ACK));
        // It is there for one connection, and for two minutes.
        ftp.open(CLIENTS, SocketAddr::new(client.addr.ip(), 40_000), offered);
        ftp.is_punted(CLIENTS, &tcp(SocketAddr::new(client.addr.ip(), 40_001), offered, Flags::SYN));
        let (_, offered) = ftp.passive(&mut client, &mut server, 30_002);
        assert_eq!(ftp.director.load(ServerId(16)), (2, 1));
        ftp.pass(121);
        assert_eq!(ftp.director.load(ServerId(16)), (2, 0));
        ftp.is_punted(CLIENTS, &tcp(SocketAddr::new(client.addr.ip(), 40_002), offered, Flags::SYN));

        // A client of FULLNAT cannot send the server elsewhere.
        if mode == FullNat {
            let elsewhere = active(SocketAddr::new(stranger.ip(), 22));
            assert_eq!(ftp.say(&mut client, &mut server, &elsewhere), elsewhere);
        }
        ftp.finish();
    });
}

#[test]
fn a_control_connection_lasts_as_long_as_its_data_connections() {
    for (mode, workers) in [(Nat, 1), (FullNat, 4)] {
        let mut ftp = Ftp::new(Family::V4, mode, workers);
        let (mut client, mut server) = ftp.control(5000);
        let (_, offered) = ftp.passive(&mut client, &mut server, 30_000);
        let (mut receiver, mut sender) = ftp.open(CLIENTS, SocketAddr::new(client.addr.ip(), 40_000), offered);
        for _ in 0..4 {
            ftp.pass(600);
            assert_eq!(ftp.say(&mut sender, &mut receiver, "data"), "data");
        }
        assert_eq!(ftp.say(&mut server, &mut client, "226 done\r\n"), "226 done\r\n");
        ftp.pass(961);
        assert_eq!(ftp.director.connections(), []);
        ftp.finish();
    }
}

#[test]
fn two_servers_may_offer_the_same_port() {
    for workers in [1, 4] {
        let mut ftp = Ftp::new(Family::V4, Nat, workers);
        let mut offers = Vec::new();
        for cport in 5000..5040 {
            let (mut client, mut server) = ftp.control(cport);
            if offers.iter().any(|(_, other)| *other == server.addr.ip()) {
                continue;
            }
            let (_, offered) = ftp.passive(&mut client, &mut server, 30_000);
            assert!(offers.iter().all(|(other, _)| *other != offered), "{offered} is offered twice");
            offers.push((offered, server.addr.ip()));
        }
        assert_eq!((offers.len(), offers[0].0.port()), (3, 30_000));
        for (i, (offered, server)) in offers.into_iter().enumerate() {
            let (_, sender) = ftp.open(CLIENTS, client(Family::V4, 40_000 + i as u16), offered);
            assert_eq!(sender.addr, SocketAddr::new(server, 30_000));
        }
        ftp.finish();
    }
}

#[test]
fn what_grows_beyond_the_mtu_is_not_sent() {
    let mut ftp = Ftp::new(Family::V4, Nat, 1);
    let (mut client, mut server) = ftp.control(5000);
    let (_, short) = passive(Family::V4, "1.1.1.1".parse().unwrap(), 30_000);
    assert_eq!(ftp.say(&mut client, &mut server, "PASV\r\n"), "PASV\r\n");
    let room = 1500 - 40;
    let text = short.clone() + &"x".repeat(room - short.len());
    let packet = tcp(server.addr, server.peer, ACK).with_payload(text.into_bytes());
    let packet = packet.with_numbers(server.next, server.expected);
    let (port, error) = ftp.director.forward(0, SERVERS, &packet);
    assert_eq!((port, error.ip.dst.ip(), &error.ip.payload[..2]), (SERVERS, server.addr.ip(), &[3, 4][..]));
    assert_eq!(ftp.director.dropped(DropReason::TooBig), 1);
    // A router may cut it up where that is allowed.
    let sent = ftp.director.receive(0, SERVERS, &Packet { dont_fragment: false, ..packet });
    assert_eq!(sent.len(), 2);
    ftp.finish();
}

#[test]
fn other_ports_are_no_business_of_the_helper() {
    let mut ftp = Ftp::new(Family::V4, Nat, 1);
    ftp.director.settings.helper_ports.ftp.clear();
    ftp.director.publish();
    let (mut client, mut server) = ftp.control(5000);
    let (command, answer) = passive(Family::V4, server.addr.ip(), 30_000);
    assert_eq!(ftp.say(&mut client, &mut server, command), command);
    assert_eq!(ftp.say(&mut server, &mut client, &answer), answer);
    ftp.finish();
}
