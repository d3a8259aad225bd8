//! Commands to the whole unit, and what became of them.

use bitfield_struct::{bitenum, bitfield};
use dma_types::PhysAddr;

use super::file::register;
use crate::field::{frame, from_frame};

/// GCMD_REG, the Global Command register (11.4.4.1).
///
/// One command at a time: each write starts from [`GlobalCommand::keeping`] what is on, changes one
/// field, and the next waits until [`GlobalStatus`] has followed.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GlobalCommand {
    #[bits(23)]
    __: u32,
    /// CFI: let interrupts of the old format pass while remapping is on, bit 23.
    pub compatibility_interrupts: bool,
    /// SIRTP: take the interrupt remapping table over from IRTA_REG, bit 24. One-shot.
    pub set_interrupt_table: bool,
    /// IRE: remap interrupts, bit 25.
    pub interrupt_remapping: bool,
    /// QIE: run the invalidation queue, bit 26.
    pub queued_invalidation: bool,
    /// WBF: flush the write buffers, bit 27 (6.8). One-shot.
    pub flush_write_buffer: bool,
    /// EAFL: log faults to memory, bit 28. Reserved now; an old unit may have it on.
    pub advanced_fault_log: bool,
    /// SFL: take the fault log over from AFLOG_REG, bit 29. One-shot; reserved now.
    pub set_fault_log: bool,
    /// SRTP: take the root table over from RTADDR_REG, bit 30 (6.6). One-shot.
    pub set_root_table: bool,
    /// TE: translate, bit 31.
    pub translation: bool,
}
register!(GlobalCommand: u32, 0x018, Writable);

impl GlobalCommand {
    /// The command that changes nothing: everything that stays on is on, every one-shot bit is clear.
    pub const fn keeping(status: GlobalStatus) -> Self {
        Self::new()
            .with_compatibility_interrupts(status.compatibility_interrupts())
            .with_interrupt_remapping(status.interrupt_remapping())
            .with_queued_invalidation(status.queued_invalidation())
            .with_advanced_fault_log(status.advanced_fault_log())
            .with_translation(status.translation())
    }
}

/// GSTS_REG, the Global Status register (11.4.4.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GlobalStatus {
    #[bits(23)]
    __: u32,
    /// CFIS: interrupts of the old format pass, bit 23.
    #[bits(access = RO)]
    pub compatibility_interrupts: bool,
    /// IRTPS: the interrupt remapping table has been taken over, bit 24.
    #[bits(access = RO)]
    pub interrupt_table_set: bool,
    /// IRES: interrupts are remapped, bit 25.
    #[bits(access = RO)]
    pub interrupt_remapping: bool,
    /// QIES: the invalidation queue runs, bit 26.
    #[bits(access = RO)]
    pub queued_invalidation: bool,
    /// WBFS: a write-buffer flush is under way, bit 27. Clear when it is done.
    #[bits(access = RO)]
    pub flushing_write_buffer: bool,
    /// AFLS: faults are logged to memory, bit 28. Reserved now.
    #[bits(access = RO)]
    pub advanced_fault_log: bool,
    /// FLS: the fault log has been taken over, bit 29. Reserved now.
    #[bits(access = RO)]
    pub fault_log_set: bool,
    /// RTPS: the root table has been taken over, bit 30.
    #[bits(access = RO)]
    pub root_table_set: bool,
    /// TES: requests are translated, bit 31.
    #[bits(access = RO)]
    pub translation: bool,
}
register!(GlobalStatus: u32, 0x01c, Readable);

/// TTM: how the unit reads its root table (11.4.5).
#[bitenum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TranslationMode {
    /// Root and context tables.
    Legacy = 0b00,
    /// Scalable-mode tables, with PASIDs.
    Scalable = 0b01,
    /// A mode that no longer exists.
    #[fallback]
    Reserved = 0b10,
    /// Every request is blocked.
    AbortDma = 0b11,
}

/// RTADDR_REG, the Root Table Address register (11.4.5).
///
/// It takes effect with [`GlobalCommand::set_root_table`]. Read, it says what was last written to it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootTableAddress {
    #[bits(10)]
    __: u16,
    /// TTM: the translation mode, bits 11:10.
    #[bits(2)]
    pub mode: TranslationMode,
    /// RTA: the root table, a frame, bits 63:12.
    #[bits(52, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub table: PhysAddr,
}
register!(RootTableAddress: u64, 0x020, Readable Writable);

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask that 11.4.4.1 gives for clearing the one-shot bits of what GSTS_REG reads.
    const PERSISTENT: u32 = 0x96ff_ffff;

    #[test]
    fn keeping_clears_the_one_shot_bits_and_nothing_else() {
        for bit in 23..32 {
            let status = GlobalStatus::from_bits(1 << bit);
            let command = GlobalCommand::keeping(status).into_bits();
            assert_eq!(command, (1 << bit) & PERSISTENT, "bit {bit}");
        }
    }

    #[test]
    fn each_command_is_its_own_bit() {
        let command = GlobalCommand::new;
        assert_eq!(command().with_compatibility_interrupts(true).into_bits(), 0x0080_0000);
        assert_eq!(command().with_set_interrupt_table(true).into_bits(), 0x0100_0000);
        assert_eq!(command().with_interrupt_remapping(true).into_bits(), 0x0200_0000);
        assert_eq!(command().with_queued_invalidation(true).into_bits(), 0x0400_0000);
        assert_eq!(command().with_flush_write_buffer(true).into_bits(), 0x0800_0000);
        assert_eq!(command().with_advanced_fault_log(true).into_bits(), 0x1000_0000);
        assert_eq!(command().with_set_fault_log(true).into_bits(), 0x2000_0000);
        assert_eq!(command().with_set_root_table(true).into_bits(), 0x4000_0000);
        assert_eq!(command().with_translation(true).into_bits(), 0x8000_0000);
    }

    #[test]
    fn status_reads_each_bit() {
        let status = GlobalStatus::from_bits(0xc600_0000);
        assert!(status.translation() && status.root_table_set());
        assert!(status.queued_invalidation() && status.interrupt_remapping());
        assert!(!status.flushing_write_buffer() && !status.interrupt_table_set());
        assert!(GlobalStatus::from_bits(1 << 27).flushing_write_buffer());
        assert!(GlobalStatus::from_bits(1 << 24).interrupt_table_set());
        assert!(GlobalStatus::from_bits(1 << 29).fault_log_set());
    }

    #[test]
    fn root_table_address_holds_frame_and_mode() {
        let table = PhysAddr::new(0x0000_1234_5678_9000);
        let address = RootTableAddress::new().with_table(table);
        assert_eq!(address.into_bits(), 0x0000_1234_5678_9000);
        assert_eq!(address.mode(), TranslationMode::Legacy);

        let found = RootTableAddress::from_bits(0x7fff_e400);
        assert_eq!(found.mode(), TranslationMode::Scalable);
        assert_eq!(found.table(), PhysAddr::new(0x7fff_e000));
        assert_eq!(RootTableAddress::from_bits(0xc00).mode(), TranslationMode::AbortDma);
        assert_eq!(RootTableAddress::from_bits(0x800).mode(), TranslationMode::Reserved);
    }
}
