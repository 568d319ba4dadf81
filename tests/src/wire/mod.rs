//! Hosts on the lab's switches that exist only in a test: it sees every frame for them and sends what it likes.
//!
//! On each network they answer for the hosts 50 (a router) and 61 to 79 (real servers): ARP and neighbour solicitations,
//! nothing else, so that no kernel interferes with crafted traffic. Every host has a MAC address of its own, which tells
//! who was meant where the IP addresses do not, as in direct routing.

mod packet;
mod show;

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

pub use packet::{GUE_PORT, Kind, Packet, icmp, icmp_error, ipip, raw, sctp, tcp, tunnelled, udp};
pub use show::{addresses, describe};

use crate::lab::program;
use crate::{Family, Lab, Topology};

/// The router among the hosts.
pub const ROUTER: u8 = 50;
/// The real servers among the hosts.
pub const SERVERS: std::ops::RangeInclusive<u8> = 61..=79;

/// A frame's IP packet that came for one of the hosts.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Network, 0 for the clients'.
    pub network: u8,
    /// Number of the host that it was sent to.
    pub host: u8,
    /// From the IP header on.
    pub packet: Vec<u8>,
}

/// The hosts' connection to the switches.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    stdin: Arc<Mutex<ChildStdin>>,
    arrivals: mpsc::Receiver<Arrival>,
    director: [[u8; 6]; 2],
}

fn mac(network: u8, host: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0x50 + network, host]
}

/// Address of host `number` of network `network`.
pub fn host(family: Family, network: u8, number: u8) -> IpAddr {
    family.host(network, number)
}

/// The host number in an address of the lab's networks.
fn number(address: IpAddr) -> Option<u8> {
    (0..2).find_map(|network| {
        [ROUTER]
            .into_iter()
            .chain(SERVERS)
            .find(|&number| [Family::V4, Family::V6].iter().any(|&family| host(family, network, number) == address))
    })
}

impl Wire {
    /// Plugs the hosts in. The director runs already: its MAC addresses are asked for.
    pub fn new(lab: &Lab) -> Self {
        lab.probe();
        let program = program("lab-probe").to_string_lossy().into_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.namespace("sw"), &program, "probe0"]);
        let networks = if lab.topology() == Topology::TwoArm { 2 } else { 1 };
        if networks == 2 {
            command.arg("probe1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ip runs");
        let stdin = Arc::new(Mutex::new(child.stdin.take().expect("piped")));
        let stdout = BufReader::with_capacity(1 << 20, child.stdout.take().expect("piped"));
        let (sender, arrivals) = mpsc::channel();
        let (found, macs) = mpsc::channel();
        let writer = Arc::clone(&stdin);
        std::thread::spawn(move || receive(stdout, &writer, &sender, &found));
        let mut wire = Self { child, stdin, arrivals, director: [[0; 6]; 2] };
        for network in 0..networks {
            // The probe opens its devices meanwhile: what is sent before is lost.
            let mac = (0..100).find_map(|_| {
                wire.ask_for_director(network);
                macs.recv_timeout(Duration::from_millis(100)).ok().filter(|(on, _)| *on == network)
            });
            wire.director[usize::from(network)] = mac.expect("the director answers ARP requests").1;
        }
        wire
    }

    fn ask_for_director(&self, network: u8) {
        let (own, asked) = (host(Family::V4, network, ROUTER), director(network));
        let mut frame = vec![0xff; 6];
        frame.extend(mac(network, ROUTER));
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac(network, ROUTER));
        frame.extend(octets(own));
        frame.extend([0; 6]);
        frame.extend(octets(asked));
        write(&self.stdin, network, &frame);
    }

    /// Sends an IP packet to the director, from host `host` of network `network`.
    pub fn send(&self, network: u8, host: u8, packet: &[u8]) {
        let mut frame = self.director[usize::from(network)].to_vec();
        frame.extend(mac(network, host));
        frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(packet);
        write(&self.stdin, network, &frame);
    }

    /// The next packet for one of the hosts, if it comes within `limit`.
    pub fn receive(&self, limit: Duration) -> Option<Arrival> {
        self.arrivals.recv_timeout(limit).ok()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The director's own IPv4 address on a network.
fn director(network: u8) -> IpAddr {
    host(Family::V4, network, 1)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn write(stdin: &Mutex<ChildStdin>, network: u8, frame: &[u8]) {
    let mut bytes = vec![network];
    bytes.extend((frame.len() as u16).to_be_bytes());
    bytes.extend(frame);
    let mut stdin = stdin.lock().expect("no writer panics");
    // The probe has ended: so does the test, which waits in vain.
    let _ = stdin.write_all(&bytes).and_then(|()| stdin.flush());
}

/// Reads frames until the probe ends: answers requests for addresses, passes IP packets on.
fn receive(
    mut frames: impl Read,
    stdin: &Mutex<ChildStdin>,
    arrivals: &mpsc::Sender<Arrival>,
    found: &mpsc::Sender<(u8, [u8; 6])>,
) {
    let mut head = [0; 3];
    while frames.read_exact(&mut head).is_ok() {
        let mut frame = vec![0; u16::from_be_bytes([head[1], head[2]]).into()];
        if frames.read_exact(&mut frame).is_err() || frame.len() < 14 {
            return;
        }
        let network = head[0];
        let to_host = [ROUTER].into_iter().chain(SERVERS).find(|&number| mac(network, number) == frame[..6]);
        match (frame[12], frame[13]) {
            (8, 6) if frame.len() >= 42 && frame[21] == 2 => {
                let from = IpAddr::from(<[u8; 4]>::try_from(&frame[28..32]).expect("four bytes"));
                let mac = frame[22..28].try_into().expect("six bytes");
                let _ = if from == director(network) { found.send((network, mac)) } else { Ok(()) };
            }
            (8, 6) if frame.len() >= 42 => {
                let asked = IpAddr::from(<[u8; 4]>::try_from(&frame[38..42]).expect("four bytes"));
                if let Some(number) = number(asked) {
                    write(stdin, network, &arp_reply(network, number, &frame));
                }
            }
            (0x86, 0xdd) if frame.len() >= 78 && frame[20] == 58 && frame[54] == 135 => {
                let asked = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[62..78]).expect("16 bytes"));
                if let Some(number) = number(asked.into()) {
                    write(stdin, network, &advertisement(network, number, &frame, asked));
                }
            }
            (8, 0) | (0x86, 0xdd) => {
                let Some(host) = to_host else { continue };
                let length = match frame[12] {
                    8 => frame.get(16..18).map(|b| u16::from_be_bytes([b[0], b[1]])),
                    _ => frame.get(18..20).map(|b| u16::from_be_bytes([b[0], b[1]]) + 40),
                };
                // Short frames may have been padded.
                let end = length.map_or(frame.len(), |length| frame.len().min(14 + usize::from(length)));
                if arrivals.send(Arrival { network, host, packet: frame[14..end].to_vec() }).is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn arp_reply(network: u8, number: u8, request: &[u8]) -> Vec<u8> {
    let mut frame = request[6..12].to_vec();
    frame.extend(mac(network, number));
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac(network, number));
    frame.extend(&request[38..42]);
    frame.extend(&request[22..32]);
    frame
}

/// A neighbour advertisement (RFC 4861 section 4.4), solicited and overriding.
fn advertisement(network: u8, number: u8, request: &[u8], asked: Ipv6Addr) -> Vec<u8> {
    let asker = Ipv6Addr::from(<[u8; 16]>::try_from(&request[22..38]).expect("16 bytes"));
    let mut body = asked.octets().to_vec();
    body.extend([2, 1]);
    body.extend(mac(network, number));
    let kind = Kind::Other { kind: 136, code: 0, rest: 0x6000_0000 };
    let resolve = |name: &str| std::net::SocketAddr::new(name.parse().expect("written below"), 0);
    let (from, to) = (asked.to_string(), asker.to_string());
    let packet = icmp(&from, &to, kind, 0).payload(&body).ttl(255).encode(&resolve).remove(0);
    let mut frame = request[6..12].to_vec();
    frame.extend(mac(network, number));
    frame.extend([0x86, 0xdd]);
    frame.extend(packet);
    frame
}
