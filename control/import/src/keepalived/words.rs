//! Words of a line: quoting, escapes and comments (keepalived.conf(5), "Quoted strings").

use std::iter::Peekable;
use std::str::Chars;

/// The line without its comment, which begins with `#` or `!` outside of quotes.
pub(super) fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in line.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '!') => return &line[..index],
            _ => {}
        }
    }
    line
}

/// A word, and whether any of it was quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub quoted: bool,
}

/// The words of a line without comment. Braces that begin or end a block are words of their own.
pub(super) fn split(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else {
            let word = word(&mut chars);
            // `url{` and `}}`.
            let text = word.text.as_str();
            let body = text.trim_start_matches('}');
            let name = body.strip_suffix('{');
            match name {
                _ if word.quoted => words.push(word),
                _ if body.len() < text.len() || (name.is_some() && !text.contains('}')) => {
                    let brace = |text: &str| Word { text: text.to_owned(), quoted: false };
                    words.extend((0..text.len() - body.len()).map(|_| brace("}")));
                    let name = name.unwrap_or(body);
                    words.extend((!name.is_empty()).then(|| brace(name)));
                    words.extend(body.ends_with('{').then(|| brace("{")));
                }
                _ => words.push(word),
            }
        }
    }
    words
}

fn word(chars: &mut Peekable<Chars<'_>>) -> Word {
    let mut word = Word { text: String::new(), quoted: false };
    let mut quote = None;
    while let Some(&c) = chars.peek() {
        if quote.is_none() && c.is_whitespace() {
            break;
        }
        chars.next();
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), '\\') => word.text.extend(escape(chars)),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.quoted = true;
            }
            _ => word.text.push(c),
        }
    }
    word
}

/// What stands behind a backslash.
fn escape(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    let digits = |chars: &mut Peekable<Chars<'_>>, radix: u32, most: usize| {
        let mut value = 0;
        for _ in 0..most {
            let Some(digit) = chars.peek().and_then(|c| c.to_digit(radix)) else { break };
            chars.next();
            value = (value * radix + digit) & 0xff;
        }
        char::from_u32(value)
    };
    match chars.peek().copied()? {
        '0'..='7' => digits(chars, 8, 3),
        c => {
            chars.next();
            match c {
                'a' => Some('\x07'),
                'b' => Some('\x08'),
                'E' => Some('\x1b'),
                'f' => Some('\x0c'),
                'n' => Some('\n'),
                'r' => Some('\r'),
                't' => Some('\t'),
                'v' => Some('\x0b'),
                'x' => digits(chars, 16, usize::MAX),
                'c' => chars.next().map(|c| char::from(c as u8 & 0x1f)),
                c => Some(c),
            }
        }
    }
}

/// A command with its arguments; single quotes hold together what has spaces in it.
pub(super) fn command(text: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut argument: Option<String> = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                argument.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => arguments.extend(argument.take()),
            c => argument.get_or_insert_default().push(c),
        }
    }
    arguments.extend(argument);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_lines() {
        for (line, expected) in [
            ("a # b", "a "),
            ("a!b", "a"),
            ("# all", ""),
            (r#"a "b # c" 'd ! e' # f"#, r#"a "b # c" 'd ! e' "#),
            (r#"a "\" # b" c"#, r#"a "\" # b" c"#),
            ("it's # no comment", "it's # no comment"),
        ] {
            assert_eq!(without_comment(line), expected);
        }
    }

    #[test]
    fn words_are_split() {
        let words = |line: &str| split(line).into_iter().map(|word| word.text).collect::<Vec<_>>();
        for (line, expected) in [
            ("", &[][..]),
            ("  real_server 10.0.0.1\t80 {", &["real_server", "10.0.0.1", "80", "{"]),
            ("url{", &["url", "{"]),
            ("} }", &["}", "}"]),
            ("}}", &["}", "}"]),
            (r#"abcd" efg h jkl "mnop"#, &["abcd efg h jkl mnop"]),
            (r#"abcd "efg h jkl" mnop"#, &["abcd", "efg h jkl", "mnop"]),
            (r#""a\tb\x41\101\\\"" '{'"#, &["a\tbAA\\\"", "{"]),
            ("regex ^a{2}$", &["regex", "^a{2}$"]),
            ("unclosed 'a b", &["unclosed", "a b"]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        assert!(split("'{'")[0].quoted);
    }

    #[test]
    fn commands_are_split() {
        assert_eq!(command("/bin/x a 'b c'  d'e'f ''"), ["/bin/x", "a", "b c", "def", ""]);
        assert!(command("  ").is_empty());
    }
}
