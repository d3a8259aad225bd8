//! What a person is shown of a guard.

use libdma::protocol::Rights;
use libdma::*;
use simulated::{Machine, edu};

const ALL: Option<Access> = Some(Access::ReadWrite);

#[test]
fn addresses_are_shown_as_they_are_written_and_nothing_of_the_checkers() -> Result<(), Error> {
    check::turn_on();
    let machine = Machine::vtd();
    let device = machine.open();
    let buffer = device.allocate(4096, ALL, "buffer")?;
    let unmapped = device.buffer("unmapped").access(ALL).allocate_unmapped(4096)?;
    let shared = SharedBuffer::from_handle(buffer.share(Rights::READ | Rights::INSPECT)?)?;
    let ring = device.coherent("ring").slice::<u64>(8)?;
    let pool = device.pool("blocks").bytes(64)?;
    let (block, left) = (pool.alloc()?, pool.alloc()?.into_address());
    let stream = device.stream::<Bidirectional>("both");
    let mut bytes = [7; 10];
    let slice = stream.map_slice_mut(&mut bytes)?;
    let ours = stream.buffer(100)?;
    let adopted = stream.adopt(device.allocate(4096, None, "adopted")?);
    let theirs = stream.buffer(100)?.map()?;
    let mut list = ScatterList::new(&stream);
    list.push(stream.buffer(64)?)?;
    let list = list.map().map_err(Error::from)?;
    let mut gather = stream.gather(8);
    gather.unmap_later(stream.clone().strict().buffer(64)?.map()?)?;
    let mut raw = device.raw_stream("raw");
    let at = raw.map_zeroes(64, Access::Write)?;
    let domain = device.new_domain("window").aperture(Iova::new(0x10_0000), 1 << 20).create()?;
    let entered = domain.attach(&device)?;

    let guards: [(&dyn std::fmt::Debug, &str); 16] = [
        (&buffer, "Buffer"),
        (&unmapped, "UnmappedBuffer"),
        (&shared, "SharedBuffer"),
        (&ring, "Coherent"),
        (&pool, "Pool"),
        (&block, "PoolBlock"),
        (&stream, "Stream"),
        (&slice, "Bounced"),
        (&ours, "StreamBuffer"),
        (&adopted, "StreamBuffer"),
        (&theirs, "StreamBuffer"),
        (&list, "ScatterList"),
        (&gather, "Gather"),
        (&raw, "RawStream"),
        (&domain, "Domain"),
        (&entered, "Entered"),
    ];
    for (guard, name) in guards {
        let shown = format!("{guard:?}");
        assert!(shown.starts_with(name), "{shown}");
        for inside in ["Mark", "mark", "SourceId", "segment:", "PhantomData"] {
            assert!(!shown.contains(inside), "{shown}");
        }
    }
    assert_eq!(
        format!("{theirs:?}"),
        format!("StreamBuffer {{ device: {}, iova: Iova({}), bytes: 100 }}", edu(), theirs.iova())
    );
    assert_eq!(
        format!("{adopted:?}"),
        format!("StreamBuffer {{ device: {}, bytes: 4096 }}", edu())
    );
    assert_eq!(
        format!("{ring:?}"),
        format!("Coherent {{ device: 0000:00:02.0, iova: Iova({}), bytes: 64 }}", ring.iova())
    );
    pool.free(left)?;
    raw.unmap_single(at, 64, Access::Write)?;
    Ok(())
}

#[test]
fn a_fault_is_shown_with_the_address_of_who_did_it() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        machine.device_writes(Iova::new(0x7000), b"?").unwrap_err();
        let faults = format!("{:?}", device.events().unwrap());
        assert!(faults.contains("requester: 0000:00:02.0, address: Iova(0x7000)"), "{faults}");
    }
}
