//! Devices that the policy leaves unconfined, beside those that drivers hold.

use dma_types::PciAddress;
use iommu_engine::policy::{Devices, Policy, Rule, Unopened};
use iommu_service::{HandleId, Outcome};
use iommu_sim::pace::{Completion as Takes, Health};
use libdma::protocol::derive;
use libdma::{Access, Device, Error, FromDevice};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::chosen::piece;
use crate::hostile::allocate;
use crate::rig::Rig;
use crate::vendor::{Vendor, slow_down};

both! {
    r2_memory_that_a_failed_unit_may_reach_is_refused_and_all_else_is_served,
}

const PAGE: u64 = 4096;

/// One that is behind the first unit; the device that is held is behind the other.
fn trusted() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn r2_memory_that_a_failed_unit_may_reach_is_refused_and_all_else_is_served(vendor: Vendor) {
    let rule = Rule { unopened: Some(Unopened::Identity), ..Rule::new(Devices::At(trusted())) };
    let rig = Rig::with(vendor.two_units(), Policy { rules: vec![rule], ..Policy::default() });
    let device = rig.open();
    let before = device.allocate(2 * PAGE, None, "before").unwrap();
    {
        let service = &mut *rig.service.lock();
        assert!(service.engine().reaches_everything(trusted()));
        slow_down(&mut service.platform().machine_mut(), Takes::After(50_000_000));
        let (handles, usage) = (service.handles(), service.platform().usage());
        let from = HandleId(device.handle().raw().number());
        let request = derive::Allocate { access: U32::new(3), ..allocate(PAGE) };
        let Ok(Outcome::Pending(request)) = service.derive(from, request.as_bytes()) else {
            panic!("the first unit has yet to forget it");
        };
        service.platform().machine_mut().set_health(0, Health::AllOnes);
        let completed = loop {
            if let Some(completed) = service.poll().pop() {
                break completed;
            }
        };
        assert_eq!((completed.request, completed.result), (request, Err(Error::TimedOut)));
        assert_eq!(service.handles(), handles);
        // Nobody has had that memory, so that it is the system's again, of which the device reaches all.
        assert_eq!(service.platform().usage().live_runs, usage.live_runs);
    }

    // What the unit had forgotten in time is mapped as ever.
    let mapped = device.map(&[piece(&before, PAGE, PAGE)]).unwrap();
    rig.device_writes(mapped[0].iova().get(), b"served").unwrap();
    device.unmap(&mapped).unwrap();
    let stream = device.stream::<FromDevice>("rx").strict();
    let mapped = stream.adopt(before).map().unwrap();
    rig.device_writes(mapped.iova().get(), b"served").unwrap();
    let before = mapped.unmap().unwrap();

    // What it never will is not, whoever asks and however often.
    for access in [None, Some(Access::ReadWrite)] {
        for _ in 0..2 {
            let refused = device.allocate(PAGE, access, "later").map(drop);
            assert_eq!(refused, Err(Error::TimedOut), "{access:?}");
            assert_eq!(rig.usage().live_runs, 1, "R7");
        }
    }
    let opened = Device::open(rig.transport(), trusted()).map(drop);
    assert_eq!(opened, Err(Error::UnitFailed));
    drop((before, stream, device));
    rig.check();
}
