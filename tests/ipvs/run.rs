//! Runs cases on a director, side by side: each goes its own way from step to step, and what is slow (waiting for packets,
//! commands on the director) is done for all together.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dpvs_e2e::lab::text;
use dpvs_e2e::wire::{Arrival, Packet, ROUTER, SERVERS, Wire, addresses, describe, host, tcp, udp};
use dpvs_e2e::{Director, Family, Lab, Topology};

use crate::case::{Case, Listing, On, Place, Step};
use crate::listing;

/// What a case has shown, step by step.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What was looked at.
    pub what: String,
    pub text: String,
    /// Time since the case's first packet, for expiry times.
    pub age: Duration,
    /// Of the numbers in it.
    pub tolerance: u64,
}

/// Packets that show that those before them have gone through: so many flows from each side that they take every way from
/// queue to worker. Each goes one way only, as TAP devices send a flow to the queue by which its replies have left.
const MARKERS: u16 = 32;
/// Packets on their way at a time.
const IN_FLIGHT: usize = 16;
/// Virtual service and clients of the markers. A worker handles the IPv4 packets of a burst before its IPv6 packets, so those
/// of IPv4 would not show that those of IPv6 before them have gone through.
const MARKER: Place = Place { family: Family::V6, number: 0x3fff };

/// Runs all cases on a director of this kind; what each has shown, in order.
pub fn run(director: Director, cases: &[Case]) -> Vec<Vec<Observation>> {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    lab.serve(&["http", "dns"]);
    lab.start(director);
    let wire = Wire::new(&lab);
    let mut runner =
        Runner { lab, wire, director, round: 0, inbox: HashMap::new(), seen: vec![Vec::new(); cases.len()] };
    runner.prepare();
    // Cases with the same settings together, each that is alone by itself.
    let mut batches: BTreeMap<(usize, Vec<_>), Vec<usize>> = BTreeMap::new();
    for (n, case) in cases.iter().enumerate() {
        let alone = if case.alone { n + 1 } else { 0 };
        batches.entry((alone, case.settings.clone())).or_default().push(n);
    }
    for ((_, settings), numbers) in batches {
        let running = numbers.into_iter().map(|n| Running {
            number: n,
            place: Place { family: cases[n].family, number: n as u16 + 1 },
            steps: cases[n].steps.iter().cloned().collect(),
            servers: HashMap::new(),
            started: None,
        });
        runner.batch(cases, &settings, running.collect());
    }
    if let Director::Dpvsd { .. } = director {
        // For a case that misses a packet; nextest shows it if the test fails.
        println!("{}", runner.lab.ctl("drops"));
    }
    runner.seen
}

struct Runner {
    lab: Lab,
    wire: Wire,
    director: Director,
    round: u16,
    /// Packets that have arrived, by the number of their case's place.
    inbox: HashMap<u16, Vec<Arrival>>,
    seen: Vec<Vec<Observation>>,
}

struct Running {
    number: usize,
    place: Place,
    steps: VecDeque<Step>,
    /// The server that the last packet from a client's address and port has reached.
    servers: HashMap<SocketAddr, SocketAddr>,
    started: Option<Instant>,
}

impl Runner {
    fn is_linux(&self) -> bool {
        self.director == Director::Ipvs
    }

    /// Runs a script on the director, which must succeed.
    fn script(&self, script: &str) -> String {
        let output = self.lab.director_script(self.director, script);
        assert!(output.status.success(), "{:?}: {script}\n{}", self.director, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Routes and neighbours of the hosts on the wire, and the service of the markers.
    fn prepare(&mut self) {
        let device = if self.is_linux() { "vec" } else { "dpvs" };
        let mut script = String::from("set -e\n");
        for family in [Family::V4, Family::V6] {
            let (flag, router) = (family.flag(), host(family, 0, ROUTER));
            let (virtual_addresses, clients) = match family {
                Family::V4 => ("10.64.0.0/10", "10.128.0.0/9"),
                Family::V6 => ("fd64::/16", "fd80::/16"),
            };
            for number in [ROUTER].into_iter().chain(SERVERS) {
                let network = u8::from(number != ROUTER);
                let address = host(family, network, number);
                script += &format!(
                    "ip {flag} neigh replace {address} lladdr 02:00:00:00:5{network}:{number:02x} dev {device}{network} nud permanent\n"
                );
            }
            script += &format!("ip {flag} route add {clients} via {router}\n");
            script += &format!("ip {flag} route add local {virtual_addresses} dev lo\n");
        }
        // Over IPv6, Linux answers from a virtual address only if it has been added to an interface.
        script += &format!("ip -6 address add {}/128 dev lo nodad preferred_lft 0\n", MARKER.resolve("V1"));
        // Cases are many and have few addresses: limits on the rate of the kernel's errors would mix them up.
        for (name, value) in [
            ("ipv4/icmp_ratelimit", 0),
            ("ipv6/icmp/ratelimit", 0),
            ("ipv4/icmp_msgs_per_sec", 100_000),
            ("ipv4/icmp_msgs_burst", 10_000),
        ] {
            script += &format!("[ ! -e /proc/sys/net/{name} ] || echo {value} >/proc/sys/net/{name}\n");
        }
        self.script(&script);
        self.lab.restore(&MARKER.expand("-A -u {V1}:9 -s rr\n-a -u {V1}:9 -r {S19}:9 -m\n"));
        // FIB and services have reached the workers when packets pass. These open the connections for those that the server
        // will send.
        let payload = self.round.to_be_bytes();
        let opening = |n: u16| udp(&format!("C1:{}", 6000 + n), "V1:9", 0).payload(&payload);
        self.pass((0..MARKERS).map(opening).collect());
        self.sync();
    }

    fn batch(&mut self, cases: &[Case], settings: &[(&'static str, String)], mut running: Vec<Running>) {
        let values = settings.iter().map(|(name, value)| (*name, value.as_str()));
        self.set(values);
        let rules: String = running.iter().map(|case| case.place.expand(&cases[case.number].rules) + "\n").collect();
        self.add_virtual_addresses(cases, &running);
        self.lab.restore(&rules);
        while running.iter().any(|case| !case.steps.is_empty()) {
            let _ = self.send(&mut running)
                || self.look(cases, &mut running)
                || self.run_on_hosts(&mut running)
                || self.run_on_director(&mut running)
                || wait(&mut running);
        }
        self.set(settings.iter().map(|(name, _)| (*name, default(name))));
    }

    /// Over IPv6, Linux answers from a virtual address only if it has been added to an interface.
    fn add_virtual_addresses(&self, cases: &[Case], running: &[Running]) {
        let mut script = String::new();
        for case in running.iter().filter(|case| case.place.family == Family::V6) {
            let text = format!("{:?}", cases[case.number]);
            for n in (1..=9).filter(|n| text.contains(&format!("V{n}"))) {
                let address = case.place.resolve(&format!("V{n}"));
                script += &format!("address add {address}/128 dev lo nodad preferred_lft 0\n");
            }
        }
        if !script.is_empty() {
            self.script(&format!("ip -6 -batch - <<END\n{script}END\n"));
        }
    }

    /// Changes settings of IPVS.
    fn set<'a>(&self, settings: impl Iterator<Item = (&'a str, &'a str)>) {
        let line = |(name, value): (&str, &str)| match self.director {
            Director::Ipvs => format!("echo {value} >/proc/sys/net/ipv4/vs/{name}\n"),
            Director::Dpvsd { .. } => format!("dpvs-ctl set {name} {value}\n"),
        };
        let script: String = settings.map(line).collect();
        if !script.is_empty() {
            self.script(&format!("set -e\n{script}"));
        }
    }

    /// Sends the packets of all cases whose next step that is. Returns whether there were any.
    fn send(&mut self, running: &mut [Running]) -> bool {
        let mut frames = Vec::new();
        let mut any = false;
        for case in &mut *running {
            let Some(Step::Send(packets)) = case.steps.front() else { continue };
            frames.extend(packets.iter().flat_map(|packet| case.frames(packet)));
            case.steps.pop_front();
            case.started.get_or_insert_with(Instant::now);
            any = true;
        }
        for part in frames.chunks(IN_FLIGHT) {
            for (network, host, packet) in part {
                self.wire.send(*network, *host, packet);
            }
            self.sync();
        }
        for case in running {
            let arrivals = self.inbox.get(&case.place.number).map_or(&[][..], Vec::as_slice);
            for arrival in arrivals.iter().filter(|arrival| arrival.network == 1) {
                let addresses = addresses(&arrival.packet);
                let [sport, dport] = ports(&arrival.packet);
                let server = SocketAddr::new(addresses[1], dport);
                case.servers.insert(SocketAddr::new(addresses[0], sport), server);
            }
        }
        any
    }

    /// Waits until the director has done with all packets sent, and collects what it sends.
    fn sync(&mut self) {
        self.round = self.round.wrapping_add(1);
        let count = if self.is_linux() { 2 } else { MARKERS };
        let payload = self.round.to_be_bytes();
        // The director's kernel resets what is for a port that nobody listens on. Its answers leave by one queue, so each
        // flow is a new one.
        let new_port = |n: u16| 10_000 + (self.round % 512) * MARKERS + n;
        let marker = |n: u16| {
            [
                udp(&format!("C1:{}", 5000 + n), "V1:9", 0).payload(&payload),
                udp("S19:9", &format!("C1:{}", 6000 + n), 0).payload(&payload),
                tcp(&format!("C1:{}", new_port(n)), "V1:11", "A").ack(self.round.into()),
            ]
        };
        self.pass((0..count).flat_map(marker).collect());
    }

    /// Sends markers again and again until each has arrived or, of TCP, was reset.
    fn pass(&mut self, mut pending: Vec<Packet>) {
        let start = Instant::now();
        let resolve = |name: &str| MARKER.endpoint(name);
        while !pending.is_empty() {
            let log = || self.lab.director_log();
            assert!(start.elapsed() < Duration::from_secs(20), "packets are lost: {pending:?}\n{}", log());
            for packet in &pending {
                let (network, host) = if packet.from() == "S19:9" { (1, *SERVERS.end()) } else { (0, ROUTER) };
                self.wire.send(network, host, &packet.encode(&resolve)[0]);
            }
            while !pending.is_empty()
                && let Some(arrival) = self.wire.receive(Duration::from_millis(500))
            {
                let packet = &arrival.packet;
                let Some(owner) = addresses(packet).iter().find_map(|&address| Place::owner(address)) else { continue };
                if owner != MARKER.number {
                    self.inbox.entry(owner).or_default().push(arrival);
                    continue;
                }
                let [sport, dport] = ports(packet);
                // The round is the payload of a datagram, and the sequence number of a reset, after an IPv6 header.
                let (end, round) = match (packet[6], arrival.network) {
                    (17, 1) => (format!("C1:{sport}"), packet.get(48..50)),
                    (17, _) => (format!("C1:{dport}"), packet.get(48..50)),
                    _ => (format!("C1:{dport}"), packet.get(46..48)),
                };
                let is_current = round == Some(&self.round.to_be_bytes());
                pending.retain(|packet| !is_current || (packet.from() != end && packet.to() != end));
            }
        }
    }

    /// Records what the cases see whose next step that is.
    fn look(&mut self, cases: &[Case], running: &mut [Running]) -> bool {
        let is_look = |case: &Running| matches!(case.steps.front(), Some(Step::Seen | Step::Spread(_)));
        if !self.is_linux() && running.iter().any(is_look) {
            // The director's kernel takes frames from one processor's queue before those of another's: a marker may overtake
            // an answer of its own.
            std::thread::sleep(Duration::from_millis(20));
            self.sync();
        }
        let mut any = false;
        for case in &mut *running {
            if let Some(Step::Expect(text)) = case.steps.front() {
                let (text, name) = (case.place.expand(text), &cases[case.number].name);
                let last = self.seen[case.number].last().map_or("", |observation| &observation.text);
                assert!(!self.is_linux() || last.contains(&text), "{name}: Linux does not show '{text}':\n{last}");
                case.steps.pop_front();
                any = true;
                continue;
            }
            let step = match case.steps.front() {
                Some(step @ (Step::Seen | Step::Spread(_))) => step.clone(),
                _ => continue,
            };
            case.steps.pop_front();
            any = true;
            let arrivals = self.inbox.remove(&case.place.number).unwrap_or_default();
            let observation = match step {
                Step::Spread(tolerance) => {
                    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
                    for arrival in arrivals.iter().filter(|arrival| arrival.network == 1) {
                        *counts.entry(station(arrival)).or_default() += 1;
                    }
                    let text = (1..=9).map(|n| format!("S{n} {}\n", counts.get(&format!("S{n}")).unwrap_or(&0)));
                    Observation { tolerance, ..case.observation("packets to each server", text.collect()) }
                }
                _ => {
                    let names = |address: IpAddr| Place::name(address);
                    let mut lines: Vec<String> = arrivals
                        .iter()
                        .map(|arrival| format!("{}: {}\n", station(arrival), describe(&arrival.packet, &names)))
                        .collect();
                    // Packets of several connections overtake each other.
                    lines.sort();
                    case.observation("packets", lines.concat())
                }
            };
            self.seen[case.number].push(observation);
        }
        any
    }

    /// Runs the shell lines of all cases whose next step is one on a host, side by side.
    fn run_on_hosts(&mut self, running: &mut [Running]) -> bool {
        let mut started = Vec::new();
        for case in &mut *running {
            let Some(Step::Host { host, line }) = case.steps.front() else { continue };
            let line = case.place.expand(line);
            let process = self.lab.spawn(host, &["bash", "-c", &format!("exec 2>&1; {line}")]);
            started.push((case.number, format!("{host}: {line}"), process));
            case.steps.pop_front();
        }
        let any = !started.is_empty();
        for (number, what, process) in started {
            let output = process.finish(Duration::from_secs(60));
            let text = shell_result(&text(&output), output.status.code().unwrap_or(-1));
            self.seen[number].push(Observation { what, text, age: Duration::ZERO, tolerance: 0 });
        }
        any
    }

    /// Runs the listings and shell lines of all cases whose next step is one, by one script.
    fn run_on_director(&mut self, running: &mut [Running]) -> bool {
        let mut commands: Vec<String> = Vec::new();
        let mut listings: BTreeMap<Listing, usize> = BTreeMap::new();
        let mut wanted = Vec::new();
        for (index, case) in running.iter_mut().enumerate() {
            match case.steps.front() {
                Some(Step::Shell { line, on, observed }) => {
                    let here = *on == On::Both || (*on == On::Linux) == self.is_linux();
                    if here {
                        let line = case.place.expand(line);
                        wanted.push((index, commands.len(), line.clone(), *observed));
                        commands.push(line);
                    }
                }
                _ => continue,
            }
            case.steps.pop_front();
        }
        let mut listed = Vec::new();
        // Shell lines first: the listings of other cases do not mind.
        for (index, case) in running.iter_mut().enumerate() {
            let is_next = !wanted.iter().any(|(other, ..)| *other == index);
            let Some(&Step::List(listing)) = case.steps.front().filter(|_| is_next) else { continue };
            let number = *listings.entry(listing).or_insert_with(|| {
                commands.push(listing.command().to_owned());
                commands.len() - 1
            });
            listed.push((index, number, listing));
            case.steps.pop_front();
        }
        if commands.is_empty() {
            // Lines for the other director were skipped.
            return false;
        }
        let line = |command: &String| format!("{{ {command}\n}} 2>&1 </dev/null\nprintf '\\n@@@ %s\\n' $?\n");
        let script: String = commands.iter().map(line).collect();
        let output = self.script(&script);
        let mut results = Vec::new();
        let mut rest = output.as_str();
        while let Some((result, after)) = rest.split_once("\n@@@ ") {
            let (status, after) = after.split_once('\n').unwrap_or((after, ""));
            results.push((result, status.trim().parse::<i32>().expect("an exit status")));
            rest = after;
        }
        assert_eq!(results.len(), commands.len(), "{script}\n{output}");
        for (index, number, line, observed) in wanted {
            let (output, status) = results[number];
            let result = shell_result(output, status);
            assert!(observed || status == 0, "{:?}: {line}\n{result}", self.director);
            if observed {
                let observation = running[index].observation(&line, result);
                self.seen[running[index].number].push(observation);
            }
        }
        for (index, number, listing) in listed {
            let case = &running[index];
            let text = listing::part(listing, results[number].0, case.place.number);
            self.seen[case.number].push(case.observation(listing.command(), text));
        }
        true
    }
}

fn shell_result(output: &str, status: i32) -> String {
    let mut text = output.trim_end().to_owned();
    if !text.is_empty() {
        text.push('\n');
    }
    if status != 0 {
        text += &format!("exit status {status}\n");
    }
    text
}

/// Lets the longest time pass that any case waits for.
fn wait(running: &mut [Running]) -> bool {
    let mut longest = Duration::ZERO;
    for case in running {
        if let Some(&Step::Wait(time)) = case.steps.front() {
            longest = longest.max(time);
            case.steps.pop_front();
        }
    }
    std::thread::sleep(longest);
    longest > Duration::ZERO
}

/// The host that a packet was sent to.
fn station(arrival: &Arrival) -> String {
    match arrival.host {
        ROUTER => "G".to_owned(),
        number => format!("S{}", number - 60),
    }
}

/// The two ports after the IP header.
fn ports(packet: &[u8]) -> [u16; 2] {
    let start = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    [0, 2].map(|at| packet.get(start + at..start + at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]])))
}

impl Running {
    fn observation(&self, what: &str, text: String) -> Observation {
        Observation {
            what: what.to_owned(),
            text,
            age: self.started.map_or(Duration::ZERO, |started| started.elapsed()),
            tolerance: 0,
        }
    }

    /// Network, host and bytes of a packet's frames; none if it comes from a server that no packet has reached.
    fn frames(&self, packet: &Packet) -> Vec<(u8, u8, Vec<u8>)> {
        let from = packet.from();
        if from.starts_with('@') && !self.servers.contains_key(&self.place.endpoint(&from[1..])) {
            return Vec::new();
        }
        let resolve = |name: &str| match name.strip_prefix('@') {
            Some(client) => self
                .servers
                .get(&self.place.endpoint(client))
                .copied()
                .unwrap_or(SocketAddr::new(self.place.resolve("S1"), 0)),
            None => self.place.endpoint(name),
        };
        let network = u8::from(!from.starts_with(['C', 'G', 'K']));
        let address = resolve(from).ip();
        let server = SERVERS.into_iter().find(|&number| host(self.place.family, 1, number) == address);
        let packets = packet.encode(&resolve);
        packets.into_iter().map(|packet| (network, server.unwrap_or(ROUTER), packet)).collect()
    }
}

/// What a setting is if nobody changes it.
fn default(name: &str) -> &'static str {
    match name {
        "conn_reuse_mode" | "snat_reroute" | "pmtu_disc" => "1",
        "am_droprate" => "10",
        "amemthresh" => "1024",
        "lblc_expiration" | "lblcr_expiration" => "86400",
        _ => "0",
    }
}
