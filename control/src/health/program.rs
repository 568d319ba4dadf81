//! Runs programs for checks and notifications.

use std::io;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};
use tokio::process::Command;

/// Changes the user and runs the rest (util-linux). The daemon does not do this itself between fork and exec: a fork would make
/// the kernel copy every page that workers write to meanwhile, but a program without such steps is spawned without one.
const SET_USER: &str = "/usr/bin/setpriv";

/// A program with its arguments, nothing to read, and no place to write to.
pub(super) struct Program<'a> {
    /// Absolute path, and arguments.
    pub command: &'a [String],
    /// User that runs it; `None`: the daemon's.
    pub user: Option<&'a str>,
    /// Its environment, beside a PATH.
    pub environment: &'a [(&'a str, String)],
}

impl Program<'_> {
    /// Runs it to its end. Dropped before that, it is killed with all that it started.
    pub async fn run(&self) -> io::Result<ExitStatus> {
        let mut words = Vec::new();
        if let Some(user) = self.user {
            let group =
                User::from_name(user)?.ok_or_else(|| io::Error::other(format!("there is no user '{user}'")))?.gid;
            words.extend([SET_USER.to_owned(), format!("--reuid={user}"), format!("--regid={group}")]);
            words.extend(["--init-groups".to_owned(), "--".to_owned()]);
        }
        words.extend_from_slice(self.command);
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut group = Group(child.id());
        let status = child.wait().await;
        group.0 = None;
        status
    }
}

/// A process that leads a group of its own, until it has ended.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended just now; then there is nobody to kill.
            let _ = killpg(Pid::from_raw(leader as i32), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn environment_and_status() {
        let command = shell("test \"$A\" = 'b c' && test -z \"$HOME\" && exit 7");
        let program = Program { command: &command, user: None, environment: &[("A", "b c".to_owned())] };
        assert_eq!(program.run().await.unwrap().code(), Some(7));
        let command = ["/nonexistent".to_owned()];
        assert!(Program { command: &command, user: None, environment: &[] }.run().await.is_err());
        let user = Some("no such user");
        let error = Program { command: &command, user, environment: &[] }.run().await.unwrap_err();
        assert_eq!(error.to_string(), "there is no user 'no such user'");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late");
        let command = shell(&format!("(sleep 1; touch {}) & wait", file.display()));
        let program = Program { command: &command, user: None, environment: &[] };
        assert!(tokio::time::timeout(Duration::from_millis(300), program.run()).await.is_err());
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!file.exists());
    }
}
