//! Hashes of addresses, equal to those of the kernel.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// An address in 32 bits: an IPv6 address is the exclusive or of its four words.
pub(crate) fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The upper `bits` bits, 1 to 32, of the product with 2^32 over the golden ratio (hash_32 in include/linux/hash.h).
pub(crate) fn golden(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> (32 - bits)
}

/// SipHash-1-3 of a word, its lower half (hsiphash in lib/siphash.c, on 64-bit machines).
pub(crate) fn half_sip(key: u64, value: u32) -> u32 {
    SipHasher13::new_with_keys(key, key).hash(&value.to_le_bytes()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fold() {
        assert_eq!(fold([192, 0, 2, 1].into()), 0xc000_0201);
        let v6: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        assert_eq!(fold(v6), 0x2001_0db8 ^ 0x0001_0002 ^ 0x0003_0004 ^ 0x0005_0006);
    }
}
