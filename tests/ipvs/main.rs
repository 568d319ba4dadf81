//! The differential suite: one table of cases, run on Linux IPVS and on `dpvsd` in the same surroundings. README.md says
//! how to run it and how to add a case.
#![forbid(unsafe_code)]

mod case;
mod cases;
mod compare;
mod listing;
mod run;

use dpvs_e2e::Director;

use case::{Case, NUMBERS};

/// Runs an area's cases on both directors at the same time. `DPVS_PARITY_ONLY` selects those whose name has it.
fn compare(area: &str, mut cases: Vec<Case>) {
    if let Ok(part) = std::env::var("DPVS_PARITY_ONLY") {
        cases.retain(|case| case.name.contains(&part));
    }
    assert!(cases.len() < usize::from(NUMBERS), "there are addresses for {NUMBERS} cases");
    for (n, case) in cases.iter().enumerate() {
        assert!(cases[..n].iter().all(|other| other.name != case.name), "two cases have the name '{}'", case.name);
    }
    let (linux, dpvsd) = std::thread::scope(|scope| {
        let linux = scope.spawn(|| run::run(Director::Ipvs, &cases));
        let dpvsd = run::run(Director::dpvsd(2), &cases);
        (linux.join().expect("Linux runs all cases"), dpvsd)
    });
    compare::report(area, &cases, &linux, &dpvsd);
}

/// A test for each area, a file of that name below `cases/` with a function `cases`.
macro_rules! areas {
    ($($area:ident),* $(,)?) => {
        $(
            #[test]
            fn $area() {
                compare(stringify!($area), cases::$area::cases());
            }
        )*
    };
}

areas! {
    changes,
    fragments,
    ftp,
    icmp,
    lifecycle,
    listings,
    nat,
    packets,
    persistence,
    protocols,
    refused,
    schedulers,
    tcp,
    tunnel,
}
