//! Runs this program under valgrind and reads what it counted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Runs the scenarios that `only` chooses. Returns for each, in order, how many instructions were counted, and for how
/// much work. The profile of the first is copied to `profile`.
///
/// # Errors
/// When valgrind is missing or the scenarios fail.
pub fn count(only: &str, profile: Option<&Path>) -> Result<Vec<(u64, u64)>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    // Nothing of the environment may show in a count: the size of the environment moves the stack.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.args(["--quiet", "--tool=callgrind", "--combine-dumps=yes"]);
    command.args(["--toggle-collect=*bed::counted_turn*", "--dump-after=*bed::scenario_ends*"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(std::env::current_exe()?).args(["--bare", "--only", only]);
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("valgrind is not installed: deploy/setup.sh --tests installs it")
        }
        output => output.context("valgrind does not run")?,
    };
    ensure!(output.status.success(), "under valgrind: {}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&file).context("callgrind wrote no profile")?;
    if let Some(profile) = profile {
        let (first, _) = text.split_once("\npart: 2\n").unwrap_or((&text, ""));
        std::fs::write(profile, first).with_context(|| format!("cannot write {}", profile.display()))?;
    }
    let work = String::from_utf8(output.stdout)?;
    let work = work.lines().map(str::parse).collect::<Result<Vec<u64>, _>>().context("what the scenarios print")?;
    let counts = totals(&text)?;
    ensure!(counts.len() >= work.len(), "callgrind wrote {} counts for {} scenarios", counts.len(), work.len());
    ensure!(counts[..work.len()].iter().all(|&count| count > 0), "callgrind did not find the function to count");
    Ok(counts.into_iter().zip(work).collect())
}

/// The totals of all dumps of a profile: <https://valgrind.org/docs/manual/cl-format.html>.
fn totals(profile: &str) -> Result<Vec<u64>> {
    let totals = profile.lines().filter_map(|line| line.strip_prefix("totals: "));
    totals.map(|total| total.trim().parse().with_context(|| format!("a total of '{total}'"))).collect()
}
