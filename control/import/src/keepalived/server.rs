//! `real_server`.

use std::net::{IpAddr, SocketAddr};

use dpvs_api::{Check, Destination, Family, ForwardMode, Health, OnFailure, Probe, Server, ServerHealth, ServiceId};

use super::checker;
use super::service::{Inherited, endpoint, method, program};
use super::translate::{unknown, untranslated};
use super::tree::Block;
use crate::Report;

/// A server, and what of its health checks may be the same for all servers of the service.
pub(super) struct Member {
    pub server: Server,
    pub checks: Vec<Check>,
    pub on_failure: OnFailure,
    pub notify_up: Vec<String>,
    pub notify_down: Vec<String>,
    pub alpha: bool,
}

/// A server's port: the service's if it has none, and in modes that do not translate it.
pub(super) fn port(id: ServiceId, mode: ForwardMode, given: Option<u16>) -> u16 {
    let is_untranslated = matches!(mode, ForwardMode::Dr | ForwardMode::Tun) && id.address().is_some();
    given.filter(|_| !is_untranslated).unwrap_or(id.port())
}

/// Translates a server; `None` if it cannot be.
pub(super) fn real_server(block: &Block, id: ServiceId, inherited: &Inherited, report: &mut Report) -> Option<Member> {
    let Some((address, given)) = endpoint(&block.texts()) else {
        untranslated(report, block, "write real_server ADDRESS [PORT]");
        return None;
    };
    let mut own = inherited.clone();
    let mut member = Member {
        server: Server::new(SocketAddr::new(address, given), own.method.mode),
        checks: Vec::new(),
        on_failure: inherited.on_failure,
        notify_up: Vec::new(),
        notify_down: Vec::new(),
        alpha: false,
    };
    let is_checker = |child: &&Block| child.keyword.ends_with("_CHECK") || child.keyword.ends_with("_GET");
    for child in block.children.iter().filter(|child| !is_checker(child)) {
        setting(child, &mut member, &mut own, report);
    }
    member.on_failure = own.on_failure;
    member.server.mode = own.method.mode;
    member.server.tunnel = own.method.tunnel;
    member.server.address.set_port(port(id, own.method.mode, Some(given).filter(|port| *port != 0)));
    if !fits(address, id, own.method.mode) {
        untranslated(report, block, "only tunnels and FNAT lead to servers of the other IP version");
        return None;
    }
    if given != 0 && given != member.server.address.port() {
        report.warn(&block.place, format!("{}: the port is the service's, {}", block.line(), id.port()));
    }
    for child in block.children.iter().filter(is_checker) {
        let (checks, alpha) = checker::checks(child, &own, report);
        let destination = destination(id, own.method.mode);
        member.checks.extend(checks.into_iter().map(|check| match (&check.probe, check.address) {
            (Probe::External(_), _) | (_, Some(_)) => check,
            _ => Check { destination, ..check },
        }));
        member.alpha |= alpha;
    }
    member.alpha |= own.timing.alpha;
    Some(member)
}

/// keepalived checks servers at their own addresses, in all modes.
fn destination(id: ServiceId, mode: ForwardMode) -> Destination {
    match mode {
        ForwardMode::Dr | ForwardMode::Tun if id.address().is_some() => Destination::Server,
        _ => Destination::default(),
    }
}

fn fits(address: IpAddr, id: ServiceId, mode: ForwardMode) -> bool {
    matches!(mode, ForwardMode::Tun | ForwardMode::Fullnat) || Family::of(address) == id.family()
}

fn setting(block: &Block, member: &mut Member, own: &mut Inherited, report: &mut Report) {
    if own.timing.take(block, report) {
        return;
    }
    let word = block.first();
    let mut number = |into: &mut u32| match word.parse() {
        Ok(number) => *into = number,
        Err(_) => untranslated(report, block, "this is no number"),
    };
    match block.keyword.as_str() {
        "weight" => number(&mut member.server.weight),
        "uthreshold" => number(&mut member.server.upper_threshold),
        "lthreshold" => number(&mut member.server.lower_threshold),
        "lvs_method" => own.method = method(block, report).unwrap_or(own.method),
        "notify_up" => program(block, report, &mut member.notify_up),
        "notify_down" => program(block, report, &mut member.notify_down),
        "inhibit_on_failure" => {
            own.on_failure = match word {
                "off" | "false" | "no" => OnFailure::Remove,
                _ => OnFailure::ZeroWeight,
            };
        }
        "virtualhost" => own.virtual_host = Some(word.to_owned()),
        "smtp_alert" => untranslated(report, block, "dpvsd sends no mail: use notify_up and notify_down"),
        "snmp_name" => untranslated(report, block, "dpvsd has no SNMP agent"),
        _ => unknown(report, block),
    }
}

/// The servers; what all of them have alike becomes the service's.
pub(super) fn share(members: Vec<Member>, inherited: &Inherited, health: &mut Health) -> Vec<Server> {
    let Some(first) = members.first() else { return Vec::new() };
    let same = |alike: &dyn Fn(&Member, &Member) -> bool| members.iter().all(|member| alike(member, first));
    let same_checks = same(&|a, b| a.checks == b.checks);
    if same_checks {
        health.checks.clone_from(&first.checks);
    }
    let same_failure = same(&|a, b| a.on_failure == b.on_failure);
    health.on_failure = if same_failure { first.on_failure } else { inherited.on_failure };
    let same_up = same(&|a, b| a.notify_up == b.notify_up);
    if same_up {
        health.notify_up.clone_from(&first.notify_up);
    }
    let same_down = same(&|a, b| a.notify_down == b.notify_down);
    if same_down {
        health.notify_down.clone_from(&first.notify_down);
    }
    let on_failure = health.on_failure;
    let server = |member: Member| {
        let own = ServerHealth {
            checks: (!same_checks).then_some(member.checks),
            on_failure: Some(member.on_failure).filter(|own| *own != on_failure),
            notify_up: if same_up { Vec::new() } else { member.notify_up },
            notify_down: if same_down { Vec::new() } else { member.notify_down },
        };
        let health = (own != ServerHealth::default()).then(|| Box::new(own));
        Server { health, ..member.server }
    };
    members.into_iter().map(server).collect()
}
