//! Stamps the binaries with their version: that of the package and, in a git checkout, the commit.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let stamp = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo::rustc-env=DPVS_VERSION={stamp}");
}

/// The commit that is checked out, abbreviated; `None` in a source archive.
fn commit() -> Option<String> {
    let head = Path::new(".git/HEAD");
    let reference = std::fs::read_to_string(head).ok()?;
    println!("cargo::rerun-if-changed={}", head.display());
    if let Some(branch) = reference.trim().strip_prefix("ref: ") {
        println!("cargo::rerun-if-changed=.git/{branch}");
    }
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
