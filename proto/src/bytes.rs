//! Big-endian fields of a slice, for the views of this crate. All panic beyond the end: callers have checked the length.

#[inline(always)]
pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    let field = &bytes[offset..offset + 2];
    u16::from_be_bytes([field[0], field[1]])
}

#[inline(always)]
pub(crate) fn set_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    let field = &bytes[offset..offset + 4];
    u32::from_be_bytes([field[0], field[1], field[2], field[3]])
}

#[inline(always)]
pub(crate) fn set_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}
