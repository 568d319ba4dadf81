//! A case: rules, traffic and observations, in terms that both directors share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dpvs_e2e::Family;
use dpvs_e2e::wire::{Packet, host, tcp};

/// One line of the table. README.md beside this file says how to write one.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub family: Family,
    pub rules: String,
    pub settings: Vec<(&'static str, String)>,
    pub alone: bool,
    pub steps: Vec<Step>,
    /// Why `dpvsd` differs from Linux, where it does.
    pub differs: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Packets on their way together, in no certain order.
    Send(Vec<Packet>),
    /// What has arrived since the last look.
    Seen,
    /// Which servers packets have reached since the last look, and how many; a server may differ by this many.
    Spread(u64),
    /// A part of what a listing shows.
    List(Listing),
    /// A shell line on the director; its output and exit status are compared if `observed`.
    Shell {
        line: String,
        on: On,
        observed: bool,
    },
    /// A shell line on a host of the lab.
    Host {
        host: &'static str,
        line: String,
    },
    Wait(Duration),
    /// Linux must have shown this by the last observation: a check of the case itself.
    Expect(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Both,
    Linux,
    Dpvsd,
}

/// Whole listings are the same for all cases of a round; each case sees its own part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listing {
    Connections,
    Persistent,
    Services,
    Stats,
    Thresholds,
    Rules,
}

impl Listing {
    pub fn command(self) -> &'static str {
        match self {
            Listing::Connections => "ipvsadm -Lnc",
            Listing::Persistent => "ipvsadm -Lnc --persistent-conn",
            Listing::Services => "ipvsadm -Ln",
            Listing::Stats => "sleep 3; ipvsadm -Ln --stats --exact",
            Listing::Thresholds => "ipvsadm -Ln --thresholds",
            Listing::Rules => "ipvsadm -Sn",
        }
    }
}

/// A case over IPv4 with these rules, lines for `ipvsadm -R`.
pub fn case(name: impl Into<String>, rules: &str) -> Case {
    Case {
        name: name.into(),
        family: Family::V4,
        rules: rules.to_owned(),
        settings: Vec::new(),
        alone: false,
        steps: Vec::new(),
        differs: None,
    }
}

/// The case, and the same over IPv6.
pub fn both(case: Case) -> [Case; 2] {
    let mut v6 = case.clone();
    v6.family = Family::V6;
    v6.name += ", IPv6";
    [case, v6]
}

/// The same pair, of which the second differs.
pub fn ipv6_differs([v4, v6]: [Case; 2], reason: &'static str) -> [Case; 2] {
    [v4, v6.differs(reason)]
}

impl Case {
    /// Over IPv6.
    pub fn ipv6(mut self) -> Self {
        self.family = Family::V6;
        self
    }

    /// States why `dpvsd` differs. The suite fails if it does not.
    pub fn differs(mut self, reason: &'static str) -> Self {
        self.differs = Some(reason);
        self
    }

    /// A setting of IPVS (`net.ipv4.vs.NAME`) during the case. Cases with the same settings run together.
    pub fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    /// Runs while no other case does: it changes or reads what belongs to all, such as with `ipvsadm -C`.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Sends a packet; the next step begins when the director has done with it.
    pub fn send(self, packet: Packet) -> Self {
        self.send_all([packet])
    }

    /// Sends packets together. Those of one connection arrive in order, others perhaps not.
    pub fn send_all(self, packets: impl IntoIterator<Item = Packet>) -> Self {
        self.step(Step::Send(packets.into_iter().collect()))
    }

    /// A TCP connection through NAT: SYN from the client, SYN ACK from whichever server got it, ACK.
    pub fn open(self, client: &str, service: &str) -> Self {
        let server = format!("@{client}");
        self.send(tcp(client, service, "S").seq(1000))
            .send(tcp(&server, client, "SA").seq(5000).ack(1001))
            .send(tcp(client, service, "A").seq(1001).ack(5001))
    }

    /// Its end: FIN from the client, FIN from the server, both acknowledged.
    pub fn close(self, client: &str, service: &str) -> Self {
        let server = format!("@{client}");
        self.send(tcp(client, service, "FA").seq(1001).ack(5001))
            .send(tcp(&server, client, "FA").seq(5001).ack(1002))
            .send(tcp(client, service, "A").seq(1002).ack(5002))
    }

    /// Compares the packets that have left the director since the last look, field by field.
    pub fn seen(self) -> Self {
        self.step(Step::Seen)
    }

    /// Compares how many packets with SYN, or of UDP, each server has got since the last look; the numbers of a server
    /// may differ by `tolerance`. For schedulers that keep their place per worker.
    pub fn spread(self, tolerance: u64) -> Self {
        self.step(Step::Spread(tolerance))
    }

    /// Compares the case's connections, without expiry.
    pub fn connections(self) -> Self {
        self.step(Step::List(Listing::Connections))
    }

    /// Compares a listing's lines about the case's services.
    pub fn list(self, listing: Listing) -> Self {
        self.step(Step::List(listing))
    }

    /// Runs `ipvsadm` with these arguments and compares output and exit status.
    pub fn ipvsadm(self, arguments: &str) -> Self {
        self.step(Step::Shell { line: format!("ipvsadm {arguments}"), on: On::Both, observed: true })
    }

    /// Runs a shell line on both directors and compares output and exit status.
    pub fn shell(self, line: &str) -> Self {
        self.step(Step::Shell { line: line.to_owned(), on: On::Both, observed: true })
    }

    /// Runs a shell line on Linux only, for what is not done by `ipvsadm` there; it must succeed.
    pub fn linux(self, line: &str) -> Self {
        self.step(Step::Shell { line: line.to_owned(), on: On::Linux, observed: false })
    }

    /// Runs a shell line on `dpvsd` only; it must succeed.
    pub fn dpvsd(self, line: &str) -> Self {
        self.step(Step::Shell { line: line.to_owned(), on: On::Dpvsd, observed: false })
    }

    /// Runs a shell line on a host of the lab (`c1`, `s1`, ...) and compares output and exit status.
    pub fn on(self, host: &'static str, line: &str) -> Self {
        self.step(Step::Host { host, line: line.to_owned() })
    }

    /// Linux must show `text` in the last observation: the case is about what it says.
    pub fn expect(self, text: &str) -> Self {
        self.step(Step::Expect(text.to_owned()))
    }

    /// Lets time pass.
    pub fn wait(self, time: Duration) -> Self {
        self.step(Step::Wait(time))
    }
}

/// The addresses of a case: what its names mean.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub family: Family,
    pub number: u16,
}

/// Numbers that cases may have: 64 networks of the tenth.
pub const NUMBERS: u16 = 0x3f00;

impl Place {
    /// Virtual address `n`, 1 to 9: 10.64.0.0/10 and fd64::/16 are the director's.
    fn virtual_address(self, n: u8) -> IpAddr {
        self.address(64, 0xfd64, n)
    }

    /// Client `n`, 1 to 250: 10.128.0.0/9 and fd80::/16 are behind the router.
    fn client(self, n: u8) -> IpAddr {
        self.address(128, 0xfd80, n)
    }

    fn address(self, v4: u8, v6: u16, n: u8) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        match self.family {
            Family::V4 => Ipv4Addr::new(10, v4 + high, low, n).into(),
            Family::V6 => Ipv6Addr::new(v6, 0, 0, self.number, 0, 0, 0, n.into()).into(),
        }
    }

    /// The address that a name stands for.
    pub fn resolve(self, name: &str) -> IpAddr {
        let digits = name.trim_start_matches(|c: char| c.is_ascii_uppercase());
        let n = digits.parse().unwrap_or(0);
        match &name[..name.len() - digits.len()] {
            "C" => self.client(n),
            "V" => self.virtual_address(n),
            "S" => host(self.family, 1, 60 + n),
            // The same server over the other family.
            "X" => {
                let other = if self.family == Family::V4 { Family::V6 } else { Family::V4 };
                Place { family: other, ..self }.resolve(&format!("S{n}"))
            }
            "R" => host(self.family, 1, 20 + n),
            "K" => host(self.family, 0, 10 + n),
            "G" => host(self.family, 0, 50),
            "D" => host(self.family, 0, 1),
            "E" => host(self.family, 1, 1),
            _ => panic!("no host is named {name}: C1, V1, S1, X1, R1, K1, G, D or E"),
        }
    }

    /// `NAME:PORT`, or `NAME`.
    pub fn endpoint(self, name: &str) -> SocketAddr {
        let (name, port) = name.split_once(':').unwrap_or((name, "0"));
        SocketAddr::new(self.resolve(name), port.parse().unwrap_or_else(|_| panic!("no port: {port}")))
    }

    /// Writes out names in braces: `{V1}` (in brackets for IPv6), `{V1/}` (without), `{M1}` (firewall marks), `{-6}` (the
    /// option, for IPv6) and `{4|6}` (what stands for IPv4, and for IPv6).
    pub fn expand(self, text: &str) -> String {
        let mut parts = text.split('{');
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let known = |name: &str| {
                let name = name.strip_suffix('/').unwrap_or(name);
                let digits = name.trim_start_matches(['C', 'V', 'S', 'X', 'R', 'K', 'G', 'D', 'E', 'M']);
                name == "-6"
                    || name.contains('|')
                    || name.len() == digits.len() + 1 && digits.is_empty() != digits.parse::<u8>().is_ok()
            };
            // Other braces are the shell's.
            let Some((name, rest)) = part.split_once('}').filter(|(name, _)| known(name)) else {
                expanded += "{";
                expanded += part;
                continue;
            };
            let v6 = self.family == Family::V6;
            if let Some((four, six)) = name.split_once('|') {
                expanded += if v6 { six } else { four };
            } else if name == "-6" {
                expanded += if v6 { "-6" } else { "" };
            } else if let Some(n) = name.strip_prefix('M') {
                expanded += &(u32::from(self.number) * 8 + n.parse::<u32>().expect("a mark from 1 to 7")).to_string();
            } else if let Some(bare) = name.strip_suffix('/') {
                expanded += &self.resolve(bare).to_string();
            } else {
                match self.resolve(name) {
                    IpAddr::V4(v4) => expanded += &v4.to_string(),
                    IpAddr::V6(v6) => expanded += &format!("[{v6}]"),
                }
            }
            expanded += rest;
        }
        expanded
    }

    /// The name of an address, or the address.
    pub fn name(address: IpAddr) -> String {
        let (letter, n) = match address {
            IpAddr::V4(v4) => match v4.octets() {
                [10, 64..128, _, n] => ("V", n),
                [10, 128..=255, _, n] => ("C", n),
                [198, 51, 100, n @ 61..80] => ("S", n - 60),
                [198, 51, 100, n @ 21..30] => ("R", n - 20),
                [198, 51, 100, 1] => ("E", 0),
                [192, 0, 2, n @ 11..20] => ("K", n - 10),
                [192, 0, 2, 50] => ("G", 0),
                [192, 0, 2, 1] => ("D", 0),
                _ => return address.to_string(),
            },
            IpAddr::V6(v6) => {
                let last = v6.segments()[7];
                let digits = format!("{last:x}").parse().unwrap_or(0);
                match v6.segments() {
                    [0xfd64, ..] => ("V", last as u8),
                    [0xfd80, ..] => ("C", last as u8),
                    [0x2001, 0xdb8, 2, ..] if (61..80).contains(&digits) => ("S", digits - 60),
                    [0x2001, 0xdb8, 2, ..] if (21..30).contains(&digits) => ("R", digits - 20),
                    [0x2001, 0xdb8, 2, ..] if digits == 1 => ("E", 0),
                    [0x2001, 0xdb8, 1, ..] if (11..20).contains(&digits) => ("K", digits - 10),
                    [0x2001, 0xdb8, 1, ..] if digits == 50 => ("G", 0),
                    [0x2001, 0xdb8, 1, ..] if digits == 1 => ("D", 0),
                    _ => return address.to_string(),
                }
            }
        };
        if n == 0 { letter.to_owned() } else { format!("{letter}{n}") }
    }

    /// The number of the case that an address belongs to; no case has the others.
    pub fn owner(address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(v4) => match v4.octets() {
                [10, network @ 64..128, low, _] => Some(u16::from_be_bytes([network - 64, low])),
                [10, network @ 128..192, low, _] => Some(u16::from_be_bytes([network - 128, low])),
                _ => None,
            },
            IpAddr::V6(v6) => match v6.segments() {
                [0xfd64 | 0xfd80, 0, 0, number, ..] => Some(number),
                _ => None,
            },
        }
    }

    /// The number of the case that a firewall mark belongs to.
    pub fn owner_of_mark(mark: u32) -> Option<u16> {
        u16::try_from(mark / 8).ok()
    }
}
