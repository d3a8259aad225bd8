use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};
use proptest::prelude::*;

use super::machine::Machine;
use crate::pci::{BusRange, Function, PortType};
use crate::topology::Topology;

const KINDS: [Option<PortType>; 9] = [
    None,
    Some(PortType::Endpoint),
    Some(PortType::RootPort),
    Some(PortType::SwitchUpstream),
    Some(PortType::SwitchDownstream),
    Some(PortType::BridgeToPci),
    Some(PortType::BridgeFromPci),
    Some(PortType::RootComplexEndpoint),
    Some(PortType::Unknown(14)),
];

/// Who is known to sign as another, and who is not.
const MAKERS: [(u16, u16); 3] = [(0x1b36, 1), (0x1b4b, 0x9230), (0x1180, 0xe832)];

type Functions = BTreeMap<PciAddress, Function>;

/// A function on one of six buses that says anything of itself, with bus numbers that lead anywhere.
fn function() -> impl Strategy<Value = Function> {
    let place = (0..2u16, 0..6u8, 0..3u8, 0..3u8);
    let bridge = prop::option::of((0..6u8, 0..6u8));
    (place, bridge, 0..KINDS.len(), any::<bool>(), 0..MAKERS.len()).prop_map(
        |((segment, bus, device, number), bridge, kind, services, maker)| {
            // Services as a scan finds them.
            let mut port = Machine::default().endpoint("00:00.0").with_services(&["00:00.0"]);
            let port = crate::pci::function(&mut port.config, PciAddress::default()).unwrap();
            Function {
                address: PciAddress::new(segment, bus, device, number).unwrap(),
                vendor: MAKERS[maker].0,
                device: MAKERS[maker].1,
                class: 0,
                bridge: bridge.map(|(secondary, subordinate)| BusRange { secondary, subordinate }),
                express: KINDS[kind],
                acs: port.acs.filter(|_| services),
            }
        },
    )
}

fn functions() -> impl Strategy<Value = Functions> {
    prop::collection::vec(function(), 0..24).prop_map(|functions| {
        functions.into_iter().map(|function| (function.address, function)).collect()
    })
}

/// What firmware says: of some devices that they sign as any id of the six buses.
fn alias(seed: u16) -> impl Fn(PciAddress) -> Option<SourceId> {
    move |device| {
        let mixed = device.source().get().wrapping_mul(0x9e37) ^ seed;
        mixed.is_multiple_of(5).then(|| SourceId::new(mixed % 0x600))
    }
}

fn check(functions: &Functions, topology: &Topology) -> Result<(), TestCaseError> {
    let mut members = Vec::new();
    let mut requesters = BTreeSet::new();
    for (index, group) in topology.groups().iter().enumerate() {
        prop_assert!(!group.members.is_empty());
        prop_assert!(group.members.is_sorted() && group.requesters.is_sorted());
        for member in &group.members {
            prop_assert_eq!(member.segment(), group.segment);
            prop_assert_eq!(topology.group_of(*member), Some(index));
            members.push(*member);
            for requester in topology.requesters_of(*member) {
                prop_assert!(group.requesters.contains(requester));
            }
            let signs = topology.requesters_of(*member).contains(&member.source());
            prop_assert_eq!(signs, functions[member].bridge.is_none());
        }
        for requester in &group.requesters {
            // Nobody else's, neither as a requester nor as a function.
            prop_assert!(requesters.insert((group.segment, *requester)));
            let owner = PciAddress::from_source(group.segment, *requester);
            prop_assert!(topology.group_of(owner).is_none_or(|owner| owner == index));
        }
        prop_assert!(group.members.len() == 1 || !group.reasons.is_empty());
    }
    members.sort_unstable();
    prop_assert_eq!(members, functions.keys().copied().collect::<Vec<_>>());
    Ok(())
}

proptest! {
    #[test]
    fn r5_groups_are_a_partition_and_share_no_requester(functions in functions(), seed: u16) {
        check(&functions, &Topology::new(&functions, &alias(seed)))?;
    }

    #[test]
    fn functions_that_appear_join_groups_and_part_none(
        functions in functions(),
        later in prop::collection::btree_set(0..24usize, 0..8),
        seed: u16,
    ) {
        let all = Topology::new(&functions, &alias(seed));
        let first = functions.iter().enumerate().filter(|(index, _)| !later.contains(index));
        let first: Functions = first.map(|(_, (address, function))| (*address, *function)).collect();
        let before = Topology::new(&first, &alias(seed));
        check(&first, &before)?;
        for group in before.groups() {
            let now: BTreeSet<_> = group.members.iter().map(|member| all.group_of(*member)).collect();
            prop_assert_eq!(now.len(), 1);
        }
    }
}
