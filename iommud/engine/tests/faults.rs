//! Whatever a unit writes into its log or its records, what is made of it makes sense (rule R5).
//!
//! `IOMMUD_FUZZ_INPUTS` sets how many are tried.

use std::env;

use dma_types::{Iova, SourceId};
use iommu_engine::amdvi::event::Event;
use iommu_engine::fault::{Fault, FaultCode, FaultReason, Tried};
use iommu_engine::vtd::fault::FaultRecord;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn runner() -> TestRunner {
    let inputs = env::var("IOMMUD_FUZZ_INPUTS").ok();
    let cases = inputs.map_or(20_000, |text| text.replace('_', "").parse().expect("a number"));
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Bits of any kind, and such as hardware is likely to write.
fn bits() -> impl Strategy<Value = u128> {
    prop_oneof![
        any::<u128>(),
        (any::<u16>(), any::<u8>(), any::<u64>(), any::<u16>()).prop_map(
            |(source, code, address, flags)| {
                u128::from(address) << 64
                    | u128::from(code & 0xf) << 60
                    | u128::from(flags & 0xfff) << 48
                    | u128::from(source)
            }
        ),
        (any::<u16>(), any::<u8>(), any::<u64>(), any::<u8>()).prop_map(
            |(source, reason, page, kind)| {
                u128::from(page & !0xfff)
                    | u128::from(source) << 64
                    | u128::from(reason) << 96
                    | u128::from(kind) << 120
            }
        ),
    ]
}

/// What holds of every fault.
fn makes_sense(fault: &Fault) -> Result<(), TestCaseError> {
    let sentence = fault.in_segment(3).to_string();
    prop_assert!(!fault.detail.is_empty() && fault.detail.is_ascii(), "{fault:?}");
    prop_assert!(sentence.contains(fault.detail), "{sentence}");
    prop_assert!(sentence.ends_with(')') && !sentence.contains('\n'), "{sentence}");
    if let Some(device) = fault.device_in(3) {
        prop_assert!(sentence.starts_with(&device.to_string()), "{sentence}");
    } else {
        prop_assert!(matches!(fault.tried, Tried::Internal), "{fault:?}");
    }
    match fault.reason {
        FaultReason::NotWritable => prop_assert!(fault.tried != Tried::Read, "{fault:?}"),
        FaultReason::NotReadable => prop_assert!(fault.tried != Tried::Write, "{fault:?}"),
        _ => {}
    }
    Ok(())
}

#[test]
fn r5_every_amdvi_event_becomes_a_fault_that_says_what_its_bits_say() {
    let check = |bits: u128| {
        let event = Event::from_words([bits as u64, (bits >> 64) as u64]);
        prop_assert_eq!(event.is_written(), bits >> 60 & 0xf != 0);
        let fault = event.decode();
        let (code, flags) = ((bits >> 60 & 0xf) as u8, (bits >> 48 & 0xfff) as u16);
        prop_assert_eq!(fault.code, FaultCode::Amdvi { event: code, flags });
        if let Some(device) = fault.device {
            prop_assert_eq!(device, SourceId::new(bits as u16));
        }
        if code == 2 && fault.tried == Tried::Write {
            prop_assert_eq!(fault.address, Iova::new((bits >> 64) as u64));
        }
        makes_sense(&fault)
    };
    runner().run(&bits(), check).unwrap();
}

#[test]
fn r5_every_vtd_fault_record_becomes_a_fault_that_says_what_its_bits_say() {
    let check = |bits: u128| {
        let fault = FaultRecord::from_bits(bits).decode();
        prop_assert_eq!(fault.code, FaultCode::Vtd((bits >> 96) as u8));
        prop_assert_eq!(fault.device, Some(SourceId::new((bits >> 64) as u16)));
        if fault.tried != Tried::Interrupt {
            prop_assert_eq!(fault.address, Iova::new(bits as u64 & !0xfff));
        }
        match fault.reason {
            // A record may contradict itself, and its reason counts no less than its type then.
            FaultReason::NotReadable | FaultReason::NotWritable => Ok(()),
            _ => makes_sense(&fault),
        }
    };
    runner().run(&bits(), check).unwrap();
}
