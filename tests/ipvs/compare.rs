//! What both directors have shown, case by case.

use std::fmt::Write;

use crate::case::Case;
use crate::run::Observation;

/// Seconds by which expiry times may differ, beyond the time that the slower director took for the case so far.
const EXPIRY: u64 = 3;

/// Prints the report about an area's cases. Fails if a case without a reason differs, or one with a reason does not.
pub fn report(area: &str, cases: &[Case], linux: &[Vec<Observation>], dpvsd: &[Vec<Observation>]) {
    let mut wrong = Vec::new();
    let mut lines = String::new();
    for ((case, linux), dpvsd) in cases.iter().zip(linux).zip(dpvsd) {
        let name = &case.name;
        let differences = differences(linux, dpvsd);
        match (differences.is_empty(), case.differs) {
            (true, None) => {
                let _ = writeln!(lines, "agrees   {area}: {name}");
            }
            (false, Some(reason)) => {
                let _ = writeln!(lines, "differs  {area}: {name} | {reason}");
            }
            (true, Some(_)) => {
                let _ = writeln!(lines, "agrees   {area}: {name}, though a reason says that it differs");
                wrong.push(name);
            }
            (false, None) => {
                let _ = writeln!(lines, "DIFFERS  {area}: {name}");
                wrong.push(name);
            }
        }
        if !differences.is_empty() && (case.differs.is_none() || std::env::var_os("DPVS_PARITY_VERBOSE").is_some()) {
            lines += &differences;
        }
        if std::env::var_os("DPVS_PARITY_SHOW").is_some() {
            lines += &shown(linux);
        }
    }
    print!("{lines}");
    // `deploy/test.sh` puts the reports of all areas together.
    if let Some(directory) = std::env::var_os("DPVS_PARITY_REPORTS") {
        let path = std::path::Path::new(&directory).join(area);
        std::fs::write(&path, &lines).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }
    assert!(wrong.is_empty(), "{area}: {} of {} cases are not as they should be: {wrong:#?}", wrong.len(), cases.len());
}

/// Every observation that is not equal, both sides; empty if there is none.
fn differences(linux: &[Observation], dpvsd: &[Observation]) -> String {
    let mut text = String::new();
    for (n, (linux, dpvsd)) in linux.iter().zip(dpvsd).enumerate() {
        if !agree(linux, dpvsd) {
            let ages = [linux, dpvsd].map(|observation| observation.age.as_secs());
            let _ = writeln!(text, "    {}. {} (after {} s and {} s)", n + 1, linux.what, ages[0], ages[1]);
            let _ = write!(text, "{}{}", side("Linux", linux, Some(dpvsd)), side("dpvsd", dpvsd, Some(linux)));
        }
    }
    text
}

fn shown(observations: &[Observation]) -> String {
    let line = |(n, observation): (usize, &Observation)| {
        format!("    {}. {}\n{}", n + 1, observation.what, side("both", observation, None))
    };
    observations.iter().enumerate().map(line).collect()
}

/// What one director shows, without the lines that the other one has as well.
fn side(name: &str, observation: &Observation, other: Option<&Observation>) -> String {
    let mut others: Vec<&str> = other.map_or(Vec::new(), |other| other.text.lines().collect());
    let mut text = String::new();
    let mut equal = 0;
    for line in observation.text.lines() {
        if let Some(n) = others.iter().position(|other| *other == line) {
            others.remove(n);
            equal += 1;
        } else {
            let _ = writeln!(text, "       {name} | {line}");
        }
    }
    match equal {
        0 if text.is_empty() => format!("       {name} | nothing\n"),
        0 => text,
        _ => text + &format!("       {name} | {equal} lines that both have\n"),
    }
}

fn agree(linux: &Observation, dpvsd: &Observation) -> bool {
    let (a, b): (Vec<_>, Vec<_>) = (linux.text.lines().collect(), dpvsd.text.lines().collect());
    let ages = [linux.age.as_secs(), dpvsd.age.as_secs()];
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| lines_agree([a, b], ages, linux.tolerance))
}

/// Lines are equal but for times and, where it is allowed, small differences of numbers.
fn lines_agree(lines: [&str; 2], ages: [u64; 2], tolerance: u64) -> bool {
    // Columns count: a time is as wide as another.
    if lines[0].len() != lines[1].len() && tolerance == 0 {
        return false;
    }
    let [a, b] = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    let words_agree = |a: &str, b: &str| {
        a == b
            || match (seconds(a), seconds(b)) {
                (Some(a), Some(b)) => a.abs_diff(b) <= EXPIRY + ages[0].max(ages[1]),
                _ => match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.abs_diff(b) <= tolerance,
                    _ => false,
                },
            }
    };
    a.len() == b.len() && a.into_iter().zip(b).all(|(a, b)| words_agree(a, b))
}

/// `MM:SS` in seconds.
fn seconds(word: &str) -> Option<u64> {
    let (minutes, seconds) = word.split_once(':')?;
    if minutes.len() < 2 || seconds.len() != 2 {
        return None;
    }
    Some(minutes.parse::<u64>().ok()? * 60 + seconds.parse::<u64>().ok()?)
}
