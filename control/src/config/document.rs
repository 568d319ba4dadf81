//! The files as trees whose nodes know where they stand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use dpvs_api::{ConfigFile, ConfigSources, Position};
use dpvs_file::{INCLUDE, expand};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Config, ConfigError};

/// The sections, for the error about an unknown one.
const SECTIONS: &str =
    "daemon, api, eal, workers, limits, timeouts, sysctl, helpers, metrics, connection_log, ports, marks, services";

/// Sections that included files may have: lists whose items follow those of the files before.
const SHARED: [&str; 2] = ["marks", "services"];

/// All files of a configuration that is being read. Keys of their lists count through all of them; an error has the key
/// within its file.
pub(super) struct Documents<'a> {
    /// The main file, then those that it includes.
    documents: Vec<Document<'a>>,
    environment: &'a BTreeMap<String, String>,
}

/// One of the files.
struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    syntax: Vec<toml::de::Error>,
}

impl<'a> Documents<'a> {
    pub fn new(sources: &'a ConfigSources) -> Self {
        let documents = sources.files.iter().map(Document::new).collect();
        Self { documents, environment: &sources.environment }
    }

    /// Everything that can be read, and the errors on the way. With errors, what is read is of no use.
    pub fn read(&mut self) -> (Config, Vec<ConfigError>) {
        let mut config = Config::default();
        let syntax = self.documents.iter().flat_map(|document| document.syntax.iter().map(|e| document.error("", e)));
        let mut errors: Vec<ConfigError> = syntax.collect();
        if errors.is_empty() {
            let environment = self.environment;
            errors = self.documents.iter_mut().flat_map(|document| document.expand(environment)).collect();
        }
        if !errors.is_empty() {
            return (config, errors);
        }
        let main = self.documents.first().map_or(Path::new(""), |document| document.file);
        for (index, document) in self.documents.iter().enumerate() {
            let mut found = Vec::new();
            document.read((index > 0).then_some(main), &mut config, &mut found);
            found.sort_by_key(|error| error.position);
            errors.extend(found);
        }
        (config, errors)
    }

    /// An error about the value of `key`, or about the nearest thing around it that is in the file.
    pub fn error_at(&self, key: &str, message: String) -> ConfigError {
        match self.home(key) {
            Some((document, key)) => document.error_in(&key, document.find(&key), message),
            None => ConfigError { file: Default::default(), position: None, key: key.to_owned(), message },
        }
    }

    /// The same without a place if nothing of it is in the file.
    pub fn error_about(&self, key: &str, message: String) -> ConfigError {
        let is_there = self.home(key).is_some_and(|(document, key)| document.find(&key).is_some());
        let error = self.error_at(key, message);
        ConfigError { position: error.position.filter(|_| is_there), ..error }
    }

    /// The file that a key stands in, and the key there.
    fn home(&self, key: &str) -> Option<(&Document<'a>, String)> {
        let main = || self.documents.first().map(|document| (document, key.to_owned()));
        let Some((name, rest)) = key.split_once('[') else { return main() };
        let Some((index, rest)) = rest.split_once(']') else { return main() };
        let Ok(mut index) = index.parse::<usize>() else { return main() };
        for document in self.documents.iter().filter(|_| SHARED.contains(&name)) {
            let items = document.items(name);
            if index < items {
                return Some((document, format!("{name}[{index}]{rest}")));
            }
            index -= items;
        }
        main()
    }
}

impl<'a> Document<'a> {
    fn new(file: &'a ConfigFile) -> Self {
        let (root, syntax) = DeTable::parse_recoverable(&file.text);
        Self { file: &file.path, text: &file.text, root, syntax }
    }

    /// Puts environment variables into all strings.
    fn expand(&mut self, environment: &BTreeMap<String, String>) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        for (key, value) in self.root.get_mut().iter_mut() {
            expand_value(key.get_ref(), value, environment, &mut mistakes);
        }
        mistakes.into_iter().map(|(key, span, message)| self.error_in(&key, Some(span), message)).collect()
    }

    /// Adds what the file says. `main` is the file that includes it, if one does.
    fn read(&self, main: Option<&Path>, config: &mut Config, errors: &mut Vec<ConfigError>) {
        for (key, value) in self.root.get_ref() {
            let name = key.get_ref().as_ref();
            let refuse = |message: String| self.error_in(name, Some(key.span()), message);
            match (name, main) {
                ("marks", _) => self.list(name, value, &mut config.marks, errors),
                ("services", _) => self.list(name, value, &mut config.services, errors),
                (INCLUDE, None) => self.section(name, value, &mut Vec::<String>::new(), errors),
                (INCLUDE, Some(main)) => errors.push(refuse(format!(
                    "a file that is included includes no others: name them in {}",
                    main.display()
                ))),
                (
                    "daemon" | "api" | "eal" | "workers" | "limits" | "timeouts" | "sysctl" | "helpers" | "metrics"
                    | "connection_log" | "ports",
                    Some(main),
                ) => {
                    errors.push(refuse(format!(
                        "included files have {} only: move this into {}",
                        SHARED.join(" and "),
                        main.display()
                    )));
                }
                ("daemon", None) => self.section(name, value, &mut config.daemon, errors),
                ("api", None) => self.section(name, value, &mut config.api, errors),
                ("eal", None) => self.section(name, value, &mut config.eal, errors),
                ("workers", None) => self.section(name, value, &mut config.workers, errors),
                ("limits", None) => self.section(name, value, &mut config.limits, errors),
                ("timeouts", None) => self.section(name, value, &mut config.timeouts, errors),
                ("sysctl", None) => self.section(name, value, &mut config.sysctl, errors),
                ("helpers", None) => self.section(name, value, &mut config.helpers, errors),
                ("metrics", None) => self.section(name, value, &mut config.metrics, errors),
                ("connection_log", None) => self.section(name, value, &mut config.connection_log, errors),
                ("ports", None) => self.list(name, value, &mut config.ports, errors),
                _ => errors.push(refuse(format!("unknown section: correct or remove it; there are {SECTIONS}"))),
            }
        }
    }

    fn section<T: DeserializeOwned>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'a>>,
        into: &mut T,
        errors: &mut Vec<ConfigError>,
    ) {
        if key != INCLUDE && !value.get_ref().is_table() {
            let message = format!("must be a section: write [{key}] on a line of its own and its keys below");
            errors.push(self.error_in(key, Some(value.span()), message));
            return;
        }
        match serde_path_to_error::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(read) => *into = read,
            Err(error) => errors.push(self.error(&join(key, error.path()), error.inner())),
        }
    }

    fn list<T: DeserializeOwned>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'a>>,
        into: &mut Vec<T>,
        errors: &mut Vec<ConfigError>,
    ) {
        let items = match value.get_ref() {
            DeValue::Array(items) if items.iter().all(|item| item.get_ref().is_table()) => items,
            _ => {
                let message = format!("must be a list: write [[{key}]], with two brackets, before each of them");
                errors.push(self.error_in(key, Some(value.span()), message));
                return;
            }
        };
        for (index, item) in items.iter().enumerate() {
            let key = format!("{key}[{index}]");
            match serde_path_to_error::deserialize(ValueDeserializer::from(item.clone())) {
                Ok(read) => into.push(read),
                Err(error) => errors.push(self.error(&join(&key, error.path()), error.inner())),
            }
        }
    }

    /// How many items a list has.
    fn items(&self, name: &str) -> usize {
        let list = self.root.get_ref().get(name).and_then(|value| value.get_ref().as_array());
        list.map_or(0, |items| items.len())
    }

    fn error(&self, key: &str, error: &toml::de::Error) -> ConfigError {
        // The parser may point at a whole list where the key names one item of it.
        let span = match (error.span(), self.find(key)) {
            (Some(wide), Some(found)) if wide.start <= found.start && found.end <= wide.end => Some(found),
            (span, found) => span.or(found),
        };
        self.error_in(key, span, explain(error.message()))
    }

    fn error_in(&self, key: &str, span: Option<Range<usize>>, message: String) -> ConfigError {
        let position = Position::of(self.text, span.map_or(0, |span| span.start));
        ConfigError { file: self.file.to_owned(), position: Some(position), key: key.to_owned(), message }
    }

    fn find(&self, key: &str) -> Option<Range<usize>> {
        let mut found = None;
        let mut table = Some(self.root.get_ref());
        for part in key.split('.') {
            let (name, indices) = match part.split_once('[') {
                Some((name, rest)) => (name, rest),
                None => (part, ""),
            };
            let Some(mut value) = table.and_then(|table| table.get(name)) else { break };
            found = Some(value.span());
            for index in indices.split(['[', ']']).filter_map(|index| index.parse::<usize>().ok()) {
                let Some(item) = value.get_ref().as_array().and_then(|items| items.get(index)) else { break };
                value = item;
                found = Some(value.span());
            }
            table = value.get_ref().as_table();
        }
        found
    }
}

/// A mistake: its key, place and message.
type Mistake = (String, Range<usize>, String);

fn expand_value(
    key: &str,
    value: &mut Spanned<DeValue<'_>>,
    environment: &BTreeMap<String, String>,
    mistakes: &mut Vec<Mistake>,
) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => match expand(text, |name| environment.get(name).cloned()) {
            Ok(expanded) => *text = expanded.into_owned().into(),
            Err(error) => mistakes.push((key.to_owned(), span, error.to_string())),
        },
        DeValue::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand_value(&format!("{key}[{index}]"), item, environment, mistakes);
            }
        }
        DeValue::Table(table) => {
            for (name, value) in table.iter_mut() {
                expand_value(&format!("{key}.{}", name.get_ref()), value, environment, mistakes);
            }
        }
        _ => {}
    }
}

fn join(key: &str, path: &serde_path_to_error::Path) -> String {
    match path.to_string() {
        path if path == "." => key.to_owned(),
        path if path.starts_with('[') => format!("{key}{path}"),
        path => format!("{key}.{path}"),
    }
}

/// Makes one line of a parser's message and adds the remedy where the message has none.
fn explain(message: &str) -> String {
    let mut message = message.replace('\n', ", ");
    // The parser expects Rust's types; say what to write instead.
    for (kind, meaning) in [
        ("expected usize", "expected a number from 0 up"),
        ("expected u32", "expected a number from 0 to 4294967295"),
        ("expected u16", "expected a number from 0 to 65535"),
        ("expected a sequence", "expected a list: [...]"),
    ] {
        message = message.replace(kind, meaning);
    }
    let remedy = match message.as_str() {
        "invalid socket address syntax" => ": write ADDRESS:PORT, e.g. 192.0.2.1:80 or [2001:db8::1]:80",
        "invalid IP address syntax" => ": write an address such as 192.0.2.1 or 2001:db8::1",
        _ if message.starts_with("missing field") => ": add it here",
        _ if message.starts_with("unknown field") => "; correct or remove it",
        "duplicate key" => ": it stands further up already; remove one",
        _ => "",
    };
    message + remedy
}
