//! Reads commands from standard input and applies them whole or not at all, so that services come up with their servers
//! and a mistake in the last line leaves the table as it was.

use std::io::{BufRead, BufReader, Read};

use dpvs_api::Operation;
use dpvs_client::ClientError;

use crate::arguments::{Parsed, parse};
use crate::command::{Action, action};
use crate::director::Director;
use crate::failure::{Failure, index_of};
use crate::names::Names;
use crate::run::operation_of;

/// Applies the commands of `input`, one a line; empty lines and those that start with `#` are skipped, and so is the
/// word `ipvsadm` itself.
pub(crate) fn restore(
    program: &str,
    input: &mut dyn Read,
    director: &dyn Director,
    names: &dyn Names,
) -> Result<(), Failure> {
    let mut operations = Vec::new();
    let mut lines = Vec::new();
    for (line, number) in BufReader::new(input).lines().zip(1..) {
        let line = line.map_err(|error| Failure::usage(format!("standard input: {error}")).in_line(number))?;
        let Some(words) = words(&line) else { continue };
        let operation = line_operation(program, &words, &operations, director, names);
        operations.push(operation.map_err(|failure| failure.in_line(number))?);
        lines.push(number);
    }
    if operations.is_empty() {
        return Ok(());
    }
    director.apply(&operations).map_err(|error| in_line(error, &operations, &lines))
}

/// The words of a line that has any.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let words = line.split_whitespace().filter(|word| *word != "ipvsadm").map(str::to_owned).collect::<Vec<_>>();
    (!words.is_empty() && !line.trim_start().starts_with('#')).then_some(words)
}

fn line_operation(
    program: &str,
    words: &[String],
    earlier: &[Operation],
    director: &dyn Director,
    names: &dyn Names,
) -> Result<Operation, Failure> {
    let not_a_change = || Failure::usage("only commands that change the table can be restored");
    let Parsed::Command(arguments) = parse(program, words, names)? else { return Err(not_a_change()) };
    match action(*arguments)? {
        Action::Change(change) => operation_of(change, earlier, director),
        _ => Err(not_a_change()),
    }
}

/// The failure of a batch, in terms of the line that the daemon complains about.
fn in_line(error: ClientError, operations: &[Operation], lines: &[usize]) -> Failure {
    let index = match &error {
        ClientError::Api(error) => index_of(error).filter(|&index| index < operations.len()),
        _ => None,
    };
    match index {
        Some(index) => Failure::operation(error, &operations[index]).in_line(lines[index]),
        // Clear stands for "no operation in particular".
        None => Failure::operation(error, &Operation::Clear),
    }
}
