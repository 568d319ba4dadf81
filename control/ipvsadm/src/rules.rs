//! Rules as `ipvsadm -S` prints them, read without a daemon.

use dpvs_api::Operation;

use crate::arguments::{Parsed, parse};
use crate::command::{Action, Change, action};
use crate::names::Names;
use crate::restore::words;

/// A line of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of the line, from 1.
    pub number: usize,
    /// What it does, or why it cannot be read.
    pub operation: Result<Operation, String>,
}

/// Reads rules one a line, as `ipvsadm -R` does.
pub fn rules<'a>(text: &'a str, names: &'a dyn Names) -> impl Iterator<Item = Rule> + 'a {
    let lines = text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, words(line)?)));
    lines.map(|(number, words)| Rule { number, operation: operation(&words, names) })
}

fn operation(words: &[String], names: &dyn Names) -> Result<Operation, String> {
    let Parsed::Command(arguments) = parse("ipvsadm", words, names).map_err(|failure| failure.message)? else {
        return Err("this is no rule".to_owned());
    };
    match action(*arguments).map_err(|failure| failure.message)? {
        Action::Change(Change::Operation(operation)) => Ok(operation),
        _ => Err("this adds nothing: give the output of 'ipvsadm -S'".to_owned()),
    }
}
