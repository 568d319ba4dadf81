//! Which cases are measured.

use dataplane::snapshot::ForwardMode;
use proto::Protocol;

use super::measure::{Case, Choice};

const MODES: [ForwardMode; 4] =
    [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRouting, ForwardMode::Tunnel];

/// The case that others differ from in one point.
const BASE: Case = Case {
    mode: ForwardMode::FullNat,
    is_v6: false,
    protocol: Protocol::UDP,
    wire_len: 64,
    flows: 1_000,
    choice: Choice::Uniform,
    services: 1,
};

/// Groups of cases: all, or those that show the targets. Cases that are compared with each other are in one group.
pub fn groups(full: bool) -> Vec<Vec<Case>> {
    let with = |mode, flows| {
        [(false, Protocol::UDP), (false, Protocol::TCP), (true, Protocol::UDP), (true, Protocol::TCP)]
            .map(|(is_v6, protocol)| Case { mode, is_v6, protocol, flows, ..BASE })
    };
    let all_modes = |flows| MODES.into_iter().flat_map(move |mode| with(mode, flows)).collect::<Vec<_>>();
    let special = if full { &MODES[..] } else { &MODES[..1] };
    let of_length = |wire_len, flows| special.iter().map(move |&mode| Case { mode, flows, wire_len, ..BASE });

    let mut few = all_modes(1_000);
    let mut some = all_modes(100_000);
    let mut many = all_modes(1_000_000);
    for wire_len in [512, 1518] {
        few.extend(of_length(wire_len, 1_000));
        many.extend(of_length(wire_len, 1_000_000));
    }
    for &mode in special {
        some.push(Case { mode, flows: 100_000, services: 10_000, ..BASE });
        many.push(Case { mode, flows: 1_000_000, choice: Choice::Zipf, ..BASE });
    }
    let mut groups = vec![few, some, many];
    match full {
        false => groups.push(vec![Case { flows: 10_000_000, ..BASE }]),
        // All at once would need more than 20 GiB.
        true => groups.extend(MODES.map(|mode| with(mode, 10_000_000).to_vec())),
    }
    groups
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
}
