//! Huge pages and locked memory.

use super::{Check, Finding, Host, counted};

/// Kilobytes of a huge page and what it is called.
const SIZES: [(u64, &str); 2] = [(2048, "2 MiB"), (1_048_576, "1 GiB")];

pub(super) fn check(host: &Host<'_>, findings: &mut Vec<Finding>) {
    huge_pages(host, &mut Check("huge pages", findings));
    placement(host, &mut Check("huge pages by node", findings));
    transparent(host, &mut Check("transparent pages", findings));
    locked(host, &mut Check("locked memory", findings));
}

fn huge_pages(host: &Host<'_>, check: &mut Check<'_>) {
    let number = |kib: u64, name: &str| host.root.number(&format!("sys/kernel/mm/hugepages/hugepages-{kib}kB/{name}"));
    let mut texts = Vec::new();
    let mut free = 0;
    for (kib, size) in SIZES {
        let Some(total) = number(kib, "nr_hugepages").filter(|&total| total > 0) else { continue };
        let unused = number(kib, "free_hugepages").unwrap_or(0);
        free += unused * kib;
        texts.push(format!("{} of {size}, {unused} free", counted(total, "page")));
    }
    let remedy = "sysctl vm.nr_hugepages=1024, and the same in /etc/sysctl.d to keep it; pages of 1 GiB are reserved by the kernel \
                  command line: hugepagesz=1G hugepages=4";
    let needed = host.plan.is_some_and(|plan| plan.needs_hugepages) || !host.used_nics().is_empty();
    if !host.root.exists("sys/kernel/mm/hugepages") {
        let text = "this kernel offers none, so packets are in ordinary memory";
        match needed {
            true => {
                check.problem(text, "use a kernel with CONFIG_HUGETLBFS, or virtual devices and eal.hugepages = \"no\"")
            }
            false => check.note(text, "use a kernel with CONFIG_HUGETLBFS"),
        }
    } else if texts.is_empty() && needed {
        check.problem("none are reserved, and network cards need them", remedy);
    } else if texts.is_empty() {
        check.note("none are reserved: packets of virtual devices are in ordinary memory, which is slower", remedy);
    } else if free == 0 {
        let text = format!("{}: nothing left for a daemon that starts now", texts.join("; "));
        check.note(
            text,
            "fine if dpvsd runs and has them; else find who has them (grep -l hugetlb /proc/*/maps), or reserve more",
        );
    } else {
        check.ok(texts.join("; "));
    }
}

/// On machines with several nodes: whether there are pages where cards and workers are.
fn placement(host: &Host<'_>, check: &mut Check<'_>) {
    let nodes = host.nodes();
    if nodes.len() < 2 {
        return;
    }
    let pages = |node: u32, kib: u64| {
        let path = format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB/nr_hugepages");
        host.root.number(&path).unwrap_or(0)
    };
    let of_node = |node: u32| SIZES.map(|(kib, size)| (pages(node, kib), size));
    let mut bad = false;
    for (node, cores) in &nodes {
        if of_node(*node).iter().any(|(pages, _)| *pages > 0) {
            continue;
        }
        let mut needs: Vec<String> = Vec::new();
        needs.extend(host.used_nics().iter().filter(|nic| nic.node == Some(*node)).map(|nic| nic.address.clone()));
        let workers = host.workers().and(cores);
        if !workers.is_empty() {
            needs.push(format!("workers on {}", super::cores_named(&workers)));
        }
        if !needs.is_empty() {
            bad = true;
            check.problem(
                format!("node {node} has none, but {}", needs.join(" and ")),
                format!("echo 512 > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"),
            );
        }
    }
    if !bad {
        let text = |node: &(u32, _)| {
            let pages = of_node(node.0).map(|(pages, size)| (pages > 0).then(|| format!("{pages} of {size}")));
            let pages: Vec<String> = pages.into_iter().flatten().collect();
            format!("node {}: {}", node.0, if pages.is_empty() { "none".to_owned() } else { pages.join(", ") })
        };
        check.ok(nodes.iter().map(text).collect::<Vec<_>>().join("; "));
    }
}

/// Large connection tables are in transparent huge pages.
fn transparent(host: &Host<'_>, check: &mut Check<'_>) {
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let Some(modes) = host.root.read(path) else {
        return check.note(
            "this kernel has none: large connection tables are slower",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        );
    };
    // The one in force is in brackets.
    match modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']')) {
        Some(mode @ ("always" | "madvise")) => check.ok(mode),
        mode => check.note(
            format!("{}: large connection tables are slower", mode.unwrap_or("unknown")),
            format!("echo madvise > {}", super::shown(path)),
        ),
    }
}

fn locked(host: &Host<'_>, check: &mut Check<'_>) {
    // "Max locked memory  SOFT  HARD  bytes"
    let limits = host.root.read("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => check.ok("unlimited"),
        Some(soft) => {
            let mib = soft.parse::<u64>().map_or_else(|_| soft.to_owned(), |bytes| format!("{} MiB", bytes >> 20));
            check.note(
                format!("this shell may lock {mib}; cards with vfio need all memory of packets locked"),
                "nothing to do for the systemd unit, which has LimitMEMLOCK=infinity; by hand: ulimit -l unlimited",
            );
        }
        None => check.note("the limit is unknown", "mount /proc"),
    }
}
