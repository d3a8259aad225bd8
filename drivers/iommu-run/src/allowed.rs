//! What a driver may open and name.

use dma_types::PciAddress;
use libdma::protocol::path;

use crate::options::Options;

/// The schemes that every driver may open: what the drivers of base 9e128703 need beside their device, and nothing
/// by which another's memory can be reached. `sys` is not among them, for root can stop the machine there; a
/// driver that reads its log level there takes the default.
pub const SCHEMES: [&str; 9] =
    ["event", "irq", "log", "logging", "null", "pipe", "rand", "time", "zero"];

/// Schemes that are refused without a word: every driver of base looks for its log level in the first.
pub const QUIET: [&str; 1] = ["sys"];

/// The scheme of physical memory.
const MEMORY: &str = "memory";

/// What a driver gets for opening a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The scheme.
    Open,
    /// Something that can be opened as the memory scheme can, and gives no memory: all drivers of base open that
    /// scheme when they start (`common::init`), whether they take memory there or not.
    StandIn,
    /// Nothing: as far as the driver can tell there is no such scheme.
    Refuse,
}

/// Which schemes a driver may open, and which names it may give its own.
#[derive(Clone, Debug)]
pub struct Allowed {
    keep: Vec<String>,
    serve: Vec<String>,
    address: PciAddress,
    has_device: bool,
}

impl Allowed {
    /// For the driver of this function.
    pub fn new(options: &Options, function: PciAddress) -> Self {
        let mut keep = options.keep.clone();
        if options.without_iommu {
            // It has no other memory.
            keep.push(MEMORY.into());
        }
        let has_device = !options.without_iommu;
        Self { keep, serve: options.serve.clone(), address: function, has_device }
    }

    /// What opening a scheme of this name gives.
    pub fn open(&self, scheme: &str) -> Verdict {
        if SCHEMES.contains(&scheme) || self.keep.iter().any(|kept| kept == scheme) {
            Verdict::Open
        } else if scheme == MEMORY {
            Verdict::StandIn
        } else {
            Verdict::Refuse
        }
    }

    /// Whether the driver may give a scheme of its own this name. It must not be able to pose as another daemon.
    pub fn serve(&self, name: &str) -> bool {
        self.is_own(name) || self.serve.iter().any(|served| served == name)
    }

    /// Whether the name is one of those that drivers give, with this function's in it and no other's.
    fn is_own(&self, name: &str) -> bool {
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte));
        let parts = name.split_once(&function_name(self.address));
        parts.is_some_and(|(before, after)| {
            // Nothing of another scheme's name is in front of it, and no digit makes it another function's.
            matches!(before.chars().last(), None | Some('.'))
                && !after.starts_with(char::is_alphanumeric)
                && is_plain
                && name.matches(FUNCTION).count() == 1
        })
    }

    /// Where at iommud the driver may ask for its session after a restart, if that is what it asks for. There it is known
    /// by the session's secret: who does not know that gets nothing by this.
    pub fn resumes(&self, path: &str) -> Option<String> {
        let own = path::resume(self.address);
        (self.has_device && path == own).then_some(own)
    }

    /// The function.
    pub fn address(&self) -> PciAddress {
        self.address
    }
}

/// How the name of every function starts.
const FUNCTION: &str = "pci-";

/// A function's name as pcid gives it to drivers (base 9e128703, `driver_interface/mod.rs`, `PciFunction::name`).
fn function_name(function: PciAddress) -> String {
    format!("{FUNCTION}{function}").replace(':', "-")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn allowed(line: &str) -> Allowed {
        let options = Options::try_parse_from(line.split(' ')).unwrap();
        Allowed::new(&options, "0000:00:02.0".parse().unwrap())
    }

    #[test]
    fn r3_what_undoes_confinement_is_not_there() {
        let allowed = allowed("iommu-run nvmed");
        for scheme in ["iommu", "pci", "file", "proc", "sys", "acpi", "disk.x", "", "irq2", "IRQ"] {
            assert_eq!(allowed.open(scheme), Verdict::Refuse, "{scheme}");
        }
        assert_eq!(allowed.open("memory"), Verdict::StandIn);
        assert_eq!(allowed.open("irq"), Verdict::Open);
    }

    #[test]
    fn what_the_configuration_names_is_there() {
        let kept = allowed("iommu-run --keep acpi --keep memory nvmed");
        assert_eq!((kept.open("acpi"), kept.open("memory")), (Verdict::Open, Verdict::Open));
        for scheme in ["acpid", "acp", "memory2"] {
            assert_eq!(kept.open(scheme), Verdict::Refuse, "{scheme}");
        }
        let unconfined = allowed("iommu-run --without-iommu nvmed");
        assert_eq!(unconfined.open("memory"), Verdict::Open);
        assert_eq!(unconfined.open("iommu"), Verdict::Refuse);
    }

    #[test]
    fn r3_a_driver_resumes_at_its_own_functions_path_and_no_other() {
        let own = "resume/0000--00--02.0";
        assert_eq!(allowed("iommu-run nvmed").resumes(own).as_deref(), Some(own));
        assert_eq!(allowed("iommu-run --without-iommu nvmed").resumes(own), None);
        let kept = allowed("iommu-run --keep pci nvmed");
        for path in [
            "",
            "resume",
            "resume/",
            "/resume/0000--00--02.0",
            "resume/0000--00--02.0/",
            "resume/0000--00--02.1",
            "resume/0000--00--02.01",
            "resume/0000:00:02.0",
            "resume//0000--00--02.0",
            "resume/../resume/0000--00--02.0",
            "resume/0000--00--03.0/../0000--00--02.0",
            "device/0000--00--02.0",
            "quarantine/0000--00--02.0",
            "units",
            "resume/0000--00--02.0\0",
        ] {
            assert_eq!(kept.resumes(path), None, "{path:?}");
        }
    }

    #[test]
    fn r3_a_driver_names_its_scheme_after_its_own_function() {
        let allowed = allowed("iommu-run --serve disk.live nvmed");
        for name in [
            "disk.pci-0000-00-02.0-nvme",
            "x.pci-0000-00-02.0+1-scsi",
            "network.pci-0000-00-02.0",
            "pci-0000-00-02.0_x",
        ] {
            assert!(allowed.serve(name), "{name}");
        }
        assert!(allowed.serve("disk.live"));
        for name in [
            "disk.pci-0000-00-02.1-nvme",
            "disk.pci-0000-00-02.01",
            "diskpci-0000-00-02.0",
            "iommu",
            "file",
            "",
            "disk.live2",
            "disk.pci-0000-00-01.0-nvme.pci-0000-00-02.0",
            "disk.pci-0000-00-02.0.pci-0000-00-01.0-nvme",
            "disk.pci-0000-00-02.0/../iommu",
            "iommu:.pci-0000-00-02.0",
            "disk.PCI-0000-00-02.0",
            "disk.pci-0000-00-02.0*",
            "disk.pci-0000-00-02.0\n",
            "disk.pci-0000-00-02.0\u{e9}",
        ] {
            assert!(!allowed.serve(name), "{name}");
        }
    }
}
