//! Replacing a part of a segment's data by another of any length.

use std::ops::Range;

use proto::checksum::Delta;
use proto::{Family, ipv4, ipv6, tcp};

use crate::ip::Ip;
use crate::packet::PacketBuf;
use crate::pipeline::Job;

/// Data from the replaced part on, at most, in bytes.
pub(super) const MAX_LEN: usize = 2048;

/// Replaces the bytes at `place` of the segment, counted from its TCP header, and returns whether that was possible: the
/// buffer has room, and there are no more than [`MAX_LEN`] bytes from there on. Lengths and checksums are updated, not made anew.
pub(super) fn splice<P: PacketBuf, A: Ip>(job: &mut Job<P, A>, place: Range<usize>, with: &[u8]) -> bool {
    let (l3, l4) = (usize::from(job.ip.l3), usize::from(job.ip.l4));
    let old_end = l3 + usize::from(job.ip.len);
    let new_end = old_end - place.len() + with.len();
    // Checksums have words of two bytes.
    let first = l4 + (place.start & !1);
    let (Some(old_len), Some(new_len)) = (old_end.checked_sub(first), new_end.checked_sub(first)) else { return false };
    let len = old_len.max(new_len).next_multiple_of(2);
    if len > MAX_LEN || new_end - l3 > usize::from(u16::MAX) {
        return false;
    }
    let mut before = [0; MAX_LEN];
    before[..old_len].copy_from_slice(&job.packet.data()[first..old_end]);

    job.packet.truncate(old_end);
    if new_end > old_end && !job.packet.append(new_end - old_end) {
        return false;
    }
    let frame = job.packet.data_mut();
    let start = l4 + place.start;
    frame.copy_within(l4 + place.end..old_end, start + with.len());
    frame[start..start + with.len()].copy_from_slice(with);
    job.packet.truncate(new_end);

    let mut after = [0; MAX_LEN];
    let frame = job.packet.data_mut();
    after[..new_len].copy_from_slice(&frame[first..new_end]);
    Delta::ZERO
        .replace_bytes(&before[..len], &after[..len])
        .replace_u16((old_end - l4) as u16, (new_end - l4) as u16)
        .apply_at(frame, l4 + tcp::CHECKSUM);
    set_len::<A>(&mut frame[l3..], (new_end - old_end.min(new_end)) as u16, (old_end - new_end.min(old_end)) as u16);
    job.ip.len = (new_end - l3) as u16;
    true
}

/// Changes the length that an IP header declares.
fn set_len<A: Ip>(header: &mut [u8], added: u16, removed: u16) {
    let at = match A::FAMILY {
        Family::V4 => ipv4::TOTAL_LEN,
        Family::V6 => ipv6::PAYLOAD_LEN,
    };
    let before = u16::from_be_bytes([header[at], header[at + 1]]);
    let after = before + added - removed;
    header[at..at + 2].copy_from_slice(&after.to_be_bytes());
    A::fix_header(header, Delta::ZERO.replace_u16(before, after));
}
