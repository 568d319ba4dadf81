//! Whole machines, with what is found on each.

use super::*;
use crate::machines::Machine;

const SERVER: &str = include_str!("../machines/server.txt");
const VM: &str = include_str!("../machines/vm.txt");
const CONTAINER: &str = include_str!("../machines/container.txt");

fn plan(workers: &[usize], devices: &[&str]) -> Plan {
    Plan {
        workers: workers.to_vec(),
        count: workers.len().max(1),
        control: Some(0),
        devices: devices.iter().map(|device| ("lan".to_owned(), (*device).to_owned())).collect(),
        needs_hugepages: false,
        interfaces: vec!["dpvs0".to_owned()],
    }
}

/// "STATE CHECK: MESSAGE" of each finding; remedies are looked at one by one.
fn lines(machine: &Machine, plan: Option<&Plan>) -> Vec<String> {
    let findings = examine(machine.root(), plan);
    for Finding { check, state, remedy, .. } in &findings {
        assert_eq!(remedy.is_some(), *state != State::Ok, "{check}");
    }
    findings.iter().map(|f| format!("{} {}: {}", f.state.name(), f.check, f.message)).collect()
}

fn remedy(machine: &Machine, plan: Option<&Plan>, check: &str) -> String {
    let findings = examine(machine.root(), plan);
    findings.into_iter().find(|f| f.check == check).and_then(|f| f.remedy).unwrap_or_default()
}

/// The state of a check after a change of the machine.
fn after(description: &str, plan: &Plan, check: &str, change: impl FnOnce(&Machine)) -> (State, String) {
    let machine = Machine::described(description);
    change(&machine);
    let findings = examine(machine.root(), Some(plan));
    let found = findings.into_iter().find(|f| f.check == check).unwrap_or_else(|| panic!("{check} is not looked at"));
    (found.state, found.message)
}

#[test]
fn a_prepared_server_has_nothing_wrong() {
    let machine = Machine::described(SERVER);
    machine.write("sys/bus/pci/devices/0000:3b:00.1/config", crate::nic::tests::config(65));
    assert_eq!(
        lines(&machine, Some(&plan(&[2, 3, 4, 5], &["0000:3b:00.1"]))),
        [
            "ok huge pages: 2048 pages of 2 MiB, 1900 free",
            "ok huge pages by node: node 0: 1024 of 2 MiB; node 1: 1024 of 2 MiB",
            "ok transparent pages: madvise",
            "ok locked memory: unlimited",
            "ok workers' cores: cores 2-5 of 0-31",
            "ok isolated cores: the workers' cores 2-5 are isolated and have no tick",
            "ok SMT siblings: every core is a processor of its own",
            "ok interrupts: none is delivered to the workers' cores 2-5",
            "ok frequency: governor performance",
            "ok clock: tsc",
            "ok IOMMU: 3 groups",
            "ok drivers: vfio-pci",
            "ok cards: port lan: 0000:3b:00.1 is with vfio-pci",
            "ok cards by node: 0000:3b:00.1 is on node 0, whose cores are 0-15",
            "ok queues: 0000:3b:00.1: about 64",
            "ok /dev/net/tun: present",
            "ok forwarding: on",
            "ok rp_filter: not strict",
            "ok NUMA balancing: off",
        ]
    );
}

#[test]
fn a_bare_virtual_machine_needs_preparation() {
    let machine = Machine::described(VM);
    let plan = plan(&[2, 3], &["00:03.0"]);
    assert_eq!(
        lines(&machine, Some(&plan)),
        [
            "problem huge pages: none are reserved, and network cards need them",
            "note transparent pages: never: large connection tables are slower",
            "note locked memory: this shell may lock 8 MiB; cards with vfio need all memory of packets locked",
            "ok workers' cores: cores 2-3 of 0-3",
            "note isolated cores: other programs may run on the workers' cores 2-3",
            "note SMT siblings: these share a processor, and each gets about 60 % of it: 2-3",
            "note interrupts: 4 interrupts may come to the workers' cores 2-3",
            "ok frequency: not changed by this system",
            "note clock: kvm-clock, but the processor's counter (TSC) changes its pace or stops: constant_tsc, nonstop_tsc are missing",
            "problem IOMMU: there is none, and vfio-pci needs it",
            "problem drivers: no driver for DPDK is loaded, but the configuration names a card",
            "problem cards: port lan: 0000:00:03.0 is with virtio-pci, not with vfio-pci",
            "note queues: 0000:00:03.0 is virtio: RSS is there only if the hypervisor offers it; else workers pass packets on",
            "ok /dev/net/tun: present",
            "note forwarding: off for IPv4 and IPv6: servers that have the director as their gateway reach nothing but clients",
            "note rp_filter: strict for default: the kernel drops what comes in by another interface than answers leave by",
            "note Linux IPVS: ip_vs is loaded: /usr/sbin/ipvsadm of Debian's package configures that, not dpvsd",
        ]
    );
    for (check, part) in [
        ("isolated cores", "isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3"),
        ("interrupts", "IRQBALANCE_BANNED_CPULIST=2-3"),
        ("cards", "dpvs-ctl nic bind 0000:00:03.0"),
        ("forwarding", "sysctl net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"),
        ("rp_filter", "net.ipv4.conf.default.rp_filter=2"),
        ("transparent pages", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    ] {
        let said = remedy(&machine, Some(&plan), check);
        assert!(said.contains(part), "{check}: {said}");
    }
}

#[test]
fn a_container_lacks_devices() {
    let machine = Machine::described(CONTAINER);
    assert_eq!(
        lines(&machine, None),
        [
            "note huge pages: this kernel offers none, so packets are in ordinary memory",
            "ok transparent pages: always",
            "note locked memory: this shell may lock 0 MiB; cards with vfio need all memory of packets locked",
            "ok workers' cores: cores 0-1 online",
            "note isolated cores: none: other programs take turns with the workers",
            "ok SMT siblings: every core is a processor of its own",
            "ok interrupts: irqbalance does not run",
            "ok frequency: not changed by this system",
            "note clock: acpi_pm: each look at it is a system call",
            "note IOMMU: there is none: no network card can be used with vfio-pci",
            "note drivers: vfio-pci is not loaded: virtual devices do without",
            "note cards: no network card on the PCI bus",
            "problem /dev/net/tun: missing: mirror interfaces and net_tap need it",
            "ok forwarding: on",
            "ok rp_filter: not strict",
        ]
    );
}

#[test]
fn a_machine_without_configuration_is_described() {
    let machine = Machine::described(VM);
    let said = lines(&machine, None);
    for line in [
        "note huge pages: none are reserved: packets of virtual devices are in ordinary memory, which is slower",
        "note SMT siblings: two cores share one processor's units",
        "note interrupts: irqbalance spreads them over all cores that are not isolated",
        "note cards: none is handed over to DPDK",
    ] {
        assert!(said.iter().any(|said| said == line), "no '{line}' in {said:#?}");
    }
    assert!(remedy(&machine, None, "isolated cores").contains("isolcpus=managed_irq,domain,CORES nohz_full=CORES"));
    let server = lines(&Machine::described(SERVER), None);
    assert!(server.contains(&"ok cards: DPDK can use 0000:3b:00.1, 0000:d8:00.0".to_owned()), "{server:#?}");
}

#[test]
fn single_faults_of_a_good_server_are_found() {
    let near = plan(&[2, 3], &["3b:00.1"]);
    let far = plan(&[2, 18], &["3b:00.1"]);
    let (note, problem) = (State::Note, State::Problem);
    type Case<'a> = (&'a Plan, &'a str, &'a dyn Fn(&Machine), State, &'a str);
    let cases: [Case<'_>; 15] = [
        (
            &near,
            "huge pages",
            &|m| m.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0"),
            note,
            "nothing left",
        ),
        (
            &near,
            "huge pages by node",
            &|m| m.write("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "0"),
            problem,
            "node 0 has none, but 0000:3b:00.1 and workers on cores 2-3",
        ),
        (&far, "cards by node", &|_| (), note, "0000:3b:00.1 is on node 0, but not the workers' core 18"),
        (&near, "workers' cores", &|m| m.write("sys/devices/system/cpu/online", "0-2"), problem, "core 3 not online"),
        (&plan(&[0, 2], &[]), "workers' cores", &|_| (), note, "shares a core with a worker"),
        (&plan(&[], &[]), "workers' cores", &|_| (), note, "takes the last: 31"),
        (
            &near,
            "isolated cores",
            &|m| m.write("sys/devices/system/cpu/nohz_full", "4"),
            note,
            "tick interrupts the workers' cores 2-3",
        ),
        (
            &near,
            "frequency",
            &|m| m.write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"),
            note,
            "powersave on core 3",
        ),
        (
            &near,
            "clock",
            &|m| m.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
            note,
            "hpet",
        ),
        (
            &near,
            "drivers",
            &|m| {
                m.remove("sys/bus/pci/drivers/vfio-pci");
                m.write("sys/bus/pci/drivers/igb_uio/bind", "");
            },
            note,
            "igb_uio: such a card can write to all memory",
        ),
        (&plan(&[2], &["3b:00.7"]), "cards", &|_| (), problem, "there is no network card 3b:00.7"),
        (
            &near,
            "cards",
            &|m| {
                m.write("sys/kernel/iommu_groups/19/devices/0000:00:1f.0", "");
                m.link("sys/bus/pci/devices/0000:00:1f.0/driver", "../../drivers/ahci");
            },
            problem,
            "is in an IOMMU group with 0000:00:1f.0 (ahci)",
        ),
        (
            &plan(&[2, 3, 4, 5], &["3b:00.1"]),
            "queues",
            &|m| m.write("sys/bus/pci/devices/0000:3b:00.1/config", crate::nic::tests::config(3)),
            note,
            "has about 2 receive queues for 4 workers",
        ),
        (&near, "NUMA balancing", &|m| m.write("proc/sys/kernel/numa_balancing", "1"), note, "on:"),
        (&near, "rp_filter", &|m| m.write("proc/sys/net/ipv4/conf/dpvs0/rp_filter", "1"), note, "strict for dpvs0"),
    ];
    for (plan, check, change, state, message) in cases {
        let (found, said) = after(SERVER, plan, check, change);
        assert_eq!(found, state, "{check}: {said}");
        assert!(said.contains(message), "{check}: {said}");
    }
}
