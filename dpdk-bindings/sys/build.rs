//! Finds libdpdk, compiles the C shim and makes its Rust declarations.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, panic};

/// The oldest DPDK the shim is written for: the LTS release of November 2022.
const OLDEST: &str = "22.11";
const INSTALL: &str = "on Debian or Ubuntu: apt-get install libdpdk-dev libclang-dev clang pkg-config";

fn main() {
    for file in ["csrc/shim.h", "csrc/shim.c", "csrc/layout.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    // Shared linking: drivers are plugins that EAL loads from the directory libdpdk was built with.
    if let Err(error) = pkg_config::Config::new().atleast_version(OLDEST).statik(false).probe("libdpdk") {
        fail(&format!("libdpdk {OLDEST} or newer was not found by pkg-config; {INSTALL}"), &error.to_string());
    }
    let cflags = cflags();

    // The same flags for both compilers: DPDK's headers depend on `-include rte_config.h` and on `-march`.
    let mut shim = cc::Build::new();
    for flag in &cflags {
        shim.flag(flag);
    }
    if let Err(error) = shim.file("csrc/shim.c").opt_level(2).flag("-Werror").try_compile("dpvs_shim") {
        fail(&format!("the C shim does not compile against this libdpdk; {INSTALL}"), &error.to_string());
    }

    let bindings = out_dir().join("bindings.rs");
    let generated = panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header("csrc/shim.h")
            .header("csrc/layout.h")
            .clang_args(&cflags)
            .allowlist_function("dpvs_.*")
            .allowlist_type("dpvs_.*")
            .allowlist_var("DPVS_.*")
            // Rust sees neither inside; lib.rs declares them as opaque.
            .blocklist_type("rte_.*|RTE_.*")
            .prepend_enum_name(false)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .generate()
    });
    // bindgen panics when it cannot load libclang.
    match generated {
        Ok(Ok(text)) => fs::write(bindings, text.to_string()).expect("write to OUT_DIR"),
        Ok(Err(error)) => fail(&format!("bindgen cannot read the C shim; {INSTALL}"), &error.to_string()),
        Err(_) => fail(&format!("libclang, which bindgen needs, was not found; {INSTALL}"), "see the message above"),
    }
}

/// All compiler flags that pkg-config knows; the pkg-config crate passes on only some of them.
fn cflags() -> Vec<String> {
    println!("cargo::rerun-if-env-changed=PKG_CONFIG");
    let tool = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    match Command::new(tool).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(system_include).collect()
        }
        Ok(output) => fail("pkg-config --cflags libdpdk failed", &String::from_utf8_lossy(&output.stderr)),
        Err(error) => fail(&format!("pkg-config cannot be run; {INSTALL}"), &error.to_string()),
    }
}

/// `-Idir` as `-isystemdir`: warnings about DPDK's headers are none of ours.
fn system_include(flag: &str) -> String {
    flag.strip_prefix("-I").map_or_else(|| flag.to_owned(), |dir| format!("-isystem{dir}"))
}

fn out_dir() -> PathBuf {
    Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).to_path_buf()
}

fn fail(what: &str, detail: &str) -> ! {
    eprintln!("\nerror: {what}\n{}\n", detail.trim());
    exit(1)
}
