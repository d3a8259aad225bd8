//! Whatever a unit writes into its log or its records, what is made of it makes sense (rule R5).
//!
//! How many are tried, and how one that fails is had again, is in the crate `fuzz`.

use dma_types::{Iova, SourceId};
use fuzz::{Chance, Trial};
use iommu_engine::amdvi::event::Event;
use iommu_engine::fault::{Fault, FaultCode, FaultReason, Tried};
use iommu_engine::vtd::fault::FaultRecord;

/// Bits of any kind, and such as hardware is likely to write.
fn bits(chance: &mut Chance) -> u128 {
    let (low, high) = (u128::from(chance.next()), u128::from(chance.next()));
    match chance.below(3) {
        0 => high << 64 | low,
        // An event of AMD's: its code, its flags and a requester.
        1 => high << 64 | (low & 0xf) << 60 | (low >> 4 & 0xfff) << 48 | low >> 48,
        // A record of VT-d's: a page, a requester, a reason and what it was.
        _ => low & !0xfff | (high & 0xffff) << 64 | (high >> 16 & 0xff) << 96 | (high >> 56) << 120,
    }
}

fn try_bits(name: &'static str, check: impl Fn(u128)) {
    let trial = Trial { name, steps: 20_000, each: 1 };
    trial.run(|steps| steps.map(|mut chance| check(bits(&mut chance))).count() > 0);
}

/// What holds of every fault.
fn makes_sense(fault: &Fault) {
    assert!(!fault.detail.is_empty() && fault.detail.is_ascii(), "{fault:?}");
    assert!(!fault.detail.contains('\n'), "{fault:?}");
    if fault.device.is_none() {
        assert!(matches!(fault.tried, Tried::Internal), "{fault:?}");
    }
    match fault.reason {
        FaultReason::NotWritable => assert!(fault.tried != Tried::Read, "{fault:?}"),
        FaultReason::NotReadable => assert!(fault.tried != Tried::Write, "{fault:?}"),
        _ => {}
    }
}

#[test]
fn r5_every_amdvi_event_becomes_a_fault_that_says_what_its_bits_say() {
    let check = |bits: u128| {
        let event = Event::from_words([bits as u64, (bits >> 64) as u64]);
        assert_eq!(event.is_written(), bits >> 60 & 0xf != 0);
        let fault = event.decode();
        let (code, flags) = ((bits >> 60 & 0xf) as u8, (bits >> 48 & 0xfff) as u16);
        assert_eq!(fault.code, FaultCode::Amdvi { event: code, flags });
        if let Some(device) = fault.device {
            assert_eq!(device, SourceId::new(bits as u16));
        }
        if code == 2 && fault.tried == Tried::Write {
            assert_eq!(fault.address, Iova::new((bits >> 64) as u64));
        }
        makes_sense(&fault);
    };
    try_bits("events of AMD-Vi", check);
}

#[test]
fn r5_every_vtd_fault_record_becomes_a_fault_that_says_what_its_bits_say() {
    let check = |bits: u128| {
        let fault = FaultRecord::from_bits(bits).decode();
        assert_eq!(fault.code, FaultCode::Vtd((bits >> 96) as u8));
        assert_eq!(fault.device, Some(SourceId::new((bits >> 64) as u16)));
        if fault.tried != Tried::Interrupt {
            assert_eq!(fault.address, Iova::new(bits as u64 & !0xfff));
        }
        match fault.reason {
            // A record may contradict itself, and its reason counts no less than its type then.
            FaultReason::NotReadable | FaultReason::NotWritable => {}
            _ => makes_sense(&fault),
        }
    };
    try_bits("records of VT-d", check);
}
