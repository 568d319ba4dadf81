//! A program that checks (keepalived's `MISC_CHECK`).

use std::process::ExitStatus;

use dpvs_api::ExternalProbe;

use super::{Failure, Success};
use crate::health::program::Program;
use crate::health::target::Spec;

pub(super) async fn run(spec: &Spec, probe: &ExternalProbe) -> Result<Success, Failure> {
    let environment = [("DPVS_ADDRESS", spec.target.ip().to_string()), ("DPVS_PORT", spec.target.port().to_string())];
    let program = Program { command: &probe.command, user: probe.user.as_deref(), environment: &environment };
    let status = program.run().await.map_err(Failure::io("run the program"))?;
    judge(status, probe.dynamic)
}

fn judge(status: ExitStatus, dynamic: bool) -> Result<Success, Failure> {
    match status.code() {
        Some(0) => Ok(Success::default()),
        Some(code @ 2..=255) if dynamic => Ok(Success { weight: Some(code as u32 - 2) }),
        _ => Err(Failure::unexpected(format!("the program ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_statuses() {
        let judge = |code: i32, dynamic| judge(ExitStatus::from_raw(code << 8), dynamic).ok().map(|s| s.weight);
        assert_eq!((judge(0, false), judge(0, true)), (Some(None), Some(None)));
        assert_eq!((judge(1, false), judge(1, true)), (None, None));
        assert_eq!((judge(2, false), judge(2, true)), (None, Some(Some(0))));
        assert_eq!(judge(255, true), Some(Some(253)));
        assert!(super::judge(ExitStatus::from_raw(9), true).is_err(), "killed");
    }
}
