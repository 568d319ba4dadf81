//! Environment variables in strings: `${NAME}`, `${NAME:-DEFAULT}`; `$${` stands for `${`.

use std::borrow::Cow;

/// Why a string has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A variable has no value, and the string no default.
    #[error("environment variable {0} is not set: set it, or write ${{{0}:-DEFAULT}}; $${{ stands for a literal ${{")]
    Unset(String),
    /// What follows `${` is no variable.
    #[error(
        "'{0}' names no environment variable: write ${{NAME}} or ${{NAME:-DEFAULT}}; $${{ stands for a literal ${{"
    )]
    Malformed(String),
}

/// A piece of a string.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
    Malformed(&'a str),
}

/// The string with its variables replaced. Values are taken as they are: what looks like a variable in them is none.
pub fn expand<'a>(text: &'a str, variable: impl Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, ExpandError> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    for piece in Pieces(text) {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Malformed(text) => return Err(ExpandError::Malformed(text.to_owned())),
            Piece::Variable { name, default } => match (variable(name), default) {
                (Some(value), _) => expanded.push_str(&value),
                (None, Some(default)) => expanded.push_str(default),
                (None, None) => return Err(ExpandError::Unset(name.to_owned())),
            },
        }
    }
    Ok(Cow::Owned(expanded))
}

/// The names of all variables of a text.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    Pieces(text).filter_map(|piece| match piece {
        Piece::Variable { name, .. } => Some(name),
        _ => None,
    })
}

struct Pieces<'a>(&'a str);

impl<'a> Pieces<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let Some(start) = self.0.find("${") else { return Some(Piece::Text(self.take(self.0.len()))) };
        if start > 0 {
            // A second sign before it makes it literal.
            let escaped = self.0.as_bytes()[start - 1] == b'$';
            return Some(Piece::Text(match (escaped, start) {
                (true, 1) => &self.take("$${".len())[1..],
                (true, _) => self.take(start - 1),
                (false, _) => self.take(start),
            }));
        }
        let Some(end) = self.0.find('}') else { return Some(Piece::Malformed(self.take(self.0.len()))) };
        let whole = self.take(end + 1);
        let inner = &whole["${".len()..end];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        Some(if is_name(name) { Piece::Variable { name, default } } else { Piece::Malformed(whole) })
    }
}

/// A name as shells have them (POSIX.1-2024, XBD 3.216).
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "VIP" => Some("192.0.2.1".to_owned()),
            "_9" => Some("${VIP}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("plain $ $VIP {VIP} $}", "plain $ $VIP {VIP} $}"),
            ("${VIP}:80", "192.0.2.1:80"),
            ("a${VIP}${VIP}", "a192.0.2.1192.0.2.1"),
            ("${VIP:-x}${NO:-y}${NO:-}${NO:-a:-b}${NO:-$}", "192.0.2.1ya:-b$"),
            ("x${EMPTY}${EMPTY:-z}x", "xx"),
            ("$${VIP} x$${ ${VIP}$${", "${VIP} x${ 192.0.2.1${"),
            ("$$${VIP}", "$${VIP}"),
            ("${_9}", "${VIP}"),
        ] {
            assert_eq!(expand(text, variable).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        assert_eq!(
            expand("a${NO}", variable).unwrap_err().to_string(),
            "environment variable NO is not set: set it, or write ${NO:-DEFAULT}; $${ stands for a literal ${"
        );
        for (text, culprit) in
            [("x${", "${"), ("${}", "${}"), ("${9}", "${9}"), ("${A B}x", "${A B}"), ("${A-b}", "${A-b}")]
        {
            let message = format!(
                "'{culprit}' names no environment variable: write ${{NAME}} or ${{NAME:-DEFAULT}}; $${{ stands for a literal ${{"
            );
            assert_eq!(expand(text, variable).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn names_are_found() {
        let found: Vec<&str> = names("${A} $${B} ${C:-${D}} ${9} # ${E}\n${F").collect();
        assert_eq!(found, ["A", "C", "E"]);
    }

    proptest! {
            #[test]
            fn anything_can_be_read(text in "[$A{}:\\-é]{0,12}") {
                let _ = expand(&text, variable);
                // What is escaped is as it was.
    prop_assert_eq!(expand(&text.replace("${", "$${"), variable).map(Cow::into_owned), Ok(text));
            }
        }
}
