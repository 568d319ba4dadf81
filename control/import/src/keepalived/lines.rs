//! From files to plain lines: included files, conditions (`@ID`), parameters (`$NAME=VALUE`, `${NAME}`) and repetitions
//! (`~SEQ`, `~LST`), as keepalived.conf(5) has them under "Advanced configuration".

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::words::without_comment;
use crate::{Place, Report};

/// Lines of a configuration at most: repetitions can make any number of them.
const MAX_LINES: usize = 1_000_000;
/// Bytes of a line at most: so can parameters that contain others.
const MAX_LINE: usize = 64 << 10;
/// Files within files, and parameters within parameters, at most.
const MAX_DEPTH: usize = 16;

/// A line without comment in which nothing is left to replace.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub place: Place,
    pub text: String,
}

/// Reads a file's text and the files that it includes.
pub(super) fn read(file: &Path, text: &str, id: &str, report: &mut Report) -> Vec<Line> {
    let mut reader = Reader { id, parameters: HashMap::new(), lines: Vec::new(), is_full: false, report };
    reader.parameters.insert("_INSTANCE".to_owned(), id.to_owned());
    reader.file(file, text, 0);
    reader.lines
}

struct Reader<'a> {
    id: &'a str,
    parameters: HashMap<String, String>,
    lines: Vec<Line>,
    /// There were too many lines.
    is_full: bool,
    report: &'a mut Report,
}

impl Reader<'_> {
    fn file(&mut self, file: &Path, text: &str, depth: usize) {
        let shown: Rc<Path> = file.into();
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let before = self.parameters.insert("_PWD".to_owned(), folder.display().to_string());
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let place = Place { file: Rc::clone(&shown), line: index + 1 };
            let line = without_comment(line).trim();
            let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if ["include", "includer", "includem", "includew", "includeb", "includea"].contains(&keyword) {
                self.include(&place, folder, rest.trim().trim_matches(['"', '\'']), depth);
                continue;
            }
            // Definitions of several lines end with the first that has no backslash at its end.
            let mut whole = line.to_owned();
            while let Some(continued) = whole.strip_suffix('\\') {
                whole = continued.trim_end().to_owned();
                let Some((_, next)) = lines.next() else { break };
                whole.push('\n');
                whole.push_str(without_comment(next).trim());
            }
            self.line(&place, &whole, 0);
        }
        match before {
            Some(before) => self.parameters.insert("_PWD".to_owned(), before),
            None => self.parameters.remove("_PWD"),
        };
    }

    fn include(&mut self, place: &Place, folder: &Path, pattern: &str, depth: usize) {
        if depth >= MAX_DEPTH {
            self.report.warn(place, format!("include {pattern}: too many files within files; this one is left out"));
            return;
        }
        let path = folder.join(pattern);
        let found =
            glob::glob(&path.to_string_lossy()).map(|paths| paths.filter_map(Result::ok).collect::<Vec<PathBuf>>());
        match found {
            Ok(found) if !found.is_empty() => {
                for file in found {
                    match fs::read_to_string(&file) {
                        Ok(text) => self.file(&file, &text, depth + 1),
                        Err(error) => self.report.warn(place, format!("include {}: {error}", file.display())),
                    }
                }
            }
            _ => self.report.warn(place, format!("include {pattern}: there is no such file")),
        }
    }

    /// A line, or several, of which parts may still have to be replaced.
    fn line(&mut self, place: &Place, text: &str, depth: usize) {
        let text = text.trim();
        if text.is_empty() || self.is_full {
            return;
        }
        if depth > MAX_DEPTH || text.len() > MAX_LINE {
            self.report.warn(place, "parameters contain themselves, or make too long a line; it is left out");
            return;
        }
        if let Some((name, value)) = definition(text) {
            self.parameters.insert(name.to_owned(), value.trim_start_matches('\n').to_owned());
            return;
        }
        if text.contains('\n') {
            text.split('\n').for_each(|line| self.line(place, line, depth + 1));
            return;
        }
        if let Some(rest) = text.strip_prefix('@') {
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let holds = match name.strip_prefix('^') {
                Some(name) => name != self.id,
                None => name == self.id,
            };
            if holds {
                self.line(place, rest, depth);
            }
            return;
        }
        if text.starts_with("~SEQ") || text.starts_with("~LST") {
            match repetition(text) {
                Some((turns, rest)) => self.repeat(place, &turns, rest, depth),
                None => self.report.warn(place, format!("'{text}' cannot be read; it is left out")),
            }
            return;
        }
        match self.substitute(text) {
            Some(replaced) => self.line(place, &replaced, depth + 1),
            None if self.lines.len() < MAX_LINES => {
                // These stand for what would have begun a comment.
                let text = text.replace("${_HASH}", "#").replace("${_BANG}", "!");
                self.lines.push(Line { place: place.clone(), text });
            }
            None => {
                self.is_full = true;
                self.report.warn(place, format!("more than {MAX_LINES} lines: all further ones are left out"));
            }
        }
    }

    fn repeat(&mut self, place: &Place, turns: &[Vec<(String, String)>], rest: &str, depth: usize) {
        for turn in turns {
            let mut before = Vec::new();
            for (name, value) in turn {
                before.push((name.clone(), self.parameters.insert(name.clone(), value.clone())));
            }
            self.line(place, rest, depth + 1);
            for (name, value) in before {
                match value {
                    Some(value) => self.parameters.insert(name, value),
                    None => self.parameters.remove(&name),
                };
            }
        }
    }

    /// The text with the parameters in it replaced, once; `None` if there are none.
    fn substitute(&self, text: &str) -> Option<String> {
        let mut replaced = String::new();
        let mut rest = text;
        let mut any = false;
        while let Some(start) = rest.find('$') {
            replaced.push_str(&rest[..start]);
            let behind = &rest[start + 1..];
            let reference = match behind.strip_prefix('{') {
                Some(inner) => inner.find('}').map(|end| (&inner[..end], end + 2)),
                None => {
                    let end = behind.find(|c: char| !is_name_character(c)).unwrap_or(behind.len());
                    // Without braces, whitespace must follow.
                    let ends = behind[end..].chars().next().is_none_or(char::is_whitespace);
                    ends.then_some((&behind[..end], end))
                }
            };
            let value = reference.and_then(|(name, length)| Some((self.parameters.get(name)?, length)));
            match value {
                Some((value, length)) => {
                    any = true;
                    replaced.push_str(value);
                    rest = &behind[length..];
                }
                // What is not defined stays as it is.
                None => {
                    replaced.push('$');
                    rest = behind;
                }
            }
            if replaced.len() > MAX_LINE {
                break;
            }
        }
        any.then(|| replaced + rest)
    }
}

fn is_name_character(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// `$NAME=VALUE`.
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let is_name =
        name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic()) && name.chars().all(is_name_character);
    is_name.then_some((name, value))
}

/// The values that parameters have in each turn.
type Turns = Vec<Vec<(String, String)>>;

/// `~SEQ(var, start, step, end)`, `~SEQx(...)` or `~LST(var, value, ...)`, with the rest of the line.
fn repetition(text: &str) -> Option<(Turns, &str)> {
    let (kind, behind) = text.split_once('(')?;
    let (inner, rest) = behind.split_once(')')?;
    let turns = match kind {
        "~SEQ" => sequence(inner, false)?,
        "~SEQx" => sequence(inner, true)?,
        "~LST" => list(inner)?,
        _ => return None,
    };
    Some((turns, rest.trim_start()))
}

fn sequence(inner: &str, hexadecimal: bool) -> Option<Turns> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse::<i64>().ok(),
    };
    let mut parts = inner.split(',').map(str::trim);
    let name = parts.next()?;
    let numbers: Vec<i64> = parts.map(number).collect::<Option<_>>()?;
    let (start, step, end) = match *numbers.as_slice() {
        [end] => (end.signum(), end.signum(), end),
        [start, end] => (start, if end >= start { 1 } else { -1 }, end),
        [start, step, end] => (start, step, end),
        _ => return None,
    };
    if step == 0 || end.checked_sub(start)?.checked_div(step)? > MAX_LINES as i64 {
        return None;
    }
    let mut turns = Vec::new();
    let mut value = start;
    while (step > 0 && value <= end) || (step < 0 && value >= end) {
        let text = if hexadecimal { format!("{value:x}") } else { value.to_string() };
        turns.push(vec![(name.to_owned(), text)]);
        value = value.checked_add(step)?;
    }
    Some(turns)
}

fn list(inner: &str) -> Option<Turns> {
    // Commas within braces separate the parts of one value.
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut depth = 0;
    let mut part = String::new();
    let mut group = Vec::new();
    for c in inner.chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' => {
                group.push(part.trim().to_owned());
                part.clear();
                if depth == 0 {
                    groups.push(std::mem::take(&mut group));
                }
            }
            c => part.push(c),
        }
    }
    let (names, values) = groups.split_first()?;
    if depth != 0 || values.is_empty() || values.iter().any(|value| value.len() != names.len()) {
        return None;
    }
    Some(values.iter().map(|value| names.iter().cloned().zip(value.iter().cloned()).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut report = Report::default();
        let lines = read(Path::new("/etc/k.conf"), text, "main", &mut report);
        let warnings = report.0.iter().map(|warning| format!("! {warning}"));
        lines.into_iter().map(|line| line.text).chain(warnings).collect()
    }

    #[test]
    fn parameters_are_replaced() {
        let text = "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32\n$SUB=10\nip ${BASE}.100/32\n$UNDEF x ${UNDEF}\n$SUB";
        assert_eq!(lines(text), ["10.2.0.100/32", "ip 10.2.10.100/32", "$UNDEF x ${UNDEF}", "10"]);
        assert_eq!(lines("path ${_PWD}/x ${_HASH}a"), ["path /etc/x #a"]);
        let text = "$RS= \\\nreal_server 10.0.0.${N} 80 { \\\n  weight 1 \\\n}\n$N=1\n$RS\n$N=2\n$RS";
        let server = |n| [format!("real_server 10.0.0.{n} 80 {{"), "weight 1".to_owned(), "}".to_owned()];
        assert_eq!(lines(text), [server(1), server(2)].concat());
        let text = "$VS= \\\na { \\\n$N=7 \\\nb $N \\\n}\n$VS";
        assert_eq!(lines(text), ["a {", "b 7", "}"]);
        assert!(lines("$A=${A}x\n${A}")[0].starts_with("! /etc/k.conf:2: parameters contain themselves"));
        assert!(lines("$A=${B}${B}\n$B=${A}${A}\n${A}")[0].starts_with("! "));
    }

    #[test]
    fn conditions_are_those_of_the_configuration() {
        let text = "@main a\n@backup b\n@^backup c\n@^main d\n@main $X=1\n@backup $X=2\ne $X\n$IF=@main\n$IF f";
        assert_eq!(lines(text), ["a", "c", "e 1", "f"]);
    }

    #[test]
    fn repetitions() {
        assert_eq!(lines("~SEQ(S, 0, 2) a.${S}"), ["a.0", "a.1", "a.2"]);
        assert_eq!(lines("~SEQx(S, 0x90, 0x10, 0xa0) a:${S}"), ["a:90", "a:a0"]);
        assert_eq!(lines("~SEQ(S, 2) ~SEQ(T,8,-4,4) ${S}.${T}"), ["1.8", "1.4", "2.8", "2.4"]);
        assert_eq!(lines("~LST({A, B}, {10,1},{20,4}) ${A}.${B}"), ["10.1", "20.4"]);
        assert_eq!(lines("~LST(A, x, y) ~LST(B, 1, 2) ${A}${B}"), ["x1", "x2", "y1", "y2"]);
        for wrong in
            ["~SEQ(S)", "~SEQ(S,1,0,2) x", "~LST(A) x", "~LST({A,B},{1}) x", "~SEQ(S,0,9999999999) x", "~SEQ(S"]
        {
            let expected = format!("! /etc/k.conf:1: '{wrong}' cannot be read; it is left out");
            assert_eq!(lines(wrong), [expected]);
        }
        let many = lines("~SEQ(A,1,1001) ~SEQ(B,1,1001) x");
        assert_eq!(many.len(), MAX_LINES + 1);
        assert!(many[MAX_LINES].starts_with("! /etc/k.conf:1: more than 1000000 lines"));
    }

    #[test]
    fn files_are_included() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        write("sub/a.conf", "a\ninclude b.inc");
        write("sub/b.inc", "b ${_PWD}");
        write("sub/c.conf", "c");
        write("loop.conf", "include loop.conf");
        let main = folder.path().join("k.conf");
        let mut report = Report::default();
        let text = "x\ninclude sub/*.conf # both\ny\ninclude none.conf";
        let lines = read(&main, text, "main", &mut report);
        let shown: Vec<String> = lines.iter().map(|line| line.text.clone()).collect();
        let b = format!("b {}/sub", folder.path().display());
        assert_eq!(shown, ["x", "a", b.as_str(), "c", "y"]);
        assert!(lines[2].place.to_string().ends_with("sub/b.inc:1"));
        assert_eq!(report.0[0].to_string(), format!("{}:4: include none.conf: there is no such file", main.display()));
        let mut report = Report::default();
        read(&main, "include loop.conf", "main", &mut report);
        assert!(report.0[0].message.contains("too many files within files"));
    }
}
