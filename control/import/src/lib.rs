//! Translates what other directors are configured with into dpvsd's configuration: `keepalived.conf`, with DPVS's additions, and the
//! output of `ipvsadm -S`.
//!
//! What has no translation is never left out in silence: each such line has a [`Warning`].
#![forbid(unsafe_code)]

mod ipvsadm;
mod keepalived;
mod output;

use std::fmt;
use std::path::Path;
use std::rc::Rc;

pub use ipvsadm::ipvsadm;
pub use keepalived::{is_keepalived, keepalived};

/// What came of a translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, in TOML; without ports, of which the source says nothing.
    pub text: String,
    /// What is not in it, by file and line.
    pub warnings: Vec<Warning>,
}

/// Something that has no translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// What it is, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Rc<Path>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Collects warnings.
#[derive(Debug, Default)]
struct Report(Vec<Warning>);

impl Report {
    fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.0.push(Warning { place: place.clone(), message: message.into() });
    }
}
