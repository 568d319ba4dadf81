//! Cores: whose they are, what else runs on them, and their clocks.

use super::{Check, Finding, Host, cores_named, counted};
use crate::CpuList;

pub(super) fn check(host: &Host<'_>, findings: &mut Vec<Finding>) {
    workers(host, &mut Check("workers' cores", findings));
    isolation(host, &mut Check("isolated cores", findings));
    siblings(host, &mut Check("SMT siblings", findings));
    interrupts(host, &mut Check("interrupts", findings));
    governor(host, &mut Check("frequency", findings));
    clock(host, &mut Check("clock", findings));
}

fn workers(host: &Host<'_>, check: &mut Check<'_>) {
    let Some(plan) = host.plan else {
        return check.ok(format!("{} online", cores_named(&host.online)));
    };
    let workers = host.workers();
    if workers.is_empty() {
        let last: CpuList = host.online.0.iter().rev().take(plan.count.max(1)).copied().collect();
        return check.note(
            format!("the configuration leaves the choice to dpvsd, which takes the last: {last}"),
            "name them in workers.cores, on the cards' NUMA node",
        );
    }
    let missing = workers.without(&host.online);
    if !missing.is_empty() {
        check.problem(
            format!("{} not online: there are {}", cores_named(&missing), host.online),
            "name others in workers.cores",
        );
    } else if plan.control.is_some_and(|core| workers.contains(core)) {
        check.note(
            "the control thread shares a core with a worker",
            "give daemon.control_core another, or set workers.idle = \"yield\"",
        );
    } else {
        check.ok(format!("{} of {}", cores_named(&workers), host.online));
    }
}

/// A list of the kernel's command line: `name=` followed by cores, perhaps after flags.
fn from_command_line(host: &Host<'_>, name: &str) -> CpuList {
    let line = host.root.read("proc/cmdline").unwrap_or_default();
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    CpuList::parse(value.unwrap_or_default())
}

fn isolation(host: &Host<'_>, check: &mut Check<'_>) {
    let file = |name: &str| CpuList::parse(&host.root.read(name).unwrap_or_default());
    let mut isolated = file("sys/devices/system/cpu/isolated");
    isolated.0.extend(file("sys/fs/cgroup/cpuset.cpus.isolated").0);
    let no_tick = file("sys/devices/system/cpu/nohz_full");
    let no_callbacks = from_command_line(host, "rcu_nocbs");
    let options = |cores: &str| {
        format!(
            "kernel command line: isolcpus=managed_irq,domain,{cores} nohz_full={cores} rcu_nocbs={cores}; \
             fine without where workers.idle = \"yield\""
        )
    };
    let workers = host.workers();
    if workers.is_empty() {
        match isolated.is_empty() {
            true => check.note("none: other programs take turns with the workers", options("CORES")),
            false => check.ok(format!("{isolated}")),
        }
        return;
    }
    let shared = workers.without(&isolated);
    let ticking = workers.without(&no_tick);
    // A core without tick needs no callbacks either: nohz_full implies rcu_nocbs (Documentation/timers/no_hz.rst).
    let calling = ticking.without(&no_callbacks);
    if !shared.is_empty() {
        check.note(
            format!("other programs may run on the workers' {}", cores_named(&shared)),
            options(&workers.to_string()),
        );
    } else if !ticking.is_empty() || !calling.is_empty() {
        check.note(
            format!("isolated, but the scheduler's tick interrupts the workers' {}", cores_named(&ticking)),
            format!("kernel command line: nohz_full={workers} rcu_nocbs={workers}"),
        );
    } else {
        check.ok(format!("the workers' {} are isolated and have no tick", cores_named(&workers)));
    }
}

fn siblings(host: &Host<'_>, check: &mut Check<'_>) {
    let of = |core: usize| {
        let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        CpuList::parse(&host.root.read(&path).unwrap_or_default())
    };
    if host.online.0.iter().all(|&core| of(core).0.len() < 2) {
        return check.ok("every core is a processor of its own");
    }
    let workers = host.workers();
    let mut busy = workers.clone();
    busy.0.extend(host.plan.and_then(|plan| plan.control));
    let pairs: Vec<String> = workers
        .0
        .iter()
        .map(|&core| (core, of(core).and(&busy)))
        // Each pair once.
        .filter(|(core, together)| together.0.len() > 1 && together.0.first() == Some(core))
        .map(|(_, together)| together.to_string())
        .collect();
    if workers.is_empty() {
        check.note(
            "two cores share one processor's units",
            "give workers cores of different processors (/sys/devices/system/cpu/cpu*/topology/thread_siblings_list)",
        );
    } else if pairs.is_empty() {
        check.ok("no two workers share a processor");
    } else {
        check.note(
            format!("these share a processor, and each gets about 60 % of it: {}", pairs.join("; ")),
            "choose workers.cores with different siblings, or switch SMT off in the firmware",
        );
    }
}

fn interrupts(host: &Host<'_>, check: &mut Check<'_>) {
    let workers = host.workers();
    let balanced = host.root.names("proc").iter().any(|pid| {
        pid.bytes().all(|byte| byte.is_ascii_digit())
            && host.root.read(&format!("proc/{pid}/comm")).as_deref() == Some("irqbalance")
    });
    if workers.is_empty() {
        return match balanced {
            true => check.note(
                "irqbalance spreads them over all cores that are not isolated",
                "IRQBALANCE_BANNED_CPULIST=CORES in /etc/default/irqbalance, with the workers' cores",
            ),
            false => check.ok("irqbalance does not run"),
        };
    }
    let delivered = |irq: &String| {
        let read = |name: &str| host.root.read(&format!("proc/irq/{irq}/{name}"));
        let cores = read("effective_affinity_list").or_else(|| read("smp_affinity_list"))?;
        Some(CpuList::parse(&cores)).filter(|cores| !cores.and(&workers).is_empty())
    };
    let irqs = host.root.names("proc/irq");
    let number = irqs.iter().filter_map(delivered).count() as u64;
    if number == 0 {
        check.ok(format!("none is delivered to the workers' {}", cores_named(&workers)));
    } else {
        let others = host.online.without(&workers);
        let remedy = match balanced {
            true => format!("IRQBALANCE_BANNED_CPULIST={workers} in /etc/default/irqbalance"),
            false => format!(
                "for f in /proc/irq/*/smp_affinity_list; do echo {others} > $f; done; at boot: irqaffinity={others}"
            ),
        };
        check.note(
            format!("{} may come to the workers' {}", counted(number, "interrupt"), cores_named(&workers)),
            remedy,
        );
    }
}

fn governor(host: &Host<'_>, check: &mut Check<'_>) {
    let workers = host.workers();
    let cores = if workers.is_empty() { &host.online } else { &workers };
    let of = |core: &usize| host.root.read(&format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"));
    let slow: CpuList =
        cores.0.iter().filter(|core| of(core).is_some_and(|name| name != "performance")).copied().collect();
    if cores.0.iter().all(|core| of(core).is_none()) {
        check.ok("not changed by this system");
    } else if slow.is_empty() {
        check.ok("governor performance");
    } else {
        let names: Vec<String> = slow.0.iter().take(1).filter_map(of).collect();
        check.note(
            format!(
                "governor {} on {}: packets after a pause wait for the core to speed up",
                names.join(""),
                cores_named(&slow)
            ),
            "cpupower frequency-set -g performance",
        );
    }
}

fn clock(host: &Host<'_>, check: &mut Check<'_>) {
    let source = host.root.read("sys/devices/system/clocksource/clocksource0/current_clocksource");
    let cpuinfo = host.root.read("proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let invariant = !cpuinfo.contains("flags") || (has("constant_tsc") && has("nonstop_tsc"));
    match source.as_deref() {
        // Read without a system call.
        Some(source @ ("tsc" | "arch_sys_counter" | "kvm-clock" | "hyperv_clocksource_tsc_page")) => match invariant {
            true => check.ok(source),
            false => check.note(
                format!("{source}, but the processor's counter (TSC) changes its pace or stops: constant_tsc, nonstop_tsc are missing"),
                "on a virtual machine, let the hypervisor pass them on (host CPU model, invtsc=on)",
            ),
        },
        Some(source) => check.note(
            format!("{source}: each look at it is a system call"),
            "find out why the kernel does not trust the TSC (dmesg | grep -i tsc); tsc=reliable on its command line insists",
        ),
        None => check.note("the kernel does not tell its clock source", "mount /sys"),
    }
}
