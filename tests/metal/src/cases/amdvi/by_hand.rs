//! An AMD-Vi unit's few registers, entries and commands that a case needs, from the text of the specification
//! (AMD I/O Virtualization Technology Specification, 48882).
//!
//! The unit's registers are taken to be where the IVRS says. QEMU 7.2's capability in configuration space
//! puts them elsewhere: the two halves of the address are cut in the wrong place.

use core::sync::atomic::Ordering;
use core::time::Duration;

use bitfield_struct::bitfield;
use dma_types::{PAGE_SIZE, PciAddress, PhysAddr, SourceId};
use iommu_engine::platform::{ConfigSpace, MsiMessage, Platform, RegisterWindow, TableFrame};

use crate::harness::{Failure, Outcome};
use crate::platform::clock::spin;
use crate::platform::config::capability;
use crate::require;

/// Offsets of registers.
mod register {
    pub(super) const DEVICE_TABLE: usize = 0x00;
    pub(super) const COMMAND_BUFFER: usize = 0x08;
    pub(super) const CONTROL: usize = 0x18;
    pub(super) const EXTENDED_FEATURES: usize = 0x30;
    pub(super) const COMMAND_HEAD: usize = 0x2000;
    pub(super) const COMMAND_TAIL: usize = 0x2008;
    pub(super) const STATUS: usize = 0x2020;
    /// The registers of a unit without counters end here.
    pub(super) const END: usize = 0x4000;
}

/// The capability by which a PCI function says that it is an IOMMU.
const CAPABILITY: u8 = 0x0f;
/// Its kind of IOMMU.
const CAPABILITY_TYPE: u8 = 3;
/// The offset of the dword with PCI command and status in configuration space, and of the one with the class.
const COMMAND_AND_STATUS: u16 = 0x04;
const CLASS: u16 = 0x08;
/// An IOMMU's class and subclass.
const IOMMU_CLASS: u16 = 0x0806;

/// The capability of interrupts by message (PCI 3.0, section 6.8.1), and in it, as QEMU's unit has it:
const MESSAGES: u8 = 0x05;
const MESSAGE_ADDRESS: u16 = 4;
const MESSAGE_ADDRESS_HIGH: u16 = 8;
const MESSAGE_DATA: u16 = 12;
/// In its first dword: messages are sent.
const MESSAGES_ENABLED: u32 = 1 << 16;

/// How many devices a device table of full size has.
const DEVICES: usize = 1 << 16;
/// How many frames that is.
pub const DEVICE_TABLE_FRAMES: usize = DEVICES * size_of::<DeviceEntry>() / PAGE_SIZE as usize;
/// How many commands a command buffer of one frame has, the smallest there is.
pub const COMMANDS: usize = PAGE_SIZE as usize / size_of::<Command>();

/// How long the unit may take over anything.
const PATIENCE: Duration = Duration::from_secs(1);

/// The capability's header.
#[bitfield(u32)]
struct CapabilityHeader {
    id: u8,
    next: u8,
    #[bits(3)]
    kind: u8,
    #[bits(5)]
    revision: u8,
    /// IotlbSup, HtTunnel, NpCache, EFRSup, CapExt.
    iotlb: bool,
    tunnel: bool,
    not_present_cached: bool,
    extended_features: bool,
    extended: bool,
    #[bits(3)]
    __: u8,
}

/// PCI command and status, of which a one written clears a bit that is set.
#[bitfield(u32)]
struct PciStatus {
    command: u16,
    #[bits(11)]
    __: u16,
    /// Signaled Target Abort.
    target_abort: bool,
    #[bits(4)]
    __: u8,
}

/// The extended feature register, as far as it is looked at.
#[bitfield(u64)]
pub struct Features {
    #[bits(6)]
    __: u8,
    /// IASup: INVALIDATE_IOMMU_ALL.
    pub invalidate_all: bool,
    #[bits(3)]
    __: u8,
    /// HATS: 0 is up to 4 levels, 1 is 5, 2 is 6.
    #[bits(2)]
    pub levels: u8,
    #[bits(52)]
    __: u64,
}

/// The device table's base address register.
#[bitfield(u64)]
struct DeviceTableBase {
    /// How many frames, less one.
    #[bits(9)]
    frames: usize,
    #[bits(3)]
    __: u8,
    #[bits(40)]
    page: u64,
    #[bits(12)]
    __: u16,
}

/// The command buffer's base address register.
#[bitfield(u64)]
struct CommandBufferBase {
    #[bits(12)]
    __: u16,
    #[bits(40)]
    page: u64,
    #[bits(4)]
    __: u8,
    /// ComLen: the binary logarithm of the number of commands, 8 or more.
    #[bits(4)]
    length: u8,
    #[bits(4)]
    __: u8,
}

/// The control register.
#[bitfield(u64)]
struct Control {
    /// IommuEn.
    enable: bool,
    #[bits(2)]
    __: u8,
    /// EventIntEn.
    event_interrupt: bool,
    #[bits(8)]
    __: u8,
    /// CmdBufEn.
    commands: bool,
    #[bits(51)]
    __: u64,
}

/// The status register.
#[bitfield(u64)]
struct Status {
    #[bits(4)]
    __: u8,
    /// CmdBufRun.
    commands: bool,
    #[bits(59)]
    __: u64,
}

/// The first quadword of a device's entry in the device table. The second one begins with the domain's id, and
/// all else is zero here: no interrupt is remapped.
#[bitfield(u64)]
pub struct DeviceEntry0 {
    /// V: the entry is looked at.
    pub valid: bool,
    /// TV: what there is about translation is.
    pub translation: bool,
    #[bits(7)]
    __: u8,
    /// Mode: 0 is none, and else the levels of the page table.
    #[bits(3)]
    pub levels: u8,
    /// The page table's root.
    #[bits(40)]
    pub page: u64,
    #[bits(9)]
    __: u16,
    /// IR: reading is allowed.
    pub read: bool,
    /// IW: writing is.
    pub write: bool,
    __: bool,
}

/// The third quadword of a device's entry: what becomes of its interrupts.
#[bitfield(u64)]
pub struct InterruptEntry {
    /// IV: what there is here is looked at, and else everything passes.
    pub valid: bool,
    #[bits(59)]
    __: u64,
    /// IntCtl: 0 is that fixed and arbitrated interrupts are refused.
    #[bits(2)]
    pub fixed: u8,
    #[bits(2)]
    __: u8,
}

/// An entry of the device table, in its quadwords.
pub type DeviceEntry = [u64; 4];

/// An entry of a page table (version 1), leaf or not.
#[bitfield(u64)]
pub struct PageEntry {
    /// PR.
    pub present: bool,
    #[bits(8)]
    __: u8,
    /// The level of the table that it leads to. 0: a page of this level's size. 7: a page whose size is in
    /// the address.
    #[bits(3)]
    pub next: u8,
    /// The next table or the page.
    #[bits(40)]
    pub page: u64,
    #[bits(9)]
    __: u16,
    /// IR.
    pub read: bool,
    /// IW.
    pub write: bool,
    __: bool,
}

/// A command, in its quadwords.
pub type Command = [u64; 2];

/// COMPLETION_WAIT, the first quadword. The second one is the data to store.
#[bitfield(u64)]
struct CompletionWait {
    /// s: store.
    store: bool,
    /// i: interrupt.
    interrupt: bool,
    __: bool,
    /// Where to, in 8 bytes.
    #[bits(49)]
    words: u64,
    __: u8,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_DEVTAB_ENTRY, the first quadword. The second one is zero.
#[bitfield(u64)]
struct InvalidateDevice {
    device: u16,
    #[bits(44)]
    __: u64,
    #[bits(4)]
    opcode: u8,
}

/// INVALIDATE_IOMMU_PAGES.
#[bitfield(u128)]
struct InvalidatePages {
    __: u32,
    domain: u16,
    #[bits(12)]
    __: u16,
    #[bits(4)]
    opcode: u8,
    /// S: more than a page, as many as the address's low ones say.
    many: bool,
    /// PDE: the entries that lead to tables too.
    tables: bool,
    #[bits(10)]
    __: u16,
    #[bits(52)]
    page: u64,
}

/// INVALIDATE_IOMMU_ALL, the first quadword. The second one is zero.
#[bitfield(u64)]
struct InvalidateAll {
    #[bits(60)]
    __: u64,
    #[bits(4)]
    opcode: u8,
}

/// A wait for the commands before it: when they are done, `data` is stored at `place`.
pub fn completion_wait(place: PhysAddr, data: u64) -> Command {
    let wait = CompletionWait::new().with_store(true).with_words(place.get() >> 3).with_opcode(1);
    [wait.into_bits(), data]
}

/// Nothing but an interrupt.
pub fn interrupt() -> Command {
    [CompletionWait::new().with_interrupt(true).with_opcode(1).into_bits(), 0]
}

/// Forgets a device's entry.
pub fn forget_device(device: SourceId) -> Command {
    [InvalidateDevice::new().with_device(device.get()).with_opcode(2).into_bits(), 0]
}

/// Forgets what is translated at one page of a domain, or at all of them, ways to tables included.
pub fn forget_pages(domain: u16, page: Option<u64>) -> Command {
    let all = InvalidatePages::new().with_many(true).with_tables(true).with_page((1 << 51) - 1);
    let command = page.map_or(all, |page| InvalidatePages::new().with_page(page >> 12));
    let bits = command.with_domain(domain).with_opcode(3).into_bits();
    [bits as u64, (bits >> 64) as u64]
}

/// Forgets everything.
pub fn forget_all() -> Command {
    [InvalidateAll::new().with_opcode(8).into_bits(), 0]
}

/// An entry for a device that may do in a domain what the domain's table allows.
pub fn device_entry(domain: u16, levels: u8, root: PhysAddr) -> DeviceEntry {
    let first = DeviceEntry0::new()
        .with_valid(true)
        .with_translation(true)
        .with_levels(levels)
        .with_page(root.get() >> 12)
        .with_read(true)
        .with_write(true);
    [first.into_bits(), domain.into(), 0, 0]
}

/// What the IVRS says of its first unit (IVHD).
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The unit's own PCI function.
    pub function: PciAddress,
    /// Where that function's capability is, in its configuration space.
    pub capability: u16,
    /// Where the registers are.
    pub base: PhysAddr,
}

/// The first unit's description in this IVRS.
pub fn first_unit(ivrs: &[u8]) -> Outcome<Described> {
    const BLOCKS: usize = 48;
    const FUNCTION: usize = 4;
    const CAPABILITY: usize = 6;
    const BASE: usize = 8;
    const SEGMENT: usize = 16;
    let first = ivrs.get(BLOCKS..).unwrap_or_default();
    let kind = first.first().copied().unwrap_or_default();
    require!(matches!(kind, 0x10 | 0x11 | 0x40), "the IVRS begins with block {kind:#x}");
    let word = |at: usize| first.get(at..)?.first_chunk::<2>().map(|it| u16::from_le_bytes(*it));
    let described = || {
        let base = u64::from_le_bytes(*first.get(BASE..)?.first_chunk::<8>()?);
        let function = PciAddress::from_source(word(SEGMENT)?, SourceId::new(word(FUNCTION)?));
        Some(Described { function, capability: word(CAPABILITY)?, base: PhysAddr::new(base) })
    };
    described().ok_or(Failure("the IVRS's first block is cut off".into()))
}

/// The machine's first unit.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    window: RegisterWindow,
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

/// The unit's command buffer, of one frame.
#[derive(Debug)]
pub struct Commands {
    unit: Unit,
    frame: PhysAddr,
    /// Where the next command goes.
    tail: usize,
    /// How many waits there were. Each stores its number.
    waits: u64,
}

impl Commands {
    /// Gives the unit these commands, and waits until it has done them. `place` is a word for the unit to say so.
    pub fn run(
        &mut self,
        platform: &mut impl Platform,
        commands: &[Command],
        place: PhysAddr,
    ) -> Outcome {
        self.waits += 1;
        let wait = completion_wait(place, self.waits);
        for command in commands.iter().chain([&wait]) {
            for (half, word) in command.iter().enumerate() {
                write_word(platform, self.frame, 2 * self.tail + half, *word)?;
            }
            self.tail = (self.tail + 1) % COMMANDS;
        }
        let bytes = (self.tail * size_of::<Command>()) as u64;
        platform.write64(self.unit.window, register::COMMAND_TAIL, bytes);
        let start = platform.now();
        while word(platform, place)? != self.waits {
            require!(platform.now().since(start) < PATIENCE, "the commands are not done");
            spin();
        }
        Ok(())
    }
}

/// Writes a device's entry, the first quadword last: it says that the entry is valid.
pub fn write_device(
    platform: &impl Platform,
    table: PhysAddr,
    device: SourceId,
    entry: DeviceEntry,
) -> Outcome {
    let first = usize::from(device.get()) * entry.len();
    for (at, word) in entry.iter().enumerate().rev() {
        write_word(platform, table, first + at, *word)?;
    }
    Ok(())
}

/// Writes a word of a table of any number of frames.
pub fn write_word(platform: &impl Platform, table: PhysAddr, index: usize, word: u64) -> Outcome {
    let frame = PhysAddr::new(table.get() + (index / 512) as u64 * PAGE_SIZE);
    let words = platform.table(frame).ok_or(Failure("no such table".into()))?;
    words[index % 512].store(word, Ordering::Release);
    Ok(())
}

/// The word of a table frame at this address.
fn word(platform: &impl Platform, place: PhysAddr) -> Outcome<u64> {
    let frame = PhysAddr::new(place.get() & !(PAGE_SIZE - 1));
    let words = table(platform, frame)?;
    Ok(words[(place.get() % PAGE_SIZE / 8) as usize].load(Ordering::Acquire))
}

/// Whether nothing is in a page table.
fn is_empty(platform: &impl Platform, root: PhysAddr) -> Outcome<bool> {
    Ok(table(platform, root)?.iter().all(|word| word.load(Ordering::Acquire) == 0))
}

fn table(platform: &impl Platform, frame: PhysAddr) -> Outcome<&TableFrame> {
    platform.table(frame).ok_or(Failure("no such table".into()))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// Bytes as they lie in memory, put together from the specification's figures by hand.
    #[test]
    fn entries_and_commands_are_the_specifications_bytes() {
        let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        let entry = device_entry(0x0102, 4, PhysAddr::new(0xa_bcde_f123_4000));
        #[rustfmt::skip]
        assert_eq!(bytes(&entry), [
            0x03, 0x48, 0x23, 0xf1, 0xde, 0xbc, 0x0a, 0x60,
            0x02, 0x01, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        let entry = PageEntry::new().with_present(true).with_next(7).with_page(0x1_2345);
        let entry = entry.with_write(true);
        assert_eq!(bytes(&[entry.into_bits()]), [0x01, 0x5e, 0x34, 0x12, 0, 0, 0, 0x40]);
        assert_eq!(
            bytes(&completion_wait(PhysAddr::new(0x5_0000_1238), 7)),
            [0x39, 0x12, 0, 0, 5, 0, 0, 0x10, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            bytes(&forget_device(SourceId::new(0x1234))),
            [0x34, 0x12, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            bytes(&forget_pages(0x55aa, Some(0x1234_5000))),
            [0, 0, 0, 0, 0xaa, 0x55, 0, 0x30, 0, 0x50, 0x34, 0x12, 0, 0, 0, 0]
        );
        // All of a domain: every bit of the address set but the highest.
        assert_eq!(
            bytes(&forget_pages(1, None)),
            [0, 0, 0, 0, 1, 0, 0, 0x30, 3, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]
        );
        assert_eq!(bytes(&forget_all())[7], 0x80);
    }
}
