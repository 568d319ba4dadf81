//! The Toeplitz hash, by which NICs spread flows over receive queues (receive side scaling, RSS).
//!
//! The hash of a bit string is the XOR, over its set bits, of the 32 bits of the key that start at the same position
//! (Microsoft, "RSS hashing functions"; the same in every NIC that does RSS). Input is source address, destination
//! address, source port and destination port as they stand in the packet: 12 bytes in IPv4, 36 in IPv6.
//!
//! Taken byte by byte with a table for each position, it costs one load and one XOR a byte.

use crate::{Address, Tuple};

/// Bytes of the longest input, IPv6 addresses and ports.
const POSITIONS: usize = 36;

/// The hash under one key.
#[derive(Clone)]
pub struct Toeplitz {
    /// `[position][byte]`, 1 KiB a position. IPv4 uses the first 12.
    tables: Box<[[u32; 256]; POSITIONS]>,
}

impl Toeplitz {
    /// Shortest key in bytes. Longer keys, such as the 52 bytes of some NICs, serve longer inputs than these.
    pub const MIN_KEY_LEN: usize = POSITIONS + 4;

    /// Prepares the hash under `key`.
    ///
    /// # Panics
    /// If `key` is shorter than [`MIN_KEY_LEN`](Self::MIN_KEY_LEN).
    pub fn new(key: &[u8]) -> Self {
        let len = key.len();
        assert!(len >= Self::MIN_KEY_LEN, "RSS key of {len} bytes; at least {} are needed", Self::MIN_KEY_LEN);
        let mut tables = Box::new([[0; 256]; POSITIONS]);
        for (table, window) in tables.iter_mut().zip(key.windows(5)) {
            // The byte's first bit selects the first 32 of these 40 bits, its last bit those from the eighth on.
            let window = window.iter().fold(0, |bits: u64, &byte| bits << 8 | u64::from(byte));
            for (byte, hash) in table.iter_mut().enumerate() {
                for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                    *hash ^= (window >> (bit + 1)) as u32;
                }
            }
        }
        Self { tables }
    }

    /// The hash of `tuple`'s addresses and ports, as a NIC puts it in the receive descriptor. The protocol is no part.
    #[inline]
    pub fn hash<A: Address>(&self, tuple: &Tuple<A>) -> u32 {
        let mut input = [0; POSITIONS];
        tuple.src.write(&mut input);
        tuple.dst.write(&mut input[A::LEN..]);
        input[2 * A::LEN..][..2].copy_from_slice(&tuple.sport.to_be_bytes());
        input[2 * A::LEN + 2..][..2].copy_from_slice(&tuple.dport.to_be_bytes());
        let input = &input[..2 * A::LEN + 4];
        self.tables.iter().zip(input).fold(0, |hash, (table, &byte)| hash ^ table[usize::from(byte)])
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::Protocol;

    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn tuple<A: Address>(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple<A> {
        let addr = |text: &str| A::from_ip(text.parse().unwrap()).unwrap();
        Tuple { src: addr(src), dst: addr(dst), sport, dport, protocol: Protocol::TCP }
    }

    /// "Verifying the RSS hash calculation", Microsoft's Windows driver documentation.
    #[test]
    fn agrees_with_the_published_vectors() {
        let toeplitz = Toeplitz::new(&KEY);
        for (src, sport, dst, dport, expected) in [
            ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51cc_c178),
            ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626_b0ea),
            ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5c2b_394a),
            ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xafc7_327f),
            ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10e8_28a2),
        ] {
            let tuple: Tuple<Ipv4Addr> = tuple(src, sport, dst, dport);
            assert_eq!(toeplitz.hash(&tuple), expected, "{tuple:?}");
        }
        for (src, sport, dst, dport, expected) in [
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x4020_7d3d),
            ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xdde5_1bbf),
            ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x02d1_feef),
        ] {
            let tuple: Tuple<Ipv6Addr> = tuple(src, sport, dst, dport);
            assert_eq!(toeplitz.hash(&tuple), expected, "{tuple:?}");
        }
    }

    #[test]
    #[should_panic(expected = "RSS key of 39 bytes; at least 40 are needed")]
    fn refuses_a_short_key() {
        Toeplitz::new(&KEY[..39]);
    }

    /// The definition, bit by bit.
    fn reference(key: &[u8], input: &[u8]) -> u32 {
        let key_bit = |at: usize| u32::from(key[at / 8] >> (7 - at % 8) & 1);
        let input_bit = |at: usize| input[at / 8] >> (7 - at % 8) & 1 != 0;
        (0..input.len() * 8)
            .filter(|&at| input_bit(at))
            .fold(0, |hash, at| hash ^ (0..32).fold(0, |window, bit| window << 1 | key_bit(at + bit)))
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            key in proptest::collection::vec(any::<u8>(), 40..=52),
            input in any::<[u8; 36]>(),
        ) {
            let toeplitz = Toeplitz::new(&key);
            let port = |at: usize| u16::from_be_bytes([input[at], input[at + 1]]);
            let v4 = Tuple {
                src: Ipv4Addr::read(&input),
                dst: Ipv4Addr::read(&input[4..]),
                sport: port(8),
                dport: port(10),
                protocol: Protocol::UDP,
            };
            prop_assert_eq!(toeplitz.hash(&v4), reference(&key, &input[..12]));
            let v6 = Tuple {
                src: Ipv6Addr::read(&input),
                dst: Ipv6Addr::read(&input[16..]),
                sport: port(32),
                dport: port(34),
                protocol: Protocol::UDP,
            };
            prop_assert_eq!(toeplitz.hash(&v6), reference(&key, &input));
        }
    }
}
