//! The commands and replies of FTP that name an endpoint: `PORT`, `PASV` and its reply 227 (RFC 959 sections 4.1.2 and
//! 4.2), `EPRT`, `EPSV` and its reply 229 (RFC 2428).
//!
//! A command must be complete in its segment, as for the kernel's helper (ip_vs_ftp.c). Several in one segment are read,
//! too: clients and servers send what they have.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use arrayvec::ArrayVec;

/// Room for any endpoint that is written.
pub(super) type Text = ArrayVec<u8, 64>;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The client will connect to the server.
    Passive,
    /// The server shall connect to this endpoint.
    Active(Mention),
}

/// An endpoint in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// `None` in reply 229: the address of the control connection.
    pub addr: Option<IpAddr>,
    /// Not 0.
    pub port: u16,
    /// Where the line begins.
    pub line: usize,
    /// The endpoint's place, delimiters not included.
    pub place: Range<usize>,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `h1,h2,h3,h4,p1,p2`
    Six,
    /// `1|132.235.1.2|6275`, `2|1080::8:800:200C:417A|5282`; the delimiter.
    Extended(u8),
    /// `6446`
    Port,
}

/// The first thing of interest that a client says in a segment's data.
pub(super) fn request(data: &[u8]) -> Option<Request> {
    lines(data).find_map(|(start, line)| {
        let (command, argument) = line.split_at_checked(4)?;
        let mention = |form, (addr, port, place): (IpAddr, u16, Range<usize>)| {
            let place = start + 4 + place.start..start + 4 + place.end;
            Request::Active(Mention { addr: Some(addr), port, line: start, place, form })
        };
        if command.eq_ignore_ascii_case(b"PASV") || command.eq_ignore_ascii_case(b"EPSV") {
            // What else is said makes no difference: without success there is no reply to look for.
            matches!(argument.first(), None | Some(b' ' | b'\r')).then_some(Request::Passive)
        } else if command.eq_ignore_ascii_case(b"PORT") {
            let blanks = blanks(argument)?;
            let (addr, port, len) = six(&argument[blanks..])?;
            is_end(&argument[blanks + len..]).then(|| mention(Form::Six, (addr, port, blanks..blanks + len)))
        } else if command.eq_ignore_ascii_case(b"EPRT") {
            let blanks = blanks(argument)?;
            let delimiter = *argument.get(blanks).filter(|byte| is_delimiter(**byte))?;
            let (addr, port, len) = extended(&argument[blanks + 1..], delimiter)?;
            let place = blanks + 1..blanks + 1 + len;
            is_end(&argument[place.end + 1..]).then(|| mention(Form::Extended(delimiter), (addr, port, place)))
        } else {
            None
        }
    })
}

/// The endpoint that a server names in a segment's data, in the reply to `PASV` or `EPSV`.
pub(super) fn reply(data: &[u8]) -> Option<Mention> {
    lines(data).find_map(|(start, line)| {
        if line.starts_with(b"227 ") {
            // RFC 1123 section 4.1.2.6: the reply has no fixed form but for the numbers.
            let at = 4 + line[4..].iter().position(u8::is_ascii_digit)?;
            let (addr, port, len) = six(&line[at..])?;
            let place = start + at..start + at + len;
            return Some(Mention { addr: Some(addr), port, line: start, place, form: Form::Six });
        }
        if line.starts_with(b"229 ") {
            let at = line.iter().position(|&byte| byte == b'(')? + 1;
            let delimiter = *line.get(at).filter(|byte| is_delimiter(**byte))?;
            let port_at = at + 3;
            let (port, len) = number::<u16>(line.get(port_at..)?)?;
            let rest = &line[port_at + len..];
            let is_right = line[at..port_at] == [delimiter; 3] && rest.starts_with(&[delimiter, b')']) && port != 0;
            let place = start + port_at..start + port_at + len;
            return is_right.then_some(Mention { addr: None, port, line: start, place, form: Form::Port });
        }
        None
    })
}

impl Mention {
    /// The text for another endpoint; `None` if its address is of the wrong family for it.
    pub(super) fn text(&self, addr: IpAddr, port: u16) -> Option<Text> {
        let mut text = Text::new();
        match (self.form, addr) {
            (Form::Six, IpAddr::V4(addr)) => {
                let [a, b, c, d] = addr.octets();
                let [high, low] = port.to_be_bytes();
                write!(text, "{a},{b},{c},{d},{high},{low}")
            }
            (Form::Six, IpAddr::V6(_)) => return None,
            (Form::Extended(delimiter), addr) => {
                let family = if addr.is_ipv4() { 1 } else { 2 };
                let delimiter = char::from(delimiter);
                write!(text, "{family}{delimiter}{addr}{delimiter}{port}")
            }
            (Form::Port, _) => write!(text, "{port}"),
        }
        .ok()?;
        Some(text)
    }
}

/// The complete lines with their places; they end before the line feed.
fn lines(data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let len = data[start..].iter().position(|&byte| byte == b'\n')?;
        let line = (start, &data[start..start + len]);
        start += len + 1;
        Some(line)
    })
}

/// How many blanks there are; `None` if there is none.
fn blanks(text: &[u8]) -> Option<usize> {
    let blanks = text.iter().take_while(|&&byte| byte == b' ').count();
    (blanks > 0).then_some(blanks)
}

/// Nothing but blanks and the carriage return.
fn is_end(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b' ' | b'\r'))
}

/// RFC 2428 section 2: a printing character, and not one of an address.
fn is_delimiter(byte: u8) -> bool {
    matches!(byte, 33..=126) && !byte.is_ascii_hexdigit() && !matches!(byte, b'.' | b':')
}

/// A decimal number and its length.
fn number<N: std::str::FromStr>(text: &[u8]) -> Option<(N, usize)> {
    let len = text.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
    let value = std::str::from_utf8(&text[..len]).ok()?.parse().ok()?;
    Some((value, len))
}

/// Six numbers with commas: address, port, and length of the text.
fn six(text: &[u8]) -> Option<(IpAddr, u16, usize)> {
    let mut numbers = [0u8; 6];
    let mut at = 0;
    for (i, byte) in numbers.iter_mut().enumerate() {
        if i > 0 {
            text.get(at).filter(|&&comma| comma == b',')?;
            at += 1;
        }
        let len;
        (*byte, len) = number(&text[at..])?;
        at += len;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    let more = text.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b',');
    (port != 0 && !more).then_some((Ipv4Addr::new(a, b, c, d).into(), port, at))
}

/// `1|address|port|` behind the first delimiter: address, port, and length of the text before the last delimiter.
fn extended(text: &[u8], delimiter: u8) -> Option<(IpAddr, u16, usize)> {
    let mut parts = text.splitn(4, |&byte| byte == delimiter);
    let (family, addr, port, _rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let len = family.len() + addr.len() + port.len() + 2;
    let addr_text = std::str::from_utf8(addr).ok()?;
    let addr = match family {
        b"1" => IpAddr::V4(addr_text.parse::<Ipv4Addr>().ok()?),
        b"2" => IpAddr::V6(addr_text.parse::<Ipv6Addr>().ok()?),
        _ => return None,
    };
    let (port_number, port_len) = number::<u16>(port)?;
    (port_len == port.len() && port_number != 0).then_some((addr, port_number, len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn active(data: &str) -> Option<(String, u16, &str, usize)> {
        match request(data.as_bytes())? {
            Request::Active(Mention { addr, port, line, place, .. }) => {
                Some((addr.unwrap().to_string(), port, &data[place], line))
            }
            Request::Passive => panic!("{data:?} is passive"),
        }
    }

    #[test]
    fn reads_what_clients_say() {
        let v4 = |addr: &str, port, text, line| Some((addr.to_owned(), port, text, line));
        for (data, expected) in [
            ("PORT 10,1,2,3,4,5\r\n", v4("10.1.2.3", 1029, "10,1,2,3,4,5", 0)),
            ("port   10,1,2,3,0,20 \r\n", v4("10.1.2.3", 20, "10,1,2,3,0,20", 0)),
            ("TYPE I\r\nPORT 10,1,2,3,255,255\r\n", v4("10.1.2.3", 65535, "10,1,2,3,255,255", 8)),
            ("EPRT |1|132.235.1.2|6275|\r\n", v4("132.235.1.2", 6275, "1|132.235.1.2|6275", 0)),
            ("eprt |2|1080::8:800:200C:417A|5282|\r\n", {
                v4("1080::8:800:200c:417a", 5282, "2|1080::8:800:200C:417A|5282", 0)
            }),
            ("EPRT !2!::1!5!\n", v4("::1", 5, "2!::1!5", 0)),
            ("PORT 10,1,2,3,4,5", None),
            ("PORT 10,1,2,3,4\r\n", None),
            ("PORT 10,1,2,3,4,256\r\n", None),
            ("PORT 10,1,2,3,4,5,6\r\n", None),
            ("PORT 10,1,2,3,0,0\r\n", None),
            ("PORT10,1,2,3,4,5\r\n", None),
            ("PORT 10,1,2,3,4,5 x\r\n", None),
            ("EPRT |2|1.2.3.4|6275|\r\n", None),
            ("EPRT |1|1.2.3.4|62755555|\r\n", None),
            ("EPRT |1|1.2.3.4|6275\r\n", None),
            ("EPRT |3|1.2.3.4|6275|\r\n", None),
            ("XPORT 10,1,2,3,4,5\r\n", None),
            ("POR\r\n", None),
            ("", None),
        ] {
            assert_eq!(active(data), expected, "{data:?}");
        }
        for data in ["PASV\r\n", "pasv\n", "NOOP\r\nEPSV 1\r\n", "EPSV\r\n"] {
            assert_eq!(request(data.as_bytes()), Some(Request::Passive), "{data:?}");
        }
        for data in ["PASVX\r\n", "PASV", "STOR PASV\r\n"] {
            assert_eq!(request(data.as_bytes()), None, "{data:?}");
        }
    }

    #[test]
    fn reads_what_servers_say() {
        let read = |data: &'static str| reply(data.as_bytes()).map(|m| (m.addr, m.port, &data[m.place], m.line));
        let addr = Some("10.1.2.3".parse().unwrap());
        for (data, expected) in [
            ("227 Entering Passive Mode (10,1,2,3,4,5).\r\n", Some((addr, 1029, "10,1,2,3,4,5", 0))),
            ("227 =10,1,2,3,4,5\r\n", Some((addr, 1029, "10,1,2,3,4,5", 0))),
            ("200 OK\r\n227 (10,1,2,3,4,5)\r\n", Some((addr, 1029, "10,1,2,3,4,5", 8))),
            ("229 Entering Extended Passive Mode (|||6446|)\r\n", Some((None, 6446, "6446", 0))),
            ("229 ok (!!!21!)\r\n", Some((None, 21, "21", 0))),
            ("229 ok (|||6446)\r\n", None),
            ("229 ok (||6446|)\r\n", None),
            ("229 ok (|||0|)\r\n", None),
            ("229 ok (|||", None),
            ("229 (\n", None),
            ("227 none\r\n", None),
            ("227-Entering (10,1,2,3,4,5)\r\n", None),
            ("227 Entering Passive Mode (10,1,2,3,4,5).", None),
        ] {
            assert_eq!(read(data), expected, "{data:?}");
        }
    }

    #[test]
    fn writes_the_endpoint_in_the_same_form() {
        let write = |data: &str, addr: &str, port| {
            let mention = match request(data.as_bytes()) {
                Some(Request::Active(mention)) => mention,
                _ => reply(data.as_bytes()).expect("a request or a reply"),
            };
            let text = mention.text(addr.parse().unwrap(), port)?;
            Some(data.replacen(&data[mention.place], std::str::from_utf8(&text).unwrap(), 1))
        };
        let largest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (data, addr, port, expected) in [
            ("PORT 1,2,3,4,5,6\r\n", "192.0.2.255", 65535, Some("PORT 192,0,2,255,255,255\r\n")),
            ("PORT 1,2,3,4,5,6\r\n", "::1", 1, None),
            ("EPRT |1|1.2.3.4|6|\r\n", "192.0.2.1", 80, Some("EPRT |1|192.0.2.1|80|\r\n")),
            ("EPRT !2!::!6!\r\n", largest, 65535, Some("EPRT !2!ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff!65535!\r\n")),
            ("229 x (|||7|)\r\n", largest, 65535, Some("229 x (|||65535|)\r\n")),
        ] {
            assert_eq!(write(data, addr, port).as_deref(), expected, "{data:?}");
        }
    }

    proptest! {
        /// Whatever is said, a place that is reported is in the data, behind the beginning of its line.
        #[test]
        fn no_text_is_trusted(
            begin in prop::sample::select(vec!["PORT ", "EPRT |", "EPRT |2|", "227 (", "229 (|||", "PASV", ""]),
            rest in "[0-9,|:.()a-f \r\n]{0,40}",
        ) {
            let data = format!("{begin}{rest}\r\n");
            let active = match request(data.as_bytes()) {
                Some(Request::Active(mention)) => Some(mention),
                _ => None,
            };
            for mention in [active, reply(data.as_bytes())].into_iter().flatten() {
                prop_assert!(mention.line < mention.place.start && mention.place.end < data.len());
                prop_assert!(mention.port != 0);
                prop_assert!(!data[mention.line..mention.place.end].contains('\n'));
            }
        }
    }
}
