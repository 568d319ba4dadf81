//! Machines for tests: a folder each, made from a list of files.

use std::fs;
use std::path::Path;

use crate::Root;

/// A machine's files in a temporary folder.
pub(crate) struct Machine {
    root: Root,
    folder: tempfile::TempDir,
}

impl Machine {
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { root: Root::at(folder.path()), folder }
    }

    /// Lines `PATH = TEXT`, `PATH -> TARGET` for symbolic links, and `PATH/` for empty folders. `{0..3}` in a path or text
    /// stands for each of these numbers in turn, and `\n` for a line's end.
    pub fn described(text: &str) -> Self {
        let machine = Self::empty();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            for line in expand(line) {
                if let Some((path, text)) = line.split_once(" = ") {
                    machine.write(path, text.replace("\\n", "\n"));
                } else if let Some((path, target)) = line.split_once(" -> ") {
                    machine.link(path, target);
                } else {
                    let path = line.strip_suffix('/').unwrap_or_else(|| panic!("what is this? {line}"));
                    fs::create_dir_all(machine.folder.path().join(path)).unwrap();
                }
            }
        }
        machine
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.place(path), text).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.place(path);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.folder.path().join(path);
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn place(&self, path: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        path
    }
}

fn expand(line: &str) -> Vec<String> {
    let Some((_, rest)) = line.split_once('{') else { return vec![line.to_owned()] };
    let (range, _) = rest.split_once('}').unwrap();
    let (first, last) = range.split_once("..").unwrap();
    let (first, last): (u32, u32) = (first.parse().unwrap(), last.parse().unwrap());
    (first..=last).flat_map(|n| expand(&line.replace(&format!("{{{range}}}"), &n.to_string()))).collect()
}
