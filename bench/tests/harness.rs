//! The program from its first part to the report, for as short as it can be. What it measures here means nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a part and returns what it printed.
fn bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dpvs-bench")).args(arguments).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn results_are_measured_judged_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let (parts, results, readme) = (text("parts"), text("results"), text("README.md"));
    fs::create_dir(&parts).unwrap();
    fs::create_dir(&results).unwrap();
    fs::write(&readme, "before\n<!-- results: begin (written by bench/run.sh --readme) -->\n<!-- results: end -->\n")
        .unwrap();

    bench(&["facts", "--date", "2026-01-31", "--out", &format!("{parts}/facts.json")]);
    let out = format!("{parts}/synthetic.json");
    let rows =
        bench(&["synthetic", "--only", "IPv4 UDP 1k", "--rounds", "1", "--chunks", "2", "--core", "0", "--out", &out]);
    let row = rows.lines().find(|line| line.starts_with("| FULLNAT | in | IPv4 | UDP | 1k | 64 |"));
    assert!(row.is_some(), "{rows}");

    let report = ["report", "--parts", &parts, "--results", &results];
    let printed = bench(&report);
    let targets: Vec<&str> = printed.lines().filter(|line| line.starts_with("target ")).collect();
    for target in &targets {
        let verdicts = [") met", ") missed", ": not measured (goal "];
        assert!(target.contains("(goal ") && verdicts.iter().any(|verdict| target.contains(verdict)), "{target}");
    }
    let of = |name: &str| {
        let target = targets.iter().find_map(|line| line.strip_prefix(&format!("target {name}: ")));
        *target.as_ref().unwrap_or_else(|| panic!("no target {name}: {printed}"))
    };
    let cost = of("cost above swap, FULLNAT IPv4 UDP, 1k flows");
    let (figure, goal) = cost.split_once(" ns (goal 23 ns) ").unwrap();
    let figure: f64 = figure.parse().unwrap();
    // A debug build takes long, but less than a millisecond. Between two programs the machine may change its speed.
    assert!(figure.abs() < 1e6 && ["met", "missed"].contains(&goal), "{cost}");
    assert!(of("memory of an IPv4 connection").ends_with(" met"));
    let absent = of("cost above swap, FULLNAT IPv4 UDP, 10M flows");
    assert_eq!(absent, "not measured (goal 50 ns): not among the cases");
    let absent = of("rate to 5tswap, memif, FULLNAT IPv4 UDP, 1k flows");
    assert_eq!(absent, "not measured (goal 0.55): this part was not run: dpvs-bench wire");

    // A second report takes the place of the first in the README only.
    bench(&[&report[..], &["--readme", &readme]].concat());
    let mut files: Vec<_> = fs::read_dir(&results).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    let with = |extension: &str| {
        let is_it = |file: &&std::ffi::OsString| Path::new(file).extension().is_some_and(|e| e == extension);
        files.iter().filter(is_it).map(|file| Path::new(&results).join(file)).collect::<Vec<_>>()
    };
    assert_eq!(with("json").len(), 2, "{files:?}");
    assert_eq!(with("svg").len(), 2, "{files:?}");
    assert_eq!(with("md").len(), 2, "{files:?}");
    for svg in with("svg") {
        let svg = read(&svg);
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert!(document.descendants().any(|node| node.text().is_some_and(|text| text.trim() == "FULLNAT")));
    }
    for json in with("json") {
        let json: serde_json::Value = serde_json::from_str(&read(&json)).unwrap();
        assert_eq!(json["facts"]["date"], "2026-01-31");
        assert_eq!(json["targets"].as_array().unwrap().len(), targets.len());
        assert!(json["synthetic"]["forwarding"][0]["cost"]["median"].is_f64());
    }
    let shown = read(Path::new(&readme));
    assert!(shown.starts_with("before\n") && shown.contains("-2-flows.svg)"), "{shown}");
    assert!(shown.contains("| memory of an IPv4 connection |"), "{shown}");
}
