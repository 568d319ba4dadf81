//! The maximum segment size that TCP hosts announce.

use proto::checksum::Delta;
use proto::tcp;
use proto::tcp_options::{self, MSS};

/// The maximum segment size of a host that announces none, over IPv4.
const DEFAULT_MSS: u16 = 536;

/// Lowers the maximum segment size that a SYN announces, if it does.
pub(crate) fn lower_mss(segment: &mut [u8], by: u16) {
    let header_len = usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
    let found = tcp_options::options(&segment[tcp::HEADER_LEN..header_len])
        .find(|option| option.kind == MSS && option.data.len() == 2)
        .map(|option| (tcp::HEADER_LEN + option.at, u16::from_be_bytes([option.data[0], option.data[1]])));
    let Some((at, mss)) = found else { return };
    // What every host takes in one segment without saying so (RFC 9293 section 3.7.1) has room for the difference anyway.
    let lower = mss.saturating_sub(by).max(mss.min(DEFAULT_MSS));
    // The two bytes may lie in two words of the checksum.
    let words = (at & !1)..(at + 3) & !1;
    let mut before = [0; 4];
    let before = &mut before[..words.len()];
    before.copy_from_slice(&segment[words.clone()]);
    segment[at..at + 2].copy_from_slice(&lower.to_be_bytes());
    Delta::ZERO.replace_bytes(before, &segment[words]).apply_at(segment, tcp::CHECKSUM);
}
