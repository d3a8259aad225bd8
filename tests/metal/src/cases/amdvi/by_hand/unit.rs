//! The machine's first unit: found, turned on and off, and its PCI function.

use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::platform::{ConfigSpace, MsiMessage, Platform, RegisterWindow};

use super::capability::{
    CAPABILITY, CAPABILITY_TYPE, CLASS, COMMAND_AND_STATUS, CapabilityHeader, IOMMU_CLASS,
    MESSAGE_ADDRESS, MESSAGE_ADDRESS_HIGH, MESSAGE_DATA, MESSAGES, MESSAGES_ENABLED, PciStatus,
};
use super::command_buffer::{COMMANDS, Commands};
use super::entries::{DeviceEntry, DeviceEntry0};
use super::ivrs::{Described, first_unit};
use super::registers::{CommandBufferBase, Control, DeviceTableBase, Features, Status, register};
use super::tables::{DEVICE_TABLE_FRAMES, is_empty, word};
use crate::harness::{Failure, Outcome};
use crate::platform::config::capability;
use crate::require;

/// The machine's first unit.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    pub(super) window: RegisterWindow,
    function: PciAddress,
    /// What it can do.
    pub features: Features,
}

impl Unit {
    /// Finds it through the firmware's table.
    pub fn find(platform: &mut impl Platform) -> Outcome<Self> {
        let ivrs = platform.acpi_table(*b"IVRS")?.ok_or(Failure("no IVRS".into()))?;
        let Described { function, base, .. } = first_unit(&ivrs)?;
        let window = platform.map_registers(base, register::END)?;
        let features = platform.read64(window, register::EXTENDED_FEATURES);
        require!(features != 0 && features != u64::MAX, "its features read {features:#x}");
        Ok(Self { window, function, features: features.into() })
    }

    /// Whether the function that the firmware names is an IOMMU, and has the capability there.
    pub fn check_function(platform: &mut impl ConfigSpace, described: Described) -> Outcome {
        let Described { function, capability: place, .. } = described;
        let class = (platform.config_read(function, CLASS) >> 16) as u16;
        require!(class == IOMMU_CLASS, "{function} has the class {class:#x}");
        let found = capability(platform, function, CAPABILITY);
        require!(found == Some(place), "the capability is at {found:x?}, and not at {place:#x}");
        let header = CapabilityHeader::from_bits(platform.config_read(function, place));
        require!(header.kind() == CAPABILITY_TYPE, "the capability is {header:?}");
        require!(header.extended_features(), "it has no extended features: {header:?}");
        Ok(())
    }

    /// Turns its function's messages on, this one for all, or off.
    pub fn set_message(
        &self,
        platform: &mut impl Platform,
        message: Option<MsiMessage>,
    ) -> Outcome {
        let place = self.messages(platform)?;
        let head = platform.config_read(self.function, place) & !MESSAGES_ENABLED;
        platform.config_write(self.function, place, head);
        if let Some(message) = message {
            for (at, value) in [
                (MESSAGE_ADDRESS, message.address.get() as u32),
                (MESSAGE_ADDRESS_HIGH, 0),
                (MESSAGE_DATA, message.data.into()),
                (0, head | MESSAGES_ENABLED),
            ] {
                platform.config_write(self.function, place + at, value);
            }
        }
        Ok(())
    }

    /// The message that its function sends, if it sends any, and whether that is for events, too.
    pub fn message(&self, platform: &mut impl Platform) -> Outcome<Option<(MsiMessage, bool)>> {
        let place = self.messages(platform)?;
        let mut read = |at| platform.config_read(self.function, place + at);
        let enabled = read(0) & MESSAGES_ENABLED != 0;
        let address =
            u64::from(read(MESSAGE_ADDRESS_HIGH)) << 32 | u64::from(read(MESSAGE_ADDRESS));
        let data = read(MESSAGE_DATA) as u16;
        let message = MsiMessage { address: PhysAddr::new(address), data };
        let control = Control::from_bits(platform.read64(self.window, register::CONTROL));
        Ok(enabled.then_some((message, control.event_interrupt())))
    }

    fn messages(&self, platform: &mut impl Platform) -> Outcome<u16> {
        let found = capability(platform, self.function, MESSAGES);
        found.ok_or(Failure("the unit's function has no messages".into()))
    }

    /// The numbers of levels that its page tables may have.
    pub fn levels(&self) -> core::ops::RangeInclusive<u8> {
        1..=self.features.levels() + 4
    }

    /// Whether it is on.
    pub fn is_on(&self, platform: &mut impl Platform) -> bool {
        Control::from_bits(platform.read64(self.window, register::CONTROL)).enable()
    }

    /// Whether the device table leads to a page table for this device in which there is anything, or lets it pass.
    pub fn leads_somewhere(&self, platform: &mut impl Platform, source: SourceId) -> Outcome<bool> {
        let base = platform.read64(self.window, register::DEVICE_TABLE);
        let base = DeviceTableBase::from_bits(base).page() << 12;
        let entry = base + u64::from(source.get()) * size_of::<DeviceEntry>() as u64;
        let entry = DeviceEntry0::from_bits(word(platform, PhysAddr::new(entry))?);
        let denies = entry.valid() && entry.translation() && !entry.read() && !entry.write();
        let root = PhysAddr::new(entry.page() << 12);
        Ok(!denies || entry.levels() > 0 && !is_empty(platform, root)?)
    }

    /// Turns it on, with this device table of full size, and an empty command buffer in this frame.
    pub fn turn_on<P: Platform>(
        self,
        platform: &mut P,
        devices: PhysAddr,
        commands: PhysAddr,
    ) -> Outcome<Commands> {
        require!(!self.is_on(platform), "the unit is on before anybody turned it on");
        let base = DeviceTableBase::new().with_page(devices.get() >> 12);
        let base = base.with_frames(DEVICE_TABLE_FRAMES - 1);
        platform.write64(self.window, register::DEVICE_TABLE, base.into_bits());
        let base = CommandBufferBase::new().with_page(commands.get() >> 12);
        let base = base.with_length(COMMANDS.ilog2() as u8);
        platform.write64(self.window, register::COMMAND_BUFFER, base.into_bits());
        platform.write64(self.window, register::COMMAND_HEAD, 0);
        platform.write64(self.window, register::COMMAND_TAIL, 0);
        let control = Control::new().with_enable(true).with_commands(true);
        platform.write64(self.window, register::CONTROL, control.into_bits());
        let status = Status::from_bits(platform.read64(self.window, register::STATUS));
        require!(status.commands(), "the command buffer does not run");
        Ok(Commands { unit: self, frame: commands, tail: 0, waits: 0 })
    }

    /// Turns it off: every device reaches all memory. What it has cached stays, for when it is turned on
    /// again.
    pub fn turn_off(&self, platform: &mut impl Platform) -> Outcome {
        platform.write64(self.window, register::CONTROL, 0);
        require!(!self.is_on(platform), "the unit does not turn off");
        Ok(())
    }

    /// Whether QEMU has noted a target abort on the unit's function, which is then cleared.
    pub fn take_target_abort(&self, platform: &mut impl ConfigSpace) -> bool {
        let found = PciStatus::from_bits(platform.config_read(self.function, COMMAND_AND_STATUS));
        let clear = PciStatus::new().with_command(found.command()).with_target_abort(true);
        platform.config_write(self.function, COMMAND_AND_STATUS, clear.into_bits());
        found.target_abort()
    }
}
