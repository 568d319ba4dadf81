//! The Internet checksum, in full (RFC 1071) and incremental (RFC 1624, equation 3).
//!
//! The checksum of IPv4, TCP, UDP, ICMP and ICMPv6 is the complement of the one's complement sum of 16-bit words. Two
//! things in it are easy to confuse, so they have different types here:
//!
//! * [`Sum`], the *rolling sum*: not complemented, wider than 16 bits, still growing.
//! * the *wire field*, a plain `u16`: folded and complemented, as it stands in a header. [`Sum::finish`] makes one.
//!
//! [`Delta`] is the difference that replaced fields make. Applied to a wire field it yields the field that a full
//! computation would have yielded. Errors that a packet suffered before it came here stay detectable by its receiver,
//! which is why the director updates TCP and UDP checksums and never computes them anew.
//!
//! # Byte order
//!
//! Sums are kept in the processor's own byte order: on a little-endian one every word is that of the packet with its
//! bytes exchanged, and so is the sum (RFC 1071 section 2 (B)). Bytes are therefore summed as they lie in
//! memory. The interface knows only numbers in host order, such as ports and lengths, and converts them.
//!
//! # Arithmetic
//!
//! One's complement addition of 16-bit words is addition modulo `0xffff`, with two zeros: `0x0000` and `0xffff`. As
//! 2^16, 2^32 and 2^64 are all 1 modulo `0xffff`, wider words may be added whole, provided that a carry out of the top
//! is added at the bottom, and folded at the end. Sums of anything but zeros never come back to `0x0000`: such a sum is
//! written `0xffff`, in full and incremental computation alike, so that both give the very same field (the flaw of
//! RFC 1141 that RFC 1624 mends).

use crate::{Address, Protocol};

/// A one's complement sum in progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// The accumulated difference that replaced fields make to the sum of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

/// Adds with end-around carry; there is no second carry, as a sum that overflowed is at most 2^64 - 2.
#[inline(always)]
const fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Folds to 16 bits: adds the halves with end-around carry, in both halves at once, and keeps the upper one; twice.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes` as big-endian words; a last odd byte counts as if a zero byte followed it (RFC 1071 section 1).
    ///
    /// Each call starts a new word: to sum a packet piecewise, cut it at even offsets.
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // Words of 32 bits do not carry out of 64, and so the compiler makes vectors of them.
        let (words, tail) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|&word| u64::from(u32::from_ne_bytes(word))).sum();
        let last = match *tail {
            [a, b, c] => [a, b, c, 0],
            [a, b] => [a, b, 0, 0],
            [a] => [a, 0, 0, 0],
            _ => [0; 4],
        };
        let sum = sum + u64::from(u32::from_ne_bytes(last));
        Self(add(self.0, sum))
    }

    /// Adds one word.
    #[inline(always)]
    pub fn add_u16(self, word: u16) -> Self {
        Self(add(self.0, u64::from(word.to_be())))
    }

    /// Adds the four words that make up `words` as a big-endian number.
    #[inline(always)]
    pub fn add_u64(self, words: u64) -> Self {
        Self(add(self.0, words.to_be()))
    }

    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1). `len` counts
    /// the transport header and all that follows it, in bytes.
    #[inline]
    pub fn pseudo<A: Address>(src: A, dst: A, protocol: Protocol, len: u32) -> Self {
        let (src_high, src_low) = src.words();
        let (dst_high, dst_low) = dst.words();
        let addresses = add(add(src_high, src_low), add(dst_high, dst_low));
        Self(add(addresses, u64::from(u16::from(protocol.0).to_be()) + u64::from(len.to_be())))
    }

    /// The wire field: the folded sum, complemented.
    ///
    /// Over data that includes a correct checksum the result is 0. For a UDP field that is to be sent, 0 must be
    /// replaced with `0xffff` (RFC 768: 0 means "no checksum").
    #[inline(always)]
    pub fn finish(self) -> u16 {
        u16::from_be(!fold(self.0))
    }
}

impl Delta {
    /// No difference.
    pub const ZERO: Self = Self(0);

    /// Replaces the 16-bit field `old` with `new`.
    #[inline(always)]
    pub fn replace_u16(self, old: u16, new: u16) -> Self {
        Self(add(self.0, u64::from(!old.to_be()) + u64::from(new.to_be())))
    }

    /// Replaces the address `old` with `new`, in an IPv4 header or in a pseudo-header.
    #[inline(always)]
    pub fn replace_addr<A: Address>(self, old: A, new: A) -> Self {
        let (old_high, old_low) = old.words();
        let (new_high, new_low) = new.words();
        // A constant: an IPv4 address has one word of 32 bits, and nothing carries.
        let difference = match A::LEN {
            4 => (!old_low & 0xffff_ffff) + new_low,
            _ => add(add(!old_high, new_high), add(!old_low, new_low)),
        };
        Self(add(self.0, difference))
    }

    /// Replaces eight bytes of the packet that start at an even offset, as they lie in memory.
    #[inline(always)]
    pub fn replace_word(self, old: u64, new: u64) -> Self {
        Self(add(self.0, add(!old, new)))
    }

    /// Replaces the bytes `old` with `new`, which start at an even offset of the packet.
    ///
    /// # Panics
    /// If the two differ in length, or the length is odd: the caller's mistake, as it is never the packet's choice.
    #[inline]
    pub fn replace_bytes(self, old: &[u8], new: &[u8]) -> Self {
        assert!(old.len() == new.len() && old.len().is_multiple_of(2), "fields of equal, even length");
        // Complementing the 64-bit sum negates it modulo 0xffff, as 2^64 - 1 is a multiple of 0xffff.
        let old = !Sum::ZERO.add_bytes(old).0;
        let new = Sum::ZERO.add_bytes(new).0;
        Self(add(self.0, add(old, new)))
    }

    /// Both differences together.
    #[inline(always)]
    pub fn combine(self, other: Delta) -> Self {
        Self(add(self.0, other.0))
    }

    /// The wire field after the replacement, where `field` is the one before: HC' = ~(~HC + ~m + m') (RFC 1624, eqn. 3).
    #[inline(always)]
    pub fn apply(self, field: u16) -> u16 {
        u16::from_be(!fold(add(self.0, u64::from(!field.to_be()))))
    }

    /// Updates the wire field at `offset` of `bytes`.
    ///
    /// # Panics
    /// If `bytes` ends before `offset + 2`; offsets that [`parse`](crate::parse::parse) yielded are inside the frame.
    #[inline(always)]
    pub fn apply_at(self, bytes: &mut [u8], offset: usize) {
        let field = &mut bytes[offset..offset + 2];
        let value = self.apply(u16::from_be_bytes([field[0], field[1]]));
        field.copy_from_slice(&value.to_be_bytes());
    }

    /// Updates the UDP wire field at `offset` of `bytes`: 0 means "no checksum" and stays, a computed 0 is written as
    /// `0xffff` (RFC 768).
    ///
    /// Whether "no checksum" is acceptable is not decided here: it is in IPv4, and in IPv6 only for tunnels (RFC 6935).
    ///
    /// # Panics
    /// If `bytes` ends before `offset + 2`.
    #[inline(always)]
    pub fn apply_udp_at(self, bytes: &mut [u8], offset: usize) {
        let field = &mut bytes[offset..offset + 2];
        let old = u16::from_be_bytes([field[0], field[1]]);
        let new = self.apply(old);
        let new = if new == 0 { 0xffff } else { new };
        let new = if old == 0 { 0 } else { new };
        field.copy_from_slice(&new.to_be_bytes());
    }
}
