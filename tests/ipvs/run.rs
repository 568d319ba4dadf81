//! Runs cases on a director, side by side: each goes its own way from step to step, and what is slow (waiting for packets,
//! commands on the director) is done for all together.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dpvs_e2e::lab::text;
use dpvs_e2e::wire::{Arrival, Kind, Packet, ROUTER, SERVERS, Wire, addresses, describe, host, icmp, udp};
use dpvs_e2e::{Director, Family, Lab, Topology};

use crate::case::{Case, Listing, On, Place, Step};
use crate::listing;

/// What a case has shown, step by step.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What was looked at.
    pub what: String,
    pub text: String,
    /// Time since the case's last packet, for expiry times.
    pub age: Duration,
    /// Of the numbers in it.
    pub tolerance: u64,
}

/// Packets that show that those before them have gone through: flows that take every way from queue to worker.
const MARKERS: u16 = 24;
/// The same through the director's kernel.
const PINGS: u8 = 4;
/// Packets on their way at a time.
const IN_FLIGHT: usize = 32;
/// Virtual service and clients of the markers.
const MARKER: Place = Place { family: Family::V4, number: 0x3fff };

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
            last_sent: Instant::now(),
        });
        runner.batch(cases, &settings, running.collect());
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
    last_sent: Instant,
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
        if self.is_linux() {
            // Cases are many and have few addresses: limits on the rate of errors would mix them up.
            script += "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit\n";
            script += "echo 100000 >/proc/sys/net/ipv4/icmp_msgs_per_sec\n";
        }
        self.script(&script);
        self.lab.restore(&MARKER.expand("-A -u {V1}:9 -s rr\n-a -u {V1}:9 -r {S19}:9 -m\n"));
        // FIB and services have reached the workers when the markers pass.
        self.sync();
    }

    fn batch(&mut self, cases: &[Case], settings: &[(&'static str, String)], mut running: Vec<Running>) {
        let values = settings.iter().map(|(name, value)| (*name, value.as_str()));
        self.set(values);
        let rules: String = running.iter().map(|case| case.place.expand(&cases[case.number].rules) + "\n").collect();
        self.lab.restore(&rules);
        while running.iter().any(|case| !case.steps.is_empty()) {
            let _ = self.send(&mut running)
                || self.look(&mut running)
                || self.run_on_hosts(&mut running)
                || self.run_on_director(&mut running)
                || wait(&mut running);
        }
        self.set(settings.iter().map(|(name, _)| (*name, default(name))));
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
            case.last_sent = Instant::now();
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
        let (markers, pings) = if self.is_linux() { (2, 1) } else { (MARKERS, PINGS) };
        let mut pending: Vec<Packet> = (0..markers)
            .map(|n| {
                udp(&format!("C1:{}", 5000 + n), "V1:9", 0)
                    .payload(&[self.round.to_be_bytes(), n.to_be_bytes()].concat())
            })
            .chain(
                (1..=pings).map(|n| icmp(&format!("C{n}"), "D", Kind::Echo { id: self.round, sequence: n.into() }, 8)),
            )
            .collect();
        let start = Instant::now();
        let resolve = |name: &str| MARKER.endpoint(name);
        while !pending.is_empty() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "packets are lost: {pending:?}\n{}",
                self.lab.director_log()
            );
            for packet in &pending {
                self.wire.send(0, ROUTER, &packet.encode(&resolve)[0]);
            }
            while !pending.is_empty()
                && let Some(arrival) = self.wire.receive(Duration::from_millis(500))
            {
                let addresses = addresses(&arrival.packet);
                let owner = addresses.iter().find_map(|&address| Place::owner(address));
                let (Some(owner), Some(&[from, to])) = (owner, addresses.first_chunk()) else { continue };
                if owner != MARKER.number {
                    self.inbox.entry(owner).or_default().push(arrival);
                } else if arrival.network == 1 {
                    // The server of the markers returns them.
                    let [sport, _] = ports(&arrival.packet);
                    let client = format!("{}:{sport}", Place::name(from));
                    let answer = udp("S19:9", &client, 0).payload(&arrival.packet[28..]);
                    assert_eq!(to, MARKER.resolve("S19"), "a marker goes to its server");
                    self.wire.send(1, *SERVERS.end(), &answer.encode(&resolve)[0]);
                } else {
                    let name = Place::name(to);
                    let [_, dport] = ports(&arrival.packet);
                    let body = &arrival.packet[24..];
                    let own = |packet: &Packet| match arrival.packet[9] {
                        17 => packet.from() == format!("{name}:{dport}") && body[4..6] == self.round.to_be_bytes(),
                        _ => packet.from() == name && body[..2] == self.round.to_be_bytes(),
                    };
                    pending.retain(|packet| !own(packet));
                }
            }
        }
    }

    /// Records what the cases see whose next step that is.
    fn look(&mut self, running: &mut [Running]) -> bool {
        let mut any = false;
        for case in &mut *running {
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
        Observation { what: what.to_owned(), text, age: self.last_sent.elapsed(), tolerance: 0 }
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
        "sync_threshold" => "3 50",
        _ => "0",
    }
}
