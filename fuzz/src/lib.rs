//! What the targets share.

/// A frame with a right length and checksum around anything (docs/FORMAT.md, Frames).
pub fn seal(protocol: u8, kind: u16, flags: u8, group: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 8];
    frame.push(protocol);
    frame.extend(kind.to_le_bytes());
    frame.push(flags);
    frame.extend(group.to_le_bytes());
    frame.extend(body);
    let length = (frame.len() as u32 - 8).to_le_bytes();
    let checksum = crc32c::crc32c(&frame[8..]).to_le_bytes();
    frame[..4].copy_from_slice(&length);
    frame[4..8].copy_from_slice(&checksum);
    frame
}
