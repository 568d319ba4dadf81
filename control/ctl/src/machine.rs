//! Commands about the machine, which need no daemon: `doctor` and `nic`.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};
use dpvs_api::ConfigFile;
use dpvs_host::{BindOptions, Bound, Finding, Linux, Nic, Plan, Root, State};
use serde::Deserialize;
use toml::Value;

use crate::run::{Error, print_as};
use crate::table::Column::Text;
use crate::table::Table;

/// What to examine.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if nothing is a problem (notes may be left), 1 if something is.")]
pub struct Doctor {
    /// Configuration that the machine is to serve [default: /etc/dpvs/dpvsd.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only what is not as it should be
    #[arg(long)]
    brief: bool,
}

/// Commands about network cards.
#[derive(Debug, Subcommand)]
pub enum NicCommand {
    /// All cards on the PCI bus, with their drivers and interfaces
    List,
    /// Hand a card over to DPDK, by vfio-pci; if that fails, it gets its former driver back
    #[command(after_help = "\
Examples:
  dpvs-ctl nic bind 0000:3b:00.0
  dpvs-ctl nic bind ens1f0 --persistent

A card whose interface the default route or an SSH session needs is refused.")]
    Bind {
        /// PCI address, or name of an interface
        card: String,
        /// Also a card that this machine's own network depends on
        #[arg(long)]
        force: bool,
        /// Also after the next start of the system, by driverctl
        #[arg(long)]
        persistent: bool,
    },
    /// Give a card back to the driver that it had
    Unbind {
        /// PCI address
        card: String,
    },
}

const DEFAULT_CONFIG: &str = "/etc/dpvs/dpvsd.toml";

/// Examines this machine.
pub(crate) fn doctor(json: bool, output: &mut dyn Write, arguments: &Doctor) -> Result<(), Error> {
    let default = Path::new(DEFAULT_CONFIG);
    let file = arguments.config.as_deref().or_else(|| default.exists().then_some(default));
    let plan = file.map(plan).transpose()?;
    let mut findings = dpvs_host::examine(&Root::default(), plan.as_ref());
    findings.extend(file.map(configuration));
    if arguments.brief {
        findings.retain(|finding| finding.state != State::Ok);
    }
    print_as(json, output, &findings, |findings| show(findings))?;
    match findings.iter().filter(|finding| finding.state == State::Problem).count() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

/// The keys of a configuration that concern the machine. Whether the file is right is dpvsd's business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    daemon: Daemon,
    eal: Eal,
    workers: Workers,
    ports: Vec<Port>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Daemon {
    control_core: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Eal {
    hugepages: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Workers {
    count: Option<usize>,
    cores: Vec<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: String,
    device: String,
    interface: Option<String>,
}

impl Document {
    fn plan(self) -> Plan {
        let interface =
            |(index, port): (usize, &Port)| port.interface.clone().unwrap_or_else(|| format!("dpvs{index}"));
        Plan {
            count: self.workers.count.unwrap_or(self.workers.cores.len().max(1)),
            workers: self.workers.cores,
            control: self.daemon.control_core,
            needs_hugepages: self.eal.hugepages == "yes",
            interfaces: self.ports.iter().enumerate().map(interface).collect(),
            devices: self.ports.into_iter().map(|port| (port.name, port.device)).collect(),
        }
    }
}

/// What a file, with what it includes, has the machine do.
fn plan(file: &Path) -> Result<Plan, Error> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut whole = toml::Table::new();
    for ConfigFile { path, text } in dpvs_file::read(file, variable).map_err(Error::Config)?.files {
        let part = toml::from_str(&text).map_err(|error| Error::File(path, error.message().to_owned()))?;
        merge(&mut whole, part);
    }
    expand(Value::Table(whole), &variable)
        .try_into()
        .map(Document::plan)
        .map_err(|error| Error::File(file.to_owned(), error.message().to_owned()))
}

/// Lists become longer, tables fuller.
fn merge(whole: &mut toml::Table, part: toml::Table) {
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(whole)), Value::Table(part)) => merge(whole, part),
            (Some(Value::Array(whole)), Value::Array(part)) => whole.extend(part),
            (_, value) => drop(whole.insert(key, value)),
        }
    }
}

/// Puts environment variables in, as far as they are set.
fn expand(value: Value, variable: &impl Fn(&str) -> Option<String>) -> Value {
    match value {
        Value::String(text) => {
            let expanded = dpvs_file::expand(&text, variable).map(Cow::into_owned);
            Value::String(expanded.unwrap_or(text))
        }
        Value::Array(values) => Value::Array(values.into_iter().map(|value| expand(value, variable)).collect()),
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, value)| (key, expand(value, variable))).collect())
        }
        other => other,
    }
}

/// What dpvsd itself says about the file.
fn configuration(file: &Path) -> Finding {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("dpvsd")));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("dpvsd"));
    let finding = |state, message, remedy: Option<&str>| Finding {
        check: "configuration",
        state,
        message,
        remedy: remedy.map(str::to_owned),
    };
    match Command::new(&program).arg("--config").arg(file).arg("--check").output() {
        Ok(output) if output.status.success() => {
            finding(State::Ok, String::from_utf8_lossy(&output.stdout).trim().to_owned(), None)
        }
        Ok(output) => finding(
            State::Problem,
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Some(
                "correct the file; deploy/dpvsd.toml, /usr/share/doc/dpvs/dpvsd.toml in the package, explains every key",
            ),
        ),
        Err(error) => finding(
            State::Note,
            format!("{} was not checked: {} does not start: {error}", file.display(), program.display()),
            Some("install dpvsd where PATH finds it"),
        ),
    }
}

/// A table of findings, each remedy on a line below.
fn show(findings: &[Finding]) -> String {
    let mut table = Table::new([Text("STATE"), Text("CHECK"), Text("FINDING")]);
    for Finding { check, state, message, remedy } in findings {
        let mut lines = message.lines();
        table.row([state.name().to_owned(), (*check).to_owned(), lines.next().unwrap_or_default().to_owned()]);
        let rest = lines.map(str::to_owned).chain(remedy.iter().map(|remedy| format!("-> {remedy}")));
        rest.for_each(|line| table.row([String::new(), String::new(), line]));
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (problems, notes) = (count(State::Problem), count(State::Note));
    format!("{}\n{problems} problem{}, {notes} note{}\n", table.render(), plural(problems), plural(notes))
}

/// Carries out a command about cards.
pub(crate) fn nic(json: bool, output: &mut dyn Write, command: &NicCommand) -> Result<(), Error> {
    let root = Root::default();
    let bound = match command {
        NicCommand::List => return print_as(json, output, &Nic::all(&root), |nics| show_nics(nics)),
        NicCommand::Bind { card, force, persistent } => {
            let options = BindOptions { force: *force, persistent: *persistent };
            dpvs_host::bind(&root, &mut Linux, card, options)
        }
        NicCommand::Unbind { card } => dpvs_host::unbind(&root, &mut Linux, card),
    };
    let Bound { address, from, to } = bound?;
    let name = |driver: Option<String>| driver.unwrap_or_else(|| "no driver".to_owned());
    Ok(writeln!(output, "{address}: {} -> {}", name(from), name(to))?)
}

fn show_nics(nics: &[Nic]) -> String {
    if nics.is_empty() {
        return "There is no network card on the PCI bus.\n".to_owned();
    }
    let mut table =
        Table::new([Text("ADDRESS"), Text("ID"), Text("NODE"), Text("DRIVER"), Text("INTERFACE"), Text("DPDK")]);
    for nic in nics {
        let dpdk = match (nic.is_handed_over(), nic.is_shared()) {
            (true, _) => "yes",
            (_, true) => "yes, shared with the kernel",
            _ => "no: dpvs-ctl nic bind",
        };
        table.row([
            nic.address.clone(),
            nic.id.clone(),
            nic.node.map_or_else(|| "-".to_owned(), |node| node.to_string()),
            nic.driver.clone().unwrap_or_else(|| "-".to_owned()),
            if nic.interfaces.is_empty() { "-".to_owned() } else { nic.interfaces.join(",") },
            dpdk.to_owned(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_shown_with_their_remedies() {
        let finding = |check, state, message: &str, remedy: Option<&str>| Finding {
            check,
            state,
            message: message.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding("clock", State::Ok, "tsc", None),
            finding("huge pages", State::Note, "none", Some("sysctl vm.nr_hugepages=1024")),
            finding("configuration", State::Problem, "f:1:1: a\nf:2:1: b", Some("correct it")),
        ];
        assert_eq!(
            show(&findings),
            "\
STATE    CHECK          FINDING
ok       clock          tsc
note     huge pages     none
                        -> sysctl vm.nr_hugepages=1024
problem  configuration  f:1:1: a
                        f:2:1: b
                        -> correct it

1 problem, 1 note
"
        );
    }

    #[test]
    fn a_configuration_says_what_the_machine_is_for() {
        let plan = |text| toml::from_str::<Document>(text).unwrap().plan();
        let text = "[daemon]\ncontrol_core = 1\n[eal]\nhugepages = 'yes'\n[workers]\ncores = [2, 3]\n\
                    [[ports]]\nname = 'a'\ndevice = '3b:00.0'\n[[ports]]\nname = 'b'\ndevice = 'net_tap0'\ninterface = 'x'\n\
                    [[services]]\nprotocol = 'tcp'\n";
        let expected = Plan {
            workers: vec![2, 3],
            count: 2,
            control: Some(1),
            devices: vec![("a".to_owned(), "3b:00.0".to_owned()), ("b".to_owned(), "net_tap0".to_owned())],
            needs_hugepages: true,
            interfaces: vec!["dpvs0".to_owned(), "x".to_owned()],
        };
        assert_eq!(plan(text), expected);
        assert_eq!((plan("").count, plan("[workers]\ncount = 4").count), (1, 4));
    }

    #[test]
    fn included_files_and_variables_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "a.toml",
            "include = ['b.toml']\n[workers]\ncores = [2]\n[[ports]]\nname = 'a'\ndevice = '${A_DEVICE:-net_tap0}'\n",
        );
        write("b.toml", "[daemon]\ncontrol_core = 1\n[[ports]]\nname = 'b'\ndevice = '3b:00.0'\n");
        let plan = plan(&folder.path().join("a.toml")).unwrap();
        let device = |name: &str, device: &str| (name.to_owned(), device.to_owned());
        assert_eq!(plan.devices, [device("a", "net_tap0"), device("b", "3b:00.0")]);
        assert_eq!((plan.workers, plan.control), (vec![2], Some(1)));

        write("b.toml", "ports = 3 3");
        let error = super::plan(&folder.path().join("a.toml")).unwrap_err().to_string();
        assert!(error.contains("b.toml"), "{error}");
    }

    #[test]
    fn cards_are_listed() {
        assert_eq!(show_nics(&[]), "There is no network card on the PCI bus.\n");
        let card = |address: &str, driver: Option<&str>, interfaces: &[&str]| Nic {
            address: address.to_owned(),
            id: "8086:1592".to_owned(),
            driver: driver.map(str::to_owned),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            node: Some(0),
            iommu_group: None,
            rx_queues: None,
            vectors: None,
        };
        let nics = [
            card("0000:3b:00.0", Some("ice"), &["ens1f0"]),
            card("0000:3b:00.1", Some("vfio-pci"), &[]),
            card("0000:d8:00.0", Some("mlx5_core"), &["ens7"]),
            card("0000:d9:00.0", None, &[]),
        ];
        assert_eq!(
            show_nics(&nics),
            "\
ADDRESS       ID         NODE  DRIVER     INTERFACE  DPDK
0000:3b:00.0  8086:1592  0     ice        ens1f0     no: dpvs-ctl nic bind
0000:3b:00.1  8086:1592  0     vfio-pci   -          yes
0000:d8:00.0  8086:1592  0     mlx5_core  ens7       yes, shared with the kernel
0000:d9:00.0  8086:1592  0     -          -          no: dpvs-ctl nic bind
"
        );
    }
}
