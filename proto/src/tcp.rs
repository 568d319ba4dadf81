//! TCP header (RFC 9293 section 3.1).

use std::fmt;
use std::ops::BitOr;

use crate::bytes::{get_u16, get_u32, set_u16, set_u32};
use crate::parse::ParseError;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the source port.
pub const SPORT: usize = 0;
/// Offset of the destination port.
pub const DPORT: usize = 2;
/// Offset of the sequence number.
pub const SEQ: usize = 4;
/// Offset of the acknowledgement number.
pub const ACK: usize = 8;
/// Offset of the byte whose high half is the header length in 32-bit words.
pub const DATA_OFFSET: usize = 12;
/// Offset of the flags.
pub const FLAGS: usize = 13;
/// Offset of the window.
pub const WINDOW: usize = 14;
/// Offset of the checksum.
pub const CHECKSUM: usize = 16;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// Congestion experienced, echoed (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// All bits of `other` are set.
    #[inline(always)]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// No bit is set.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut set = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name);
        f.write_str(set.next().unwrap_or(&"-"))?;
        set.try_for_each(|name| write!(f, "|{name}"))
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<T>(T);

impl<T: AsRef<[u8]>> Tcp<T> {
    /// A view of `segment`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below [`HEADER_LEN`] bytes, [`ParseError::BadTcpHeader`] if the data offset is below
    /// that or beyond `segment`.
    pub fn new_checked(segment: T) -> Result<Self, ParseError> {
        let bytes = segment.as_ref();
        if bytes.len() < HEADER_LEN {
            return Err(ParseError::Truncated);
        }
        let header_len = usize::from(bytes[DATA_OFFSET] >> 4) * 4;
        if header_len < HEADER_LEN || header_len > bytes.len() {
            Err(ParseError::BadTcpHeader)
        } else {
            Ok(Self(segment))
        }
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        get_u16(self.0.as_ref(), SPORT)
    }

    /// Destination port.
    pub fn dport(&self) -> u16 {
        get_u16(self.0.as_ref(), DPORT)
    }

    /// Sequence number.
    pub fn seq(&self) -> u32 {
        get_u32(self.0.as_ref(), SEQ)
    }

    /// Acknowledgement number.
    pub fn ack(&self) -> u32 {
        get_u32(self.0.as_ref(), ACK)
    }

    /// Length of the header with its options, in bytes: 20 to 60.
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[DATA_OFFSET] >> 4) * 4
    }

    /// Control bits.
    pub fn flags(&self) -> Flags {
        Flags(self.0.as_ref()[FLAGS])
    }

    /// Receive window, not scaled.
    pub fn window(&self) -> u16 {
        get_u16(self.0.as_ref(), WINDOW)
    }

    /// Checksum.
    pub fn checksum(&self) -> u16 {
        get_u16(self.0.as_ref(), CHECKSUM)
    }

    /// The options, not interpreted.
    pub fn options(&self) -> &[u8] {
        &self.0.as_ref()[HEADER_LEN..self.header_len()]
    }

    /// The data.
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    /// Sets the source port. As with all setters, the checksum stays as it is.
    pub fn set_sport(&mut self, port: u16) {
        set_u16(self.0.as_mut(), SPORT, port);
    }

    /// Sets the destination port.
    pub fn set_dport(&mut self, port: u16) {
        set_u16(self.0.as_mut(), DPORT, port);
    }

    /// Sets the sequence number.
    pub fn set_seq(&mut self, seq: u32) {
        set_u32(self.0.as_mut(), SEQ, seq);
    }

    /// Sets the acknowledgement number.
    pub fn set_ack(&mut self, ack: u32) {
        set_u32(self.0.as_mut(), ACK, ack);
    }

    /// Sets the control bits.
    pub fn set_flags(&mut self, flags: Flags) {
        self.0.as_mut()[FLAGS] = flags.0;
    }

    /// Sets the receive window.
    pub fn set_window(&mut self, window: u16) {
        set_u16(self.0.as_mut(), WINDOW, window);
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

/// The fields of a header without options, for [`emit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Receive window.
    pub window: u16,
}

/// Writes a header with checksum and urgent pointer 0 to the first [`HEADER_LEN`] bytes of `bytes`, which must hold
/// that many.
pub fn emit(bytes: &mut [u8], header: &Fields) {
    let out = &mut bytes[..HEADER_LEN];
    set_u16(out, SPORT, header.sport);
    set_u16(out, DPORT, header.dport);
    set_u32(out, SEQ, header.seq);
    set_u32(out, ACK, header.ack);
    out[DATA_OFFSET] = 0x50;
    out[FLAGS] = header.flags.0;
    set_u16(out, WINDOW, header.window);
    set_u32(out, CHECKSUM, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_a_header() {
        let header =
            Fields { sport: 80, dport: 1025, seq: 1, ack: 0xfefd_fcfb, flags: Flags::SYN | Flags::ACK, window: 9 };
        let mut bytes = [0xaa; 22];
        emit(&mut bytes, &header);
        let expected = [0, 80, 4, 1, 0, 0, 0, 1, 0xfe, 0xfd, 0xfc, 0xfb, 0x50, 0x12, 0, 9, 0, 0, 0, 0, 0xaa, 0xaa];
        assert_eq!(bytes, expected);
        let view = Tcp::new_checked(&bytes[..]).unwrap();
        let read = Fields {
            sport: view.sport(),
            dport: view.dport(),
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
        };
        assert_eq!(read, header);
        assert_eq!((view.header_len(), view.options(), view.payload()), (20, &[][..], &[0xaa, 0xaa][..]));
    }

    #[test]
    fn setters_write_where_getters_read() {
        let mut bytes = [0; 20];
        bytes[DATA_OFFSET] = 0x50;
        let mut view = Tcp::new_checked(&mut bytes[..]).unwrap();
        view.set_sport(1);
        view.set_dport(2);
        view.set_seq(3);
        view.set_ack(4);
        view.set_flags(Flags::FIN);
        view.set_window(5);
        view.set_checksum(6);
        assert_eq!((view.sport(), view.dport(), view.seq(), view.ack()), (1, 2, 3, 4));
        assert_eq!((view.flags(), view.window(), view.checksum()), (Flags::FIN, 5, 6));
        assert_eq!(bytes, [0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 1, 0, 5, 0, 6, 0, 0]);
    }

    #[test]
    fn refuses_a_wrong_data_offset() {
        assert_eq!(Tcp::new_checked([0; 19]).unwrap_err(), ParseError::Truncated);
        for (words, accepted) in [(0, false), (4, false), (5, true), (6, true), (7, false), (15, false)] {
            let mut bytes = [0; 24];
            bytes[DATA_OFFSET] = words << 4;
            assert_eq!(Tcp::new_checked(bytes).is_ok(), accepted, "{words} words in 24 bytes");
        }
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(format!("{:?} {:?}", Flags::SYN | Flags::ACK, Flags(0)), "SYN|ACK -");
        assert!((Flags::SYN | Flags::ACK).contains(Flags::ACK) && !Flags::SYN.contains(Flags::SYN | Flags::ACK));
    }
}
