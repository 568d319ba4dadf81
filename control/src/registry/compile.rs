//! From the configuration's types to those of the packet path.

use std::net::{IpAddr, SocketAddr};

use proto::proxy_protocol::Version;

use dataplane::{PortId, ServiceId as ServiceSlot, marks, snapshot};
use dpvs_api::{
    ClientAddress, Engine, Family, ForwardMode, MarkRule, Netmask, Network, Persistence, PortRange, Protocol,
    Scheduler, SchedulerFlag, ServiceId, ServiceSettings, Tunnel, TunnelChecksum, TunnelType,
};

use super::{Member, effect};

/// What identifies a service on the packet path.
pub(super) fn key(id: ServiceId) -> snapshot::ServiceKey {
    match id {
        ServiceId::Address { protocol: name, address } => {
            snapshot::ServiceKey { protocol: protocol(name), vaddr: address.ip(), vport: address.port() }
        }
        ServiceId::Fwmark { mark, family } => snapshot::ServiceKey::fwmark(mark, self::family(family)),
    }
}

/// The service that [`key`] made this of.
pub(crate) fn service_id(key: &snapshot::ServiceKey) -> ServiceId {
    let protocol = match key.protocol {
        proto::Protocol::UDP => Protocol::Udp,
        proto::Protocol::SCTP => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    match key.vaddr {
        _ if !key.is_fwmark() => ServiceId::Address { protocol, address: SocketAddr::new(key.vaddr, key.vport) },
        IpAddr::V4(mark) => ServiceId::Fwmark { mark: mark.to_bits(), family: Family::Inet },
        IpAddr::V6(mark) => ServiceId::Fwmark { mark: (mark.to_bits() >> 96) as u32, family: Family::Inet6 },
    }
}

/// A service as workers see it; `servers` come in the order they were added.
pub(super) fn service(
    id: ServiceId,
    slot: ServiceSlot,
    (incarnation, version): (u64, u64),
    settings: &ServiceSettings,
    local_addresses: &[IpAddr],
    servers: &[Member],
    sorry: Option<&Member>,
) -> snapshot::Service {
    let scale = effect::scale(servers);
    let present = || servers.iter().rev().filter(|member| !member.effect.removed);
    let for_scheduler = |member: &Member| sched::Server {
        address: member.server.address,
        weight: member.scaled_weight(scale),
        last_weight: member.last_weight * scale,
    };
    let scheduled: Vec<sched::Server> = present().map(for_scheduler).collect();
    snapshot::Service {
        id: slot,
        incarnation,
        version,
        key: key(id),
        scheduler: sched::Scheduler::new(scheduler(settings), &scheduled),
        servers: present().map(|member| server(member, scale)).collect(),
        sorry: sorry.map(|member| server(member, 1)),
        local_addresses: local_addresses.to_vec(),
        local_ports: (settings.local_ports.first, settings.local_ports.last),
        timeout: settings.timeout,
        one_packet: settings.one_packet,
        persistence: settings.persistence.map(|persistence| self::persistence(id.family(), persistence)),
        client_address: settings.client_address.map(client_address),
    }
}

fn server(member: &Member, scale: u32) -> snapshot::Server {
    let server = &member.server;
    snapshot::Server {
        id: member.slot,
        addr: server.address.ip(),
        port: server.address.port(),
        mode: mode(server.mode),
        encapsulation: encapsulation(server.tunnel),
        weight: member.scaled_weight(scale),
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
    }
}

fn protocol(protocol: Protocol) -> proto::Protocol {
    match protocol {
        Protocol::Tcp => proto::Protocol::TCP,
        Protocol::Udp => proto::Protocol::UDP,
        Protocol::Sctp => proto::Protocol::SCTP,
    }
}

fn persistence(family: Family, persistence: Persistence) -> snapshot::Persistence {
    let prefix = |bits: u32, length: u8| !u128::MAX.checked_shr(length.into()).unwrap_or(0) >> (128 - bits);
    let mask = match (family, persistence.netmask) {
        (_, None) => u128::MAX,
        (_, Some(Netmask::Mask(mask))) => mask.to_bits().into(),
        (Family::Inet, Some(Netmask::Prefix(length))) => prefix(32, length),
        (Family::Inet6, Some(Netmask::Prefix(length))) => prefix(128, length),
    };
    let engine = persistence.engine.map(|Engine::Sip| snapshot::Engine::Sip);
    snapshot::Persistence { timeout: persistence.timeout, mask, engine }
}

/// A rule as workers see it. `ports` are the names of the director's ports.
pub(super) fn mark_rule(rule: &MarkRule, ports: &[String]) -> marks::MarkRule {
    let network = |network: Network| marks::Network { address: network.address, prefix_len: network.prefix_len };
    let range = |ports: PortRange| (ports.first, ports.last);
    let ingress = |name: &String| PortId(ports.iter().position(|port| port == name).unwrap_or(usize::MAX) as u16);
    marks::MarkRule {
        mark: rule.mark,
        protocol: rule.protocol.map(protocol),
        source: rule.source.map(network),
        destination: rule.destination.map(network),
        source_ports: rule.source_ports.map(range),
        destination_ports: rule.destination_ports.map(range),
        ingress: rule.ingress.as_ref().map(ingress),
    }
}

fn family(family: Family) -> proto::Family {
    match family {
        Family::Inet => proto::Family::V4,
        Family::Inet6 => proto::Family::V6,
    }
}

fn scheduler(settings: &ServiceSettings) -> sched::Kind {
    let has = |flag| settings.scheduler_flags.contains(&flag);
    match settings.scheduler {
        Scheduler::Rr => sched::Kind::Rr,
        Scheduler::Wrr => sched::Kind::Wrr,
        Scheduler::Lc => sched::Kind::Lc,
        Scheduler::Wlc => sched::Kind::Wlc,
        Scheduler::Sed => sched::Kind::Sed,
        Scheduler::Nq => sched::Kind::Nq,
        Scheduler::Fo => sched::Kind::Fo,
        Scheduler::Ovf => sched::Kind::Ovf,
        Scheduler::Lblc => sched::Kind::Lblc,
        Scheduler::Lblcr => sched::Kind::Lblcr,
        Scheduler::Dh => sched::Kind::Dh,
        Scheduler::Sh => {
            let (port, fallback) = (has(SchedulerFlag::ShPort), has(SchedulerFlag::ShFallback));
            sched::Kind::Sh(sched::Hashing { port, fallback })
        }
        Scheduler::Mh => {
            let (port, fallback) = (has(SchedulerFlag::MhPort), has(SchedulerFlag::MhFallback));
            sched::Kind::Mh(sched::Hashing { port, fallback })
        }
        Scheduler::Twos => sched::Kind::Twos,
        Scheduler::Conhash => sched::Kind::Conhash(match has(SchedulerFlag::ConhashQid) {
            true => sched::Key::QuicId,
            false => sched::Key::Source,
        }),
    }
}

fn client_address(way: ClientAddress) -> snapshot::ClientAddress {
    match way {
        ClientAddress::Toa => snapshot::ClientAddress::Toa,
        ClientAddress::ProxyV1 => snapshot::ClientAddress::Proxy(Version::V1),
        ClientAddress::ProxyV2 => snapshot::ClientAddress::Proxy(Version::V2),
    }
}

/// What is in a server's tunnel.
pub(crate) fn encapsulation(tunnel: Tunnel) -> snapshot::Encapsulation {
    let checksum = tunnel.checksum != TunnelChecksum::None;
    match tunnel.kind {
        TunnelType::Ipip => snapshot::Encapsulation::Ipip,
        // A port is there: it was checked.
        TunnelType::Gue => snapshot::Encapsulation::Gue { port: tunnel.port.unwrap_or_default(), checksum },
        TunnelType::Gre => snapshot::Encapsulation::Gre { checksum },
    }
}

fn mode(mode: ForwardMode) -> snapshot::ForwardMode {
    match mode {
        ForwardMode::Nat => snapshot::ForwardMode::Nat,
        ForwardMode::Fullnat => snapshot::ForwardMode::FullNat,
        ForwardMode::Dr => snapshot::ForwardMode::DirectRouting,
        ForwardMode::Tun => snapshot::ForwardMode::Tunnel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_service() {
        for text in
            ["tcp/192.0.2.1:80", "udp/[2001:db8::1]:53", "sctp/192.0.2.1:0", "fwmark/7", "fwmark/4294967295/inet6"]
        {
            let id: ServiceId = text.parse().unwrap();
            assert_eq!(service_id(&key(id)), id, "{text}");
        }
    }
}
