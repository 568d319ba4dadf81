//! Network cards: their drivers, the IOMMU, where they are, and their queues.

use std::collections::BTreeSet;

use super::{Check, Finding, Host, cores_named, is_address};
use crate::Nic;
use crate::nic::DEVICES;

pub(super) fn check(host: &Host<'_>, findings: &mut Vec<Finding>) {
    iommu(host, &mut Check("IOMMU", findings));
    drivers(host, &mut Check("drivers", findings));
    cards(host, &mut Check("cards", findings));
    placement(host, &mut Check("cards by node", findings));
    queues(host, &mut Check("queues", findings));
}

/// Whether vfio may hand devices over without an IOMMU.
pub(crate) fn allows_no_iommu(root: &crate::Root) -> bool {
    root.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode").is_some_and(|value| value == "Y")
}

fn has_iommu(host: &Host<'_>) -> bool {
    !host.root.names("sys/kernel/iommu_groups").is_empty()
}

fn is_virtual_machine(host: &Host<'_>) -> bool {
    let cpuinfo = host.root.read("proc/cpuinfo").unwrap_or_default();
    cpuinfo.split_whitespace().any(|word| word == "hypervisor")
}

fn iommu(host: &Host<'_>, check: &mut Check<'_>) {
    if has_iommu(host) {
        return check.ok(format!("{} groups", host.root.names("sys/kernel/iommu_groups").len()));
    }
    let remedy = match is_virtual_machine(host) {
        true => {
            "give the virtual machine one (QEMU: -device intel-iommu or virtio-iommu), or echo 1 > \
                 /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, whose daemon must run as root"
        }
        false => "switch on VT-d or AMD-Vi in the firmware, and intel_iommu=on iommu=pt on the kernel command line",
    };
    let with_vfio = host.used_nics().iter().any(|nic| !nic.is_shared());
    match with_vfio && !allows_no_iommu(host.root) {
        true => check.problem("there is none, and vfio-pci needs it", remedy),
        false => check.note("there is none: no network card can be used with vfio-pci", remedy),
    }
}

fn drivers(host: &Host<'_>, check: &mut Check<'_>) {
    let loaded = |name: &str| host.root.exists(&format!("sys/bus/pci/drivers/{name}"));
    let present: Vec<&str> = crate::nic::HANDED_OVER.into_iter().filter(|name| loaded(name)).collect();
    let wants_vfio = host.used_nics().iter().any(|nic| !nic.is_usable());
    match present.first() {
        Some(&"vfio-pci") => check.ok(present.join(", ")),
        Some(_) => check.note(
            format!("{}: such a card can write to all memory, and the daemon must run as root", present.join(", ")),
            "modprobe vfio-pci, and bind cards to that",
        ),
        None if wants_vfio => check.problem(
            "no driver for DPDK is loaded, but the configuration names a card",
            "modprobe vfio-pci; echo vfio-pci > /etc/modules-load.d/vfio-pci.conf",
        ),
        None if host.nics.iter().any(Nic::is_shared) => {
            check.ok("none needed: the card's own driver is shared with DPDK")
        }
        None => check.note(
            "vfio-pci is not loaded: virtual devices do without",
            "for a network card: modprobe vfio-pci; echo vfio-pci > /etc/modules-load.d/vfio-pci.conf",
        ),
    }
}

fn cards(host: &Host<'_>, check: &mut Check<'_>) {
    let Some(plan) = host.plan else {
        let usable: Vec<&str> =
            host.nics.iter().filter(|nic| nic.is_usable()).map(|nic| nic.address.as_str()).collect();
        return match (host.nics.is_empty(), usable.is_empty()) {
            (true, _) => {
                check.note("no network card on the PCI bus", "use virtual devices: net_tap, net_af_packet, net_memif")
            }
            (false, true) => check.note("none is handed over to DPDK", "dpvs-ctl nic list; dpvs-ctl nic bind ADDRESS"),
            (false, false) => check.ok(format!("DPDK can use {}", usable.join(", "))),
        };
    };
    let mut all_virtual = true;
    for (port, device) in &plan.devices {
        if !device.contains(':') {
            continue;
        }
        all_virtual = false;
        let Some(nic) = host.nics.iter().find(|nic| is_address(device, &nic.address)) else {
            check.problem(
                format!("port {port}: there is no network card {device}"),
                "dpvs-ctl nic list shows those there are",
            );
            continue;
        };
        if !nic.is_usable() {
            let driver = nic.driver.as_deref().unwrap_or("no driver");
            let remedy = format!("dpvs-ctl nic bind {}", nic.address);
            check.problem(format!("port {port}: {} is with {driver}, not with vfio-pci", nic.address), remedy);
            continue;
        }
        let others = strangers(host.root, nic);
        match others.is_empty() || !nic.is_handed_over() {
            true => {
                check.ok(format!("port {port}: {} is with {}", nic.address, nic.driver.as_deref().unwrap_or_default()))
            }
            false => check.problem(
                format!("port {port}: {} is in an IOMMU group with {}", nic.address, others.join(", ")),
                "bind those to vfio-pci as well, or put the card into another slot",
            ),
        }
    }
    if all_virtual {
        check.ok("the configuration has virtual devices only");
    }
}

/// Other devices of the card's IOMMU group that drivers of the kernel hold, so that vfio does not hand out the group.
pub(crate) fn strangers(root: &crate::Root, nic: &Nic) -> Vec<String> {
    let Some(group) = &nic.iommu_group else { return Vec::new() };
    let others = root.names(&format!("sys/kernel/iommu_groups/{group}/devices"));
    // Bridges and stubs do not count (drivers/vfio/vfio_main.c).
    const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];
    let stranger = |address: &String| {
        let driver = root.link(&format!("{DEVICES}/{address}/driver"))?;
        (*address != nic.address && !HARMLESS.contains(&driver.as_str())).then(|| format!("{address} ({driver})"))
    };
    others.iter().filter_map(stranger).collect()
}

/// On machines with several nodes: whether workers are where the cards are.
fn placement(host: &Host<'_>, check: &mut Check<'_>) {
    let nodes = host.nodes();
    let used = host.used_nics();
    if nodes.len() < 2 || used.is_empty() {
        return;
    }
    let workers = host.workers();
    let mut good = Vec::new();
    for nic in used {
        let Some(node) = nic.node else { continue };
        let local =
            nodes.iter().find(|(number, _)| *number == node).map(|(_, cores)| cores.clone()).unwrap_or_default();
        let far = workers.without(&local);
        match far.is_empty() {
            true => good.push(format!("{} is on node {node}, whose cores are {local}", nic.address)),
            false => check.note(
                format!("{} is on node {node}, but not the workers' {}", nic.address, cores_named(&far)),
                format!("workers.cores out of {local}"),
            ),
        }
    }
    if !good.is_empty() {
        check.ok(good.join("; "));
    }
}

/// Cards that cannot spread packets over queues, by PCI ids: emulated and old ones.
const ONE_QUEUE: [&str; 5] = ["8086:100e", "8086:100f", "8086:10d3", "10ec:8139", "1022:2000"];
/// virtio-net, whose abilities are the hypervisor's.
const VIRTIO: [&str; 2] = ["1af4:1000", "1af4:1041"];

fn queues(host: &Host<'_>, check: &mut Check<'_>) {
    let workers = host.plan.map_or(0, |plan| plan.count);
    let nics: Vec<&Nic> = if host.plan.is_some() { host.used_nics() } else { host.nics.iter().collect() };
    let mut good = BTreeSet::new();
    for nic in nics {
        let id = nic.id.as_str();
        // One vector is for the link.
        let queues = nic.rx_queues.or(nic.vectors.map(|vectors| vectors.saturating_sub(1).max(1)));
        if ONE_QUEUE.contains(&id) {
            check.note(
                format!("{} ({id}) has one queue and no RSS: one worker receives and passes packets on", nic.address),
                "one worker, or a card with RSS",
            );
        } else if VIRTIO.contains(&id) {
            check.note(
                format!(
                    "{} is virtio: RSS is there only if the hypervisor offers it; else workers pass packets on",
                    nic.address
                ),
                "QEMU: -netdev ...,queues=N -device virtio-net-pci,mq=on,rss=on,vectors=2N+2",
            );
        } else if let Some(queues) = queues.filter(|&queues| queues < workers) {
            check.note(
                format!("{} has about {queues} receive queues for {workers} workers", nic.address),
                "dpvsd refuses to start if the card has no more: workers.count must not be greater",
            );
        } else {
            good.insert(match queues {
                Some(queues) => format!("{}: about {queues}", nic.address),
                None => format!("{}: known when dpvsd opens it", nic.address),
            });
        }
    }
    if !good.is_empty() {
        check.ok(good.into_iter().collect::<Vec<_>>().join("; "));
    }
}
