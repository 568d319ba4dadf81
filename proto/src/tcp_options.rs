//! TCP options (RFC 9293 section 3.1): kind, length, data.

/// End of the list.
pub const END: u8 = 0;
/// No operation: one byte of padding.
pub const NOP: u8 = 1;
/// Maximum segment size, 2 bytes (RFC 9293 section 3.7.1).
pub const MSS: u8 = 2;
/// Blocks received out of order, 8 bytes each (RFC 2018).
pub const SACK: u8 = 5;
/// Address of the client, as LVS directors tell it ([`client_address`](crate::client_address)); one of the two kinds
/// for experiments (RFC 4727).
pub const CLIENT_ADDRESS: u8 = 254;

/// Bytes that options can take in a header.
pub const MAX_LEN: usize = 40;

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// What it is.
    pub kind: u8,
    /// Offset of its data from the beginning of the options.
    pub at: usize,
    /// Its data, without kind and length.
    pub data: &'a [u8],
}

/// The options in `bytes`, padding left out; ends at the first one that is malformed.
pub fn options(bytes: &[u8]) -> impl Iterator<Item = TcpOption<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while bytes.get(at) == Some(&NOP) {
            at += 1;
        }
        let &kind = bytes.get(at).filter(|&&kind| kind != END)?;
        let len = usize::from(*bytes.get(at + 1)?);
        let data = bytes.get(at + 2..at + len)?;
        let option = TcpOption { kind, at: at + 2, data };
        at += len;
        Some(option)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(bytes: &[u8]) -> Vec<(u8, usize, usize)> {
        options(bytes).map(|option| (option.kind, option.at, option.data.len())).collect()
    }

    #[test]
    fn finds_options_between_padding() {
        // What Linux sends in a SYN, then padding and an option behind the end.
        let syn = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7, 1, 0, 2, 4, 0, 0];
        assert_eq!(kinds(&syn), [(2, 2, 2), (4, 6, 0), (8, 8, 8), (3, 19, 1)]);
        assert_eq!(options(&syn).next().unwrap().data, [5, 180]);
    }

    #[test]
    fn ends_at_what_is_malformed() {
        for bytes in [&[][..], &[0], &[1, 1], &[2], &[2, 0, 0, 0], &[2, 1, 0, 0], &[2, 5, 0, 0], &[1, 254, 20, 1]] {
            assert_eq!(kinds(bytes), [], "{bytes:?}");
        }
        assert_eq!(kinds(&[4, 2, 2, 9, 1, 1]), [(4, 2, 0)]);
    }

    proptest! {
        #[test]
        fn options_are_inside_and_in_order(bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..=MAX_LEN)) {
            let mut end = 0;
            for option in options(&bytes) {
                prop_assert!(option.at >= end + 2);
                end = option.at + option.data.len();
                prop_assert_eq!(&bytes[option.at..end], option.data);
                prop_assert_eq!(usize::from(bytes[option.at - 1]), option.data.len() + 2);
            }
        }
    }
}
