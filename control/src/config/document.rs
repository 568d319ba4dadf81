//! The file as a tree whose nodes know where they stand.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Config, ConfigError};

/// The sections, for the error about an unknown one.
const SECTIONS: &str = "daemon, eal, workers, limits, timeouts, sysctl, helpers, metrics, ports, marks, services";

/// A configuration file that is being read.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    syntax: Vec<toml::de::Error>,
}

impl<'a> Document<'a> {
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        let (root, syntax) = DeTable::parse_recoverable(text);
        Self { file, text, root, syntax }
    }

    /// Everything that can be read, and the errors on the way. With errors, what is read is of no use.
    pub fn read(&self) -> (Config, Vec<ConfigError>) {
        let mut config = Config::default();
        let mut errors: Vec<ConfigError> = self.syntax.iter().map(|error| self.error("", error)).collect();
        if !errors.is_empty() {
            return (config, errors);
        }
        for (key, value) in self.root.get_ref() {
            let name = key.get_ref().as_ref();
            match name {
                "daemon" => self.section(name, value, &mut config.daemon, &mut errors),
                "eal" => self.section(name, value, &mut config.eal, &mut errors),
                "workers" => self.section(name, value, &mut config.workers, &mut errors),
                "limits" => self.section(name, value, &mut config.limits, &mut errors),
                "timeouts" => self.section(name, value, &mut config.timeouts, &mut errors),
                "sysctl" => self.section(name, value, &mut config.sysctl, &mut errors),
                "helpers" => self.section(name, value, &mut config.helpers, &mut errors),
                "metrics" => self.section(name, value, &mut config.metrics, &mut errors),
                "ports" => self.list(name, value, &mut config.ports, &mut errors),
                "marks" => self.list(name, value, &mut config.marks, &mut errors),
                "services" => self.list(name, value, &mut config.services, &mut errors),
                _ => {
                    let message = format!("unknown section: correct or remove it; there are {SECTIONS}");
                    errors.push(self.error_in(name, Some(key.span()), message));
                }
            }
        }
        errors.sort_by_key(|error| error.position);
        (config, errors)
    }

    fn section<T: DeserializeOwned>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'a>>,
        into: &mut T,
        errors: &mut Vec<ConfigError>,
    ) {
        if !value.get_ref().is_table() {
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

    /// An error about the value of `key`, or about the nearest thing around it that is in the file.
    pub fn error_at(&self, key: &str, message: String) -> ConfigError {
        self.error_in(key, self.find(key), message)
    }

    /// The same without a place if nothing of it is in the file.
    pub fn error_about(&self, key: &str, message: String) -> ConfigError {
        let error = self.error_at(key, message);
        let position = error.position.filter(|_| self.find(key).is_some());
        ConfigError { position, ..error }
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
        let start = span.map_or(0, |span| span.start.min(self.text.len()));
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ConfigError { file: self.file.to_owned(), position: Some((line, column)), key: key.to_owned(), message }
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
