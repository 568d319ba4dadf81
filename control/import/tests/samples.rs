//! Whole files: what comes of them, and what is said about the rest.
//!
//! With DPVS_UPDATE_SAMPLES=1, the expectations are written instead of compared.

use std::fs;
use std::path::{Path, PathBuf};

use dpvs_import::{Imported, ipvsadm, keepalived};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

/// Compares what came of a sample with the files `NAME.toml` and `NAME.warnings` beside it.
fn expect(name: &str, import: impl FnOnce(&Path, &str) -> Imported) {
    let text = fs::read_to_string(samples().join(name)).unwrap();
    let imported = import(Path::new(name), &text);
    let warnings: String = imported.warnings.iter().map(|warning| format!("{warning}\n")).collect();
    let stem = samples().join(name).with_extension("");
    for (extension, got) in [("toml", &imported.text), ("warnings", &warnings)] {
        let file = stem.with_extension(extension);
        if std::env::var_os("DPVS_UPDATE_SAMPLES").is_some() {
            fs::write(&file, got).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert!(*got == expected, "{name}: this is not {}:\n{got}", file.display());
    }
}

#[test]
fn a_configuration_of_keepalived_with_everything() {
    expect("everything.conf", |file, text| keepalived(file, text, "main"));
}

#[test]
fn a_configuration_of_keepalived_with_what_it_does_not_like() {
    expect("doubtful.conf", |file, text| keepalived(file, text, "main"));
}

#[test]
fn a_configuration_of_dpvs() {
    expect("dpvs.conf", |file, text| keepalived(file, text, "main"));
}

#[test]
fn rules_of_ipvsadm() {
    expect("rules.ipvsadm", ipvsadm);
}
