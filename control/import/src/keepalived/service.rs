//! `virtual_server`.

use std::net::{IpAddr, SocketAddr};

use dpvs_api::{
    ClientAddress, Engine, Family, ForwardMode, Health, Initially, Netmask, OnFailure, Persistence, Protocol,
    Scheduler, SchedulerFlag, Service, ServiceId, ServiceSettings, SorryServer, Tunnel, TunnelChecksum, TunnelType,
};

use super::address;
use super::checker::Timing;
use super::server::{self, Member};
use super::translate::{Groups, unknown, untranslated};
use super::tree::Block;
use super::words;
use crate::Report;

/// How servers are reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub mode: ForwardMode,
    pub tunnel: Tunnel,
}

/// What servers have from their virtual server unless they say otherwise.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    pub method: Method,
    pub timing: Timing,
    pub on_failure: OnFailure,
    pub virtual_host: Option<String>,
}

/// What a virtual server says besides what [`Inherited`] has.
struct Draft {
    settings: ServiceSettings,
    health: Health,
    protocol: Option<Protocol>,
    family: Option<Family>,
    local_addresses: Vec<IpAddr>,
    sorry: Option<(IpAddr, Option<u16>)>,
    sorry_method: Option<Method>,
}

impl Draft {
    /// Without one, keepalived sets up a service for UDP.
    fn protocol(&self) -> Protocol {
        self.protocol.unwrap_or(Protocol::Udp)
    }
}

/// The services that a virtual server stands for: one, or one for each member of its group.
pub(super) fn virtual_server(block: &Block, groups: &Groups<'_>, report: &mut Report) -> Vec<Service> {
    let mut inherited = Inherited {
        method: Method { mode: ForwardMode::Nat, tunnel: Tunnel::default() },
        timing: Timing::default(),
        on_failure: OnFailure::Remove,
        virtual_host: None,
    };
    let mut draft = Draft {
        settings: ServiceSettings::default(),
        health: Health::default(),
        protocol: None,
        family: None,
        local_addresses: Vec::new(),
        sorry: None,
        sorry_method: None,
    };
    for child in block.children.iter().filter(|child| child.keyword != "real_server") {
        setting(child, groups, &mut draft, &mut inherited, report);
    }
    // Flags belong to one scheduler.
    let scheduler = draft.settings.scheduler;
    draft.settings.scheduler_flags.retain(|flag| {
        let goes = flag.goes_with(scheduler);
        if !goes {
            report.warn(
                &block.place,
                format!("{}: not translated: it does not go with {}", flag.name(), scheduler.name()),
            );
        }
        goes
    });
    if draft.settings.one_packet && draft.protocol() != Protocol::Udp {
        draft.settings.one_packet = false;
        report.warn(&block.place, "ops: not translated: it is for UDP only");
    }

    let ids = targets(block, &draft, groups, report);
    let addresses = || ids.iter().filter_map(|id| id.address());
    if draft.protocol.is_none() && addresses().next().is_some() {
        report.warn(&block.place, "no protocol is written: UDP is taken, as keepalived does");
    }
    if draft.settings.persistence.is_none() && addresses().any(|address| address.port() == 0) {
        persistent(&mut draft.settings);
        report.warn(
            &block.place,
            "services without a port must be persistent: as in keepalived, they are for 360 seconds",
        );
    }
    let mut services = Vec::new();
    for (index, &id) in ids.iter().enumerate() {
        // The servers of a group's services are the same: what is wrong with them is said once.
        let mut silent = Report::default();
        let report = if index == 0 { &mut *report } else { &mut silent };
        let service = service(block, id, &draft, &inherited, report);
        if service.servers.is_empty() {
            report.warn(&block.place, format!("service {id} has no servers, and is left out as by keepalived"));
        } else {
            services.push(service);
        }
    }
    services
}

fn service(block: &Block, id: ServiceId, draft: &Draft, inherited: &Inherited, report: &mut Report) -> Service {
    let servers = block.children.iter().filter(|child| child.keyword == "real_server");
    let members: Vec<Member> = servers.filter_map(|child| server::real_server(child, id, inherited, report)).collect();
    let mut settings = draft.settings.clone();
    let local_addresses = draft.local_addresses.clone();
    let is_fullnat = |mode| mode == ForwardMode::Fullnat;
    let any_fullnat = members.iter().any(|member| is_fullnat(member.server.mode));
    if any_fullnat && local_addresses.is_empty() {
        report.warn(&block.place, format!("service {id} has FNAT servers: add local_addresses, or a laddr_group_name"));
    }
    let all_fullnat = !members.is_empty() && members.iter().all(|member| is_fullnat(member.server.mode));
    if all_fullnat && settings.client_address.is_none() {
        // Unless a service has the PROXY protocol, DPVS has TOA "always on" and UOA "global, default on": the table of
        // configuration switches in doc/client-address-conservation-in-fullnat.md of github.com/iqiyi/dpvs.
        match id.protocol() {
            Some(Protocol::Tcp) => settings.client_address = Some(ClientAddress::Toa),
            Some(Protocol::Udp) => {
                let why = "UOA, by which DPVS tells UDP servers the client's address, is not translated: if they can read it, use client_address = \"proxy-v2\"";
                report.warn(&block.place, format!("service {id}: {why}"));
            }
            _ => {}
        }
    }
    settings.sorry_server = draft.sorry.and_then(|sorry| sorry_server(block, id, sorry, draft, inherited, report));
    let mut health = draft.health.clone();
    limit_quorum(block, &members, &mut health, report);
    if inherited.timing.alpha || members.iter().any(|member| member.alpha) {
        health.initially = Initially::Down;
    }
    let servers = server::share(members, inherited, &mut health);
    let is_needed = health != Health::default();
    settings.health = is_needed.then(|| Box::new(health));
    Service { id, settings, local_addresses, servers }
}

/// As in keepalived, a quorum is at most what all servers have together, and a hysteresis less than the quorum.
fn limit_quorum(block: &Block, members: &[Member], health: &mut Health, report: &mut Report) {
    let most = members.iter().fold(0_u32, |sum, member| sum.saturating_add(member.server.weight)).max(1);
    if health.quorum > most {
        report
            .warn(&block.place, format!("quorum {}: all servers have {most} together, which is taken", health.quorum));
        health.quorum = most;
    }
    let most = health.quorum.saturating_sub(1);
    if health.hysteresis > most {
        let before = health.hysteresis;
        report.warn(&block.place, format!("hysteresis {before}: it must be less than the quorum; {most} is taken"));
        health.hysteresis = most;
    }
}

fn sorry_server(
    block: &Block,
    id: ServiceId,
    (address, port): (IpAddr, Option<u16>),
    draft: &Draft,
    inherited: &Inherited,
    report: &mut Report,
) -> Option<SorryServer> {
    let Method { mode, tunnel } = draft.sorry_method.unwrap_or(inherited.method);
    if Family::of(address) != id.family() || !tunnel.is_plain() {
        let why = "sorry servers are of the service's IP version, and tunnels to them are plain IP in IP";
        report.warn(&block.place, format!("sorry_server {address}: not translated: {why}"));
        return None;
    }
    let port = server::port(id, mode, port);
    Some(SorryServer { address: SocketAddr::new(address, port), mode })
}

/// What the words behind `virtual_server` stand for.
fn targets(block: &Block, draft: &Draft, groups: &Groups<'_>, report: &mut Report) -> Vec<ServiceId> {
    let family = || draft.family.unwrap_or_else(|| family_of_servers(block));
    let words = block.texts();
    match words.as_slice() {
        ["fwmark", mark] => match mark.parse() {
            Ok(mark) => vec![ServiceId::Fwmark { mark, family: family() }],
            Err(_) => {
                untranslated(report, block, "write virtual_server fwmark MARK");
                Vec::new()
            }
        },
        ["group", name] => match groups.virtual_servers.get(name) {
            Some(group) => group.children.iter().flat_map(|member| targets_of(member, draft, family, report)).collect(),
            None => {
                untranslated(report, block, "there is no virtual_server_group of that name");
                Vec::new()
            }
        },
        _ => match endpoint(&words) {
            Some((address, port)) => vec![address_id(draft, address, port)],
            None => {
                untranslated(report, block, "write virtual_server ADDRESS [PORT], fwmark MARK, or group NAME");
                Vec::new()
            }
        },
    }
}

fn targets_of(member: &Block, draft: &Draft, family: impl Fn() -> Family, report: &mut Report) -> Vec<ServiceId> {
    let words = member.texts();
    if member.keyword == "fwmark" {
        let mark = words.first().and_then(|mark| mark.parse().ok());
        let family = match words.get(1) {
            None => Some(family()),
            Some(&"inet") => Some(Family::Inet),
            Some(&"inet6") => Some(Family::Inet6),
            Some(_) => None,
        };
        if let (Some(mark), Some(family)) = (mark, family) {
            return vec![ServiceId::Fwmark { mark, family }];
        }
        untranslated(report, member, "write fwmark MARK [inet|inet6]");
        return Vec::new();
    }
    let port = words.first().map_or(Some(0), |port| port.parse().ok());
    match (address::range(&member.keyword), port) {
        (Ok(addresses), Some(port)) => addresses.into_iter().map(|address| address_id(draft, address, port)).collect(),
        (Err(message), _) => {
            untranslated(report, member, &message);
            Vec::new()
        }
        (_, None) => {
            untranslated(report, member, "its port is no number from 0 to 65535");
            Vec::new()
        }
    }
}

fn address_id(draft: &Draft, address: IpAddr, port: u16) -> ServiceId {
    ServiceId::Address { protocol: draft.protocol(), address: SocketAddr::new(address, port) }
}

/// An address and perhaps a port.
pub(super) fn endpoint(words: &[&str]) -> Option<(IpAddr, u16)> {
    match words {
        [address] => Some((address.parse().ok()?, 0)),
        [address, port] => Some((address.parse().ok()?, port.parse().ok()?)),
        _ => None,
    }
}

/// A service for a mark has the family of its servers.
fn family_of_servers(block: &Block) -> Family {
    let mut servers = block.children.iter().filter(|child| child.keyword == "real_server");
    let address = servers.find_map(|server| server.first().parse::<IpAddr>().ok());
    address.map_or(Family::default(), Family::of)
}

fn setting(block: &Block, groups: &Groups<'_>, draft: &mut Draft, inherited: &mut Inherited, report: &mut Report) {
    if inherited.timing.take(block, report) {
        return;
    }
    let settings = &mut draft.settings;
    let word = block.first();
    match block.keyword.as_str() {
        "lvs_sched" | "lb_algo" => match Scheduler::ALL.into_iter().find(|scheduler| scheduler.name() == word) {
            Some(scheduler) => settings.scheduler = scheduler,
            None => untranslated(report, block, "there is no such scheduler; wlc is taken"),
        },
        "lvs_method" | "lb_kind" => {
            if let Some(method) = method(block, report) {
                inherited.method = method;
            }
        }
        "protocol" => match Protocol::named(&word.to_lowercase()) {
            Some(protocol) => draft.protocol = Some(protocol),
            None => untranslated(report, block, "there is no such protocol; UDP is taken"),
        },
        "ops" => settings.one_packet = true,
        "persistence_timeout" => match (word, word.parse::<u32>()) {
            ("", _) => persistent(settings),
            (_, Ok(0)) => settings.persistence = None,
            (_, Ok(seconds)) => {
                persistent(settings);
                settings.persistence.iter_mut().for_each(|persistence| persistence.timeout = seconds);
            }
            (_, Err(_)) => untranslated(report, block, "this is no number of seconds"),
        },
        "persistence_granularity" => match word.parse::<Netmask>() {
            Ok(netmask) => {
                persistent(settings);
                settings.persistence.iter_mut().for_each(|persistence| persistence.netmask = Some(netmask));
            }
            Err(message) => untranslated(report, block, &message),
        },
        "persistence_engine" if word == "sip" => {
            persistent(settings);
            settings.persistence.iter_mut().for_each(|persistence| persistence.engine = Some(Engine::Sip));
        }
        "hash_target" if word == "sip" => {}
        "hash_target" if word == "qid" => settings.scheduler_flags.push(SchedulerFlag::ConhashQid),
        "establish_timeout" | "conn_timeout" => match word.parse() {
            Ok(seconds) => settings.timeout = Some(seconds),
            Err(_) => untranslated(report, block, "this is no number of seconds"),
        },
        "proxy_protocol" if word == "v1" => settings.client_address = Some(ClientAddress::ProxyV1),
        "proxy_protocol" if word == "v2" => settings.client_address = Some(ClientAddress::ProxyV2),
        "proxy_protocol" if word == "v1-insecure" || word == "v2-insecure" => {
            let version = if word.starts_with("v1") { ClientAddress::ProxyV1 } else { ClientAddress::ProxyV2 };
            settings.client_address = Some(version);
            untranslated(
                report,
                block,
                "headers that clients send themselves stay behind dpvsd's, which says the client's address",
            );
        }
        "proxy_protocol" if word == "disable" => {}
        "laddr_group_name" => match groups.local_addresses.get(word) {
            Some(addresses) => draft.local_addresses.clone_from(addresses),
            None => untranslated(report, block, "there is no local_address_group of that name"),
        },
        "ip_family" if word == "inet" => draft.family = Some(Family::Inet),
        "ip_family" if word == "inet6" => draft.family = Some(Family::Inet6),
        "virtualhost" => inherited.virtual_host = Some(word.to_owned()),
        "inhibit_on_failure" => inherited.on_failure = OnFailure::ZeroWeight,
        "quorum" => number(block, report, &mut draft.health.quorum),
        "hysteresis" => number(block, report, &mut draft.health.hysteresis),
        "quorum_up" => program(block, report, &mut draft.health.quorum_up),
        "quorum_down" => program(block, report, &mut draft.health.quorum_down),
        "sorry_server" => match endpoint(&block.texts()) {
            Some((address, port)) => draft.sorry = Some((address, Some(port).filter(|port| *port != 0))),
            None => untranslated(report, block, "write sorry_server ADDRESS [PORT]"),
        },
        "sorry_server_lvs_method" => draft.sorry_method = method(block, report),
        "sorry_server_inhibit" => untranslated(report, block, "a sorry server has no weight of its own"),
        "ha_suspend" => untranslated(report, block, "checks go on when the virtual address is elsewhere"),
        "omega" => untranslated(report, block, "no program is run when dpvsd ends"),
        "smtp_alert" => {
            untranslated(report, block, "dpvsd sends no mail: use notify_up, notify_down, quorum_up and quorum_down")
        }
        "snmp_name" => untranslated(report, block, "dpvsd has no SNMP agent"),
        "syn_proxy" => untranslated(report, block, "there is no SYN proxy"),
        "nat_mask" | "net_mask" => untranslated(report, block, "IPVS has no use for it either"),
        keyword => match SchedulerFlag::ALL.into_iter().find(|flag| flag.name() == keyword) {
            Some(flag) => settings.scheduler_flags.push(flag),
            None => unknown(report, block),
        },
    }
}

fn persistent(settings: &mut ServiceSettings) {
    settings.persistence.get_or_insert_with(Persistence::default);
}

fn number(block: &Block, report: &mut Report, into: &mut u32) {
    match block.first().parse() {
        Ok(number) => *into = number,
        Err(_) => untranslated(report, block, "this is no number"),
    }
}

/// A program with its arguments; a user may follow it.
pub(super) fn program(block: &Block, report: &mut Report, into: &mut Vec<String>) {
    let command = words::command(block.first());
    match command.first() {
        Some(path) if path.starts_with('/') => *into = command,
        _ => return untranslated(report, block, "a program must have an absolute path"),
    }
    if block.words.len() > 1 {
        let why = "programs run as dpvsd's user; use sudo or setpriv in the program's place";
        report.warn(&block.place, format!("{}: the user is not translated: {why}", block.line()));
    }
}

/// `NAT`, `DR`, `FNAT`, or `TUN [type {ipip|gue port NUM|gre} [nocsum|csum|remcsum]]`.
pub(super) fn method(block: &Block, report: &mut Report) -> Option<Method> {
    let words = block.texts();
    let method = method_of(&words);
    if method.is_none() {
        untranslated(report, block, "there is no such method");
    }
    method
}

fn method_of(words: &[&str]) -> Option<Method> {
    let (name, rest) = words.split_first()?;
    let mode = match *name {
        "NAT" => ForwardMode::Nat,
        "DR" => ForwardMode::Dr,
        "TUN" => ForwardMode::Tun,
        "FNAT" | "FULLNAT" => ForwardMode::Fullnat,
        _ => return None,
    };
    let mut tunnel = Tunnel::default();
    let mut rest = rest.iter();
    while let Some(&word) = rest.next() {
        match word {
            "type" => {
                let kind = rest.next()?;
                tunnel.kind = TunnelType::ALL.into_iter().find(|known| known.name() == *kind)?;
            }
            "port" => tunnel.port = Some(rest.next()?.parse().ok()?),
            "nocsum" => tunnel.checksum = TunnelChecksum::None,
            "csum" => tunnel.checksum = TunnelChecksum::Csum,
            "remcsum" => tunnel.checksum = TunnelChecksum::Remcsum,
            _ => return None,
        }
    }
    (mode == ForwardMode::Tun || tunnel.is_plain()).then_some(Method { mode, tunnel })
}
