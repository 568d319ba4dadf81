//! Numbers and addresses as the C library reads them, with all that it lets pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dpvs_api::Protocol;

use crate::names::Names;

/// A whole number within a range, as `strtol` reads it: leading white space and a sign are let pass.
pub(crate) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let digits = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if !digits.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|value| (min..=max).contains(value))
}

/// The number that a text begins with, 0 if none (`atoi`).
pub(crate) fn leading_number(text: &str) -> i64 {
    let text = text.trim_start();
    let signs = usize::from(text.starts_with(['+', '-']));
    let digits = text[signs..].chars().take_while(char::is_ascii_digit).count();
    text[..signs + digits].parse().unwrap_or(0)
}

/// An IPv4 address in one to four parts, each decimal, octal or hexadecimal (inet_aton(3)). What follows white space
/// is not looked at.
pub(crate) fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let text = text.split([' ', '\t', '\n', '\r', '\x0b', '\x0c']).next()?;
    let parts = text.split('.').map(part).collect::<Option<Vec<u32>>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|&part| part > 255) {
        return None;
    }
    // The last part fills all bytes that the others leave.
    let free_bits = 32 - 8 * leading.len();
    if u64::from(*last) >> free_bits != 0 {
        return None;
    }
    let high = leading.iter().enumerate().fold(0, |value, (index, part)| value | part << (24 - 8 * index));
    Some(Ipv4Addr::from(high | last))
}

fn part(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // from_str_radix would let a sign pass.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// `host[:port]`, `[IPv6]:port` or a bare IPv6 address; the port as number or name.
pub(crate) fn endpoint(text: &str, protocol: Protocol, names: &dyn Names) -> Option<(IpAddr, Option<u16>)> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let l4_port = |text: &str| match number(text, 0, 65535) {
        Some(value) => u16::try_from(value).ok(),
        None => names.port_of(text, protocol),
    };
    let (host, after_bracket) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").map(|(host, rest)| (host, Some(rest)))?,
        None => (text, None),
    };
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        let port = after_bracket.map(|text| l4_port(text).ok_or(())).transpose().ok()?;
        return Some((IpAddr::V6(address), port));
    }
    // Of "[192.0.2.1:80]:81" the real one takes port 80, and so does this.
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let address = ipv4(host).or_else(|| names.address_of(host))?;
    let port = port.map(|text| l4_port(text).ok_or(())).transpose().ok()?;
    Some((IpAddr::V4(address), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("5", Some(5)),
            (" 7", Some(7)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("080", Some(80)),
            ("", None),
            ("-", None),
            ("7 ", None),
            ("0x10", None),
            ("1001", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text, -10, 1000), expected, "{text:?}");
        }
        assert_eq!(leading_number("12x"), 12);
        assert_eq!(leading_number(" -3"), -3);
        assert_eq!(leading_number("x"), 0);
    }

    #[test]
    fn ipv4_addresses() {
        for (text, expected) in [
            ("192.0.2.1", Some([192, 0, 2, 1])),
            ("0xc0000209", Some([192, 0, 2, 9])),
            ("192.522", Some([192, 0, 2, 10])),
            ("192.0.522", Some([192, 0, 2, 10])),
            ("192.0.2.014", Some([192, 0, 2, 12])),
            ("192.0.2.15 and more", Some([192, 0, 2, 15])),
            ("0", Some([0, 0, 0, 0])),
            ("", None),
            ("192.0.2.", None),
            ("192.0.2.256", None),
            ("192.0.65536", None),
            ("192.0.2.1.5", None),
            ("4294967296", None),
            ("1.2.3.08", None),
            ("1.2.3.+4", None),
            ("0x", None),
            ("www", None),
        ] {
            assert_eq!(ipv4(text).map(|address| address.octets()), expected, "{text:?}");
        }
    }
}
