//! A configuration file, those that it includes, and the environment variables that they name.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dpvs_api::{ConfigError, ConfigFile, ConfigSources, Position};
use toml::de::{DeTable, DeValue};

use crate::environment::{self, expand};

/// The key that names further files.
pub const INCLUDE: &str = "include";

/// Files of one configuration at most.
pub const MAX_FILES: usize = 1000;

/// Bytes of all files of one configuration at most: more than the largest tables need, and so little that they can be sent to the
/// daemon in one request.
pub const MAX_BYTES: usize = 12 << 20;

/// Gathers a file with those that it includes. Only what keeps them from being read is found wrong here.
pub fn read(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<ConfigSources, Vec<ConfigError>> {
    let mut reading = Reading { left: MAX_BYTES, seen: HashSet::new() };
    let text = reading.text(path).map_err(|message| vec![unplaced(path, message)])?;
    reading.seen.insert(identity(path));
    reading.gather(path, text, variable)
}

/// The same for a file that has been read already, e.g. from standard input. What it includes is looked for beside `path`.
pub fn read_from(
    path: &Path,
    text: String,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ConfigSources, Vec<ConfigError>> {
    let Some(left) = MAX_BYTES.checked_sub(text.len()) else { return Err(vec![unplaced(path, too_large())]) };
    Reading { left, seen: HashSet::new() }.gather(path, text, variable)
}

fn unplaced(path: &Path, message: String) -> ConfigError {
    ConfigError { file: path.to_owned(), position: None, key: String::new(), message }
}

fn too_large() -> String {
    format!(
        "larger than {} MiB with all that is included: split the configuration among several directors",
        MAX_BYTES >> 20
    )
}

/// What two names of one file have in common.
fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

struct Reading {
    /// Bytes that may still be read.
    left: usize,
    seen: HashSet<PathBuf>,
}

impl Reading {
    fn text(&mut self, path: &Path) -> Result<String, String> {
        let mut bytes = Vec::new();
        let limit = self.left as u64 + 1;
        let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?;
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(too_large)?;
        String::from_utf8(bytes).map_err(|_| "not UTF-8 text: save it as UTF-8".to_owned())
    }

    fn gather(
        mut self,
        path: &Path,
        text: String,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ConfigSources, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut included = Vec::new();
        // Mistakes of the syntax, and other values than strings, are for whoever reads the sources.
        let (root, _) = DeTable::parse_recoverable(&text);
        let patterns = root.get_ref().get(INCLUDE).and_then(|value| value.get_ref().as_array());
        for (index, pattern) in patterns.into_iter().flatten().enumerate() {
            let DeValue::String(written) = pattern.get_ref() else { continue };
            let Ok(expanded) = expand(written, &variable) else { continue };
            match self.matching(path, &expanded, included.len()) {
                Ok(files) => included.extend(files),
                Err((file, message)) => errors.push(match file {
                    // The mistake is in the other file, or in its name.
                    Some(file) => unplaced(&file, format!("{message}: {} includes it", path.display())),
                    None => ConfigError {
                        file: path.to_owned(),
                        position: Some(Position::of(&text, pattern.span().start)),
                        key: format!("{INCLUDE}[{index}]"),
                        message,
                    },
                }),
            }
        }
        drop(root);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut files = vec![ConfigFile { path: path.to_owned(), text }];
        files.append(&mut included);
        let named = files.iter().flat_map(|file| environment::names(&file.text));
        let environment: BTreeMap<String, String> =
            named.filter_map(|name| Some((name.to_owned(), variable(name)?))).collect();
        Ok(ConfigSources { files, environment })
    }

    /// The files of a pattern that are not there yet, by name. An error is about a file, or about the pattern.
    fn matching(
        &mut self,
        base: &Path,
        pattern: &str,
        before: usize,
    ) -> Result<Vec<ConfigFile>, (Option<PathBuf>, String)> {
        let about_pattern = |message: String| (None, message);
        let folder = base.parent().unwrap_or(Path::new(""));
        let mut path = folder.join(pattern);
        if path.is_dir() {
            path.push("*.toml");
        }
        let is_pattern = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().contains(['*', '?', '[']);
        let paths = if is_pattern {
            // The folder's own name is no pattern.
            let whole = match path.strip_prefix(folder) {
                Ok(rest) => Path::new(&glob::Pattern::escape(&folder.to_string_lossy())).join(rest),
                Err(_) => path.clone(),
            };
            let found = glob::glob(&whole.to_string_lossy())
                .map_err(|error| about_pattern(format!("'{pattern}' is no pattern of file names: {}", error.msg)))?;
            let found: Result<Vec<PathBuf>, _> = found.take(MAX_FILES + 1).collect();
            let mut found =
                found.map_err(|error| (Some(error.path().to_owned()), format!("cannot be read: {}", error.error())))?;
            found.retain(|path| !path.is_dir());
            found
        } else if path.exists() {
            vec![path]
        } else {
            let message = format!("there is no file {}: correct the name, or write a pattern with *", path.display());
            return Err(about_pattern(message));
        };
        let mut files = Vec::new();
        for path in paths {
            if !self.seen.insert(identity(&path)) {
                if identity(&path) == identity(base) {
                    let message = format!("'{pattern}' names the file itself: name others, e.g. conf.d/*.toml");
                    return Err(about_pattern(message));
                }
                continue;
            }
            if before + files.len() + 1 >= MAX_FILES {
                return Err(about_pattern(format!("there are more than {MAX_FILES} files: put some of them together")));
            }
            let text = self.text(&path).map_err(|message| (Some(path.clone()), message))?;
            files.push(ConfigFile { path, text });
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        (name == "DIR").then(|| "more".to_owned())
    }

    /// A folder with files, and what reading its "main.toml" gives: names within the folder, or messages.
    fn reading(files: &[(&str, &str)]) -> Result<Vec<String>, Vec<String>> {
        let folder = tempfile::Builder::new().prefix("a[b]*").tempdir().unwrap();
        let within = |path: &Path| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        match read(&folder.path().join("main.toml"), variable) {
            Ok(sources) => Ok(sources.files.iter().map(|file| within(&file.path)).collect()),
            Err(errors) => {
                let text =
                    |error: &ConfigError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
                Err(errors.iter().map(text).collect())
            }
        }
    }

    #[test]
    fn files_are_included_in_order_and_once() {
        let include = "include = ['conf.d/*.toml', '${DIR}', 'conf.d/b.toml', 'none/*.toml']\n";
        let files = [
            ("main.toml", include),
            ("conf.d/b.toml", ""),
            ("conf.d/a.toml", ""),
            ("conf.d/c.conf", ""),
            ("more/z.toml", ""),
            ("more/sub/x.toml", ""),
        ];
        let expected = ["main.toml", "conf.d/a.toml", "conf.d/b.toml", "more/z.toml"];
        assert_eq!(reading(&files).unwrap(), expected);
        assert_eq!(reading(&[("main.toml", "x = [")]).unwrap(), ["main.toml"]);
        assert_eq!(reading(&[("main.toml", "include = 1")]).unwrap(), ["main.toml"]);
        assert_eq!(reading(&[("main.toml", "include = [1, '${NO}']")]).unwrap(), ["main.toml"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (files, expected) in [
            (&[][..], "main.toml: there is no such file"),
            (
                &[("main.toml", "\ninclude = ['x.toml']")],
                "main.toml:2:12: include[0]: there is no file x.toml: correct the name, or write a pattern with *",
            ),
            (
                &[("main.toml", "include = ['*.toml']")],
                "main.toml:1:12: include[0]: '*.toml' names the file itself: name others, e.g. conf.d/*.toml",
            ),
            (
                &[("main.toml", "include = ['a***']")],
                "main.toml:1:12: include[0]: 'a***' is no pattern of file names: \
                 wildcards are either regular `*` or recursive `**`",
            ),
        ] {
            assert_eq!(reading(files).unwrap_err().join("\n"), expected);
        }
        let folder = tempfile::tempdir().unwrap();
        let (main, other) = (folder.path().join("main.toml"), folder.path().join("other.toml"));
        fs::write(&main, "include = ['other.toml']").unwrap();
        fs::write(&other, [0xff]).unwrap();
        let errors = read(&main, variable).unwrap_err();
        let expected = format!("{}: not UTF-8 text: save it as UTF-8: {} includes it", other.display(), main.display());
        assert_eq!(errors[0].to_string(), expected);
    }

    #[test]
    fn sizes_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.toml");
        fs::write(&main, "include = ['more/*']").unwrap();
        fs::create_dir(folder.path().join("more")).unwrap();
        for number in 0..MAX_FILES {
            fs::write(folder.path().join(format!("more/{number}")), "").unwrap();
        }
        let error = read(&main, variable).unwrap_err()[0].to_string();
        assert!(error.ends_with("include[0]: there are more than 1000 files: put some of them together"), "{error}");
        fs::remove_file(folder.path().join("more/0")).unwrap();
        assert_eq!(read(&main, variable).unwrap().files.len(), MAX_FILES);
        fs::write(folder.path().join("more/1"), vec![b'#'; MAX_BYTES]).unwrap();
        let error = read(&main, variable).unwrap_err()[0].to_string();
        assert!(error.contains("more/1: larger than 12 MiB with all that is included"), "{error}");
        let long = String::from_utf8(vec![b'#'; MAX_BYTES + 1]).unwrap();
        assert!(read_from(&main, long, variable).is_err());
    }

    #[test]
    fn variables_come_along() {
        let text = "a = '${DIR}' # ${OTHER}".to_owned();
        let sources = read_from(Path::new("-"), text, variable).unwrap();
        assert_eq!(sources.environment, BTreeMap::from([("DIR".to_owned(), "more".to_owned())]));
    }
}
