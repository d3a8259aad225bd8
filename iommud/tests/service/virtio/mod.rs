//! `virtio-drivers` over libdma: its `Hal` by itself, and its block driver with a disk that reaches memory through the
//! simulated IOMMU.

mod disk;
mod hal;
mod model;

use libdma::virtio::{Binding, DeviceHal, Tag};

/// The device of the test that runs in this thread.
struct Ours;

impl Tag for Ours {
    fn binding() -> &'static Binding {
        thread_local! {
            static BINDING: &'static Binding = Box::leak(Box::new(Binding::new()));
        }
        BINDING.with(|binding| *binding)
    }
}

/// Another device of the same test.
struct Other;

impl Tag for Other {
    fn binding() -> &'static Binding {
        thread_local! {
            static BINDING: &'static Binding = Box::leak(Box::new(Binding::new()));
        }
        BINDING.with(|binding| *binding)
    }
}

type OurHal = DeviceHal<Ours>;
