//! The registers of simulated devices: what takes the place of a BAR where there is no hardware.

use core::ops::Range;

use dma_types::PciAddress;
use iommu_engine::platform::ConfigSpace;
use iommu_sim::edu::BAR_BYTES;
use libdma::Error;
use libdma::protocol::call::Opcode;
use libdma::protocol::sim::{Access, CONFIG_SPACE, FOLDER};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::platform::sim::SimPlatform;

/// How long configuration space is.
const CONFIG_BYTES: u64 = 4096;

/// Where the BARs are in configuration space (PCI 3.0, 6.2.5).
const BARS: Range<u64> = 0x10..0x28;

/// The address in a 32-bit memory BAR (PCI 3.0, 6.2.5.1).
const BAR_ADDRESS: u32 = !0xf;

/// The function that a path under `sim/` names. `None` if the path is not under it.
pub fn function(path: &str) -> Option<Result<PciAddress, Error>> {
    let name = path.trim_matches('/').strip_prefix(FOLDER)?.strip_prefix('/')?;
    Some(name.parse().map_err(|_| Error::NoSuchPath))
}

/// Makes a call on a simulated function. The answer overwrites the payload; how long it is.
///
/// # Errors
///
/// [`Error::UnknownCall`], [`Error::WrongHandleKind`] for calls on other handles, [`Error::ShortPayload`],
/// [`Error::BadValue`] for a space or width that there is not, [`Error::BadAlignment`],
/// [`Error::OutOfBuffer`] past the end of the space.
pub fn call(
    platform: &mut SimPlatform,
    function: PciAddress,
    opcode: u64,
    payload: &mut [u8],
) -> Result<usize, Error> {
    let write = match Opcode::try_from(opcode)? {
        Opcode::SimRead => false,
        Opcode::SimWrite => true,
        _ => return Err(Error::WrongHandleKind),
    };
    let (access, _) = Access::mut_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
    let (space, width, offset) = (access.space.get(), access.width.get(), access.offset.get());
    if !matches!((space, width), (CONFIG_SPACE, 4) | (0, 4 | 8)) {
        return Err(Error::BadValue);
    }
    if !offset.is_multiple_of(width.into()) {
        return Err(Error::BadAlignment);
    }
    let value = write.then_some(access.value.get());
    let found = if space == CONFIG_SPACE {
        config(platform, function, offset, value)?
    } else {
        bar(platform, function, offset, width, value)?
    };
    access.value = U64::new(value.unwrap_or(found));
    Ok(access.as_bytes().len())
}

fn config(
    platform: &mut SimPlatform,
    function: PciAddress,
    offset: u64,
    value: Option<u64>,
) -> Result<u64, Error> {
    if offset >= CONFIG_BYTES {
        return Err(Error::OutOfBuffer);
    }
    if let Some(value) = value {
        // A BAR that could be moved could be laid over the registers of a unit.
        if BARS.contains(&offset) {
            return Err(Error::NotPermitted);
        }
        platform.config_write(function, offset as u16, value as u32);
    }
    Ok(platform.config_read(function, offset as u16).into())
}

fn bar(
    platform: &mut SimPlatform,
    function: PciAddress,
    offset: u64,
    width: u32,
    value: Option<u64>,
) -> Result<u64, Error> {
    let has_bar = platform.machine().edu(function).is_some();
    if !has_bar || offset > BAR_BYTES - u64::from(width) {
        return Err(Error::OutOfBuffer);
    }
    let base = platform.config_read(function, BARS.start as u16) & BAR_ADDRESS;
    let (address, size) = (u64::from(base) + offset, width as usize);
    // What is due happens first, so that the device has done by now what it has time for.
    platform.tick();
    let mut machine = platform.machine_mut();
    match value {
        Some(value) => {
            machine.mmio_write(address, size, value);
            Ok(value)
        }
        None => Ok(machine.mmio_read(address, size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_sim::MachineConfig;
    use zerocopy::little_endian::U32;

    const READ: u64 = Opcode::SimRead as u64;
    const WRITE: u64 = Opcode::SimWrite as u64;

    fn ask(
        platform: &mut SimPlatform,
        function: &str,
        opcode: u64,
        (space, width, offset, value): (u32, u32, u64, u64),
    ) -> Result<u64, Error> {
        let mut access = Access {
            space: U32::new(space),
            width: U32::new(width),
            offset: U64::new(offset),
            value: U64::new(value),
        };
        let function = function.parse().unwrap();
        let length = call(platform, function, opcode, access.as_mut_bytes())?;
        assert_eq!(length, size_of::<Access>());
        Ok(access.value.get())
    }

    const EDU: &str = "0000:00:02.0";

    #[test]
    fn a_devices_registers_and_configuration_answer() {
        let mut platform = SimPlatform::new(MachineConfig::default()).unwrap();
        let mut ask = |opcode, what| ask(&mut platform, EDU, opcode, what);
        assert_eq!(ask(READ, (CONFIG_SPACE, 4, 0, 0)), Ok(0x11e8_1234));
        assert_eq!(ask(WRITE, (CONFIG_SPACE, 4, 4, 6)), Ok(6));
        assert_eq!(ask(READ, (CONFIG_SPACE, 4, 4, 0)), Ok(0x0010_0006));
        assert_eq!(ask(READ, (0, 4, 0, 0)), Ok(0x0100_00ed));
        assert_eq!(ask(WRITE, (0, 8, 0x80, 0x1234_5678_9abc)), Ok(0x1234_5678_9abc));
        assert_eq!(ask(READ, (0, 8, 0x80, 0)), Ok(0x1234_5678_9abc));
    }

    #[test]
    fn r5_what_is_no_register_is_a_typed_error() {
        let mut platform = SimPlatform::new(MachineConfig::default()).unwrap();
        let mut ask = |function, opcode, what| ask(&mut platform, function, opcode, what);
        for space in [1, 5, 6, 0xffff_fffe] {
            assert_eq!(ask(EDU, READ, (space, 4, 0, 0)), Err(Error::BadValue));
        }
        for width in [0, 1, 2, 16, u32::MAX] {
            assert_eq!(ask(EDU, READ, (0, width, 0, 0)), Err(Error::BadValue));
        }
        assert_eq!(ask(EDU, READ, (CONFIG_SPACE, 8, 0, 0)), Err(Error::BadValue));
        assert_eq!(ask(EDU, READ, (CONFIG_SPACE, 4, 4096, 0)), Err(Error::OutOfBuffer));
        assert_eq!(ask(EDU, READ, (CONFIG_SPACE, 4, 2, 0)), Err(Error::BadAlignment));
        assert_eq!(ask(EDU, READ, (0, 8, 0x84, 0)), Err(Error::BadAlignment));
        assert_eq!(ask(EDU, READ, (0, 8, BAR_BYTES, 0)), Err(Error::OutOfBuffer));
        assert_eq!(ask(EDU, READ, (0, 4, u64::MAX - 3, 0)), Err(Error::OutOfBuffer));
        assert_eq!(ask("0000:00:00.0", READ, (0, 4, 0, 0)), Err(Error::OutOfBuffer));
        assert_eq!(ask(EDU, 1, (0, 4, 0, 0)), Err(Error::WrongHandleKind));
        assert_eq!(ask(EDU, 77, (0, 4, 0, 0)), Err(Error::UnknownCall));
        let edu = EDU.parse().unwrap();
        assert_eq!(call(&mut platform, edu, READ, &mut [0; 23]), Err(Error::ShortPayload));
    }

    #[test]
    fn r3_a_bar_cannot_be_laid_over_a_units_registers() {
        let mut platform = SimPlatform::new(MachineConfig::default()).unwrap();
        let moved = ask(&mut platform, EDU, WRITE, (CONFIG_SPACE, 4, 0x10, 0xfed9_0000));
        assert_eq!(moved, Err(Error::NotPermitted));
        assert_eq!(ask(&mut platform, EDU, READ, (CONFIG_SPACE, 4, 0x10, 0)), Ok(0xfea0_0000));
    }

    #[test]
    fn functions_are_named_below_sim() {
        assert_eq!(function("sim/0000--00--02.0"), Some(Ok(EDU.parse().unwrap())));
        assert_eq!(function("/sim/x"), Some(Err(Error::NoSuchPath)));
        for path in ["", "sim", "simulated/0000--00--02.0", "device/0000--00--02.0"] {
            assert_eq!(function(path), None, "{path:?}");
        }
    }
}
