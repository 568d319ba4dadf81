//! Ethernet II header (RFC 894; IEEE 802.3).

use crate::bytes::{get_u16, set_u16};
use crate::parse::ParseError;

/// Length of the header in bytes: no VLAN tag, no frame check sequence.
pub const HEADER_LEN: usize = 14;
/// Offset of the destination MAC address.
pub const DST: usize = 0;
/// Offset of the source MAC address.
pub const SRC: usize = 6;
/// Offset of the EtherType.
pub const ETHERTYPE: usize = 12;
/// Shortest frame without its check sequence; senders pad to it.
pub const MIN_FRAME_LEN: usize = 60;
/// The MAC address of all stations.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// What follows the header (IANA "IEEE 802 Numbers"). Values below 0x0600 are 802.3 lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// A VLAN tag follows (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
}

/// A frame's header.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<T>(T);

impl<T: AsRef<[u8]>> Ethernet<T> {
    /// A view of `frame`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below [`HEADER_LEN`] bytes.
    pub fn new_checked(frame: T) -> Result<Self, ParseError> {
        if frame.as_ref().len() < HEADER_LEN { Err(ParseError::Truncated) } else { Ok(Self(frame)) }
    }

    /// Destination MAC address.
    pub fn dst(&self) -> [u8; 6] {
        read_mac(&self.0.as_ref()[DST..])
    }

    /// Source MAC address.
    pub fn src(&self) -> [u8; 6] {
        read_mac(&self.0.as_ref()[SRC..])
    }

    /// What follows the header.
    pub fn ethertype(&self) -> EtherType {
        EtherType(get_u16(self.0.as_ref(), ETHERTYPE))
    }

    /// What follows the header, padding included.
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ethernet<T> {
    /// Sets the destination MAC address.
    pub fn set_dst(&mut self, mac: [u8; 6]) {
        self.0.as_mut()[DST..DST + 6].copy_from_slice(&mac);
    }

    /// Sets the source MAC address.
    pub fn set_src(&mut self, mac: [u8; 6]) {
        self.0.as_mut()[SRC..SRC + 6].copy_from_slice(&mac);
    }

    /// Sets what follows the header.
    pub fn set_ethertype(&mut self, ethertype: EtherType) {
        set_u16(self.0.as_mut(), ETHERTYPE, ethertype.0);
    }
}

/// Writes a header to the first [`HEADER_LEN`] bytes of `frame`, which must hold that many.
#[inline]
pub fn emit(frame: &mut [u8], dst: [u8; 6], src: [u8; 6], ethertype: EtherType) {
    let header = &mut frame[..HEADER_LEN];
    header[DST..DST + 6].copy_from_slice(&dst);
    header[SRC..SRC + 6].copy_from_slice(&src);
    header[ETHERTYPE..].copy_from_slice(&ethertype.0.to_be_bytes());
}

/// The address is that of a group or of all stations.
#[inline(always)]
pub const fn is_multicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

#[inline(always)]
pub(crate) fn read_mac(bytes: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[..6]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_a_header() {
        let mut frame = [0; 16];
        emit(&mut frame, [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], EtherType::ARP);
        assert_eq!(frame, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 6, 0, 0]);
        let mut view = Ethernet::new_checked(&mut frame[..]).unwrap();
        assert_eq!((view.dst(), view.src()), ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]));
        assert_eq!((view.ethertype(), view.payload()), (EtherType::ARP, &[0, 0][..]));
        view.set_dst(BROADCAST);
        view.set_src([2; 6]);
        view.set_ethertype(EtherType::IPV6);
        assert_eq!(frame, [255, 255, 255, 255, 255, 255, 2, 2, 2, 2, 2, 2, 0x86, 0xdd, 0, 0]);
    }

    #[test]
    fn refuses_a_short_frame() {
        assert_eq!(Ethernet::new_checked([0; 13]).unwrap_err(), ParseError::Truncated);
    }

    #[test]
    fn tells_groups_from_stations() {
        assert!(is_multicast(BROADCAST) && is_multicast([1, 0, 0x5e, 0, 0, 1]));
        assert!(!is_multicast([2, 0, 0, 0, 0, 1]));
    }
}
