//! Health checks: ranges and combinations.

use std::net::SocketAddr;

use dpvs_api::{
    Check, DnsProbe, ExternalProbe, ForwardMode, Health, HttpMethod, HttpProbe, Passive, Probe, Protocol, Scheduler,
    Seconds, Server, ServerHealth, ServiceId, ServiceSettings, SmtpProbe, Tls, UdpProbe,
};
use hyper::header::{HeaderName, HeaderValue};

use super::{Check as Checked, Problem, unicast};
use crate::health;

/// Longest times, in seconds.
const DAY: u32 = 86_400;
/// Shortest interval in milliseconds: less is a flood, not a check.
const MIN_INTERVAL: u32 = 100;
/// Shortest interval and ejection in milliseconds: counts are looked at twice a second.
const MIN_PASSIVE_TIME: u32 = 1000;
/// Shortest timeout in milliseconds.
const MIN_TIMEOUT: u32 = 10;
/// Most consecutive runs that a verdict can take.
const MAX_COUNT: u32 = 1000;
/// Most checks of a server.
const MAX_CHECKS: usize = 32;
/// Most arguments of a program, itself included.
const MAX_ARGUMENTS: usize = 64;

fn fail(field: &str, message: impl Into<String>) -> Checked {
    Err(Problem::invalid(field, message))
}

/// Health checks of a service as such.
pub(in crate::registry) fn of_service(id: ServiceId, settings: &ServiceSettings) -> Checked {
    let Some(health) = settings.health.as_deref() else { return Ok(()) };
    let Health { quorum, hysteresis, slow_start, .. } = *health;
    checks(&health.checks)?;
    if let Some(passive) = &health.passive {
        of_passive(passive).map_err(|p| p.within("passive"))?;
        if settings.one_packet && id.protocol() == Some(Protocol::Udp) {
            let message = format!(
                "service {id} cannot judge servers by their connections, as one_packet leaves none: leave out one of the two"
            );
            return fail("passive", message);
        }
    }
    for (field, program) in [
        ("quorum_up", &health.quorum_up),
        ("quorum_down", &health.quorum_down),
        ("notify_up", &health.notify_up),
        ("notify_down", &health.notify_down),
    ] {
        optional_program(field, program)?;
    }
    if quorum == 0 {
        return fail("quorum", format!("the quorum of service {id} must be at least 1, the weight of one server"));
    }
    if hysteresis >= quorum {
        let message = format!("hysteresis {hysteresis} of service {id} must be less than its quorum, {quorum}");
        return fail("hysteresis", message);
    }
    range("slow_start", slow_start, 0, DAY * 1000)?;
    if slow_start != Seconds::ZERO && !has_shares(settings.scheduler) {
        let name = settings.scheduler.name();
        let message = format!(
            "service {id} cannot start servers slowly, as weights are no shares for scheduler {name}: \
             use wrr, wlc, sed, nq or twos, or leave out slow_start"
        );
        return fail("slow_start", message);
    }
    Ok(())
}

/// What is tolerated of servers' connections.
fn of_passive(passive: &Passive) -> Checked {
    let Passive { interval, error_limit, failure_percent, base_ejection_time, max_ejection_time, .. } = *passive;
    range("interval", interval, MIN_PASSIVE_TIME, DAY * 1000)?;
    range("base_ejection_time", base_ejection_time, MIN_PASSIVE_TIME, DAY * 1000)?;
    range("max_ejection_time", max_ejection_time, base_ejection_time.as_millis(), DAY * 1000)?;
    if error_limit == 0 {
        return fail("error_limit", "0 failures are no reason to eject a server: give 1 or more");
    }
    for (field, percent) in
        [("failure_percent", failure_percent), ("max_ejection_percent", passive.max_ejection_percent)]
    {
        if !(1..=100).contains(&percent) {
            return fail(field, format!("{percent} is out of range: give 1 to 100"));
        }
    }
    if passive.kinds.is_empty() {
        return fail("kinds", "without any, no server is ever ejected: name some, or leave out passive");
    }
    match passive.kinds.iter().enumerate().find(|(index, kind)| passive.kinds[..*index].contains(kind)) {
        Some((_, kind)) => fail("kinds", format!("{} stands twice; remove one", kind.name())),
        None => Ok(()),
    }
}

/// Whether a server's weight is its share of new connections, so that half of the weight is half of the share.
fn has_shares(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Wrr | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Twos)
}

/// Health checks of a server of its own, and whether those of a service with these settings can be done with it.
pub(in crate::registry) fn of_server(id: ServiceId, settings: &ServiceSettings, server: &Server) -> Checked {
    let own = server.health.as_deref();
    if let Some(ServerHealth { checks: own, notify_up, notify_down, .. }) = own {
        checks(own.as_deref().unwrap_or_default()).map_err(|p| p.within("health"))?;
        optional_program("health.notify_up", notify_up)?;
        optional_program("health.notify_down", notify_down)?;
    }
    if server.mode == ForwardMode::Dr && settings.health.as_ref().is_some_and(|health| health.passive.is_some()) {
        let message = format!(
            "nothing that server {} sends passes the director in mode dr, so that health.passive of service {id} cannot \
             judge it: use nat, fullnat or tun, or checks without passive",
            server.address
        );
        return fail("mode", message);
    }
    for (index, check) in health::checks_of(settings, server).iter().enumerate() {
        let at = |field: &str| match own.is_some_and(|own| own.checks.is_some()) {
            true => format!("health.checks[{index}].{field}"),
            false => "health".to_owned(),
        };
        let target = health::target(id, server.address, check);
        target_of(id, server, check, target).map_err(|(field, message)| Problem::invalid(at(field), message))?;
    }
    Ok(())
}

fn target_of(id: ServiceId, server: &Server, check: &Check, target: SocketAddr) -> Result<(), (&'static str, String)> {
    let (name, address) = (check.probe.name(), server.address);
    if check.probe.has_port() && target.port() == 0 {
        let message = format!(
            "the {name} check of server {address} needs a port, as server and service {id} stand for all ports: give it one"
        );
        return Err(("port", message));
    }
    match check.source {
        Some(source) if source.is_ipv4() != target.is_ipv4() => {
            let target = target.ip();
            let message =
                format!("the {name} check of server {address} cannot go from {source} to {target}: use one family");
            Err(("source", message))
        }
        _ => Ok(()),
    }
}

fn checks(checks: &[Check]) -> Checked {
    if checks.len() > MAX_CHECKS {
        return fail("checks", format!("{} checks are too many for a server: give at most {MAX_CHECKS}", checks.len()));
    }
    for (index, one) in checks.iter().enumerate() {
        check(one).map_err(|p| p.within(format!("checks[{index}]")))?;
    }
    Ok(())
}

fn check(check: &Check) -> Checked {
    let Check { interval, timeout, fall, rise, retry_interval, warmup, address, port, source, fwmark, .. } = *check;
    range("interval", interval, MIN_INTERVAL, DAY * 1000)?;
    range("timeout", timeout, MIN_TIMEOUT, 3_600_000)?;
    range("retry_interval", retry_interval.unwrap_or(interval), MIN_INTERVAL, DAY * 1000)?;
    range("warmup", warmup.unwrap_or_default(), 0, DAY * 1000)?;
    for (field, count) in [("fall", fall), ("rise", rise)] {
        if !(1..=MAX_COUNT).contains(&count) {
            return fail(field, format!("{count} is out of range: give 1 to {MAX_COUNT}"));
        }
    }
    for (field, address) in [("address", address), ("source", source)] {
        address.map_or(Ok(()), |address| unicast(address, field)).or_else(|message| fail(field, message))?;
    }
    if port == Some(0) {
        return fail("port", "0 is no port: give 1 to 65535");
    }
    if fwmark == Some(0) {
        return fail("fwmark", "0 is no firewall mark: give 1 to 4294967295");
    }
    probe(&check.probe).map_err(|p| p.within(format!("probe.{}", check.probe.name())))
}

fn range(field: &str, value: Seconds, min_ms: u32, max_ms: u32) -> Checked {
    if (min_ms..=max_ms).contains(&value.as_millis()) {
        return Ok(());
    }
    let (min, max) = (Seconds::from_millis(min_ms), Seconds::from_millis(max_ms));
    fail(field, format!("{value} is out of range: give {min} to {max}"))
}

fn probe(probe: &Probe) -> Checked {
    match probe {
        Probe::Tcp(probe) => tls(probe.tls.as_ref()),
        Probe::Http(probe) => http(probe),
        Probe::Dns(probe) => dns(probe),
        Probe::Udp(probe) => udp(probe),
        Probe::Icmp(_) => Ok(()),
        Probe::Smtp(SmtpProbe { helo }) => word("helo", helo),
        Probe::Grpc(probe) => {
            probe.host.iter().try_for_each(|host| authority("host", host))?;
            tls(probe.tls.as_ref())
        }
        Probe::External(ExternalProbe { command, user, .. }) => {
            program("command", command)?;
            user.iter().try_for_each(|user| word("user", user))
        }
    }
}

fn http(probe: &HttpProbe) -> Checked {
    if !probe.path.starts_with('/') || hyper::Uri::try_from(probe.path.as_str()).is_err() {
        return fail("path", format!("'{}' is no path: begin it with /, and write spaces as %20", probe.path));
    }
    probe.host.iter().try_for_each(|host| authority("host", host))?;
    for (name, value) in &probe.headers {
        let bad = HeaderName::try_from(name.as_str()).is_err() || HeaderValue::try_from(value.as_str()).is_err();
        if bad {
            return fail("headers", format!("'{name}: {value}' is no header of HTTP; correct or remove it"));
        }
        if ["host", "connection", "content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str()) {
            return fail("headers", format!("header {name} is made by the check itself; remove it, or use host"));
        }
    }
    for (field, pattern) in [("body", &probe.body), ("body_not", &probe.body_not)] {
        let Some(pattern) = pattern else { continue };
        if let Err(error) = health::body_pattern(pattern) {
            let reason = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            return fail(field, format!("'{pattern}' is no regular expression: {reason}"));
        }
    }
    let looks_at_body = probe.body.is_some() || probe.body_not.is_some() || probe.digest.is_some();
    if probe.method == HttpMethod::Head && looks_at_body {
        return fail("method", "answers to HEAD have no body to look at: use GET");
    }
    tls(probe.tls.as_ref())
}

fn tls(tls: Option<&Tls>) -> Checked {
    let Some(tls) = tls else { return Ok(()) };
    tls.server_name.iter().try_for_each(|name| authority("tls.server_name", name))?;
    match (&tls.certificate_file, &tls.key_file) {
        (Some(_), None) => return fail("tls.certificate_file", "a certificate needs its private key: add key_file"),
        (None, Some(_)) => return fail("tls.key_file", "a private key needs its certificate: add certificate_file"),
        _ => {}
    }
    let files = [
        ("tls.ca_file", &tls.ca_file),
        ("tls.certificate_file", &tls.certificate_file),
        ("tls.key_file", &tls.key_file),
    ];
    for (field, file) in files {
        if let Some(file) = file
            && !file.is_absolute()
        {
            return fail(field, format!("'{}' must be an absolute path: begin it with /", file.display()));
        }
    }
    if !tls.verify && tls.ca_file.is_some() {
        return fail("tls.ca_file", "certificates of authorities are of no use without verify; remove one of the two");
    }
    Ok(())
}

fn dns(probe: &DnsProbe) -> Checked {
    let name = probe.name.strip_suffix('.').unwrap_or(&probe.name);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
    if name.len() > 253 || (!name.is_empty() && !name.split('.').all(is_label)) {
        return fail("name", format!("'{}' is no domain name: write one such as www.example.com", probe.name));
    }
    Ok(())
}

fn udp(probe: &UdpProbe) -> Checked {
    let UdpProbe { require_reply, ref expect, min_length, max_length, .. } = *probe;
    for (field, given) in
        [("expect", expect.is_some()), ("min_length", min_length.is_some()), ("max_length", max_length.is_some())]
    {
        if given && !require_reply {
            return fail(field, "goes with require_reply only: set that, too");
        }
    }
    let (min, max) = (min_length.unwrap_or(0), max_length.unwrap_or(u16::MAX));
    if min > max {
        return fail("min_length", format!("no answer has {min} bytes at least and {max} at most; correct one"));
    }
    Ok(())
}

/// A word of a protocol's line.
fn word(field: &str, text: &str) -> Checked {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => fail(field, format!("'{text}' must be one word of ASCII characters")),
    }
}

/// A host, with a port if need be.
fn authority(field: &str, text: &str) -> Checked {
    match text.parse::<hyper::http::uri::Authority>() {
        Ok(_) => Ok(()),
        Err(_) => fail(field, format!("'{text}' is no host: write one such as www.example.com")),
    }
}

fn optional_program(field: &str, command: &[String]) -> Checked {
    if command.is_empty() { Ok(()) } else { program(field, command) }
}

/// A program and its arguments.
fn program(field: &str, command: &[String]) -> Checked {
    let Some(path) = command.first() else {
        return fail(field, "has no program: give its absolute path, and its arguments");
    };
    if !path.starts_with('/') {
        let message = format!("'{path}' must be an absolute path: begin it with /; arguments are items of their own");
        return fail(field, message);
    }
    if command.len() > MAX_ARGUMENTS || command.iter().any(|argument| argument.contains('\0')) {
        return fail(field, format!("must have at most {MAX_ARGUMENTS} items without zero bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
