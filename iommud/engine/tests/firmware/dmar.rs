//! The DMAR parser on tables of real machines: each is understood, or refused with a reason.

use iommu_engine::acpi::dmar::{Dmar, Refusal};

use crate::corpus::{self, Table};

/// The kinds of the table's structures in their order, by a walk that shares nothing with the parser.
pub(crate) fn kinds(table: &[u8]) -> Vec<u16> {
    let (mut kinds, mut rest) = (vec![], &table[48..]);
    while let [kind_low, kind_high, length_low, length_high, ..] = *rest {
        kinds.push(u16::from_le_bytes([kind_low, kind_high]));
        rest = &rest[usize::from(u16::from_le_bytes([length_low, length_high]))..];
    }
    kinds
}

#[test]
#[cfg_attr(not(acpi_corpus), ignore = "needs the tables of real machines, in ../shared/acpi")]
fn r5_every_table_of_a_real_machine_is_understood_or_refused_with_a_reason() {
    let tables = corpus::tables("DMAR");
    let (mut understood, mut in_part, mut refused) = (0, 0, 0);
    let (mut units, mut regions, mut skipped, mut scopes) = (0, 0, 0, 0);
    for Table { name, bytes } in &tables {
        let dmar = match Dmar::parse(bytes) {
            Ok(dmar) => dmar,
            Err(error) => {
                println!("{name}: refused: {error}");
                refused += 1;
                continue;
            }
        };
        for part in &dmar.refused {
            println!("{name}: at {:#x}: {}", part.offset, part.refusal);
        }
        if !dmar.checksum_valid {
            println!("{name}: its checksum is wrong");
        }
        if dmar.refused.is_empty() {
            understood += 1
        } else {
            in_part += 1
        }

        let kinds = kinds(bytes);
        let count = |wanted: u16| kinds.iter().filter(|kind| **kind == wanted).count();
        let left_out = |wanted: fn(&Refusal) -> bool| {
            dmar.refused.iter().filter(|part| wanted(&part.refusal)).count()
        };
        assert_eq!(
            dmar.units.len() + left_out(|it| matches!(it, Refusal::Unit(..))),
            count(0),
            "{name}"
        );
        assert_eq!(
            dmar.reserved.len() + left_out(|it| matches!(it, Refusal::Region(..))),
            count(1),
            "{name}"
        );
        assert_eq!(dmar.skipped.len(), kinds.len() - count(0) - count(1), "{name}");
        units += dmar.units.len();
        regions += dmar.reserved.len();
        skipped += dmar.skipped.len();
        scopes += dmar.units.iter().map(|unit| unit.scopes.len()).sum::<usize>();
        scopes += dmar.reserved.iter().map(|region| region.scopes.len()).sum::<usize>();
    }
    println!(
        "{} tables: {understood} understood, {in_part} with something left out, {refused} refused; \
         {units} units, {regions} reserved regions, {scopes} device scopes, {skipped} structures skipped",
        tables.len()
    );
    assert!(!tables.is_empty());
    assert_eq!(understood + in_part + refused, tables.len());
    assert_eq!(refused, 0, "no table of a real machine that is known has a broken length");
}
