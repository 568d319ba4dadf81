//! Addresses, and the ranges of them that groups can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of a range at most: each becomes a service.
const MAX_RANGE: u128 = 16_384;

/// `192.0.2.1`, `192.0.2.1-10`, `192.0.2.250-192.0.3.10`, `192.0.2.8/29`, and their IPv6 equivalents.
pub(super) fn range(text: &str) -> Result<Vec<IpAddr>, String> {
    let wrong = || format!("'{text}' is no address and no range of addresses");
    let (first, last) = if let Some((address, length)) = text.split_once('/') {
        network(address.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?).ok_or_else(wrong)?
    } else if let Some((first, last)) = text.split_once('-') {
        let first: IpAddr = first.parse().map_err(|_| wrong())?;
        (first, last_of(first, last).ok_or_else(wrong)?)
    } else {
        let address = text.parse().map_err(|_| wrong())?;
        (address, address)
    };
    if first.is_ipv4() != last.is_ipv4() || last < first {
        return Err(wrong());
    }
    let more = number(last) - number(first);
    if more >= MAX_RANGE {
        return Err(format!("'{text}' has more than {MAX_RANGE} addresses, which are the most that can be translated"));
    }
    Ok((0..=more).map(|index| nth(first, index)).collect())
}

/// The last address of a range, of which only the last part may be written.
fn last_of(first: IpAddr, last: &str) -> Option<IpAddr> {
    if let Ok(last) = last.parse() {
        return Some(last);
    }
    match first {
        IpAddr::V4(first) => {
            let [a, b, c, _] = first.octets();
            Some(Ipv4Addr::new(a, b, c, last.parse().ok()?).into())
        }
        IpAddr::V6(first) => {
            let mut segments = first.segments();
            segments[7] = u16::from_str_radix(last, 16).ok()?;
            Some(Ipv6Addr::from(segments).into())
        }
    }
}

fn network(address: IpAddr, length: u32) -> Option<(IpAddr, IpAddr)> {
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let host = 1_u128.checked_shl(bits.checked_sub(length)?).map_or(u128::MAX, |size| size - 1);
    let first = nth(address, 0);
    let base = number(first) & !host;
    Some((of(address, base), of(address, base | host)))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn nth(first: IpAddr, index: u128) -> IpAddr {
    of(first, number(first) + index)
}

/// The address of this number, in the family of another.
fn of(family: IpAddr, number: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.9-11", "192.0.2.9 192.0.2.10 192.0.2.11"),
            ("192.0.2.255-192.0.3.1", "192.0.2.255 192.0.3.0 192.0.3.1"),
            ("192.0.2.9/30", "192.0.2.8 192.0.2.9 192.0.2.10 192.0.2.11"),
            ("2001:db8::9-b", "2001:db8::9 2001:db8::a 2001:db8::b"),
            ("2001:db8::8/127", "2001:db8::8 2001:db8::9"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let addresses: Vec<String> = range(text).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(addresses.join(" "), expected);
        }
        for text in ["", "x", "192.0.2.1-", "192.0.2.9-8", "192.0.2.1/33", "192.0.2.1-2001:db8::1", "192.0.2.1-256"] {
            assert!(range(text).unwrap_err().contains("no address"), "{text}");
        }
        for text in ["10.0.0.0/8", "::/0"] {
            assert!(range(text).unwrap_err().contains("more than 16384 addresses"), "{text}");
        }
    }
}
