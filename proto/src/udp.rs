//! UDP header (RFC 768).

use crate::bytes::{get_u16, set_u16};
use crate::parse::ParseError;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the source port.
pub const SPORT: usize = 0;
/// Offset of the destination port.
pub const DPORT: usize = 2;
/// Offset of the datagram's length, header included.
pub const LEN: usize = 4;
/// Offset of the checksum; 0 means "none".
pub const CHECKSUM: usize = 6;

/// A datagram's header.
#[derive(Clone, Copy, Debug)]
pub struct Udp<T>(T);

impl<T: AsRef<[u8]>> Udp<T> {
    /// A view of `datagram`, which may be longer than the length in its header.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below [`HEADER_LEN`] bytes, [`ParseError::BadUdpLength`] if the header's length is
    /// below that or beyond `datagram`.
    pub fn new_checked(datagram: T) -> Result<Self, ParseError> {
        let bytes = datagram.as_ref();
        if bytes.len() < HEADER_LEN {
            return Err(ParseError::Truncated);
        }
        let len = usize::from(get_u16(bytes, LEN));
        if len < HEADER_LEN || len > bytes.len() { Err(ParseError::BadUdpLength) } else { Ok(Self(datagram)) }
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        get_u16(self.0.as_ref(), SPORT)
    }

    /// Destination port.
    pub fn dport(&self) -> u16 {
        get_u16(self.0.as_ref(), DPORT)
    }

    /// Length of header and data in bytes.
    pub fn len(&self) -> u16 {
        get_u16(self.0.as_ref(), LEN)
    }

    /// The datagram carries no data.
    pub fn is_empty(&self) -> bool {
        usize::from(self.len()) == HEADER_LEN
    }

    /// Checksum; 0 means "none".
    pub fn checksum(&self) -> u16 {
        get_u16(self.0.as_ref(), CHECKSUM)
    }

    /// The data.
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..usize::from(self.len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the source port; the checksum stays as it is.
    pub fn set_sport(&mut self, port: u16) {
        set_u16(self.0.as_mut(), SPORT, port);
    }

    /// Sets the destination port; the checksum stays as it is.
    pub fn set_dport(&mut self, port: u16) {
        set_u16(self.0.as_mut(), DPORT, port);
    }

    /// Sets the checksum; 0 means "none".
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

/// Writes a header without a checksum to the first [`HEADER_LEN`] bytes of `bytes`, which must hold that many. `len`
/// counts header and data.
pub fn emit(bytes: &mut [u8], sport: u16, dport: u16, len: u16) {
    let header = &mut bytes[..HEADER_LEN];
    set_u16(header, SPORT, sport);
    set_u16(header, DPORT, dport);
    set_u16(header, LEN, len);
    set_u16(header, CHECKSUM, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_a_header() {
        let mut bytes = *b"........data and padding";
        emit(&mut bytes, 53, 40000, 12);
        assert_eq!(bytes[..8], [0, 53, 0x9c, 0x40, 0, 12, 0, 0]);
        let mut view = Udp::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((view.sport(), view.dport(), view.len(), view.checksum()), (53, 40000, 12, 0));
        assert_eq!(view.payload(), b"data");
        assert!(!view.is_empty());
        view.set_sport(1);
        view.set_dport(2);
        view.set_checksum(3);
        assert_eq!(bytes[..8], [0, 1, 0, 2, 0, 12, 0, 3]);
    }

    #[test]
    fn refuses_wrong_lengths() {
        assert_eq!(Udp::new_checked([0; 7]).unwrap_err(), ParseError::Truncated);
        for (len, accepted) in [(0, false), (7, false), (8, true), (9, true), (10, false)] {
            let mut bytes = [0; 9];
            emit(&mut bytes, 1, 2, len);
            assert_eq!(Udp::new_checked(bytes).is_ok(), accepted, "length {len} in 9 bytes");
        }
    }
}
