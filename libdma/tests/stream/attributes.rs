//! What each attribute does to streaming memory.

use libdma::{Attributes, Bidirectional, Error};
use simulated::Machine;

#[test]
fn each_attribute_does_what_is_written_of_it() {
    for machine in Machine::each() {
        let device = machine.open();
        let plain = device.stream::<Bidirectional>("both");
        for attributes in Attributes::all() {
            let stream = plain.clone().attributes(attributes);
            if attributes == Attributes::NO_CPU_MAPPING {
                assert_eq!(stream.err(), Some(Error::NoCpuMapping));
                continue;
            }
            let stream = stream.unwrap();
            let buffer = stream.copy_of(b"data").unwrap();
            let contiguous = attributes == Attributes::FORCE_CONTIGUOUS;
            assert_eq!(buffer.is_in_window(), !contiguous, "{attributes:?}");
            let mapped = buffer.map().unwrap();
            assert_eq!(machine.device_reads(mapped.iova(), 4).unwrap(), b"data");
            let skips = attributes == Attributes::SKIP_CPU_SYNC;
            let mut slice = *b"slice";
            let mapped = stream.map_slice_mut(&mut slice).unwrap();
            let seen = machine.device_reads(mapped.iova(), 5).unwrap();
            assert_eq!(seen == b"slice", !skips, "{attributes:?}");
            machine.device_writes(mapped.iova(), b"wrote").unwrap();
            mapped.unmap().unwrap();
            assert_eq!(&slice == b"wrote", !skips, "{attributes:?}");
            let long = stream.buffer((4 << 20) + 1);
            if contiguous || device.is_confined() {
                assert_eq!(long.err(), contiguous.then_some(Error::NotContiguous));
            }
        }
        machine.check();
    }
}

#[test]
fn what_is_contiguous_is_mapped_while_it_is_the_devices_and_nowhere_else() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let mut device = machine.open();
        let stream = device.stream::<Bidirectional>("whole");
        let stream = stream.attributes(Attributes::FORCE_CONTIGUOUS).unwrap();
        let mapped = stream.buffer(64 << 10).unwrap().map().unwrap();
        let iova = mapped.iova();
        machine.device_writes(iova, b"in time").unwrap();
        let _buffer = mapped.unmap().unwrap();
        assert!(machine.device_writes(iova, b"late").is_err());
        let windowed = device.stream::<Bidirectional>("pieces");
        let refused = windowed.map_all(vec![stream.buffer(64).unwrap()]).unwrap_err();
        assert_eq!(refused.error, Error::OtherTerms);
        // Where there is room in windows alone, it is not copied to one.
        device.set_dma_mask(17).unwrap();
        let windowed = device.stream::<Bidirectional>("pieces");
        let _held = windowed.buffer(1).unwrap();
        let all = libdma::Access::Read;
        let mut taken = Vec::new();
        while let Ok(buffer) = device.allocate(4096, Some(all), "takes room") {
            taken.push(buffer);
        }
        let own = || device.allocate(4096, None, "own").unwrap();
        assert!(windowed.adopt(own()).map().is_ok());
        let stream = windowed.attributes(Attributes::FORCE_CONTIGUOUS).unwrap();
        assert_eq!(stream.adopt(own()).map().unwrap_err().error, Error::NoAddressSpace);
        machine.check();
    }
}
