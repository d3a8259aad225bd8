//! A unit that records a fault says so by a message, and by no other way.

use dma_types::PhysAddr;
use iommu_engine::platform::MsiMessage;
use iommu_engine::unit::{DEADLINE, UnitState};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::request::Message;
use iommu_sim::vtd::VtdConfig;
use iommud::platform::sim::SimPlatform;

use crate::rig::{Rig, blocked, edu};
use crate::vendor::{Vendor, slow_down};

const MESSAGE: MsiMessage = MsiMessage { address: PhysAddr::new(0xfee0_1000), data: 0x41 };
const SENT: Message = Message { address: 0xfee0_1000, data: 0x41 };

both!(
    the_first_of_several_faults_sends_the_message,
    after_faults_are_read_the_next_sends_it_again,
    a_unit_without_a_message_sends_none_and_wants_polling,
    a_fault_while_others_are_read_is_read_or_sends_the_message,
    more_faults_than_there_is_room_for_are_followed_by_messages_again,
    r5_a_device_that_faults_without_end_holds_nobody_up,
    a_unit_that_failed_wants_polling,
);

/// A machine whose units send the message.
fn rig(config: MachineConfig) -> Rig {
    let mut platform = SimPlatform::with_manual_clock(config).unwrap();
    platform.set_fault_message(MESSAGE);
    let mut rig = Rig::start_on(platform);
    rig.settle();
    assert!(rig.engine.units()[0].unit.as_ref().unwrap().interrupts());
    rig
}

/// A machine whose unit has room for few faults.
fn cramped(vendor: Vendor) -> MachineConfig {
    match vendor {
        Vendor::Vtd => {
            MachineConfig::with_unit(VtdConfig { fault_records: 1, ..VtdConfig::default() })
        }
        Vendor::Amdvi => MachineConfig::with_amdvi(AmdviConfig::default()),
    }
}

fn fault(rig: &mut Rig, iova: u64) {
    assert!(blocked(&rig.write(iova, &[0])), "{iova:#x}");
}

/// The messages since the last time.
fn messages(rig: &mut Rig) -> Vec<Message> {
    rig.platform.tick();
    rig.platform.machine_mut().take_interrupts()
}

/// The addresses of the faults since the last time.
fn addresses(rig: &mut Rig) -> Vec<u64> {
    rig.faults().0.iter().map(|fault| fault.address.get()).collect()
}

fn the_first_of_several_faults_sends_the_message(vendor: Vendor) {
    let mut rig = rig(vendor.machine());
    assert_eq!(messages(&mut rig), []);
    fault(&mut rig, 0x1000);
    assert_eq!(messages(&mut rig), [SENT]);
    fault(&mut rig, 0x2000);
    assert_eq!(messages(&mut rig), []);
    assert_eq!(addresses(&mut rig), [0x1000, 0x2000]);
    assert_eq!(messages(&mut rig), []);
    rig.check();
}

fn after_faults_are_read_the_next_sends_it_again(vendor: Vendor) {
    let mut rig = rig(vendor.machine());
    for page in 1..600 {
        fault(&mut rig, page << 12);
        assert_eq!(messages(&mut rig), [SENT], "{page}");
        assert_eq!(addresses(&mut rig), [page << 12]);
        assert!(!rig.engine.wants_polling());
        assert!(addresses(&mut rig).is_empty());
    }
    rig.check();
}

fn a_unit_without_a_message_sends_none_and_wants_polling(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    assert!(rig.engine.wants_polling());
    assert!(!rig.engine.units()[0].unit.as_ref().unwrap().interrupts());
    fault(&mut rig, 0x1000);
    assert_eq!(messages(&mut rig), []);
    assert_eq!(addresses(&mut rig), [0x1000]);
    assert!(rig.engine.wants_polling());
}

/// At whatever moment of the reading it comes.
fn a_fault_while_others_are_read_is_read_or_sends_the_message(vendor: Vendor) {
    for (config, is_cramped) in [(vendor.machine(), false), (cramped(vendor), true)] {
        let mut tried = 0;
        for moment in 0..40 {
            let mut rig = rig(config.clone());
            fault(&mut rig, 0x1000);
            assert_eq!(messages(&mut rig), [SENT]);
            rig.platform
                .write_between(edu(), (0..=moment).map(|n| (n == moment).then_some(0x7000)));
            let mut seen = addresses(&mut rig);
            // It may not have come yet, if this was the last that was looked at.
            if rig.platform.writes_between() > 0 {
                break;
            }
            tried += 1;
            assert!(!rig.engine.wants_polling());
            // As whoever the message wakes does.
            let told = messages(&mut rig);
            if !told.is_empty() {
                let (more, lost) = rig.faults();
                seen.extend(more.iter().map(|fault| fault.address.get()));
                assert!(!lost && messages(&mut rig).is_empty());
            }
            let room = vendor == Vendor::Amdvi || !is_cramped;
            assert!(seen == [0x1000, 0x7000] || !room && seen == [0x1000], "{moment}: {seen:x?}");
            fault(&mut rig, 0x9000);
            assert_eq!(messages(&mut rig), [SENT], "{moment}");
            rig.check();
        }
        assert!(tried > 3, "{tried}");
    }
}

/// Each field of FSTS that is set keeps what sets another from sending a message. This one a device can set at will, by
/// answering what it was not asked.
#[test]
fn r5_a_device_that_answers_unasked_does_not_silence_its_unit() {
    let mut rig = rig(MachineConfig::default());
    for round in 1..4u64 {
        rig.platform.machine_mut().unit_mut(0).unwrap().inject_completion_error(0x10);
        assert_eq!(messages(&mut rig), [SENT]);
        assert!(rig.faults().0.is_empty());
        assert!(!rig.engine.wants_polling());
        fault(&mut rig, round << 12);
        assert_eq!(messages(&mut rig), [SENT]);
        assert_eq!(addresses(&mut rig), [round << 12]);
    }
    // Nor does it hold up what is invalidated.
    rig.platform.machine_mut().unit_mut(0).unwrap().inject_completion_error(0x10);
    messages(&mut rig);
    rig.faults();
    rig.attach(edu());
    rig.check();
}

fn more_faults_than_there_is_room_for_are_followed_by_messages_again(vendor: Vendor) {
    let mut rig = rig(cramped(vendor));
    for round in 1..4 {
        (0..300).for_each(|page| fault(&mut rig, round << 32 | page << 12));
        assert_eq!(messages(&mut rig)[0], SENT);
        assert!(rig.faults().1, "some were lost");
        assert!(!rig.engine.wants_polling());
        messages(&mut rig);
        fault(&mut rig, 0x1000);
        assert_eq!(messages(&mut rig), [SENT]);
        assert_eq!(addresses(&mut rig), [0x1000]);
    }
    rig.check();
}

fn r5_a_device_that_faults_without_end_holds_nobody_up(vendor: Vendor) {
    for config in [vendor.machine(), cramped(vendor)] {
        let mut rig = rig(config);
        fault(&mut rig, 0x1000);
        const ENDLESS: u64 = 100_000;
        rig.platform.write_between(edu(), (0..ENDLESS).map(|page| Some(page << 12)));
        rig.faults();
        assert!(rig.platform.writes_between() as u64 > ENDLESS - 10_000);
        assert!(rig.engine.wants_polling(), "it is looked at again");
        rig.platform.write_between(edu(), []);
        rig.faults();
        messages(&mut rig);
        assert!(!rig.engine.wants_polling());
        fault(&mut rig, 0xff_f000_0000);
        assert_eq!(messages(&mut rig), [SENT]);
        rig.check();
    }
}

fn a_unit_that_failed_wants_polling(vendor: Vendor) {
    let mut rig = rig(vendor.machine());
    assert!(!rig.engine.wants_polling());
    rig.attach(edu());
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    rig.engine.detach(&mut rig.platform, edu()).unwrap();
    rig.pass(2 * DEADLINE);
    assert!(matches!(rig.unit_state(0), UnitState::Failed(_)));
    assert!(rig.engine.wants_polling());
}
