//! Bytes as the specification has them.

use alloc::vec::Vec;

use dma_types::{PhysAddr, SourceId};

use super::*;

/// Bytes as they lie in memory, put together from the specification's figures by hand.
#[test]
fn entries_and_commands_are_the_specifications_bytes() {
    let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let entry = device_entry(0x0102, 4, PhysAddr::new(0xa_bcde_f123_4000));
    #[rustfmt::skip]
    assert_eq!(bytes(&entry), [
        0x03, 0x48, 0x23, 0xf1, 0xde, 0xbc, 0x0a, 0x60,
        0x02, 0x01, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    let entry = PageEntry::new().with_present(true).with_next(7).with_page(0x1_2345);
    let entry = entry.with_write(true);
    assert_eq!(bytes(&[entry.into_bits()]), [0x01, 0x5e, 0x34, 0x12, 0, 0, 0, 0x40]);
    assert_eq!(
        bytes(&completion_wait(PhysAddr::new(0x5_0000_1238), 7)),
        [0x39, 0x12, 0, 0, 5, 0, 0, 0x10, 7, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        bytes(&forget_device(SourceId::new(0x1234))),
        [0x34, 0x12, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        bytes(&forget_pages(0x55aa, Some(0x1234_5000))),
        [0, 0, 0, 0, 0xaa, 0x55, 0, 0x30, 0, 0x50, 0x34, 0x12, 0, 0, 0, 0]
    );
    // All of a domain: every bit of the address set but the highest.
    assert_eq!(
        bytes(&forget_pages(1, None)),
        [0, 0, 0, 0, 1, 0, 0, 0x30, 3, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]
    );
    assert_eq!(bytes(&forget_all())[7], 0x80);
}
