//! Rule R3: one device's address is not taken for another's, nor a domain's for its device's, whatever the numbers.
#![cfg(target_os = "linux")]

use std::ptr::NonNull;

use libdma::Access::{self, ReadWrite, Write};
use libdma::declared::{DeviceMemory, Mode};
use libdma::pool::NotTaken;
use libdma::protocol::Rights;
use libdma::{
    AddressSpace, Buffer, Device, Domain, Error, Iova, MapRequest, Mapped, Pool, RawError,
    RawStream, WrongDevice,
};
use simulated::{Machine, edu, second_edu};

const PAGE: u64 = 4096;

/// Where nothing is mapped that nobody has chosen to be there.
const FIXED: Iova = Iova::new(0x8000_0000);

fn both(machine: &Machine) -> (Device, Device) {
    (machine.open(), machine.open_at(second_edu()).unwrap())
}

fn whole(buffer: &Buffer) -> [MapRequest<'_>; 1] {
    [MapRequest { buffer, offset: 0, bytes: PAGE, access: ReadWrite }]
}

fn own(device: &Device) -> AddressSpace {
    AddressSpace { device: device.address(), session: device.session_id(), domain: None }
}

fn of(domain: &Domain, device: &Device) -> AddressSpace {
    AddressSpace { domain: Some(domain.id()), ..own(device) }
}

/// What is refused is refused without asking iommud.
fn refuses(machine: &Machine, unmap: impl Fn(&[Mapped]) -> Result<(), Error>, wrong: &[Mapped]) {
    let asked = machine.client.requests();
    assert_eq!(unmap(wrong), Err(Error::WrongOwner));
    assert_eq!(machine.client.requests(), asked);
}

#[test]
fn r3_what_is_mapped_for_one_device_is_not_unmapped_for_another() {
    for machine in Machine::each() {
        let (disk, card) = both(&machine);
        let sectors = disk.allocate(PAGE, None, "sectors").unwrap();
        let on_disk = disk.map(&whole(&sectors)).unwrap()[0];
        // Its number is good for the card, too: the first that either is given, or the only one there is.
        let frames;
        let attached;
        let on_card = if disk.is_confined() {
            frames = card.allocate(PAGE, None, "frames").unwrap();
            card.map(&whole(&frames)).unwrap()[0]
        } else {
            attached = sectors.attach(&card, ReadWrite, "sectors for the card").unwrap();
            Mapped::new(attached.io_address().bus_address(), PAGE)
        };
        assert_eq!((on_disk.iova(), on_disk.bytes()), (on_card.iova(), on_card.bytes()));
        assert_ne!(on_disk, on_card);
        let reach = || {
            machine.writes(edu(), on_disk.iova(), &[1]).unwrap();
            machine.writes(second_edu(), on_card.iova(), &[1]).unwrap();
        };

        refuses(&machine, |wrong| card.unmap(wrong), &[on_disk]);
        refuses(&machine, |wrong| disk.unmap(wrong), &[on_card]);
        for batch in [[on_disk, on_card], [on_card, on_disk]] {
            refuses(&machine, |wrong| disk.unmap(wrong), &batch);
            refuses(&machine, |wrong| card.unmap(wrong), &batch);
        }
        reach();

        assert_eq!(on_disk.address().for_device(&disk), Ok(on_disk.iova()));
        let wrong = WrongDevice { of: own(&disk), given_to: own(&card) };
        assert_eq!(on_disk.address().for_device(&card), Err(wrong));
        assert_eq!(disk.bus_address(on_disk.iova()), on_disk.address());
        disk.unmap(&[on_disk]).unwrap();
        card.unmap(&[on_card]).unwrap();
        machine.check();
    }
}

#[test]
fn r3_what_is_mapped_in_a_domain_is_not_unmapped_for_its_device_nor_the_other_way_round() {
    for machine in [Machine::vtd(), Machine::amdvi()] {
        let device = machine.open();
        let buffer = device.allocate(PAGE, None, "firmware").unwrap();
        let domains = ["one", "two"].map(|label| device.new_domain(label).create().unwrap());
        let [one, two] = &domains;
        let mapped = device.map_at(FIXED, &whole(&buffer)).unwrap()[0];
        let [in_one, in_two] = [one, two].map(|it| it.map_at(FIXED, &whole(&buffer)).unwrap()[0]);
        for (which, space) in
            [(mapped, own(&device)), (in_one, of(one, &device)), (in_two, of(two, &device))]
        {
            assert_eq!((which.iova(), which.address().space()), (FIXED, space));
        }

        refuses(&machine, |wrong| device.unmap(wrong), &[in_one]);
        refuses(&machine, |wrong| one.unmap(wrong), &[mapped]);
        refuses(&machine, |wrong| one.unmap(wrong), &[in_one, in_two]);
        refuses(&machine, |wrong| two.unmap(wrong), &[in_one]);
        let wrong = WrongDevice { of: of(one, &device), given_to: own(&device) };
        assert_eq!(in_one.address().for_device(&device), Err(wrong));
        assert_eq!(
            wrong.to_string(),
            format!(
                "this I/O address is of domain {} of 0000:00:02.0 (session 1) and means nothing to \
                 0000:00:02.0 (session 1): each domain has addresses of its own",
                one.id()
            )
        );

        // What is found there is of where it was looked for.
        assert_eq!(device.lookup(FIXED).unwrap().unwrap().mapping, mapped);
        assert_eq!(one.lookup(FIXED).unwrap().unwrap().mapping, in_one);
        assert_eq!(two.bus_address(FIXED), in_two.address());
        machine.device_writes(FIXED, &[1]).unwrap();
        for (domain, mapped) in [(one, in_one), (two, in_two)] {
            let inside = domain.attach(&device).unwrap();
            machine.device_writes(FIXED, &[1]).unwrap();
            domain.unmap(&[mapped]).unwrap();
            assert!(machine.device_writes(FIXED, &[1]).is_err());
            inside.leave().unwrap();
        }
        machine.device_writes(FIXED, &[1]).unwrap();
        device.unmap(&[mapped]).unwrap();
        machine.check();
    }
}

#[test]
fn r4_what_was_mapped_for_a_session_is_nothing_to_the_next_and_all_handles_of_one_agree() {
    for machine in Machine::each() {
        let device = machine.open();
        let buffer = device.allocate(PAGE, None, "before").unwrap();
        let before = device.map(&whole(&buffer)).unwrap()[0];
        drop((buffer, device));

        let device = machine.open();
        let buffer = device.allocate(PAGE, None, "after").unwrap();
        let after = device.map(&whole(&buffer)).unwrap()[0];
        // Without an IOMMU as it happens.
        assert!(before.iova() == after.iova() || !device.is_confined());
        refuses(&machine, |wrong| device.unmap(wrong), &[before]);
        machine.device_writes(after.iova(), &[1]).unwrap();
        let wrong = before.address().for_device(&device).unwrap_err();
        assert_eq!((wrong.of.session, wrong.given_to.session), (1, 2));
        assert!(wrong.to_string().ends_with("what was mapped for a session ended with it"));

        let same = Device::from_handle(device.derive(Rights::DEVICE).unwrap()).unwrap();
        assert_eq!(after.address().for_device(&same), Ok(after.iova()));
        assert_eq!(same.bus_address(after.iova()), after.address());
        same.unmap(&[after]).unwrap();
        assert_eq!(device.unmap(&[after]), Err(Error::NotMapped));
        machine.check();
    }
}

/// A pool whose first block has this number.
fn pool_at(device: &Device, number: Iova) -> Pool<[u8]> {
    if !device.is_confined() {
        #[repr(C, align(4096))]
        struct Bar([u8; 4096]);
        let bar = Box::leak(Box::new(Bar([0; 4096])));
        let start = NonNull::from(&mut bar.0).cast();
        // SAFETY: it lives for ever, and nothing else uses it.
        let memory = unsafe { DeviceMemory::local(start, 4096, number) };
        device.declare_memory(memory, Mode::Exclusive).unwrap();
    }
    device.pool("frames").bytes(64).unwrap()
}

#[test]
fn r3_a_block_is_taken_from_its_own_device_and_no_other() {
    for machine in Machine::each() {
        let (disk, card) = both(&machine);
        let commands = disk.pool("commands").bytes(64).unwrap();
        let block = commands.alloc().unwrap();
        block.write(0, b"command").unwrap();
        let command = block.into_address();
        let frames = pool_at(&card, command.iova());
        let frame = frames.alloc().unwrap().into_address();
        assert_eq!(command.iova(), frame.iova());

        let wrong = WrongDevice { of: own(&disk), given_to: own(&card) };
        assert_eq!(frames.take(command).err(), Some(NotTaken::WrongDevice(wrong)));
        assert_eq!(frames.free(command), Err(NotTaken::WrongDevice(wrong)));
        assert_eq!(Error::from(NotTaken::WrongDevice(wrong)), Error::WrongOwner);
        assert_eq!(Error::from(RawError::WrongDevice(wrong)), Error::WrongOwner);
        assert!(matches!(commands.free(frame), Err(NotTaken::WrongDevice(_))));
        let (used, free) = (commands.stats(), frames.stats());
        assert_eq!((used.in_use, free.in_use), (1, 1), "as before");
        if disk.is_confined() {
            let domain = disk.new_domain("fixed").create().unwrap();
            let there = domain.bus_address(command.iova());
            assert!(matches!(commands.take(there), Err(NotTaken::WrongDevice(_))));
        }

        // It is the block's still, and the number is the same to another handle of the disk's.
        let same = Device::from_handle(disk.derive(Rights::DEVICE).unwrap()).unwrap();
        let block = commands.take(same.bus_address(command.iova())).unwrap();
        let mut found = [0; 7];
        block.read(0, &mut found).unwrap();
        assert_eq!(&found, b"command");
        frames.free(frame).unwrap();
        drop((block, commands, frames));
        machine.check();
    }
}

#[test]
fn r3_a_raw_stream_does_nothing_with_another_devices_address() {
    for machine in Machine::each() {
        let (disk, card) = both(&machine);
        for strict in [false, true] {
            let stream = |device: &Device| {
                let stream = device.raw_stream("raw");
                if strict { stream.strict() } else { stream }
            };
            let (mut tx, mut rx) = (stream(&disk), stream(&card));
            let (sent, received) =
                (tx.map_zeroes(64, Write).unwrap(), rx.map_zeroes(64, Write).unwrap());
            assert!(sent.iova() == received.iova() || !disk.is_confined());
            let wrong = WrongDevice { of: own(&disk), given_to: own(&card) };
            let wrong = Err(RawError::WrongDevice(wrong));

            let for_cpu = RawStream::sync_single_for_cpu;
            let for_device = RawStream::sync_single_for_device;
            assert_eq!(for_cpu(&mut rx, sent, 64, Write), wrong);
            let mut out = [0; 64];
            let of_device = Err(RawError::OfDevice);
            assert_eq!(rx.cpu_read(received, &mut out), of_device, "the device's, as before");
            for_cpu(&mut rx, received, 64, Write).unwrap();
            assert_eq!(for_device(&mut rx, sent, 64, Write), wrong);
            rx.cpu_write(received, &[7; 64]).unwrap();
            assert_eq!(rx.cpu_write(sent, &[8; 64]), wrong);
            assert_eq!(rx.cpu_read(sent, &mut out), wrong);
            assert_eq!(out, [0; 64]);
            assert_eq!(rx.unmap_single(sent, 64, Write), wrong);
            rx.cpu_read(received, &mut out).unwrap();
            assert_eq!((out, rx.len()), ([7; 64], 1));

            // Either has its own back.
            rx.unmap_single(received, 64, Write).unwrap();
            let same = Device::from_handle(disk.derive(Rights::DEVICE).unwrap()).unwrap();
            tx.unmap_single(same.bus_address(sent.iova()), 64, Write).unwrap();
        }
        machine.check();
    }
}

#[test]
fn an_address_is_a_plain_value() {
    let machine = Machine::vtd();
    let (disk, card) = both(&machine);
    let ring = disk.coherent("ring").access(Access::Read).bytes(64).unwrap();
    let address = ring.io_address().bus_address();
    assert_eq!((address.iova(), address.space()), (ring.iova(), own(&disk)));
    drop(ring);
    let further = address.plus(16).unwrap();
    assert_eq!(further.iova().get(), address.iova().get() + 16);
    assert_eq!((further.space(), address.plus(u64::MAX)), (own(&disk), None));
    // They are told apart and put in order by whose they are, and then by number.
    let other = card.bus_address(address.iova());
    assert!(address < further && further < other && address != other);
    assert_eq!(format!("{address:?}"), format!("{} of 0000:00:02.0 (session 1)", address.iova()));
}
