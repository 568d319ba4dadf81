//! The kernel as the director's slow path.

use super::{Check, Finding, Host};

pub(super) fn check(host: &Host<'_>, findings: &mut Vec<Finding>) {
    tun(host, &mut Check("/dev/net/tun", findings));
    forwarding(host, &mut Check("forwarding", findings));
    reverse_path(host, &mut Check("rp_filter", findings));
    balancing(host, &mut Check("NUMA balancing", findings));
    ipvs(host, &mut Check("Linux IPVS", findings));
}

fn tun(host: &Host<'_>, check: &mut Check<'_>) {
    match host.root.exists("dev/net/tun") {
        true => check.ok("present"),
        false => check.problem(
            "missing: mirror interfaces and net_tap need it",
            "modprobe tun; in a container, pass it in: --device /dev/net/tun --cap-add NET_ADMIN",
        ),
    }
}

/// Packets for virtual services do not need it: what the kernel routes is the rest, such as the servers' own traffic.
fn forwarding(host: &Host<'_>, check: &mut Check<'_>) {
    let settings = [("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")];
    let off: Vec<_> = settings
        .iter()
        .filter(|(_, path)| host.root.read(&format!("proc/sys/{path}")).is_some_and(|v| v == "0"))
        .collect();
    if off.is_empty() {
        return check.ok("on");
    }
    let families: Vec<&str> = off.iter().map(|(family, _)| *family).collect();
    let remedies: Vec<String> = off.iter().map(|(_, path)| format!("{}=1", path.replace('/', "."))).collect();
    check.note(
        format!(
            "off for {}: servers that have the director as their gateway reach nothing but clients",
            families.join(" and ")
        ),
        format!("for NAT servers: sysctl {}", remedies.join(" ")),
    );
}

/// The kernel uses the stricter of `all` and the interface's own value (Documentation/networking/ip-sysctl.rst).
fn reverse_path(host: &Host<'_>, check: &mut Check<'_>) {
    let value = |name: &str| host.root.number(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let mut names = vec!["all", "default"];
    let interfaces = host.plan.map(|plan| plan.interfaces.as_slice()).unwrap_or_default();
    names.extend(
        interfaces
            .iter()
            .map(String::as_str)
            .filter(|name| host.root.exists(&format!("proc/sys/net/ipv4/conf/{name}"))),
    );
    let strict: Vec<&str> = names.into_iter().filter(|name| value(name) == 1).collect();
    if strict.is_empty() {
        return check.ok("not strict");
    }
    let remedies: Vec<String> = strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
    check.note(
        format!(
            "strict for {}: the kernel drops what comes in by another interface than answers leave by",
            strict.join(", ")
        ),
        format!("fine with one port; with asymmetric routes: sysctl {}", remedies.join(" ")),
    );
}

/// Moves memory between nodes, and stops threads for it.
fn balancing(host: &Host<'_>, check: &mut Check<'_>) {
    if host.nodes().len() < 2 {
        return;
    }
    match host.root.number("proc/sys/kernel/numa_balancing") {
        Some(1..) => check
            .note("on: the kernel interrupts workers to look where their memory is", "sysctl kernel.numa_balancing=0"),
        _ => check.ok("off"),
    }
}

fn ipvs(host: &Host<'_>, check: &mut Check<'_>) {
    if host.root.exists("sys/module/ip_vs") {
        check.note(
            "ip_vs is loaded: /usr/sbin/ipvsadm of Debian's package configures that, not dpvsd",
            "for dpvsd: /usr/lib/dpvs/ipvsadm; modprobe -r ip_vs if nothing uses it",
        );
    }
}
