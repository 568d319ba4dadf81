//! What is measured: which programs take turns, and what each does in its turn.

use dataplane::snapshot::ForwardMode;
use proto::Protocol;

use super::session::{Case, Length};

/// A program that is started anew for every turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// dpvsd with services of this mode.
    Dpvsd(ForwardMode),
    /// testpmd.
    Testpmd,
    /// What was named on the command line, in this mode.
    External(ForwardMode),
}

/// One thing to do while a program runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Full rate. testpmd does what is named.
    Rate(Case, Option<&'static str>),
    /// Latency at a share of the largest rate of the program that came first in this round.
    Latency(Case, f64, Option<&'static str>),
    /// Every packet checked.
    Verify(Case),
    /// New connections of so many packets each.
    Connect(Case, u32),
}

/// Programs that take turns, and their tasks.
#[derive(Clone, Debug)]
pub struct Group {
    /// The programs.
    pub turns: Vec<(Device, Vec<Task>)>,
    /// How often each has its turn.
    pub rounds: usize,
}

/// Programs that take turns on a port that repeats a file.
#[derive(Clone, Debug)]
pub struct ZeroWire {
    /// What is in the file.
    pub case: Case,
    /// Modes of dpvsd.
    pub modes: Vec<ForwardMode>,
}

/// Loads at which latency is measured.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Flows of which latency is measured.
const LATENCY_FLOWS: u32 = 1_000;
/// What testpmd does on memif; the last is what others are compared with.
const SWAP: &str = "5tswap";
/// What testpmd does to packets whose latency is measured: as little as possible.
const IO: &str = "io";
const MODES: [ForwardMode; 4] =
    [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRouting, ForwardMode::Tunnel];

/// What shows the targets: memif.
pub fn quick(rounds: usize) -> Vec<Group> {
    let flows = [1_000, 100_000, 1_000_000];
    let case = |flows| Case::basic(ForwardMode::FullNat, flows);
    let latency = |mode| LOADS.map(|load| Task::Latency(case(LATENCY_FLOWS), load, mode));
    let mut ours = vec![Task::Rate(case(flows[0]), None)];
    ours.extend(latency(None));
    ours.extend(flows[1..].iter().map(|&flows| Task::Rate(case(flows), None)));
    let mut peer: Vec<Task> = flows.iter().map(|&flows| Task::Rate(case(flows), Some(SWAP))).collect();
    peer.extend(latency(Some(IO)));
    let turns = vec![(Device::Dpvsd(ForwardMode::FullNat), ours), (Device::Testpmd, peer)];
    let mut groups = vec![Group { turns, rounds }];
    groups.extend(MODES.map(|mode| Group { turns: vec![(Device::Dpvsd(mode), verified(mode, 1_000))], rounds: 1 }));
    groups
}

/// All combinations.
pub fn full(rounds: usize) -> Vec<Group> {
    let mut groups = quick(rounds);
    for mode in MODES {
        let turns = vec![(Device::Dpvsd(mode), verified(mode, 100_000))];
        groups.push(Group { turns, rounds: 1 });
        let mut ours = Vec::new();
        let mut peer = Vec::new();
        for (is_v6, protocol) in [false, true].into_iter().flat_map(|v6| [(v6, Protocol::UDP), (v6, Protocol::TCP)]) {
            for flows in [1, 1_000, 100_000, 1_000_000] {
                let case = Case { is_v6, protocol, ..Case::basic(mode, flows) };
                ours.push(Task::Rate(case, None));
                if mode.sees_replies() {
                    ours.push(Task::Rate(Case { both_ways: true, ..case }, None));
                }
                peer.push(Task::Rate(case, Some(SWAP)));
            }
        }
        for length in [Length::Fixed(512), Length::Fixed(1500), Length::Imix] {
            let case = Case { length, ..Case::basic(mode, 100_000) };
            ours.push(Task::Rate(case, None));
            peer.push(Task::Rate(case, Some(SWAP)));
        }
        let zipf = Case { is_zipf: true, ..Case::basic(mode, 1_000_000) };
        ours.push(Task::Rate(zipf, None));
        peer.push(Task::Rate(zipf, Some(SWAP)));
        // What testpmd does does not depend on the mode: once is enough.
        let mut turns = vec![(Device::Dpvsd(mode), ours)];
        if mode == ForwardMode::FullNat {
            turns.push((Device::Testpmd, peer));
        }
        groups.push(Group { turns, rounds });
    }
    for is_v6 in [false, true] {
        let case = Case { is_v6, protocol: Protocol::TCP, ..Case::basic(ForwardMode::FullNat, 500_000) };
        for packets in [1, super::lives::WHOLE_LIFE] {
            let turns = vec![(Device::Dpvsd(ForwardMode::FullNat), vec![Task::Connect(case, packets)])];
            groups.push(Group { turns, rounds });
        }
    }
    groups
}

/// An external device beside testpmd.
pub fn external(mode: ForwardMode, rounds: usize, is_full: bool) -> Vec<Group> {
    let mut groups = if is_full { full(rounds) } else { quick(rounds) };
    groups.retain_mut(|group| {
        group.turns.retain_mut(|(device, _)| {
            if matches!(device, Device::Dpvsd(ours) if *ours == mode) {
                *device = Device::External(mode);
            }
            !matches!(device, Device::Dpvsd(_))
        });
        group.turns.iter().any(|(device, _)| *device != Device::Testpmd)
    });
    groups
}

/// Passes in which every packet is checked, both ways where the director sees both.
fn verified(mode: ForwardMode, flows: u32) -> Vec<Task> {
    let case = Case { both_ways: mode.sees_replies(), ..Case::basic(mode, flows) };
    let mut tasks = Vec::new();
    for is_v6 in [false, true] {
        for protocol in [Protocol::UDP, Protocol::TCP] {
            tasks.push(Task::Verify(Case { is_v6, protocol, length: Length::Imix, ..case }));
        }
    }
    tasks
}

/// Ports that repeat a file.
pub fn zero_wire(is_full: bool) -> Vec<ZeroWire> {
    let flows: &[u32] = if is_full { &[1, 1_000, 100_000] } else { &[1_000, 100_000] };
    let modes = if is_full { MODES.to_vec() } else { vec![ForwardMode::FullNat, ForwardMode::DirectRouting] };
    let case = |flows| ZeroWire { case: Case::basic(ForwardMode::FullNat, flows), modes: modes.clone() };
    flows.iter().map(|&flows| case(flows)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_device_takes_the_place_of_dpvsd() {
        for mode in MODES {
            let groups = external(mode, 5, true);
            let devices: Vec<&Device> =
                groups.iter().flat_map(|group| group.turns.iter().map(|(device, _)| device)).collect();
            assert!(devices.contains(&&Device::External(mode)));
            assert!(!devices.iter().any(|device| matches!(device, Device::Dpvsd(_))));
        }
        let quick = external(ForwardMode::DirectRouting, 5, false);
        assert_eq!(quick.len(), 1, "nothing but the verified pass is of this mode");
    }
}
