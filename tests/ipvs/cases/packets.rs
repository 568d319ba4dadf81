//! Packets out of the ordinary: hops, sizes, options, checksums.

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, both, case, ipv6_differs};

const NO_CHECKSUM: &str = "Linux computes a checksum for a datagram without one; dpvsd leaves it as it came";
const NUMBERED_ANEW: &str = "Linux keeps the identification of a translated packet that leaves in fragments; dpvsd numbers it anew, as hosts \
    that share an address after the translation may have used the same";
const OPTIONS: &str = "Linux carries out IP options and refuses wrong ones; dpvsd passes them on as they are";
const NO_HOP: &str = "Linux opens a connection before it notices that the packet has no hop left; dpvsd opens none";

const MODES: [(&str, char); 3] = [("NAT", 'm'), ("DR", 'g'), ("TUN", 'i')];

/// A UDP service with one server.
fn rules(mode: char) -> String {
    format!("-A -u {{V1}}:53 -s rr\n-a -u {{V1}}:53 -r {{S1}}:53 -{mode}")
}

/// A router or link that takes packets of 1400 bytes only lies before `name`.
fn narrow(case: Case, name: &str) -> Case {
    let (via, network) = match &name[..1] {
        "C" => ("via {G/}", 0),
        _ => ("", 1),
    };
    let line = |device: &str| {
        format!("ip {{-4|-6}} route replace {{{name}/}}/{{32|128}} {via} dev {device}{network} mtu 1400")
    };
    case.linux(&line("vec")).dpvsd(&line("dpvs"))
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (mode, option) in MODES {
        for ttl in [0, 1, 2, 255] {
            let first = case(format!("{mode}, TTL {ttl}"), &rules(option))
                .send(udp("C1:4000", "V1:53", 30).ttl(ttl))
                .seen()
                .connections();
            all.extend(both(if ttl < 2 { first.differs(NO_HOP) } else { first }));
            all.extend(both(
                case(format!("{mode}, TTL {ttl} in a connection"), &rules(option))
                    .send(udp("C1:4000", "V1:53", 30))
                    .send(udp("C1:4000", "V1:53", 31).ttl(ttl))
                    .seen(),
            ));
        }
        let sizes = [("1372", 1372), ("1373", 1373), ("1452", 1452), ("1453", 1453), ("1472", 1472)];
        for (name, size) in sizes {
            let packet = |df: bool| {
                let packet = udp("C1:4000", "V1:53", size);
                if df { packet.df() } else { packet }
            };
            all.push(case(format!("{mode}, {name} bytes, DF"), &rules(option)).send(packet(true)).seen().connections());
            all.extend(both(case(format!("{mode}, {name} bytes"), &rules(option)).send(packet(false)).seen()));
        }
        all.extend(both(
            case(format!("{mode}, traffic class"), &rules(option))
                .send(udp("C1:4000", "V1:53", 30).tos(0xb8))
                .send(udp("C1:4000", "V1:53", 30).tos(0x03))
                .seen(),
        ));
        // No operation and end of list; router alert.
        all.push(
            case(format!("{mode}, IP options"), &rules(option))
                .send(udp("C1:4000", "V1:53", 30).ip_options(&[1, 1, 1, 0]))
                .send(udp("C1:4000", "V1:53", 32).ip_options(&[148, 4, 0, 0]))
                .seen(),
        );
        // Record route; a length beyond the header.
        all.push(
            case(format!("{mode}, IP options that ask for something"), &rules(option))
                .send(udp("C1:4000", "V1:53", 31).ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]))
                .send(udp("C1:4000", "V1:53", 33).ip_options(&[7, 40, 4, 0]))
                .seen()
                .differs(OPTIONS),
        );
        all.extend(both(
            case(format!("{mode}, UDP with a wrong checksum"), &rules(option))
                .send(udp("C1:4000", "V1:53", 30).damaged())
                .seen()
                .connections(),
        ));
        let none = case(format!("{mode}, UDP without checksum"), &rules(option))
            .send(udp("C1:4000", "V1:53", 30).no_checksum())
            .seen()
            .connections();
        all.push(if option == 'm' { none.differs(NO_CHECKSUM) } else { none });
    }
    all.extend(replies());
    all.extend(narrow_links());
    all
}

/// Through NAT, from the server.
fn replies() -> Vec<Case> {
    let mut all = Vec::new();
    for ttl in [0, 1, 2] {
        all.extend(both(
            case(format!("NAT, a reply with TTL {ttl}"), &rules('m'))
                .send(udp("C1:4000", "V1:53", 30))
                .send(udp("S1:53", "C1:4000", 30).ttl(ttl))
                .seen(),
        ));
    }
    all.extend(both(
        case("NAT, replies out of the ordinary", &rules('m'))
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("S1:53", "C1:4000", 1472))
            .send(udp("S1:53", "C1:4000", 30).damaged())
            .send(udp("S1:53", "C1:4000", 0).tos(0xb8))
            .seen(),
    ));
    all.push(
        case("NAT, a reply without checksum", &rules('m'))
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("S1:53", "C1:4000", 31).no_checksum())
            .seen()
            .differs(NO_CHECKSUM),
    );
    all.push(
        case("NAT, a reply with IP options", &rules('m'))
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("S1:53", "C1:4000", 32).ip_options(&[1, 1, 1, 0]))
            .seen(),
    );
    all.extend(both(
        case("NAT, replies without a connection", &rules('m'))
            .send(udp("S1:53", "C1:4000", 30))
            .send(tcp("S1:53", "C1:4000", "SA"))
            .seen()
            .connections(),
    ));
    all
}

/// Packets that do not fit into the next link.
fn narrow_links() -> Vec<Case> {
    let mut all = Vec::new();
    let narrow_rules = |mode: char| rules(mode).replace("{S1}", "{S7}");
    for (mode, option) in MODES {
        for (name, size) in [("fits", 1352), ("fits but for a tunnel", 1372), ("does not fit", 1380), ("is full", 1472)]
        {
            let request = udp("C1:4000", "V1:53", size);
            all.push(
                narrow(case(format!("{mode}, narrow link, a packet that {name}, DF"), &narrow_rules(option)), "S7")
                    .send(request.clone().df())
                    .seen(),
            );
            let [v4, v6] = both(
                narrow(case(format!("{mode}, narrow link, a packet that {name}"), &narrow_rules(option)), "S7")
                    .send(request)
                    .seen(),
            );
            let is_numbered_anew = option == 'm' && size > 1372;
            all.extend([if is_numbered_anew { v4.differs(NUMBERED_ANEW) } else { v4 }, v6]);
        }
    }
    for (name, size) in [("fits", 1372), ("does not fit", 1380)] {
        let case = |name: String| narrow(case(name, &rules('m')), "C1").send(udp("C1:4000", "V1:53", 30));
        all.push(
            case(format!("NAT, narrow link of the client, a reply that {name}, DF"))
                .send(udp("S1:53", "C1:4000", size).df())
                .seen(),
        );
        let [v4, v6] = ipv6_differs(
            both(
                case(format!("NAT, narrow link of the client, a reply that {name}"))
                    .send(udp("S1:53", "C1:4000", size))
                    .seen(),
            ),
            "Linux reports the packet size to the server from the virtual address, dpvsd from its own",
        );
        all.extend([if size > 1372 { v4.differs(NUMBERED_ANEW) } else { v4 }, v6]);
    }
    all
}
