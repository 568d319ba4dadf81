//! What is right and wrong with the machine for dpvsd.

mod cores;
mod kernel;
mod memory;
mod nics;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use crate::{CpuList, Nic, Root};

pub(crate) use nics::{allows_no_iommu, strangers};

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but could be better, or depends on what is wanted.
    Note,
    /// dpvsd does not start like this, or does not do what the configuration says.
    Problem,
}

impl State {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What the machine is to do. Without a configuration, nothing is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Cores of the workers, if the configuration names them.
    pub workers: Vec<usize>,
    /// Number of workers.
    pub count: usize,
    /// Core of the control thread, if the configuration names it.
    pub control: Option<usize>,
    /// Devices of the ports with the ports' names: PCI addresses and virtual devices.
    pub devices: Vec<(String, String)>,
    /// Whether huge pages are demanded.
    pub needs_hugepages: bool,
    /// Mirror interfaces.
    pub interfaces: Vec<String>,
}

/// What all checks look at.
struct Host<'a> {
    root: &'a Root,
    plan: Option<&'a Plan>,
    nics: Vec<Nic>,
    online: CpuList,
}

/// Looks at everything.
pub fn examine(root: &Root, plan: Option<&Plan>) -> Vec<Finding> {
    let online = CpuList::parse(&root.read("sys/devices/system/cpu/online").unwrap_or_default());
    let host = Host { root, plan, nics: Nic::all(root), online };
    let mut findings = Vec::new();
    memory::check(&host, &mut findings);
    cores::check(&host, &mut findings);
    nics::check(&host, &mut findings);
    kernel::check(&host, &mut findings);
    findings
}

impl Host<'_> {
    /// The cores of the workers that are known.
    fn workers(&self) -> CpuList {
        self.plan.map(|plan| plan.workers.iter().copied().collect()).unwrap_or_default()
    }

    /// NUMA nodes with the cores of each.
    fn nodes(&self) -> Vec<(u32, CpuList)> {
        let names = self.root.names("sys/devices/system/node");
        let number = |name: &String| name.strip_prefix("node")?.parse().ok();
        let mut nodes: Vec<u32> = names.iter().filter_map(number).collect();
        nodes.sort_unstable();
        let cores = |node| self.root.read(&format!("sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
        nodes.into_iter().map(|node| (node, CpuList::parse(&cores(node)))).collect()
    }

    /// The cards that the director has or is to have.
    fn used_nics(&self) -> Vec<&Nic> {
        let named = |nic: &&Nic| match self.plan {
            Some(plan) => plan.devices.iter().any(|(_, device)| is_address(device, &nic.address)),
            None => nic.is_handed_over(),
        };
        self.nics.iter().filter(named).collect()
    }
}

/// Whether a configuration's device is this PCI address, which may lack the domain there.
fn is_address(device: &str, address: &str) -> bool {
    let device = device.to_lowercase();
    address == device || address.strip_prefix("0000:") == Some(&device)
}

/// Puts findings together.
struct Check<'a>(&'static str, &'a mut Vec<Finding>);

impl Check<'_> {
    fn ok(&mut self, message: impl Into<String>) {
        self.add(State::Ok, message.into(), None);
    }

    fn note(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Note, message.into(), Some(remedy.into()));
    }

    fn problem(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Problem, message.into(), Some(remedy.into()));
    }

    fn add(&mut self, state: State, message: String, remedy: Option<String>) {
        self.1.push(Finding { check: self.0, state, message, remedy });
    }
}

/// "core 3" or "cores 3,5".
fn cores_named(cores: &CpuList) -> String {
    format!("core{} {cores}", if cores.0.len() == 1 { "" } else { "s" })
}

/// "1 page", "2 pages".
fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The file of a module's parameter or a sysctl, for a remedy.
fn shown(path: &str) -> String {
    PathBuf::from("/").join(path).display().to_string()
}
