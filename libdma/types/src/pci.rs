//! Who a device is: its PCI address, and the source-id it puts on the bus.

use core::fmt;
use core::str::FromStr;

/// The 16 bits by which a PCI function signs its requests: bus, device and function.
///
/// VT-d calls it the source-id (VT-d spec 3.4.1), AMD the DeviceID (AMD 48882 2.2.2), PCI Express
/// the requester ID. It says nothing of the segment: each IOMMU serves one segment.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SourceId(u16);

impl SourceId {
    /// The source-id with this value: bus in bits 15:8, device in 7:3, function in 2:0.
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The source-id as the 16 bits on the bus.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The bus number, 0 to 255.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device number on the bus, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function number in the device, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 0x7
    }

    /// The device and function as one number, 0 to 255: the index into a per-bus table.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for SourceId {
    /// `bb:dd.f`, as `lspci` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for SourceId {
    /// As it is written everywhere else: `bb:dd.f`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A PCI function in the whole machine: its segment and source-id.
///
/// It prints as `ssss:bb:dd.f`, and parses from that, from `bb:dd.f` (segment 0) and from the form
/// that Redox uses in paths, `ssss--bb--dd.f`.
///
/// ```
/// use dma_types::PciAddress;
///
/// let address: PciAddress = "0000:00:02.0".parse()?;
/// assert_eq!(address, "0000--00--02.0".parse()?);
/// assert_eq!(address.path_name().to_string(), "0000--00--02.0");
/// # Ok::<(), dma_types::ParsePciAddressError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    segment: u16,
    source: SourceId,
}

impl PciAddress {
    /// The function at these coordinates, or `None` if the device is over 31 or the function over 7.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        let value = (bus as u16) << 8 | (device as u16) << 3 | function as u16;
        Some(Self { segment, source: SourceId(value) })
    }

    /// The function that signs its requests with `source` in `segment`.
    pub const fn from_source(segment: u16, source: SourceId) -> Self {
        Self { segment, source }
    }

    /// The segment (PCI domain in Linux's words), 0 on most machines.
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The source-id in its segment.
    pub const fn source(self) -> SourceId {
        self.source
    }

    /// The bus number, 0 to 255.
    pub const fn bus(self) -> u8 {
        self.source.bus()
    }

    /// The device number on the bus, 0 to 31.
    pub const fn device(self) -> u8 {
        self.source.device()
    }

    /// The function number in the device, 0 to 7.
    pub const fn function(self) -> u8 {
        self.source.function()
    }

    /// The name of this function in paths of the `pci` and `iommu` schemes: `ssss--bb--dd.f`.
    pub const fn path_name(self) -> PathName {
        PathName(self)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.source)
    }
}

impl fmt::Debug for PciAddress {
    /// As it is written everywhere else: `ssss:bb:dd.f`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prints a [`PciAddress`] as Redox writes it in paths; see [`PciAddress::path_name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathName(PciAddress);

impl fmt::Display for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { segment, source } = self.0;
        let (bus, device, function) = (source.bus(), source.device(), source.function());
        write!(f, "{segment:04x}--{bus:02x}--{device:02x}.{function}")
    }
}

/// The text is not a PCI address; see [`PciAddress`] for the forms that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePciAddressError;

impl fmt::Display for ParsePciAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI address: write it as 0000:00:02.0, 00:02.0 or 0000--00--02.0")
    }
}

impl core::error::Error for ParsePciAddressError {}

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, function) = text.split_once('.').ok_or(ParsePciAddressError)?;
        let separator = if rest.contains("--") { "--" } else { ":" };
        let mut parts = rest.rsplit(separator);
        let device = number(parts.next(), 2)?;
        let bus = number(parts.next(), 2)?;
        let segment = match parts.next() {
            Some(part) => number(Some(part), 4)?,
            None if separator == ":" => 0,
            None => return Err(ParsePciAddressError),
        };
        if parts.next().is_some() {
            return Err(ParsePciAddressError);
        }
        let function = number(Some(function), 1)?;
        Self::new(segment, bus as u8, device as u8, function as u8).ok_or(ParsePciAddressError)
    }
}

/// Up to `digits` hexadecimal digits and nothing else: no sign, no prefix, no blank.
fn number(text: Option<&str>, digits: usize) -> Result<u16, ParsePciAddressError> {
    let text = text.ok_or(ParsePciAddressError)?;
    if text.is_empty() || text.len() > digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParsePciAddressError);
    }
    u16::from_str_radix(text, 16).map_err(|_| ParsePciAddressError)
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn source_id_takes_bus_device_and_function_apart() {
        let source = SourceId::new(0x03a5);
        assert_eq!((source.bus(), source.device(), source.function()), (3, 20, 5));
        assert_eq!(source.to_string(), "03:14.5");
    }

    #[test]
    fn in_what_is_printed_for_finding_bugs_it_is_written_as_everywhere() {
        let address = PciAddress::new(0, 0, 2, 0).unwrap();
        let printed = format!("{:?} {:?}", Some(address), address.source());
        assert_eq!(printed, "Some(0000:00:02.0) 00:02.0");
    }

    #[test]
    fn every_printed_form_parses_back() {
        let address = PciAddress::new(0x1a2b, 0xfe, 0x1f, 7).unwrap();
        assert_eq!(address.to_string().parse(), Ok(address));
        assert_eq!(address.path_name().to_string().parse(), Ok(address));
        assert_eq!("fe:1f.7".parse(), Ok(PciAddress::new(0, 0xfe, 0x1f, 7).unwrap()));
    }

    #[test]
    fn r5_text_that_is_no_address_is_refused() {
        for text in [
            "",
            ".",
            "0000:00:02",
            "0000:00:20.0",
            "0000:00:02.8",
            "00--02.0",
            "0:0:0:0.0",
            "+0:00:02.0",
            "0000:00:02.0 ",
            "00000:00:02.0",
            "0000::02.0",
            "0x00:02.0",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(ParsePciAddressError), "{text:?}");
        }
    }
}
