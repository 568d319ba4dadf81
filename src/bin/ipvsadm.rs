//! ipvsadm for dpvsd; see the crate `dpvs-ipvsadm`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(dpvs_ipvsadm::main())
}
