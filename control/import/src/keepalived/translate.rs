//! The file as a whole: global definitions, groups, and virtual servers.

use std::collections::HashMap;
use std::net::IpAddr;

use dpvs_api::Timeouts;

use super::address;
use super::service;
use super::tree::Block;
use crate::Report;
use crate::output::Output;

/// What virtual servers refer to by name.
#[derive(Default)]
pub(super) struct Groups<'a> {
    pub virtual_servers: HashMap<&'a str, &'a Block>,
    pub local_addresses: HashMap<&'a str, Vec<IpAddr>>,
}

/// Says that a line has no translation, and why.
pub(super) fn untranslated(report: &mut Report, block: &Block, why: &str) {
    report.warn(&block.place, format!("{}: not translated: {why}", block.line()));
}

/// Says that a keyword is not known.
pub(super) fn unknown(report: &mut Report, block: &Block) {
    untranslated(report, block, "this keyword is not known here");
}

/// Translates all blocks of a configuration.
pub(super) fn translate(blocks: &[Block], report: &mut Report) -> Output {
    let mut output = Output::default();
    let mut groups = Groups::default();
    // Groups may stand behind the virtual servers that name them.
    for block in blocks {
        match block.keyword.as_str() {
            "virtual_server_group" => {
                groups.virtual_servers.insert(block.first(), block);
            }
            "local_address_group" => {
                groups.local_addresses.insert(block.first(), local_addresses(block, report));
            }
            _ => {}
        }
    }
    for block in blocks {
        match block.keyword.as_str() {
            "virtual_server_group" | "local_address_group" => {}
            "global_defs" => global_definitions(block, &mut output, report),
            "virtual_server" => {
                for service in service::virtual_server(block, &groups, report) {
                    if output.services.iter().any(|other| other.id == service.id) {
                        report.warn(
                            &block.place,
                            format!("service {} is there already; this one is left out", service.id),
                        );
                    } else {
                        output.services.push(service);
                    }
                }
            }
            "SSL" => untranslated(report, block, "add certificate_file, key_file and ca_file to tls of the checks"),
            keyword => untranslated(report, block, elsewhere(keyword)),
        }
    }
    output
}

/// What is none of dpvsd's business.
fn elsewhere(keyword: &str) -> &'static str {
    if keyword.starts_with("vrrp_") || keyword.starts_with("static_") || keyword == "linkbeat_interfaces" {
        "keepalived goes on with it; it works on the mirror interfaces of dpvsd's ports"
    } else if keyword.starts_with("track_") || keyword == "garp_group" || keyword.starts_with("bfd_") {
        "keepalived goes on with it"
    } else {
        "this keyword is not known here"
    }
}

fn global_definitions(block: &Block, output: &mut Output, report: &mut Report) {
    for child in &block.children {
        match child.keyword.as_str() {
            "lvs_timeouts" => match timeouts(&child.texts()) {
                Some(timeouts) => output.timeouts = Some(timeouts),
                None => untranslated(report, child, "write lvs_timeouts [tcp SECONDS] [tcpfin SECONDS] [udp SECONDS]"),
            },
            // dpvsd begins and ends without any service.
            "lvs_flush" | "lvs_flush_on_stop" => {}
            "lvs_sync_daemon" => untranslated(report, child, "connections are not synchronised"),
            keyword if keyword.starts_with("vrrp_") => untranslated(report, child, elsewhere(keyword)),
            _ => untranslated(report, child, "it is about keepalived itself"),
        }
    }
}

fn timeouts(words: &[&str]) -> Option<Timeouts> {
    let mut timeouts = Timeouts::default();
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    if pairs.is_empty() {
        return None;
    }
    for [name, seconds] in pairs {
        let seconds = seconds.parse().ok()?;
        match *name {
            "tcp" => timeouts.tcp = seconds,
            "tcpfin" => timeouts.tcp_fin = seconds,
            "udp" => timeouts.udp = seconds,
            _ => return None,
        }
    }
    Some(timeouts)
}

/// The addresses of one of DPVS's groups; each may have the name of a device behind it.
fn local_addresses(block: &Block, report: &mut Report) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for child in &block.children {
        match address::range(&child.keyword) {
            Ok(range) => addresses.extend(range),
            Err(message) => untranslated(report, child, &message),
        }
        if !child.words.is_empty() {
            let why = "dpvsd gives the addresses to the port that leads to the servers, unless a port has them in 'addresses'";
            report.warn(&child.place, format!("{}: the device is not translated: {why}", child.line()));
        }
    }
    addresses
}
