//! The seeded hash of tuples.
//!
//! A hash flood needs many tuples that share a bucket; a client that does not know the seed cannot find them.
//! The building block is the folded multiply: the 128-bit product of two 64-bit words, its halves combined by
//! exclusive or. Both factors are masked with secret words, so that no input makes one of them zero or small, and a
//! second round spreads what sequential ports and addresses leave clustered after the first.
//!
//! The hash is not a cryptographic one: whoever sees hash values could learn the seed. They never leave the worker.

use proto::{Address, Tuple};

/// Hashes tuples with a secret seed; equal seeds give equal hashes.
#[derive(Clone)]
pub struct TupleHasher {
    keys: [u64; 8],
}

impl TupleHasher {
    /// A hasher with 128 bits of secret; draw them from the system's random source.
    pub fn new(seed: [u64; 2]) -> Self {
        // SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014): an increment of
        // the golden ratio and a bijective mixer give independent-looking words from consecutive inputs.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        fn mix(x: u64) -> u64 {
            let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }
        let keys = std::array::from_fn(|i| {
            let step = GOLDEN.wrapping_mul(i as u64 + 1);
            mix(seed[0].wrapping_add(step) ^ mix(seed[1].wrapping_add(step)))
        });
        Self { keys }
    }

    /// The hash; all 64 bits are usable.
    #[inline(always)]
    pub fn hash<A: Address>(&self, tuple: &Tuple<A>) -> u64 {
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.keys;
        let (src_high, src_low) = tuple.src.words();
        let (dst_high, dst_low) = tuple.dst.words();
        let rest = u64::from(tuple.sport) | u64::from(tuple.dport) << 16 | u64::from(tuple.protocol.0) << 32;
        let first = if A::LEN == 4 {
            fold((src_low | dst_low << 32) ^ k0, rest ^ k1)
        } else {
            let src = fold(src_high ^ k0, src_low ^ k1);
            let dst = fold(dst_high ^ k2, dst_low ^ k3);
            fold(src ^ rest ^ k4, dst ^ k5)
        };
        fold(first ^ k6, k7)
    }
}

/// Prints nothing of the secret.
impl std::fmt::Debug for TupleHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TupleHasher").finish_non_exhaustive()
    }
}

#[inline(always)]
fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proto::Protocol;

    use super::*;

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn v4(src: u32, dst: u32, sport: u16, dport: u16) -> Tuple<Ipv4Addr> {
        Tuple { src: src.into(), dst: dst.into(), sport, dport, protocol: Protocol::TCP }
    }

    fn v6(src: u128, dst: u128, sport: u16, dport: u16) -> Tuple<Ipv6Addr> {
        Tuple { src: src.into(), dst: dst.into(), sport, dport, protocol: Protocol::TCP }
    }

    /// Chi-squared statistic of the hashes over 1024 bins, normalised: about 0, within 5 for a uniform hash.
    fn deviation(hashes: &[u64], bin: impl Fn(u64) -> usize) -> f64 {
        const BINS: usize = 1024;
        let mut counts = [0u32; BINS];
        for &hash in hashes {
            counts[bin(hash)] += 1;
        }
        let expected = hashes.len() as f64 / BINS as f64;
        let chi2: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let degrees = (BINS - 1) as f64;
        (chi2 - degrees) / (2.0 * degrees).sqrt()
    }

    #[test]
    fn structured_tuples_spread_evenly() {
        let n = 1u32 << 16;
        let base6 = 0x2001_0db8_u128 << 96;
        for seed in 0..16u64 {
            let h = TupleHasher::new([seed, !seed]);
            let sets: [(&str, Vec<u64>); 7] = [
                ("source ports", (0..n).map(|i| h.hash(&v4(0x0a00_0001, 0xc000_0201, i as u16, 80))).collect()),
                ("destination ports", (0..n).map(|i| h.hash(&v4(0xc000_0201, 0x0a00_0001, 80, i as u16))).collect()),
                ("addresses", (0..n).map(|i| h.hash(&v4(0x0a00_0000 + i, 0xc000_0201, 1024, 80))).collect()),
                (
                    "addresses and ports",
                    (0..n).map(|i| h.hash(&v4(0x0a00_0000 + (i >> 8), 0xc000_0201, (i & 255) as u16, 80))).collect(),
                ),
                ("ports, IPv6", (0..n).map(|i| h.hash(&v6(base6 + 1, base6 + 2, i as u16, 80))).collect()),
                ("hosts, IPv6", (0..n).map(|i| h.hash(&v6(base6 + u128::from(i), base6, 9, 80))).collect()),
                ("networks, IPv6", (0..n).map(|i| h.hash(&v6(base6 + (u128::from(i) << 64), base6, 9, 80))).collect()),
            ];
            for (name, hashes) in &sets {
                for (bits, value) in [
                    ("high", deviation(hashes, |x| (x >> 54) as usize)),
                    ("middle", deviation(hashes, |x| (x >> 27) as usize & 1023)),
                    ("low", deviation(hashes, |x| x as usize & 1023)),
                ] {
                    assert!(value < 6.0, "seed {seed}, {name}, {bits} bits: chi-squared is {value:.1} sigma too high");
                }
            }
        }
    }

    #[test]
    fn every_input_bit_changes_half_of_the_output_bits() {
        fn check<A: Address>(name: &str, bits: usize, tuple: impl Fn(u64, Option<usize>) -> Tuple<A>) {
            const SAMPLES: u64 = 512;
            let h = TupleHasher::new(SEED);
            for bit in 0..bits {
                let mut flips = [0u32; 64];
                for sample in 0..SAMPLES {
                    let change = h.hash(&tuple(sample, None)) ^ h.hash(&tuple(sample, Some(bit)));
                    for (i, n) in flips.iter_mut().enumerate() {
                        *n += (change >> i & 1) as u32;
                    }
                }
                for (i, &n) in flips.iter().enumerate() {
                    // Six standard deviations of 512 fair coins are 68.
                    assert!(n.abs_diff(256) < 72, "{name}: input bit {bit} changes output bit {i} in {n} of 512");
                }
            }
        }
        let scramble = |x: u64| x.wrapping_add(1).wrapping_mul(0xd129_0d3a_8c5b_7f4b);
        check("IPv4", 104, |sample, flip| {
            let r = scramble(sample);
            let mut bits = u128::from(r) << 40 | u128::from(scramble(r) >> 24);
            bits ^= flip.map_or(0, |b| 1 << b);
            Tuple {
                protocol: Protocol(bits as u8),
                ..v4((bits >> 72) as u32, (bits >> 40) as u32, (bits >> 24) as u16, (bits >> 8) as u16)
            }
        });
        check("IPv6", 128, |sample, flip| {
            let r = u128::from(scramble(sample)) << 64 | u128::from(sample);
            v6(r ^ flip.map_or(0, |b| 1 << b), !r, 4096, 443)
        });
        check("IPv6 destination", 128, |sample, flip| {
            let r = u128::from(scramble(sample)) << 64 | u128::from(sample);
            v6(!r, r ^ flip.map_or(0, |b| 1 << b), 4096, 443)
        });
    }

    #[test]
    fn seed_and_direction_matter() {
        let (a, b) = (TupleHasher::new(SEED), TupleHasher::new([SEED[1], SEED[0]]));
        let tuple = v4(0x0a00_0001, 0xc000_0201, 40000, 80);
        assert_eq!(a.hash(&tuple), TupleHasher::new(SEED).hash(&tuple));
        assert_ne!(a.hash(&tuple), b.hash(&tuple));
        assert_ne!(a.hash(&tuple), a.hash(&tuple.reversed()));
        let tuple = v6(1, 2, 40000, 80);
        assert_ne!(a.hash(&tuple), b.hash(&tuple));
        assert_ne!(a.hash(&tuple), a.hash(&tuple.reversed()));
        for half in 0..2 {
            for bit in 0..64 {
                let mut seed = SEED;
                seed[half] ^= 1 << bit;
                assert_ne!(TupleHasher::new(seed).hash(&tuple), a.hash(&tuple), "bit {bit} of word {half}");
            }
        }
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        assert_eq!(format!("{:?}", TupleHasher::new(SEED)), "TupleHasher { .. }");
    }
}
