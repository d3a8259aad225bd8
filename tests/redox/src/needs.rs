//! What a case needs of the machine.

use agent::run::Spec;

use crate::machine::Machine;

/// A case, and what it needs.
pub(crate) struct Check {
    pub(crate) spec: Spec,
    needs: &'static [Need],
}

impl Check {
    pub(crate) const fn new(needs: &'static [Need], spec: Spec) -> Self {
        Self { spec, needs }
    }

    /// Why it cannot be run here, if it cannot.
    pub(crate) fn is_missing(&self, machine: &Machine) -> Option<String> {
        self.needs.iter().find_map(|need| need.is_missing(machine))
    }
}

/// Something that a case needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// So many `edu` devices.
    Edus(usize),
    /// An NVMe disk, and a driver for it that `iommu-run` is to start.
    Nvme,
    /// An NVMe disk that nobody drives.
    FreeNvme,
    /// A virtio disk, and the program that drives it.
    VirtioDisk,
    /// That no driver is at work that would be cut off when iommud dies.
    NobodyElse,
}

impl Need {
    fn is_missing(self, machine: &Machine) -> Option<String> {
        match self {
            Self::Edus(wanted) if machine.edus.len() < wanted => Some(format!(
                "of {wanted} edu devices (QEMU's -device edu) there are {}",
                machine.edus.len()
            )),
            Self::Nvme if machine.nvme.is_none() => {
                Some("there is no NVMe disk with an nvmed that iommu-run is to start".into())
            }
            Self::FreeNvme if machine.free_nvme.is_none() => {
                Some("there is no NVMe disk that nobody drives".into())
            }
            Self::VirtioDisk if machine.virtio_disk.is_none() => {
                Some("there is no virtio disk with virtio-blkd where the self-test is".into())
            }
            Self::NobodyElse => machine
                .in_use
                .as_ref()
                .map(|device| format!("the driver of {device} would be cut off by it")),
            Self::Edus(_) | Self::Nvme | Self::FreeNvme | Self::VirtioDisk => None,
        }
    }
}
