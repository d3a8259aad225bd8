//! The unit with a device table of the case's own, and the device.

use core::ptr::NonNull;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{BufferRuns, RunId, TableFrames};

use super::by_hand::{
    Command, Commands, DEVICE_TABLE_FRAMES, DeviceEntry, DeviceEntry0, PageEntry, Unit,
    device_entry, forget_all, forget_device, forget_pages, write_device, write_word,
};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome};
use crate::platform::Metal;
use crate::require;

/// The domain of all that is mapped here.
pub(super) const DOMAIN: u16 = 1;

/// What the device looks for, below 64 GiB: page tables of 3 levels lead there.
const IOVA: u64 = 0x7_3456_7000;

/// As much as is moved at a time.
pub(super) type Pattern = [u8; 64];
const BYTES: u64 = size_of::<Pattern>() as u64;

/// An entry of the device table for which the unit lets everything pass.
pub(super) const NOT_VALID: DeviceEntry = [0; 4];

/// What a device, or an entry on its way, may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct May {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl May {
    pub(super) const NOTHING: Self = Self { read: false, write: false };
    pub(super) const READ: Self = Self { read: true, write: false };
    pub(super) const WRITE: Self = Self { read: false, write: true };
    pub(super) const BOTH: Self = Self { read: true, write: true };
}

/// A page table with one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) levels: u8,
    /// Where it begins.
    pub(super) root: PhysAddr,
    /// Where the device finds the stage's page.
    pub(super) iova: u64,
    /// Where the last entry is: its table and its place there.
    pub(super) last: (PhysAddr, usize),
}

/// The unit, turned on, and the device, whose entry is not valid, with a page for it.
pub(super) struct Stage<'a> {
    pub(super) platform: &'a mut Metal,
    pub(super) unit: Unit,
    pub(super) edu: Edu,
    commands: Commands,
    /// Where the unit says that it has done what it was told.
    done: PhysAddr,
    devices: PhysAddr,
    entry: DeviceEntry,
    page: NonNull<Pattern>,
    /// Where the page is.
    pub(super) start: PhysAddr,
    /// How many patterns there were.
    patterns: u8,
}

/// Runs a case on a stage, and leaves the machine as it was found.
pub(super) fn with_stage(
    context: &mut Context,
    case: impl FnOnce(&mut Stage<'_>) -> Outcome,
) -> Outcome {
    let platform = context.platform();
    let unit = Unit::find(platform)?;
    let edu = Edu::find(platform)?;
    let outcome = on_stage(platform, unit, edu, case);
    let off = unit.turn_off(platform);
    unit.take_target_abort(platform);
    platform.take_all_back();
    outcome.and(off)
}

fn on_stage(
    platform: &mut Metal,
    unit: Unit,
    edu: Edu,
    case: impl FnOnce(&mut Stage<'_>) -> Outcome,
) -> Outcome {
    let frame = |platform: &mut Metal| platform.alloc_frame().ok_or(Failure("no frame".into()));
    let run: RunId = platform.alloc_run(PAGE_SIZE).ok_or(Failure("no run".into()))?;
    let page = platform.run_pointer(run).ok_or(Failure("no pointer".into()))?.cast();
    let start = platform.segments(run).first().map(|segment| segment.start).unwrap_or_default();
    let devices = platform.alloc_table(DEVICE_TABLE_FRAMES);
    let devices = devices.ok_or(Failure("no device table".into()))?;
    let (buffer, done) = (frame(platform)?, frame(platform)?);
    let commands = unit.turn_on(platform, devices, buffer)?;
    let entry = NOT_VALID;
    let mut stage =
        Stage { platform, unit, edu, commands, done, devices, entry, page, start, patterns: 0 };
    stage.run(&[forget_all()])?;
    stage.unit.take_target_abort(stage.platform);
    case(&mut stage)
}

impl Stage<'_> {
    /// Lets the unit do these commands, and waits for the end.
    pub(super) fn run(&mut self, commands: &[Command]) -> Outcome {
        self.commands.run(self.platform, commands, self.done)
    }

    /// Forgets all that is known of the device and the domain.
    pub(super) fn forget(&mut self) -> Outcome {
        self.run(&[forget_device(self.edu.requester()), forget_pages(DOMAIN, None)])
    }

    /// Gives the device this entry, and forgets what was known of it.
    pub(super) fn set(&mut self, entry: DeviceEntry) -> Outcome {
        self.entry = entry;
        self.write_entry(entry)?;
        self.forget()
    }

    /// Gives the device an entry that leads to this table, with these permissions.
    pub(super) fn attach(&mut self, table: &Table, may: May) -> Outcome {
        let [first, rest @ ..] = device_entry(DOMAIN, table.levels, table.root);
        let first = DeviceEntry0::from_bits(first);
        let first = first.with_read(may.read).with_write(may.write).into_bits();
        self.set([first, rest[0], rest[1], rest[2]])
    }

    /// Builds a table of so many levels, in which a page of 2 to the power of `bits` bytes has the stage's page in
    /// it; the entries above it have the permissions `above`.
    pub(super) fn table(&mut self, levels: u8, bits: u8, may: May, above: May) -> Outcome<Table> {
        let inside = (1 << bits) - 1;
        let reach = 1u64 << (12 + 9 * levels);
        let iova = (IOVA & (reach - 1) & !inside) | (self.start.get() & inside);
        let root = self.frame()?;
        let mut at = root;
        let last = (bits - 12) / 9 + 1;
        for level in (last + 1..=levels).rev() {
            let next = self.frame()?;
            let entry = PageEntry::new().with_present(true).with_next(level - 1);
            let entry = entry.with_page(next.get() >> 12).with_read(above.read);
            self.write(at, index(iova, level), entry.with_write(above.write))?;
            at = next;
        }
        // A size that is not its level's own is in the address: ones up to the bit below the highest that is the
        // page's own, and a zero there; and all the entries that it fills are the same.
        let filled = 1usize << ((bits - 12) % 9);
        let base = self.start.get() & !inside;
        let address = if filled > 1 { base | (inside >> 1) } else { base };
        let entry = PageEntry::new().with_present(true).with_next(if filled > 1 { 7 } else { 0 });
        let entry = entry.with_page(address >> 12).with_read(may.read).with_write(may.write);
        let first = index(iova & !inside, last);
        for place in first..first + filled {
            self.write(at, place, entry)?;
        }
        Ok(Table { levels, root, iova, last: (at, first) })
    }

    /// Writes an entry of a page table.
    pub(super) fn write(&mut self, table: PhysAddr, index: usize, entry: PageEntry) -> Outcome {
        write_word(self.platform, table, index, entry.into_bits())
    }

    /// What the device can do at an address, where it should find the stage's page or nothing.
    ///
    /// Between the directions all is forgotten: QEMU 7.2 caches what the last entry allows and not what those
    /// above it leave of that.
    pub(super) fn reach(&mut self, address: u64) -> Outcome<May> {
        let secret = self.fresh();
        self.fill(secret);
        self.transfer(Direction::ToDevice, address)?;
        let got = self.look()?;
        self.forget()?;
        let before = self.fresh();
        self.fill(before);
        self.transfer(Direction::FromDevice, address)?;
        let found = self.found();
        require!(found == got || found == before, "{got:x?} was sent, and {found:x?} came");
        Ok(May { read: got == secret, write: found == got })
    }

    /// Checks what the device can do at an address.
    pub(super) fn expect(&mut self, address: u64, may: May, why: &str) -> Outcome {
        let found = self.reach(address)?;
        require!(found == may, "{why}: at {address:#x} it may {found:?}, and not {may:?}");
        Ok(())
    }

    /// Puts something into the device.
    pub(super) fn load(&mut self) -> Outcome<Pattern> {
        let pattern = self.fresh();
        self.fill(pattern);
        self.untranslated(Direction::ToDevice)?;
        Ok(pattern)
    }

    /// What is in the device.
    fn look(&mut self) -> Outcome<Pattern> {
        self.untranslated(Direction::FromDevice)?;
        Ok(self.found())
    }

    /// Bytes that were nowhere before.
    pub(super) fn fresh(&mut self) -> Pattern {
        self.patterns += 1;
        [self.patterns; 64]
    }

    /// A transfer between the device and the page, past the unit, and the device's entry as before. What is cached
    /// of pages stays.
    fn untranslated(&mut self, direction: Direction) -> Outcome {
        let device = self.edu.requester();
        self.write_entry(NOT_VALID)?;
        self.run(&[forget_device(device)])?;
        self.transfer(direction, self.start.get())?;
        self.write_entry(self.entry)?;
        self.run(&[forget_device(device)])
    }

    /// A transfer by the device, blocked or not.
    pub(super) fn transfer(&mut self, direction: Direction, address: u64) -> Outcome {
        Ok(self.edu.transfer(self.platform, direction, address, BYTES)?)
    }

    /// Writes to the page.
    pub(super) fn fill(&mut self, pattern: Pattern) {
        // SAFETY: the page is the stage's, and larger.
        unsafe { self.page.write_volatile(pattern) };
    }

    /// What is in the page.
    pub(super) fn found(&self) -> Pattern {
        // SAFETY: as above.
        unsafe { self.page.read_volatile() }
    }

    fn write_entry(&mut self, entry: DeviceEntry) -> Outcome {
        write_device(self.platform, self.devices, self.edu.requester(), entry)
    }

    fn frame(&mut self) -> Outcome<PhysAddr> {
        self.platform.alloc_frame().ok_or(Failure("no frame".into()))
    }
}

/// The place of an address in a table of this level.
fn index(address: u64, level: u8) -> usize {
    (address >> (3 + 9 * level)) as usize % 512
}
