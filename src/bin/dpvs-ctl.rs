//! dpvs-ctl; see the crate `dpvs-ctl-lib`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(dpvs_ctl_lib::main())
}
