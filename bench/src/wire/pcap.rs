//! Capture files, for ports that repeat them (the classic format of libpcap, pcap-savefile(5)).

use std::io::{self, Write};

/// Link type Ethernet.
const ETHERNET: u32 = 1;
/// No packet is longer.
const SNAP_LEN: u32 = 65535;

/// Writes a capture file of these frames. All have time 0.
pub fn write<F: AsRef<[u8]>>(out: &mut impl Write, frames: impl IntoIterator<Item = F>) -> io::Result<()> {
    // Magic number, version 2.4, time zone and accuracy (always 0).
    out.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
    out.write_all(&2u16.to_le_bytes())?;
    out.write_all(&4u16.to_le_bytes())?;
    for field in [0, 0, SNAP_LEN, ETHERNET] {
        out.write_all(&field.to_le_bytes())?;
    }
    for frame in frames {
        let frame = frame.as_ref();
        let len = u32::try_from(frame.len()).ok().filter(|&len| len <= SNAP_LEN);
        let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame of more than 65535 bytes"))?;
        // Seconds, microseconds, bytes in the file, bytes on the wire.
        for field in [0, 0, len, len] {
            out.write_all(&field.to_le_bytes())?;
        }
        out.write_all(frame)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_and_one_for_each_frame() {
        let mut file = Vec::new();
        write(&mut file, [&[1, 2, 3][..], &[4]]).unwrap();
        let expected = [
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3],
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4],
        ];
        assert_eq!(file, expected.concat());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused() {
        assert!(write(&mut Vec::new(), [vec![0; 65536]]).is_err());
    }
}
