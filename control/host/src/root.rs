//! Files of the kernel below a root.

use std::fs;
use std::path::{Path, PathBuf};

/// Where `proc`, `sys`, `dev` and `etc` are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    /// This machine's.
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// Another machine's, as its files say.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text without white space at its ends; `None` if it is not there or must not be read.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        // Not everything in /proc is UTF-8.
        Some(String::from_utf8_lossy(&self.bytes(path)?).trim().to_owned())
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// The number that a file holds.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Whether something is there.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Names in a folder, sorted; none if there is no such folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Last part of what a symbolic link points to, which is how /sys names drivers and groups.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(Path::new(target.file_name()?).to_str()?.to_owned())
    }
}
