//! Processes that are started for a measurement, and that end with it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt;

/// Which cores a measurement uses.
#[derive(Clone, Copy, Debug)]
pub struct CoresUsed {
    /// The generator's, and everything's that is not measured.
    pub generator: usize,
    /// The device's worker.
    pub device: usize,
}

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

/// How long a process may take to end when asked.
const GRACE: Duration = Duration::from_secs(3);

impl Process {
    /// Starts a shell command whose output goes to the file `log`. It may use both cores, and dies with this thread, come
    /// what may. With `isolated` it has a network namespace of its own, which goes with it.
    pub fn start(name: &str, command: &str, log: PathBuf, cores: CoresUsed, isolated: bool) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut words = vec!["--pdeathsig".to_owned(), "KILL".to_owned(), "taskset".to_owned(), "-c".to_owned()];
        words.push(format!("{},{}", cores.generator, cores.device));
        if isolated {
            words.extend(["unshare", "--net"].map(str::to_owned));
        }
        words.extend(["sh".to_owned(), "-c".to_owned(), format!("exec {command}")]);
        let child = Command::new("setpriv")
            .args(&words)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot run setpriv: install util-linux")?;
        Ok(Self { child, log, name: name.to_owned() })
    }

    /// Its process id, which is also its main thread's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Fails when it has ended, with the end of its output.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let output = self.output();
            let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
            bail!("{} ended ({status}): {}", self.name, lines[lines.len().saturating_sub(5)..].join("; "));
        }
        Ok(())
    }

    /// Waits until `found` finds something in the output from byte `from` on.
    pub fn wait_for<T>(&mut self, from: usize, timeout: Duration, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = self.output().get(from..).and_then(&found) {
                return Ok(found);
            }
            self.check()?;
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "{} did not do its part within {timeout:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin: &mut ChildStdin = self.child.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).with_context(|| format!("{} does not listen", self.name))
    }

    /// Runs a command in its network namespace.
    pub fn inside(&self, command: &[&str], input: &str) -> Result<()> {
        let pid = self.id().to_string();
        let words = [&["nsenter", "-t", &pid, "-n"], command].concat();
        run(&words, input)
    }

    /// Puts all of its threads that may run on the generator's core there, where they run only when nobody else wants to.
    pub fn yield_generator_core(&self, cores: CoresUsed) -> Result<()> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))?.flatten() {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
            if allowed.trim() == cores.device.to_string() {
                continue;
            }
            let (tid, core) = (thread.file_name(), cores.generator.to_string());
            let tid = tid.to_string_lossy();
            // A thread that is gone meanwhile does not matter.
            let _ = run(&["taskset", "-p", "-c", &core, &tid], "");
            let _ = run(&["chrt", "--idle", "-p", "0", &tid], "");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; fails with what it wrote to standard error.
pub fn run(words: &[&str], input: &str) -> Result<()> {
    let (program, arguments) = words.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", words.join(" "), errors.trim());
    Ok(())
}

/// True when there is such a program.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) || Path::new(program).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORES: CoresUsed = CoresUsed { generator: 0, device: 0 };

    #[test]
    fn a_process_ends_with_its_handle_and_its_output_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = Process::start("echo", "sh -c 'read x; echo got $x; sleep 60'", log, CORES, false).unwrap();
        process.say("this").unwrap();
        let second = Duration::from_secs(5);
        assert_eq!(process.wait_for(0, second, |text| text.contains("got this\n").then_some(7)).unwrap(), 7);
        let id = process.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_process_that_ends_by_itself_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let command = "sh -c 'echo no such thing; exit 3'";
        let mut process = Process::start("it", command, dir.path().join("log"), CORES, false).unwrap();
        let error = process.wait_for(0, Duration::from_secs(5), |_| None::<()>).unwrap_err().to_string();
        assert!(error.starts_with("it ended") && error.ends_with("no such thing"), "{error}");
    }

    #[test]
    fn commands_that_fail_say_what_they_say() {
        run(&["cat"], "x").unwrap();
        let error = run(&["sh", "-c", "echo oh >&2; exit 1"], "").unwrap_err().to_string();
        assert_eq!(error, "sh -c echo oh >&2; exit 1: oh");
        assert!(is_installed("sh") && !is_installed("no-such-program"));
    }
}
