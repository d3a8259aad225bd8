//! What the crate `virtio-drivers` holds of a device.

use core::ptr::NonNull;
use core::slice;

use libdma::check;
use libdma::virtio::{Binding, DeviceHal, Tag};
use simulated::Machine;
use virtio_drivers::{BufferDirection, Hal};

use crate::{Checked, line};

struct Disk;

impl Tag for Disk {
    fn binding() -> &'static Binding {
        static BINDING: Binding = Binding::new();
        &BINDING
    }
}

#[test]
fn memory_of_queues_and_what_is_shared_is_told_as_from_where_the_device_was_bound() {
    let checked = Checked::begin();
    for machine in Machine::each() {
        let device = machine.open();
        let (_, bound) = (DeviceHal::<Disk>::bind(&device).unwrap(), line());
        let (queue, memory) = DeviceHal::<Disk>::dma_alloc(2, BufferDirection::Both);
        assert_eq!(check::leaks(), 1);
        let told = |what: &str, bytes: u64, address: u64, may: &str, made: &str, ended: &str| {
            format!(
                "leak on 0000:00:02.0: {what} ({bytes} bytes at {address:#x} that the device may {may}, {made} at line \
                 {bound}) has not been {ended}"
            )
        };
        let queue_lives = told(
            "the buffer \"virtio queue\"",
            8192,
            queue,
            "read and write",
            "allocated",
            "given back",
        );
        assert_eq!(checked.said(), slice::from_ref(&queue_lives));
        let mut sector = [7; 512];
        let buffer = NonNull::from(&mut sector[..]);
        for (direction, name, may) in [
            (BufferDirection::DriverToDevice, "virtio out", "read"),
            (BufferDirection::DeviceToDriver, "virtio in", "write"),
            (BufferDirection::Both, "virtio both", "read and write"),
        ] {
            // SAFETY: the buffer lives, and nobody else uses it.
            let shared = unsafe { DeviceHal::<Disk>::share(buffer, direction) };
            assert_eq!(check::leaks(), 2);
            let stream = format!("the stream \"{name}\"");
            let lives = told(&stream, 512, shared, may, "mapped", "unmapped");
            assert_eq!(checked.said(), [queue_lives.clone(), lives]);
            // SAFETY: it was shared so.
            unsafe { DeviceHal::<Disk>::unshare(shared, buffer, direction) };
        }
        // SAFETY: it is what was allocated, and nobody uses it.
        assert_eq!(unsafe { DeviceHal::<Disk>::dma_dealloc(queue, memory, 2) }, 0);
        assert_eq!(check::leaks(), 0);
        DeviceHal::<Disk>::unbind().unwrap();
    }
}
