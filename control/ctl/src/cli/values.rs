//! Values of arguments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use dpvs_api::{
    ClientAddress, Engine, ForwardMode, LocalPorts, Protocol, Scheduler, SchedulerFlag, SorryServer, Sysctls,
    TunnelChecksum, TunnelType,
};
use serde::de::DeserializeOwned;

/// A sorry server, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sorry(pub Option<SorryServer>);

/// How clients' addresses are told, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told(pub Option<ClientAddress>);

/// A list of flags as one argument.
#[derive(Clone, Debug)]
pub struct SchedulerFlags(pub Vec<SchedulerFlag>);

/// An engine or none.
#[derive(Clone, Copy, Debug)]
pub struct EngineChoice(pub Option<Engine>);

/// A table of the configuration file in a file of its own, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromFile<T>(pub Option<Box<T>>);

/// A parser for one of a few words.
fn one_of<T: Clone + Send + Sync + 'static>(words: Vec<(&'static str, T)>) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| *word)).try_map(move |given| {
        let found = words.iter().find(|(word, _)| *word == given).map(|(_, value)| value.clone());
        found.ok_or("unknown word")
    })
}

pub(super) fn scheduler() -> impl TypedValueParser<Value = Scheduler> {
    one_of(Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler)).into())
}

pub(super) fn client_address() -> impl TypedValueParser<Value = Told> {
    let ways = ClientAddress::ALL.map(|way| (way.name(), Told(Some(way))));
    one_of(ways.into_iter().chain([("none", Told(None))]).collect())
}

pub(super) fn sorry_server(text: &str) -> Result<Sorry, String> {
    if text == "none" {
        return Ok(Sorry(None));
    }
    let server = text.split_once('/').and_then(|(mode, address)| {
        let mode = MODES.into_iter().find(|known| crate::show::mode_name(*known) == mode)?;
        Some(SorryServer { address: address.parse().ok()?, mode })
    });
    let message = "write MODE/ADDRESS:PORT, e.g. nat/10.0.0.9:80 or dr/[2001:db8::9]:80, or none";
    server.map(|server| Sorry(Some(server))).ok_or_else(|| message.to_owned())
}

pub(super) fn scheduler_flags(text: &str) -> Result<SchedulerFlags, String> {
    if text == "none" {
        return Ok(SchedulerFlags(Vec::new()));
    }
    let flag = |name: &str| {
        let flag = SchedulerFlag::ALL.into_iter().find(|flag| flag.name() == name);
        let all = SchedulerFlag::list(&SchedulerFlag::ALL);
        flag.ok_or_else(|| format!("'{name}' is no flag; write none or some of {all}"))
    };
    text.split(',').map(flag).collect::<Result<_, _>>().map(SchedulerFlags)
}

const MODES: [ForwardMode; 4] = [ForwardMode::Nat, ForwardMode::Fullnat, ForwardMode::Dr, ForwardMode::Tun];

pub(super) fn forward_mode() -> impl TypedValueParser<Value = ForwardMode> {
    one_of(MODES.map(|mode| (crate::show::mode_name(mode), mode)).into())
}

pub(super) fn tunnel_type() -> impl TypedValueParser<Value = TunnelType> {
    one_of(TunnelType::ALL.map(|kind| (kind.name(), kind)).into())
}

pub(super) fn tunnel_checksum() -> impl TypedValueParser<Value = TunnelChecksum> {
    one_of(TunnelChecksum::ALL.map(|checksum| (checksum.name(), checksum)).into())
}

pub(super) fn persistence_engine() -> impl TypedValueParser<Value = EngineChoice> {
    one_of(vec![(Engine::Sip.name(), EngineChoice(Some(Engine::Sip))), ("none", EngineChoice(None))])
}

pub(super) fn protocol() -> impl TypedValueParser<Value = Protocol> {
    one_of(Protocol::ALL.map(|protocol| (protocol.name(), protocol)).into())
}

/// The name of a setting, without what stands before it in the kernel.
pub(super) fn setting(text: &str) -> Result<String, String> {
    Ok(text.strip_prefix("net.ipv4.vs.").unwrap_or(text).to_owned())
}

/// The values that `dpvs-ctl set` is given, by name.
pub(crate) fn assignments(words: &[String]) -> Result<BTreeMap<String, u32>, String> {
    let pair = |name: &str, value: &str| {
        let setting = setting(name)?;
        let number = value.parse().map_err(|_| match Sysctls::is_refused(&setting) {
            Some(error) => error.to_string(),
            None => format!("'{value}' is no value for {name}: give a number from 0 up"),
        })?;
        Ok((setting, number))
    };
    if let [name, value] = words
        && !name.contains('=')
    {
        return Ok(BTreeMap::from([pair(name, value)?]));
    }
    let assignment = |word: &String| match word.split_once('=') {
        Some((name, value)) => pair(name, value),
        None => Err(format!("'{word}' has no value: write NAME VALUE, or NAME=VALUE for each of several settings")),
    };
    words.iter().map(assignment).collect()
}

/// Reads the table in a file.
pub(super) fn from_file<T: DeserializeOwned>(file: &str) -> Result<FromFile<T>, String> {
    if file == "none" {
        return Ok(FromFile(None));
    }
    let mut text = String::new();
    let read = match file {
        "-" => io::stdin().read_to_string(&mut text),
        file => File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| error.to_string())?;
    toml::from_str(&text).map(|table| FromFile(Some(Box::new(table)))).map_err(|error| error.to_string())
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write ADDRESS:PORT, e.g. 10.0.0.1:80 or [2001:db8::1]:80".to_owned())
}

pub(super) fn local_ports(text: &str) -> Result<LocalPorts, String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let ports = LocalPorts { first: first.parse().ok()?, last: last.parse().ok()? };
        (1..=ports.last).contains(&ports.first).then_some(ports)
    });
    range.ok_or_else(|| "write FIRST-LAST, e.g. 1025-65535".to_owned())
}

#[cfg(test)]
mod tests {
    use dpvs_api::Health;

    use super::*;

    #[test]
    fn settings_are_given_as_pairs_or_as_assignments() {
        let words = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        let one = BTreeMap::from([("sloppy_tcp".to_owned(), 1)]);
        for line in ["sloppy_tcp 1", "sloppy_tcp=1", "net.ipv4.vs.sloppy_tcp 1", "net.ipv4.vs.sloppy_tcp=1"] {
            assert_eq!(assignments(&words(line)), Ok(one.clone()), "{line}");
        }
        let two = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(assignments(&words("a=1 b=2")), Ok(two));
        for (line, message) in [
            ("sloppy_tcp", "'sloppy_tcp' has no value: write NAME VALUE"),
            ("sloppy_tcp on", "'on' is no value for sloppy_tcp: give a number"),
            ("sloppy_tcp -1", "'-1' is no value"),
            ("est_cpulist=0-3", "est_cpulist is a setting of IPVS that means nothing to dpvsd"),
            ("a 1 b 2", "'a' has no value"),
        ] {
            let error = assignments(&words(line)).unwrap_err();
            assert!(error.starts_with(message), "{line}: {error}");
        }
    }

    #[test]
    fn a_table_comes_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("health.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            from_file::<Health>(file.to_str().unwrap())
        };
        let health = read("quorum = 2\nchecks = [{ probe = 'tcp' }]\n").unwrap().0.unwrap();
        assert_eq!((health.quorum, health.checks.len()), (2, 1));
        let error = read("quorun = 2").unwrap_err();
        assert!(error.contains("unknown field `quorun`") && error.contains("line 1"), "{error}");
        assert_eq!(from_file::<Health>("none"), Ok(FromFile(None)));
        assert!(from_file::<Health>("/nowhere").unwrap_err().contains("No such file"));
    }
}
