//! The configuration as text, what is wrong with it, and what applying it changes.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApiError, Operation};

/// A configuration file with all that it refers to: a request that needs no further file, wherever it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigSources {
    /// The file itself, then those that it includes, in their order.
    pub files: Vec<ConfigFile>,
    /// Environment variables that the files name, as far as they are set.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// A file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Its name, for messages.
    pub path: PathBuf,
    /// What it says, in TOML.
    pub text: String,
}

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Position {
    /// The position of a byte of `text`.
    pub fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte.min(text.len())).unwrap_or_default();
        let last = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: last.chars().count() + 1 }
    }
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Absent if the file cannot be read or says nothing of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The key, e.g. `services[0].servers[1].weight`; empty for errors of the syntax.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// What is wrong and what to do, in one line.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        write!(f, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Escapes control characters: messages quote what stands in the file.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(self.0, "{}", c.escape_default()),
            false => self.0.write_char(c),
        })
    }
}

/// What the running daemon has to change to be as a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigChanges {
    /// Changes of services and settings, which are made together.
    pub operations: Vec<Operation>,
    /// For operations that edit something, what of it differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// Other keys that take effect at once, e.g. `daemon.log`.
    pub settings: Vec<String>,
    /// Keys that differ from what the daemon runs with and take effect when it starts anew.
    pub restart: Vec<String>,
}

/// A value that an operation changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Index of the operation.
    pub operation: usize,
    /// The value's name, e.g. `weight`.
    pub field: String,
    /// What it is; null: not set.
    pub old: Value,
    /// What it is to be.
    pub new: Value,
}

impl ConfigChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The answer to a configuration that cannot be used: an error as any other, with all that there is to correct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigRefusal {
    /// The first of them.
    #[serde(flatten)]
    pub error: ApiError,
    /// All of them, as far as they have a place in a file.
    pub errors: Vec<ConfigError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a\nbé c\n";
        for (byte, line, column) in [(0, 1, 1), (2, 2, 1), (6, 2, 4), (99, 3, 1)] {
            assert_eq!(Position::of(text, byte), Position { line, column }, "{byte}");
        }
    }

    #[test]
    fn errors_are_one_line() {
        let error = ConfigError {
            file: "a.toml".into(),
            position: Some(Position { line: 2, column: 7 }),
            key: "daemon.log".into(),
            message: "'x\ny' is wrong".into(),
        };
        assert_eq!(error.to_string(), "a.toml:2:7: daemon.log: 'x\\ny' is wrong");
        let bare = ConfigError { position: None, key: String::new(), ..error.clone() };
        assert_eq!(bare.to_string(), "a.toml: 'x\\ny' is wrong");
        for error in [error, bare] {
            let text = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<ConfigError>(&text).unwrap(), error, "{text}");
        }
    }
}
