//! Puts the results of all parts together, and says what they mean for the targets.

mod chart;
mod figures;
#[cfg(test)]
mod fixture;
mod markdown;
mod plots;
mod readme;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::targets::Target;
use crate::facts::Facts;
use crate::synthetic::Synthetic;
use crate::wire::result::WireResults;

/// Where results come from and go to.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Directory with a file for each part: facts.json, and those there are of synthetic.json and wire.json
    #[arg(long)]
    parts: PathBuf,
    /// Directory to write the results to, as JSON, Markdown and plots
    #[arg(long)]
    results: Option<PathBuf>,
    /// File in which the latest results are to be shown, between the marks for them
    #[arg(long, requires = "results")]
    readme: Option<PathBuf>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Parts {
    /// Where and what.
    pub facts: Facts,
    /// With packets made in the worker's own loop.
    pub synthetic: Option<Synthetic>,
    /// With two processes.
    pub wire: Option<WireResults>,
}

impl Parts {
    fn read(directory: &Path) -> Result<Self> {
        let facts = part(directory, "facts")?.context("there is no facts.json")?;
        Ok(Self { facts, synthetic: part(directory, "synthetic")?, wire: part(directory, "wire")? })
    }
}

/// Contents of a results file.
#[derive(Debug, Serialize)]
struct Results<'a> {
    #[serde(flatten)]
    parts: &'a Parts,
    targets: &'a [Target],
}

/// Prints the verdicts, and writes the results where they are wanted.
pub fn run(arguments: &Arguments) -> Result<()> {
    let parts = Parts::read(&arguments.parts)?;
    let targets = targets::judge(&parts);
    targets.iter().for_each(|target| println!("{}", target.line()));
    let Some(directory) = &arguments.results else { return Ok(()) };

    // No result replaces another: they differ, and which is right is not for the last one to say.
    let name = format!("{}-{}", parts.facts.date, parts.facts.slug());
    let mut names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
    let is_free = |name: &String| !directory.join(format!("{name}.json")).exists();
    let name = names.find(is_free).context("no name is free for the results")?;
    println!();
    let write = |suffix: &str, text: &str| {
        let path = directory.join(format!("{name}{suffix}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
        anyhow::Ok(())
    };
    let results = compact(serde_json::to_value(Results { parts: &parts, targets: &targets })?);
    write(".json", &format!("{results}\n"))?;
    let mut plots = Vec::new();
    for (plot, chart) in plots::plots(&parts) {
        write(&format!("-{plot}.svg"), &chart.to_svg()?)?;
        plots.push(format!("{name}-{plot}.svg"));
    }
    write(".md", &markdown::report(&parts, &targets, &plots))?;
    if let Some(readme) = &arguments.readme {
        let base = readme.parent().unwrap_or(Path::new(""));
        let link = directory.strip_prefix(base).unwrap_or(directory).join(&name);
        readme::update(readme, &readme::section(&parts, &targets, &link.display().to_string()))?;
        println!("updated: {}", readme.display());
    }
    Ok(())
}

/// Without the single rounds, which have served to compare, and numbers with six digits: no measurement is more exact.
fn compact(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = format!("{:.5e}", number.as_f64().unwrap_or_default());
            text.parse::<f64>().map_or(Value::Null, Value::from)
        }
        Value::Array(values) => values.into_iter().map(compact).collect(),
        Value::Object(members) => {
            let is_kept = |(name, _): &(String, Value)| !name.ends_with("_rounds");
            members.into_iter().filter(is_kept).map(|(name, value)| (name, compact(value))).collect()
        }
        other => other,
    }
}

/// The result of a part, if it was measured.
fn part<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>> {
    let path = directory.join(name).with_extension("json");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("{} is not understood", path.display()))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_compact() {
        let value = json!({"a_rounds": [1.5], "b": [{"c": 0.123456789, "d": 123456789}, null], "rounds": "x"});
        let expected = json!({"b": [{"c": 0.123457, "d": 123456789}, null], "rounds": "x"});
        assert_eq!(compact(value), expected);
    }
}
