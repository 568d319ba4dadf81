//! Local ports of checks at virtual addresses.
//!
//! A socket that asks the kernel for any port gets one that no other has, not even in TIME-WAIT, where a check's connection
//! rests for a minute: that would make some 470 checks a second. A port that is asked for by its number is shared by all
//! sockets that allow it (SO_REUSEADDR; `inet_csk_get_port` in net/ipv4/inet_connection_sock.c). So ports are chosen here, at
//! random, among those that the kernel would choose from.

use std::ops::RangeInclusive;

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Draws until one is not reserved.
const DRAWS: usize = 64;

/// Ports to choose from.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl Default for Ports {
    /// Linux's default.
    fn default() -> Self {
        Self { range: 32_768..=60_999, reserved: Vec::new() }
    }
}

impl Ports {
    /// Those of the network namespace, as they are now.
    pub fn of_system() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        Self::parse(&read(RANGE), &read(RESERVED))
    }

    /// From the contents of the two files: `32768 60999` and `8080,9000-9010`.
    pub fn parse(range: &str, reserved: &str) -> Self {
        let range = range.split_once(char::is_whitespace).and_then(|(first, last)| {
            let range = first.parse().ok()?..=last.trim().parse().ok()?;
            (*range.start() > 0 && !range.is_empty()).then_some(range)
        });
        let reserved = reserved.trim().split(',').filter_map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
        Self { range: range.unwrap_or(Self::default().range), reserved: reserved.collect() }
    }

    /// One of them.
    pub fn draw(&self) -> u16 {
        let (first, last) = self.range.clone().into_inner();
        let count = u32::from(last - first) + 1;
        let any = || first + (getrandom::u32().unwrap_or_default() % count) as u16;
        let is_free = |port: &u16| !self.reserved.iter().any(|range| range.contains(port));
        // Where nearly all are reserved, one of those must do.
        (0..DRAWS).map(|_| any()).find(is_free).unwrap_or_else(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_the_kernel() {
        let ports = Ports::parse("1024\t1028\n", "1025,1027-1028\n");
        let drawn: std::collections::BTreeSet<u16> = (0..200).map(|_| ports.draw()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [1024, 1026]);
        assert_eq!(Ports::parse("7 7", "").draw(), 7);
        assert_eq!(Ports::parse("7 7", "7").draw(), 7);
        for unreadable in ["", "a b", "9 8", "0 5", "1024"] {
            assert_eq!(Ports::parse(unreadable, "x,,-3").range, 32_768..=60_999, "{unreadable}");
        }
        assert_eq!(Ports::parse("1 65535", "").range, 1..=65_535);
    }
}
