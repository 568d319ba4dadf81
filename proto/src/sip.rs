//! The Call-ID of a SIP message (RFC 3261 section 20.8), found as Linux finds it (nf_conntrack_sip.c, ip_vs_pe_sip.c).

/// Longest Call-ID that counts, in bytes (IP_VS_PEDATA_MAXLEN).
pub const MAX_CALL_ID: usize = 255;

/// The Call-ID of a SIP message: that of the first header line with one, if it is well formed, not too long, and its line
/// is ended. A line may also be folded after the header's name.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message;
    loop {
        rest = next_line(rest)?;
        if let Some(value) = header_value(rest)? {
            let len = call_id_len(value);
            if len == 0 {
                rest = value;
                continue;
            }
            let is_ended = matches!(value.get(len), Some(b'\r' | b'\n'));
            return (is_ended && len <= MAX_CALL_ID).then(|| &value[..len]);
        }
    }
}

/// What follows the next line end: LF, CR or both.
fn next_line(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let rest = &text[end + 1..];
    let rest = if text[end] == b'\r' { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
    (!rest.is_empty()).then_some(rest)
}

/// What follows the name, the colon and white space, if the line is a Call-ID header, in its long or short form. `None`
/// if such a header is malformed.
#[expect(clippy::option_option, reason = "'not this header' and 'broken' are different")]
fn header_value(line: &[u8]) -> Option<Option<&[u8]>> {
    let starts_with = |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let after_name = if starts_with(b"call-id") {
        &line[7..]
    } else if starts_with(b"i") && line.get(1).is_some_and(|byte| !byte.is_ascii_alphabetic()) {
        &line[1..]
    } else {
        return Some(None);
    };
    let value = skip_white_space(after_name)?.strip_prefix(b":")?;
    skip_white_space(value).map(Some)
}

/// Skips blanks and at most one fold, which is a line end before a blank.
fn skip_white_space(text: &[u8]) -> Option<&[u8]> {
    let blank = |text: &[u8]| text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let rest = &text[blank(text)..];
    let rest = match rest.first()? {
        b'\r' | b'\n' => {
            let folded = next_line(rest)?;
            let blanks = blank(folded);
            if blanks == 0 {
                return None;
            }
            &folded[blanks..]
        }
        _ => rest,
    };
    (!rest.is_empty()).then_some(rest)
}

/// Length of `word [ "@" word ]`; 0 if there is no word where one must be.
fn call_id_len(text: &[u8]) -> usize {
    let word = |text: &[u8]| text.iter().take_while(|byte| is_word(**byte)).count();
    let first = word(text);
    if first == 0 || text.get(first) != Some(&b'@') {
        return first;
    }
    match word(&text[first + 1..]) {
        0 => 0,
        second => first + 1 + second,
    }
}

/// Characters of a word (RFC 3261 section 25.1).
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || br#"-.!%*_+`'~()<>:\"/[]?{}"#.contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn call_ids() {
        let cases: [(&[u8], Option<&[u8]>); 16] = [
            (b"INVITE sip:x SIP/2.0\r\nCall-ID: abc@host\r\n", Some(b"abc@host")),
            (b"INVITE sip:x SIP/2.0\nVia: x\ncall-id:abc\nCall-ID: second\n", Some(b"abc")),
            (b"INVITE sip:x SIP/2.0\r\ni: short@h\r\n\r\n", Some(b"short@h")),
            (b"INVITE sip:x SIP/2.0\r\nI \t:\tshort\r\n", Some(b"short")),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID:\r\n folded@h\r\n", Some(b"folded@h")),
            (b"INVITE sip:x SIP/2.0\r\nix: no\r\n", None),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID: unended", None),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID: a b\r\n", None),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID: a@\r\ni: next\r\n", Some(b"next")),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID a\r\n", None),
            (b"INVITE sip:x SIP/2.0\r\nCall-ID:\r\nabc\r\n", None),
            (b"INVITE sip:x SIP/2.0\r\n Call-ID: folded line\r\n", None),
            (b"Call-ID: first-line\r\n", None),
            (b"\r\nCall-ID: abc\r\n", Some(b"abc")),
            (b"", None),
            (b"\r\n", None),
        ];
        for (message, expected) in cases {
            assert_eq!(call_id(message), expected, "{}", String::from_utf8_lossy(message));
        }
        let of_length = |len| [b"\ni: ".to_vec(), vec![b'a'; len], b"\r\n".to_vec()].concat();
        assert_eq!(call_id(&of_length(255)).map(<[u8]>::len), Some(255));
        assert_eq!(call_id(&of_length(256)), None);
    }

    proptest! {
        #[test]
        fn any_message_is_survived(message in proptest::collection::vec(any::<u8>(), 0..300), text in "(i|Call-ID|:|@|a|\r|\n| ){0,60}") {
            for message in [&message[..], text.as_bytes()] {
                if let Some(found) = call_id(message) {
                    prop_assert!(!found.is_empty() && found.len() <= MAX_CALL_ID);
                }
            }
        }
    }
}
