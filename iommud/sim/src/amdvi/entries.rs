//! Device table entries and page table entries: AMD 48882, 2.2.2 and 2.2.3.

use bitfield_struct::bitfield;

use super::config::AmdviConfig;

/// The bytes of a device table entry.
pub(crate) const DEVICE_ENTRY: u64 = 32;

/// Bits 63:0 of a device table entry.
#[bitfield(u64)]
pub(crate) struct DeviceLow {
    /// V.
    pub(crate) valid: bool,
    /// TV.
    pub(crate) translation_valid: bool,
    /// Reserved, and HAD in bits 8:7, which needs HASup.
    #[bits(7)]
    pub(crate) reserved: u8,
    /// Mode: levels of the table; 0 is none.
    #[bits(3)]
    pub(crate) mode: u8,
    /// Page table root pointer, in pages.
    #[bits(40)]
    pub(crate) root_page: u64,
    /// PPR, GPRP, GIoV, GV, GLX and the lowest bits of the guest CR3 table, which need PPRSup or GTSup.
    #[bits(9)]
    pub(crate) absent: u16,
    /// IR.
    pub(crate) read: bool,
    /// IW.
    pub(crate) write: bool,
    pub(crate) reserved_top: bool,
}

/// Bits 127:64 of a device table entry.
#[bitfield(u64)]
pub(crate) struct DeviceHigh {
    /// DomainID.
    pub(crate) domain: u16,
    /// More of the guest CR3 table, which needs GTSup.
    pub(crate) guest: u16,
    /// I: the device may have an IOTLB, which needs IotlbSup.
    pub(crate) device_tlb: bool,
    /// SE: after one page fault of the device, no more are logged.
    pub(crate) suppress_more: bool,
    /// SA: no page fault of the device is logged.
    pub(crate) suppress_all: bool,
    /// IoCtl.
    #[bits(2)]
    io_control: u8,
    /// Cache.
    cache_hint: bool,
    /// SD.
    snoop_disable: bool,
    /// EX: the exclusion range is the device's too.
    pub(crate) exclusion: bool,
    /// SysMgt.
    #[bits(2)]
    system_management: u8,
    /// The rest of the guest CR3 table and what is reserved.
    #[bits(22)]
    pub(crate) absent: u32,
}

/// Bits 191:128 of a device table entry.
#[bitfield(u64)]
pub(crate) struct DeviceInterrupts {
    /// IV.
    pub(crate) valid: bool,
    /// IntTabLen: `2^N` entries.
    #[bits(4)]
    pub(crate) table_length: u8,
    /// IG.
    ignore_unmapped: bool,
    /// Interrupt table root pointer, in units of 64 bytes.
    #[bits(46)]
    table: u64,
    /// Reserved, and GuestPagingMode in bits 183:182, which needs GTSup.
    #[bits(4)]
    pub(crate) reserved: u8,
    /// InitPass.
    pub(crate) pass_init: bool,
    /// EIntPass.
    pub(crate) pass_external: bool,
    /// NMIPass.
    pub(crate) pass_nmi: bool,
    /// HPTMode.
    pub(crate) reserved_mode: bool,
    /// IntCtl.
    #[bits(2)]
    pub(crate) control: u8,
    /// Lint0Pass.
    pass_lint0: bool,
    /// Lint1Pass.
    pass_lint1: bool,
}

/// IntCtl values: what becomes of fixed and arbitrated interrupts. With 0 they are aborted; 3 is reserved.
pub(crate) mod interrupt {
    /// They pass as they are.
    pub(crate) const PASS: u8 = 1;
    /// They are remapped.
    pub(crate) const REMAP: u8 = 2;
}

/// Where requests of a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// V = 0: to memory as they are.
    Untranslated,
    /// TV = 0: nowhere, as there is no table to walk.
    Blocked,
    /// Mode 0: to memory as they are, where IR and IW allow it.
    Direct,
    /// Through a table of this many levels.
    Table {
        /// The table.
        root: u64,
        /// Its levels.
        levels: u8,
    },
}

/// What a device table entry says, once it has been found good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) route: Route,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) high: DeviceHigh,
    pub(crate) interrupts: DeviceInterrupts,
}

/// What is wrong with a device table entry or a page table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Illegal {
    /// A reserved field is set, or one of a feature that the unit has not (RZ = 1 in the event).
    Reserved,
    /// The mode or another encoding means nothing to this unit (RZ = 0).
    Encoding,
}

impl Device {
    /// Takes a device table entry apart as a unit of this kind does.
    pub(crate) fn decode(words: [u64; 4], unit: &AmdviConfig) -> Result<Self, Illegal> {
        let low = DeviceLow::from_bits(words[0]);
        let high = DeviceHigh::from_bits(words[1]);
        let interrupts = DeviceInterrupts::from_bits(words[2]);
        if interrupts.valid() && (interrupts.control() == 3 || interrupts.table_length() > 11) {
            return Err(Illegal::Encoding);
        }
        let mut device = Self {
            route: Route::Untranslated,
            read: low.read(),
            write: low.write(),
            high,
            interrupts,
        };
        if !low.valid() {
            return Ok(device);
        }
        let reserved = low.reserved() != 0
            || low.absent() != 0
            || low.reserved_top()
            || high.guest() != 0
            || high.absent() != 0
            || (high.device_tlb() && !unit.device_tlb)
            || interrupts.reserved() != 0
            || interrupts.reserved_mode()
            || words[3] != 0;
        if reserved {
            return Err(Illegal::Reserved);
        }
        device.route = match low.mode() {
            _ if !low.translation_valid() => Route::Blocked,
            0 => Route::Direct,
            levels if levels <= unit.max_levels() => {
                Route::Table { root: low.root_page() << 12, levels }
            }
            _ => return Err(Illegal::Encoding),
        };
        Ok(device)
    }
}

/// A page table entry, or a page directory entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct PageEntry {
    /// PR.
    pub(crate) present: bool,
    /// Ignored; A and D are bits 5 and 6, which need HASup and HDSup.
    ignored: u8,
    /// NextLevel: 0 and 7 map a page, the rest lead to a table of that level.
    #[bits(3)]
    pub(crate) next_level: u8,
    /// The next table or the page, in 4 KiB pages.
    #[bits(40)]
    pub(crate) page: u64,
    #[bits(7)]
    pub(crate) reserved: u8,
    /// U, in entries that map a page; reserved in others.
    pub(crate) user: bool,
    /// FC, in entries that map a page; reserved in others.
    pub(crate) force_coherent: bool,
    /// IR.
    pub(crate) read: bool,
    /// IW.
    pub(crate) write: bool,
    ignored_top: bool,
}

/// NextLevel of an entry whose address field tells the size of the page.
pub(crate) const SIZED: u8 = 7;

/// Where a present entry leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To a page of `2^bits` bytes.
    Page {
        /// Its first byte.
        start: u64,
        /// Its size.
        bits: u8,
    },
    /// To a table of a lower level.
    Table {
        /// The table.
        start: u64,
        /// Its level.
        level: u8,
    },
}

impl PageEntry {
    /// The entry without what hardware ignores.
    pub(crate) fn meaning(self) -> Self {
        self.with_ignored(0).with_ignored_top(false)
    }

    /// Where the entry, read from a table of this level, leads, or what is wrong with it.
    pub(crate) fn target(self, level: u8) -> Result<Target, Illegal> {
        let start = self.page() << 12;
        let (least, beyond) = (shift(level), shift(level + 1));
        let table = !matches!(self.next_level(), 0 | SIZED);
        if self.reserved() != 0 || (table && (self.user() || self.force_coherent())) {
            return Err(Illegal::Reserved);
        }
        match self.next_level() {
            0 if start & !(u64::MAX << least) != 0 => Err(Illegal::Reserved),
            0 => Ok(Target::Page { start, bits: least }),
            SIZED => {
                // The lowest clear bit from bit 12 on is half the size; the bits below it belong to the size.
                let bits = (start | 0xfff).trailing_ones() as u8 + 1;
                if bits <= least || bits >= beyond || bits > 52 {
                    return Err(Illegal::Encoding);
                }
                Ok(Target::Page { start: start & (u64::MAX << bits), bits })
            }
            next if next < level => Ok(Target::Table { start, level: next }),
            _ => Err(Illegal::Encoding),
        }
    }
}

/// How far an address is shifted to index a table of this level (1 is the lowest).
pub(crate) fn shift(level: u8) -> u8 {
    12 + 9 * (level - 1)
}

/// `address` shifted right by `bits`, which may be 64 or more.
pub(crate) fn shifted(address: u64, bits: u8) -> u64 {
    address.checked_shr(bits.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(words: [u64; 4]) -> Result<Device, Illegal> {
        Device::decode(words, &AmdviConfig::default())
    }

    #[test]
    fn literal_device_entries_are_understood() {
        assert_eq!(decode([0x2, u64::MAX, 0, 0]).unwrap().route, Route::Untranslated);
        assert_eq!(decode([0x1, 0, 0, 0]).unwrap().route, Route::Blocked);
        let direct = decode([0x6000_0000_0000_0003, 7, 0, 0]).unwrap();
        assert_eq!((direct.route, direct.read, direct.write), (Route::Direct, true, true));
        let table = decode([0x2000_0012_3456_7803, 0xabcd, 0, 0]).unwrap();
        assert_eq!(table.route, Route::Table { root: 0x12_3456_7000, levels: 4 });
        assert!(table.read && !table.write && table.high.domain() == 0xabcd);
        let high = decode([1, 1 << 33 | 1 << 34 | 1 << 39, 0, 0]).unwrap().high;
        assert!(high.suppress_more() && high.suppress_all() && high.exclusion());
        let interrupts = decode([1, 0, 0x1700_0000_0000_0001, 0]).unwrap().interrupts;
        assert_eq!(interrupts.control(), interrupt::PASS);
        assert!(interrupts.pass_init() && interrupts.pass_external() && interrupts.pass_nmi());
    }

    #[test]
    fn what_is_reserved_or_means_nothing_is_illegal() {
        use Illegal::*;
        for (words, wrong) in [
            ([0x7, 0, 0, 0], Reserved),
            ([0x83, 0, 0, 0], Reserved),
            ([0x8000_0000_0000_0003, 0, 0, 0], Reserved),
            ([0x0010_0000_0000_0003, 0, 0, 0], Reserved),
            ([0x0080_0000_0000_0003, 0, 0, 0], Reserved),
            ([3, 1 << 16, 0, 0], Reserved),
            ([3, 1 << 32, 0, 0], Reserved),
            ([3, 1 << 43, 0, 0], Reserved),
            ([3, 0, 1 << 52, 0], Reserved),
            ([3, 0, 0, 1], Reserved),
            ([0xe03, 0, 0, 0], Encoding),
            ([0x3, 0, 3 << 60 | 1, 0], Encoding),
        ] {
            assert_eq!(decode(words).map(|_| ()), Err(wrong), "{words:x?}");
        }
        let four = AmdviConfig { table_depth: 0, ..AmdviConfig::default() };
        assert_eq!(Device::decode([0xa03, 0, 0, 0], &four).map(|_| ()), Err(Encoding));
        assert!(Device::decode([0x803, 0, 0, 0], &four).is_ok());
    }

    #[test]
    fn literal_page_entries_lead_to_pages_and_tables() {
        let target = |bits, level| PageEntry::from_bits(bits).target(level);
        let entry = PageEntry::from_bits(0x6000_0000_0000_0001);
        assert!(entry.present() && entry.read() && entry.write());
        let page = |start, bits| Ok(Target::Page { start, bits });
        assert_eq!(target(0x12_3456_7001, 1), page(0x12_3456_7000, 12));
        assert_eq!(target(0x4020_0001, 2), page(0x4020_0000, 21));
        assert_eq!(target(0x4020_1001, 2), Err(Illegal::Reserved), "not aligned to 2 MiB");
        // 8 KiB and 1 MiB at level 1; 4 MiB at level 2.
        assert_eq!(target(0x8_0e01, 1), page(0x8_0000, 13));
        assert_eq!(target(0x4027_fe01, 1), page(0x4020_0000, 20));
        assert_eq!(target(0x401f_fe01, 2), page(0x4000_0000, 22));
        assert_eq!(
            target(0x400f_fe01, 2),
            Err(Illegal::Encoding),
            "2 MiB is what level 2 has anyway"
        );
        assert_eq!(
            target(0x400f_fe01, 1),
            Err(Illegal::Encoding),
            "and it is too much for level 1"
        );
        let table = |start, level| Ok(Target::Table { start, level });
        assert_eq!(target(0x12_3456_7401, 3), table(0x12_3456_7000, 2));
        assert_eq!(target(0x12_3456_7201, 4), table(0x12_3456_7000, 1));
        assert_eq!(target(0x1401, 2), Err(Illegal::Encoding), "a table of the same level");
        assert_eq!(target(0x1801, 3), Err(Illegal::Encoding), "or of a higher one");
        assert_eq!(target(1 << 52 | 0x1001, 1), Err(Illegal::Reserved));
        assert_eq!(target(1 << 60 | 0x1001, 1), page(0x1000, 12), "FC");
        assert_eq!(target(1 << 60 | 0x1201, 2), Err(Illegal::Reserved));
        assert_eq!(target(1 << 63 | 0x11ff, 1), page(0x1000, 12), "ignored bits");
    }
}
