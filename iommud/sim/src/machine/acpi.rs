//! What all ACPI tables begin with.

/// An ACPI table: the 36-byte header (ACPI 6.4, 5.2.6) with its checksum, and the body.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend(signature);
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"SIMOEM");
    table.extend(b"SIMTABLE");
    table.extend(1u32.to_le_bytes());
    table.extend(b"SIMC");
    table.extend(1u32.to_le_bytes());
    table.extend(body);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}
