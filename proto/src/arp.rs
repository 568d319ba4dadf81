//! Address resolution for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use crate::Address;
use crate::bytes::{get_u16, set_u16};
use crate::ethernet::read_mac;
use crate::parse::ParseError;

/// Length of a packet in bytes.
pub const LEN: usize = 28;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has its address.
pub const REPLY: u16 = 2;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET: usize = 24;

/// An ARP packet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<T>(T);

impl<T: AsRef<[u8]>> Arp<T> {
    /// A view of `packet`, which may be padded.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below [`LEN`] bytes, [`ParseError::BadIpVersion`] if it is not about IPv4 over Ethernet.
    pub fn new_checked(packet: T) -> Result<Self, ParseError> {
        let bytes = packet.as_ref();
        if bytes.len() < LEN {
            Err(ParseError::Truncated)
        } else if bytes[..OPERATION] != ETHERNET_IPV4 {
            Err(ParseError::BadIpVersion)
        } else {
            Ok(Self(packet))
        }
    }

    /// [`REQUEST`], [`REPLY`] or another operation.
    pub fn operation(&self) -> u16 {
        get_u16(self.0.as_ref(), OPERATION)
    }

    /// MAC address of the sender.
    pub fn sender_mac(&self) -> [u8; 6] {
        read_mac(&self.0.as_ref()[SENDER_MAC..])
    }

    /// IPv4 address of the sender.
    pub fn sender(&self) -> Ipv4Addr {
        Ipv4Addr::read(&self.0.as_ref()[SENDER..])
    }

    /// MAC address of the target; without meaning in a request.
    pub fn target_mac(&self) -> [u8; 6] {
        read_mac(&self.0.as_ref()[TARGET_MAC..])
    }

    /// IPv4 address of the target.
    pub fn target(&self) -> Ipv4Addr {
        Ipv4Addr::read(&self.0.as_ref()[TARGET..])
    }
}

/// The fields of a packet, for [`emit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// MAC address of the sender.
    pub sender_mac: [u8; 6],
    /// IPv4 address of the sender. In a gratuitous request it equals the target (RFC 5227 section 3).
    pub sender: Ipv4Addr,
    /// MAC address of the target; zeros in a request.
    pub target_mac: [u8; 6],
    /// IPv4 address of the target.
    pub target: Ipv4Addr,
}

/// Writes a packet to the first [`LEN`] bytes of `bytes`, which must hold that many.
pub fn emit(bytes: &mut [u8], fields: &Fields) {
    let out = &mut bytes[..LEN];
    out[..OPERATION].copy_from_slice(&ETHERNET_IPV4);
    set_u16(out, OPERATION, fields.operation);
    out[SENDER_MAC..SENDER].copy_from_slice(&fields.sender_mac);
    fields.sender.write(&mut out[SENDER..]);
    out[TARGET_MAC..TARGET].copy_from_slice(&fields.target_mac);
    fields.target.write(&mut out[TARGET..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = Fields {
        operation: REPLY,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender: Ipv4Addr::new(192, 0, 2, 1),
        target_mac: [2, 0, 0, 0, 0, 2],
        target: Ipv4Addr::new(192, 0, 2, 2),
    };

    #[test]
    fn writes_and_reads_a_packet() {
        let mut bytes = [0xff; 46];
        emit(&mut bytes, &FIELDS);
        let expected =
            [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 2, 0, 0, 0, 0, 2, 192, 0, 2, 2, 255, 255];
        assert_eq!(bytes[..30], expected);
        let view = Arp::new_checked(bytes).unwrap();
        let read = Fields {
            operation: view.operation(),
            sender_mac: view.sender_mac(),
            sender: view.sender(),
            target_mac: view.target_mac(),
            target: view.target(),
        };
        assert_eq!(read, FIELDS);
    }

    #[test]
    fn refuses_what_is_not_ipv4_over_ethernet() {
        let mut bytes = [0; LEN];
        emit(&mut bytes, &FIELDS);
        assert_eq!(Arp::new_checked(&bytes[..LEN - 1]).unwrap_err(), ParseError::Truncated);
        for at in 0..OPERATION {
            let mut wrong = bytes;
            wrong[at] ^= 0x10;
            assert_eq!(Arp::new_checked(wrong).unwrap_err(), ParseError::BadIpVersion, "byte {at}");
        }
    }
}
