//! The names under the scheme, parsed.

use dma_types::PciAddress;
use libdma::Error;
use libdma::protocol::path;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A report, and the form in which it is wanted.
    Report(Report, Form),
    /// A device.
    Device(PciAddress),
    /// A device whose session is to be resumed.
    Resume(PciAddress),
    /// The quarantine of a device.
    Quarantine(PciAddress),
}

/// The reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// [`path::UNITS`].
    Units,
    /// [`path::DEVICES`].
    Devices,
    /// [`path::GROUPS`].
    Groups,
    /// [`path::DOMAINS`].
    Domains,
    /// [`path::MAPPINGS`].
    Mappings,
    /// [`path::FAULTS`].
    Faults,
    /// [`path::QUOTAS`].
    Quotas,
    /// [`path::HANDLES`].
    Handles,
    /// [`path::CONFIG`].
    Config,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An aligned table, for people.
    Table,
    /// For programs.
    Json,
}

impl Report {
    /// Every report, with its name.
    pub const ALL: [(&'static str, Self); 9] = [
        (path::UNITS, Self::Units),
        (path::DEVICES, Self::Devices),
        (path::GROUPS, Self::Groups),
        (path::DOMAINS, Self::Domains),
        (path::MAPPINGS, Self::Mappings),
        (path::FAULTS, Self::Faults),
        (path::QUOTAS, Self::Quotas),
        (path::HANDLES, Self::Handles),
        (path::CONFIG, Self::Config),
    ];
}

impl Node {
    /// What `path` names.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPath`].
    pub fn parse(path: &str) -> Result<Self, Error> {
        let path = path.trim_matches('/');
        if let Some((folder, name)) = path.split_once('/') {
            let node = match folder {
                path::DEVICE => Self::Device,
                path::RESUME => Self::Resume,
                path::QUARANTINE => Self::Quarantine,
                _ => return Err(Error::NoSuchPath),
            };
            return name.parse().map(node).map_err(|_| Error::NoSuchPath);
        }
        let (name, form) = match path.strip_suffix(path::JSON) {
            Some(name) => (name, Form::Json),
            None => (path, Form::Table),
        };
        let report = Report::ALL.iter().find(|(known, _)| *known == name);
        report.map(|(_, report)| Self::Report(*report, form)).ok_or(Error::NoSuchPath)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_protocol_is_a_node() {
        assert_eq!(Node::parse("units"), Ok(Node::Report(Report::Units, Form::Table)));
        assert_eq!(Node::parse("/faults.json"), Ok(Node::Report(Report::Faults, Form::Json)));
        let address = PciAddress::new(0, 0, 2, 0).unwrap();
        assert_eq!(Node::parse(&path::device(address)), Ok(Node::Device(address)));
        assert_eq!(Node::parse(&path::resume(address)), Ok(Node::Resume(address)));
        assert_eq!(Node::parse(&path::quarantine(address)), Ok(Node::Quarantine(address)));
    }

    #[test]
    fn r5_what_names_nothing_is_refused() {
        for path in [
            "",
            "/",
            "unit",
            "units/x",
            "device",
            "device/",
            "device/x",
            "resume",
            "resume/",
            "resume/x",
            "quarantine/",
            ".json",
            "units.json.json",
        ] {
            assert_eq!(Node::parse(path), Err(Error::NoSuchPath), "{path:?}");
        }
    }
}
