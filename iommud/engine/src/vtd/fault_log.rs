//! The fault recording registers, and the message by which a unit says that there is something in them.
//!
//! Whatever sets a field of FSTS interrupts only if none of them was set before (11.4.7.2). So all records are emptied,
//! what a device can set is cleared, and both are looked at again until nothing is set: whatever comes after that
//! interrupts. What stops the invalidation queue stays, for the invalidator to see, and the unit is polled.

use alloc::vec::Vec;

use super::registers::{
    FaultEventAddress, FaultEventControl, FaultEventData, FaultEventUpperAddress, FaultStatus,
    InvalidationEventControl, RegisterFile,
};
use crate::fault::Fault;
use crate::platform::{MsiMessage, Registers};
use crate::unit::fault_source::MOST_ROUNDS;
use crate::unit::{FaultSource, UnitFailure};

/// What becomes of the faults that a unit has recorded already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// They are firmware's, or of devices that somebody else has driven.
    Forgotten,
    /// They are of devices that reached what they reach now, when nobody was there to read of it.
    Kept,
}

/// Has the unit send `message` from now on when it records a fault; without a message, nothing. The completion of
/// invalidations is never told (`has_queue`: there is a register for that).
///
/// While the message is changed it is held back, so that none goes to where firmware wanted it with our data.
pub fn take_over(
    registers: &RegisterFile,
    platform: &mut impl Registers,
    has_queue: bool,
    message: Option<MsiMessage>,
    recorded: Recorded,
) -> FaultSource {
    mask(registers, platform, true);
    if has_queue {
        let control: InvalidationEventControl = registers.read(platform);
        registers.write(platform, control.with_masked(true));
    }
    let cleared: FaultStatus = match recorded {
        Recorded::Forgotten => {
            for index in 0..registers.fault_record_count() {
                registers.clear_fault_record(platform, index);
            }
            registers.read(platform)
        }
        Recorded::Kept => {
            let status: FaultStatus = registers.read(platform);
            // What stopped the old queue is not of the new one.
            let of_the_queue = FaultStatus::new().with_queue_error(status.queue_error());
            of_the_queue.with_time_out(status.time_out())
        }
    };
    registers.write(platform, cleared);
    let Some(message) = message else { return FaultSource::new(false) };
    let data = FaultEventData::new().with_message(message.data);
    let address = FaultEventAddress::of(message.address);
    let upper = FaultEventUpperAddress::of(message.address);
    registers.write(platform, data);
    registers.write(platform, address);
    registers.write(platform, upper);
    mask(registers, platform, false);
    // A unit in which that does not stay is polled (rule R5).
    let control: FaultEventControl = registers.read(platform);
    let holds = registers.read::<FaultEventData>(platform).message() == message.data
        && registers.read::<FaultEventAddress>(platform) == address
        && registers.read::<FaultEventUpperAddress>(platform) == upper;
    let mut source = FaultSource::new(holds && !control.masked());
    // Of what is kept nobody interrupts again.
    source.set_drained(recorded == Recorded::Forgotten);
    source
}

/// Holds interrupts back, or lets them go: with the last one that was held back, if there is one.
fn mask(registers: &RegisterFile, platform: &mut impl Registers, masked: bool) {
    let control: FaultEventControl = registers.read(platform);
    registers.write(platform, control.with_masked(masked));
}

/// Reads the faults that the unit recorded, and frees their records. True if more came than it could record.
///
/// # Errors
///
/// [`UnitFailure::Vanished`] for a unit that is gone.
pub fn take(
    registers: &RegisterFile,
    platform: &mut impl Registers,
    source: &mut FaultSource,
    faults: &mut Vec<Fault>,
) -> Result<bool, UnitFailure> {
    let mut lost = false;
    for _ in 0..MOST_ROUNDS {
        let status: FaultStatus = registers.read(platform);
        if is_gone(status) {
            return Err(UnitFailure::Vanished);
        }
        if !is_of_devices(status) {
            source.set_drained(is_drained(status));
            return Ok(lost);
        }
        take_round(registers, platform, status, faults);
        lost |= status.overflow();
    }
    source.set_drained(is_drained(registers.read(platform)));
    Ok(lost)
}

/// Whether anything is set that devices cause.
fn is_of_devices(status: FaultStatus) -> bool {
    status.pending() || status.overflow() || status.completion_error()
}

/// Whether whatever comes next interrupts.
fn is_drained(status: FaultStatus) -> bool {
    let of_the_queue = status.queue_error() || status.time_out();
    !(is_of_devices(status) || of_the_queue)
}

fn is_gone(status: FaultStatus) -> bool {
    status.into_bits() == u32::MAX
}

/// Reads the records from the first on, once round: each at most once, whatever comes meanwhile (rule R5).
fn take_round(
    registers: &RegisterFile,
    platform: &mut impl Registers,
    status: FaultStatus,
    faults: &mut Vec<Fault>,
) {
    let count = registers.fault_record_count();
    for step in 0..count {
        let index = (u16::from(status.first_record()) + step) % count;
        let Some(record) = registers.fault_record(platform, index) else { break };
        faults.push(record.decode());
        registers.clear_fault_record(platform, index);
    }
    // After the records: until the overflow is cleared no fault is recorded, and so none that would not interrupt.
    let cleared = FaultStatus::new()
        .with_overflow(status.overflow())
        .with_completion_error(status.completion_error());
    if cleared != FaultStatus::new() {
        registers.write(platform, cleared);
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::UnitCapabilities;
    use super::super::registers::fake::{FakeRegisters, WINDOW};
    use super::*;
    use dma_types::PhysAddr;

    const MESSAGE: MsiMessage = MsiMessage { address: PhysAddr::new(0xfee0_3000), data: 0x51 };

    /// A unit like QEMU's, with one record at 220h, that keeps these words whatever is written.
    fn unit(kept: &[(usize, u32)]) -> (FakeRegisters, RegisterFile) {
        unit_of(1, kept)
    }

    /// The same with so many records, one behind the other.
    fn unit_of(records: u64, kept: &[(usize, u32)]) -> (FakeRegisters, RegisterFile) {
        let capability = 0x00d2_008c_222f_0686 | (records - 1) << 40;
        let mut platform = FakeRegisters::unit(0x10, capability, 0x00f0_0f5a);
        let capabilities = UnitCapabilities::read(&mut platform, WINDOW).unwrap();
        let registers = RegisterFile::new(WINDOW, 0x1000, &capabilities).unwrap();
        for (offset, word) in kept {
            platform.set(*offset, &word.to_le_bytes());
        }
        (platform, registers)
    }

    #[test]
    fn the_message_is_written_while_none_is_sent_and_old_faults_are_forgotten_before() {
        let kept =
            [(0x34, 0x33), (0x3c, 0x51), (0x40, 0xfee0_3000), (0x44, 0), (0xa0, 0x4000_0000)];
        let (mut platform, registers) = unit(&kept);
        let source = take_over(&registers, &mut platform, true, Some(MESSAGE), Recorded::Forgotten);
        assert!(source.interrupts());
        let expected = [
            (0x38, 4, 0x8000_0000),
            (0xa0, 4, 0xc000_0000),
            (0x22c, 4, 0x8000_0000),
            (0x34, 4, 0x33),
            (0x3c, 4, 0x51),
            (0x40, 4, 0xfee0_3000),
            (0x44, 4, 0),
            (0x38, 4, 0),
        ];
        assert_eq!(platform.writes, expected);
    }

    #[test]
    fn what_was_recorded_while_nobody_served_is_read_by_the_next() {
        let kept = [(0x34, 0x13), (0x3c, 0x51), (0x40, 0xfee0_3000), (0x44, 0), (0x38, 0)];
        let (mut platform, registers) = unit(&kept);
        platform.set(0x22c, &0x8000_0005u32.to_le_bytes());
        let message = Some(MESSAGE);
        let mut source = take_over(&registers, &mut platform, false, message, Recorded::Kept);
        // Of the status, only what the queue of before has left.
        assert_eq!(platform.writes[..2], [(0x38, 4, 0x8000_0000), (0x34, 4, 0x10)]);
        assert!(source.interrupts() && source.wants_polling());
        let mut faults = Vec::new();
        assert_eq!(take(&registers, &mut platform, &mut source, &mut faults), Ok(true));
        assert!(!faults.is_empty());
    }

    #[test]
    fn without_a_message_interrupts_stay_masked() {
        let (mut platform, registers) = unit(&[]);
        assert!(
            !take_over(&registers, &mut platform, false, None, Recorded::Forgotten).interrupts()
        );
        let expected = [(0x38, 4, 0x8000_0000), (0x22c, 4, 0x8000_0000), (0x34, 4, 0)];
        assert_eq!(platform.writes, expected);
    }

    #[test]
    fn r5_a_unit_that_does_not_keep_its_message_is_polled() {
        let message = [(0x3c, 0x51), (0x40, 0xfee0_3000), (0x44, 0), (0x38, 0)];
        let wrong = [(0x3c, 0x50), (0x40, 0xfee0_0000), (0x44, 1), (0x38, 0x8000_0000)];
        for wrong in wrong {
            let (mut platform, registers) = unit(&[&message[..], &[wrong]].concat());
            let source =
                take_over(&registers, &mut platform, false, Some(MESSAGE), Recorded::Forgotten);
            assert!(!source.interrupts() && source.wants_polling(), "{wrong:x?}");
        }
    }

    #[test]
    fn r5_a_fault_that_never_shows_or_never_goes_wants_polling_and_ends() {
        let (mut platform, registers) = unit(&[(0x34, 2)]);
        let mut source = FaultSource::new(true);
        let mut faults = Vec::new();
        assert_eq!(take(&registers, &mut platform, &mut source, &mut faults), Ok(false));
        assert!(source.wants_polling() && faults.is_empty());
        platform.set(0x22c, &0x8000_0005u32.to_le_bytes());
        take(&registers, &mut platform, &mut source, &mut faults).unwrap();
        assert_eq!((source.wants_polling(), faults.len()), (true, MOST_ROUNDS));
        platform.set(0x34, &[0; 4]);
        take(&registers, &mut platform, &mut source, &mut faults).unwrap();
        assert!(!source.wants_polling());
    }

    #[test]
    fn r5_records_are_read_round_from_the_first_even_if_the_unit_names_one_that_there_is_not() {
        const FULL: u32 = 0x8000_0005;
        let records = [(0x220, 0x1000), (0x230, 0x2000), (0x240, 0x3000)];
        let full = [(0x22c, FULL), (0x23c, FULL), (0x24c, FULL)];
        for (first, order) in [
            (0, [0x1000, 0x2000, 0x3000]),
            (2, [0x3000, 0x1000, 0x2000]),
            (3, [0x1000, 0x2000, 0x3000]),
            (200, [0x3000, 0x1000, 0x2000]),
            (255, [0x1000, 0x2000, 0x3000]),
        ] {
            let status = [(0x34, first << 8 | 2)];
            let (mut platform, registers) = unit_of(3, &[&records[..], &full, &status].concat());
            let mut faults = Vec::new();
            take(&registers, &mut platform, &mut FaultSource::new(true), &mut faults).unwrap();
            let addresses: Vec<u64> = faults.iter().map(|fault| fault.address.get()).collect();
            assert_eq!(addresses, order.repeat(MOST_ROUNDS), "{first}");
        }
    }

    #[test]
    fn r5_a_unit_whose_queue_has_stopped_is_polled_and_what_stopped_it_stays_to_be_seen() {
        for stopped in [0x10, 0x40] {
            let (mut platform, registers) = unit(&[(0x34, stopped)]);
            let mut source = FaultSource::new(true);
            take(&registers, &mut platform, &mut source, &mut Vec::new()).unwrap();
            assert!(source.wants_polling() && platform.writes.is_empty(), "{stopped:#x}");
        }
    }

    #[test]
    fn what_devices_set_is_cleared_and_nothing_else() {
        for (set, cleared) in [(0x11, 0x01), (0x60, 0x20), (0x31, 0x21)] {
            let (mut platform, registers) = unit(&[(0x34, set)]);
            let mut source = FaultSource::new(true);
            let lost = take(&registers, &mut platform, &mut source, &mut Vec::new());
            assert_eq!((lost, source.wants_polling()), (Ok(set & 1 != 0), true));
            assert_eq!(platform.writes, [(0x34, 4, cleared); MOST_ROUNDS], "{set:#x}");
        }
    }

    #[test]
    fn r5_a_unit_that_is_gone_is_told_and_left_alone() {
        let (mut platform, registers) = unit(&[(0x34, u32::MAX)]);
        let (mut source, mut faults) = (FaultSource::new(true), Vec::new());
        let taken = take(&registers, &mut platform, &mut source, &mut faults);
        assert_eq!(taken, Err(UnitFailure::Vanished));
        assert!(faults.is_empty() && platform.writes.is_empty());
    }
}
