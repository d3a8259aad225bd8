//! What is wanted of memory beside its size.

use libdma::protocol::derive::Allocate;
use libdma::{Access, Attributes, CacheType, Error};

use crate::hostile::allocate;
use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    memory_is_write_back_where_nothing_else_is_to_be_had_and_the_answer_says_so,
    a_buffer_that_is_not_mapped_is_a_handle_and_can_be_mapped_later,
    r7_attributes_that_mean_nothing_are_refused,
    attributes_in_one_piece_are_one_piece,
}

fn memory_is_write_back_where_nothing_else_is_to_be_had_and_the_answer_says_so(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    for attributes in Attributes::all() - Attributes::NO_CPU_MAPPING {
        let buffer =
            device.buffer("any").access(Access::ReadWrite).attributes(attributes).allocate(4096);
        let buffer = buffer.unwrap();
        assert_eq!(buffer.cache_type(), CacheType::WriteBack, "{attributes:?}");
        buffer.write(0, b"seen").unwrap();
        assert_eq!(rig.device_reads(buffer.iova().unwrap().get(), 4).unwrap(), b"seen");
    }
    rig.check();
}

fn a_buffer_that_is_not_mapped_is_a_handle_and_can_be_mapped_later(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let unseen = device.buffer("mapped not").attributes(Attributes::NO_CPU_MAPPING);
    assert_eq!(unseen.allocate(4096).err(), Some(Error::NoCpuMapping));
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(unseen.allocate_unmapped(4096).map(|it| it.iova()), Ok(None));
    let access = Some(Access::ReadWrite);
    let buffer = device.buffer("passed on").access(access).allocate_unmapped(5000).unwrap();
    assert_eq!((buffer.bytes(), buffer.access()), (8192, access));
    let iova = buffer.iova().unwrap().get();
    rig.device_writes(iova, &[7; 8]).unwrap();
    let mapped = buffer.map().unwrap();
    let mut seen = [0; 8];
    mapped.read(0, &mut seen).unwrap();
    assert_eq!((seen, mapped.len()), ([7; 8], 8192));
    drop(mapped);
    let buffer = device.buffer("dropped").access(access).allocate_unmapped(4096).unwrap();
    let iova = buffer.iova().unwrap().get();
    drop(buffer);
    assert!(rig.device_writes(iova, &[1; 8]).is_err());
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r7_attributes_that_mean_nothing_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let mistakes: [fn(&mut Allocate); 3] = [
        |request| request.cache = 3.into(),
        |request| request.cache = u32::MAX.into(),
        |request| request.reserved = 1.into(),
    ];
    for mistake in mistakes {
        let mut request = allocate(4096);
        mistake(&mut request);
        let refused = device.handle().derive(&request);
        assert_eq!(refused.err(), Some(Error::BadValue));
    }
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn attributes_in_one_piece_are_one_piece(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let one = Attributes::FORCE_CONTIGUOUS | Attributes::WRITE_COMBINE;
    let pages = Some(Access::Read);
    // With an alignment, too, which is of more than its length.
    let whole = device.buffer("one piece").access(pages).attributes(one).align(1 << 20);
    let whole = whole.allocate(7 * 4096).unwrap();
    assert!(whole.iova().unwrap().get().is_multiple_of(1 << 20));
    assert_eq!(rig.json("mappings")[0]["pieces"], 1);
    let longer = device.buffer("longer than any").access(pages).attributes(one);
    let longer = longer.allocate((4 << 20) + 1);
    assert_eq!(longer.err(), Some(Error::NotContiguous));
    drop(whole);
    rig.check();
}
