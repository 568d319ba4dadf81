//! Configuration files of `dpvsd` that tests write.

use std::path::{Path, PathBuf};

use crate::{Lab, Pmd};

/// A configuration file in a directory of its own.
#[derive(Debug)]
pub struct Config {
    directory: tempfile::TempDir,
}

impl Config {
    /// Writes `text`.
    pub fn new(text: &str) -> Self {
        let config = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        config.write(text);
        config
    }

    /// What [`Lab::start`] would use, changed by `edit`.
    pub fn of(lab: &Lab, workers: u8, edit: impl FnOnce(String) -> String) -> Self {
        Self::new(&edit(lab.config_text(workers, Pmd::Tap)))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("dpvsd.toml")
    }

    /// Replaces the text.
    pub fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("a temporary file");
    }

    /// The directory, for files that the configuration names.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
