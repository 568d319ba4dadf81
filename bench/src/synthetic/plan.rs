//! Which cases are measured.

use dataplane::snapshot::ForwardMode;
use proto::Protocol;

use super::measure::{Case, Choice, Length};

const MODES: [ForwardMode; 4] =
    [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRouting, ForwardMode::Tunnel];
const LENGTHS: [Length; 4] = [Length::Bytes(64), Length::Bytes(512), Length::Bytes(1500), Length::Imix];
const FLOWS: [u32; 5] = [1, 1_000, 100_000, 1_000_000, 10_000_000];

/// The case that others differ from in one point.
const BASE: Case = Case {
    mode: ForwardMode::FullNat,
    is_v6: false,
    protocol: Protocol::UDP,
    length: Length::Bytes(64),
    flows: 1_000,
    choice: Choice::Uniform,
    services: 1,
};
/// The one with many services.
const SERVICES: Case = Case { flows: 100_000, services: 10_000, ..BASE };

/// Groups of cases: all, or those that show the targets. Cases that are compared with each other are in one group.
pub fn groups(full: bool) -> Vec<Vec<Case>> {
    if full { all() } else { few() }
}

/// A mode with both families and protocols.
fn of_mode(mode: ForwardMode, flows: u32) -> impl Iterator<Item = Case> {
    let kinds = [(false, Protocol::UDP), (false, Protocol::TCP), (true, Protocol::UDP), (true, Protocol::TCP)];
    kinds.into_iter().map(move |(is_v6, protocol)| Case { mode, is_v6, protocol, flows, ..BASE })
}

fn few() -> Vec<Vec<Case>> {
    let all_modes = |flows| MODES.into_iter().flat_map(move |mode| of_mode(mode, flows));
    let others = |flows| LENGTHS[1..].iter().map(move |&length| Case { flows, length, ..BASE });
    let (million, zipf) = (1_000_000, Choice::Zipf);
    vec![
        all_modes(1_000).chain(others(1_000)).chain([Case { flows: 1, ..BASE }]).collect(),
        all_modes(100_000).chain([SERVICES]).collect(),
        all_modes(million).chain(others(million)).chain([Case { flows: million, choice: zipf, ..BASE }]).collect(),
        vec![Case { flows: 10_000_000, ..BASE }],
    ]
}

fn all() -> Vec<Vec<Case>> {
    let variants = |case: Case| {
        let choices = if case.flows == 1 { &[Choice::Uniform][..] } else { &[Choice::Uniform, Choice::Zipf] };
        LENGTHS.into_iter().flat_map(move |length| choices.iter().map(move |&choice| Case { length, choice, ..case }))
    };
    let mut groups = Vec::new();
    for flows in FLOWS {
        let modes = MODES.map(|mode| of_mode(mode, flows).flat_map(variants).collect::<Vec<_>>());
        match flows {
            // All at once would need more than 20 GiB.
            10_000_000 => groups.extend(modes),
            _ => groups.push(modes.concat()),
        }
        if flows == SERVICES.flows {
            let of_services = MODES.map(|mode| Case { mode, ..SERVICES });
            groups.last_mut().into_iter().for_each(|group| group.extend(of_services));
        }
    }
    groups
}

/// About how many seconds it takes to measure these, on a machine like the one it was written on.
pub fn seconds(groups: &[Vec<Case>], rounds: usize, chunks: usize) -> f64 {
    let mut seconds = 0.0;
    for group in groups {
        let mut seen = Vec::new();
        for case in group {
            let director = Case { length: Length::Bytes(64), choice: Choice::Uniform, ..*case };
            if !seen.contains(&director) {
                // Every flow is opened with two or three packets that are checked.
                seconds += 0.1 + 1.5e-6 * f64::from(case.flows);
                seen.push(director);
            }
            let packets = 4096 * (chunks + 8 + (3 * case.flows as usize / 4096).clamp(8, 100));
            seconds += 60e-9 * (packets * rounds * case.ways().len()) as f64;
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_comes_twice() {
        for full in [false, true] {
            let cases = groups(full).concat();
            for (i, case) in cases.iter().enumerate() {
                assert!(!cases[..i].contains(case), "{}", case.name());
            }
        }
        let quick = groups(false).concat();
        assert!(quick.iter().all(|case| groups(true).concat().contains(case)));
    }

    #[test]
    fn full_is_the_whole_matrix() {
        // Modes, families, protocols, lengths; one flow has no distribution; and the many services.
        assert_eq!(groups(true).concat().len(), 4 * 2 * 2 * 4 * (2 * FLOWS.len() - 1) + MODES.len());
        assert!((60.0..2700.0).contains(&seconds(&groups(true), 7, 48)), "{} s", seconds(&groups(true), 7, 48));
        assert!(seconds(&groups(false), 7, 48) < 80.0, "{} s", seconds(&groups(false), 7, 48));
    }
}
