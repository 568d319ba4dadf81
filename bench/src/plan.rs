//! Which cases are measured.

use dataplane::snapshot::ForwardMode;
use proto::Protocol;

use crate::measure::{Case, Choice};

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

/// All cases, or those that show the targets.
pub fn cases(full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let many = if full { &[1_000, 100_000, 1_000_000, 10_000_000][..] } else { &[1_000, 100_000, 1_000_000] };
    for &flows in many {
        for mode in MODES {
            for (is_v6, protocol) in
                [(false, Protocol::UDP), (false, Protocol::TCP), (true, Protocol::UDP), (true, Protocol::TCP)]
            {
                cases.push(Case { mode, is_v6, protocol, flows, ..BASE });
            }
        }
    }
    if !full {
        cases.push(Case { flows: 10_000_000, ..BASE });
    }
    let modes = if full { &MODES[..] } else { &MODES[..1] };
    for &mode in modes {
        for flows in [1_000, 1_000_000] {
            cases.extend([512, 1518].map(|wire_len| Case { mode, flows, wire_len, ..BASE }));
        }
        cases.push(Case { mode, flows: 1_000_000, choice: Choice::Zipf, ..BASE });
        // Next to its counterpart: the machine's speed drifts.
        cases.push(Case { mode, flows: 100_000, ..BASE });
        cases.push(Case { mode, flows: 100_000, services: 10_000, ..BASE });
    }
    cases
}
