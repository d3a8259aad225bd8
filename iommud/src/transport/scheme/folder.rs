//! The folders under the scheme's name.

use iommu_service::node::Report;
use libdma::protocol::path;

/// A folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// The scheme itself.
    Root,
    /// Where the devices are. It shows none: whoever looks at everything in a folder would open, and so
    /// take, each device.
    Devices,
}

/// What a folder shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Whether it is a folder.
    pub is_folder: bool,
}

impl Folder {
    /// The folder of this path from the root.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "" => Some(Self::Root),
            path::DEVICE => Some(Self::Devices),
            _ => None,
        }
    }

    /// The path from the root of what has this path from here.
    pub fn join(self, path: &str) -> String {
        let path = path.trim_matches('/');
        match self {
            Self::Root => path.into(),
            Self::Devices if path.is_empty() => path::DEVICE.into(),
            Self::Devices => format!("{}/{path}", path::DEVICE),
        }
    }

    /// What it shows.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        let reports = Report::ALL.iter().map(|(name, _)| Entry { name, is_folder: false });
        let devices = Entry { name: path::DEVICE, is_folder: true };
        let all = reports.chain([devices]);
        all.take(if self == Self::Root { usize::MAX } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_service::node::Node;

    #[test]
    fn all_that_is_shown_can_be_opened() {
        for Entry { name, is_folder } in Folder::Root.entries() {
            assert_eq!(Folder::at(name).is_some(), is_folder, "{name}");
            assert_eq!(Node::parse(name).is_ok(), !is_folder, "{name}");
        }
        assert_eq!(Folder::Root.entries().count(), Report::ALL.len() + 1);
        assert_eq!(Folder::Devices.entries().count(), 0);
    }

    #[test]
    fn paths_are_told_from_the_root() {
        assert_eq!(Folder::Root.join("/units"), "units");
        assert_eq!(Folder::Root.join("device/x"), "device/x");
        assert_eq!(Folder::Devices.join("x"), "device/x");
        assert_eq!(Folder::at(&Folder::Devices.join("")), Some(Folder::Devices));
        assert_eq!(Folder::at(&Folder::Root.join("/")), Some(Folder::Root));
        assert_eq!(Folder::at("units"), None);
    }
}
