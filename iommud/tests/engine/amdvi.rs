//! An AMD-Vi unit, driven as a VT-d unit is.

use dma_types::Access;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::{Blocked, MachineConfig};

use crate::rig::{Rig, edu};

fn rig() -> Rig {
    Rig::new(MachineConfig::with_amdvi(AmdviConfig::default()))
}

#[test]
fn r1_nothing_is_reached_before_it_is_mapped_and_nothing_after() {
    let mut rig = rig();
    assert!(matches!(rig.write(0x7e00_0000, &[1; 8]), Err(Blocked::Event(_))));
    let domain = rig.attach(edu());
    for bytes in [4096, 64 << 10, 2 << 20, 6 << 20] {
        let run = rig.run(bytes);
        let iova = rig.map(domain, run, bytes, Access::ReadWrite);
        rig.write(iova.get(), &[1; 8]).unwrap();
        rig.write(iova.get() + bytes - 8, &[2; 8]).unwrap();
        assert_eq!(rig.read(iova.get() + bytes - 8, 8).unwrap(), [2; 8]);
        rig.unmap(domain, iova, bytes);
        assert!(rig.write(iova.get(), &[3; 8]).is_err());
    }
    assert_eq!(rig.faults().0.len(), 5);
    rig.check();
}
