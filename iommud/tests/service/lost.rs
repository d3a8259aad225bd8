//! What was passed on to others, after a restart of iommud (R1, R3): it ends with the iommud that gave it, its holders are told so
//! once and for all, and whoever passed it on passes it anew.

use libdma::protocol::Rights;
use libdma::{Access, Device, Error, Handle, Iova, SharedBuffer, ToDevice};
use simulated::{Machine, edu, second_edu};

use crate::restarts::machine;
use crate::vendor::Vendor;

both! {
    r3_who_was_shared_a_buffer_goes_on_with_it_and_is_passed_it_anew,
    r3_a_part_of_a_device_ends_with_its_iommud_and_is_handed_out_anew,
    what_was_handed_out_and_has_no_owner_yet_is_gone_with_iommud,
}

const SHARED: Rights = Rights::READ.union(Rights::INSPECT).union(Rights::SHARE);

fn r3_who_was_shared_a_buffer_goes_on_with_it_and_is_passed_it_anew(vendor: Vendor) {
    let machine = machine(vendor);
    let (camera, encoder) = (machine.open(), machine.open_at(second_edu()).unwrap());
    let frames = camera.allocate(8192, Some(Access::Write), "frames").unwrap();
    let shared = SharedBuffer::from_handle(frames.share(SHARED).unwrap()).unwrap();
    let attached = shared.attach(&encoder, Access::Read, "to encode").unwrap();
    let (to, from) = (frames.iova().unwrap(), attached.io_address().for_device(&encoder).unwrap());
    let goes_on = |picture: &[u8]| {
        machine.writes(edu(), to, picture).unwrap();
        let mut seen = vec![0; picture.len()];
        shared.read(0, &mut seen).unwrap();
        assert_eq!(seen, picture);
        assert_eq!(machine.reads(second_edu(), from, picture.len()).unwrap(), picture);
    };
    for (death, picture) in [b"picture", b"another"].into_iter().enumerate() {
        machine.restart();
        goes_on(picture);
        // Before its owner is back, and after.
        for _ in 0..2 {
            assert_eq!(shared.share(Rights::READ).map(drop), Err(Error::HandleLost));
            let refused = shared.attach(&encoder, Access::Read, "more").map(drop);
            assert_eq!(refused, Err(Error::HandleLost), "death {death}");
            camera.events().unwrap();
            encoder.events().unwrap();
            goes_on(picture);
        }
        let anew = SharedBuffer::from_handle(frames.share(SHARED).unwrap()).unwrap();
        assert_eq!(anew.id(), shared.id());
        let more = anew.attach(&encoder, Access::Read, "more").unwrap();
        let more = more.io_address().for_device(&encoder).unwrap();
        assert_eq!(machine.reads(second_edu(), more, picture.len()).unwrap(), picture);
    }
    drop((attached, shared, frames, camera, encoder));
    machine.check();
}

/// A part of the device, for its first 16 MiB of addresses.
fn part(device: &Device) -> Device {
    let bounds = device.restricted("codec").addresses(Iova::new(0), Iova::new(0xff_ffff));
    Device::from_handle(bounds.hand_out().unwrap().0).unwrap()
}

fn r3_a_part_of_a_device_ends_with_its_iommud_and_is_handed_out_anew(vendor: Vendor) {
    let machine = machine(vendor);
    let device = machine.open();
    let own = device.allocate(4096, Some(Access::ReadWrite), "own").unwrap();
    let codec = part(&device);
    let frames = codec.allocate(4096, Some(Access::ReadWrite), "frames").unwrap();
    let at = frames.iova().unwrap();
    let stream = codec.stream::<ToDevice>("strict").strict();
    machine.restart();
    // Until its opener is back all is as it was.
    machine.device_writes(at, b"frame").unwrap();
    let lost = |result: Result<(), Error>| assert_eq!(result, Err(Error::HandleLost));
    lost(codec.allocate(4096, Some(Access::Read), "more").map(drop));
    lost(codec.lookup(at).map(drop));
    lost(frames.share(Rights::READ).map(drop));
    device.events().unwrap();
    // Its opener does not know what others had, and has not asked for it: what they had is out of the device's reach.
    assert!(machine.device_writes(at, b"after").is_err());
    assert!(machine.device_writes(own.iova().unwrap(), b"own").is_ok());
    lost(codec.allocate(4096, Some(Access::Read), "more").map(drop));
    lost(codec.new_domain("domain").create().map(drop));
    lost(codec.restricted("of a part").hand_out().map(drop));
    lost(codec.renew().map(drop));
    lost(codec.reset().map(drop));
    lost(stream.copy_of(b"more").map(drop));
    drop((frames, stream, codec));
    // Who is handed a part anew has it within the same bounds.
    let codec = part(&device);
    let frames = codec.allocate(4096, Some(Access::ReadWrite), "frames").unwrap();
    assert!(frames.iova().unwrap() <= Iova::new(0xff_ffff));
    machine.device_writes(frames.iova().unwrap(), b"frame").unwrap();
    drop((frames, codec, own, device));
    machine.check();
}

fn what_was_handed_out_and_has_no_owner_yet_is_gone_with_iommud(vendor: Vendor) {
    let machine: Machine = machine(vendor);
    let device = machine.open();
    let buffer = device.allocate(4096, None, "shared").unwrap();
    let copies: [Handle; 2] =
        [device.derive(Rights::INSPECT).unwrap(), buffer.share(SHARED).unwrap()];
    machine.restart();
    let [of_device, of_buffer] = copies;
    assert_eq!(of_device.derive_bytes(&[0; 8]).map(drop), Err(Error::DaemonGone));
    assert_eq!(SharedBuffer::from_handle(of_buffer).map(drop), Err(Error::HandleLost));
    drop((buffer, device));
    machine.check();
}
