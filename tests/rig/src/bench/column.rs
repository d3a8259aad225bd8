//! The columns of the table: what was measured where.

use crate::bench::figures::Figures;
use crate::qemu::Iommu;

/// A machine, and what runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Linux, which invalidates with every unmap.
    LinuxVtd,
    /// Linux, which invalidates now and then.
    LinuxLazy,
    /// Linux, which lets its devices reach all of memory.
    LinuxPassThrough,
    /// Linux on the other vendor's unit.
    LinuxAmdVi,
    /// Linux on a machine without a unit.
    LinuxNone,
    /// Ours.
    Vtd,
    /// Ours on the other vendor's unit.
    AmdVi,
}

impl Column {
    /// All of them, in the table's order.
    pub(super) const ALL: [Self; 7] = [
        Self::LinuxVtd,
        Self::LinuxLazy,
        Self::LinuxPassThrough,
        Self::LinuxAmdVi,
        Self::LinuxNone,
        Self::Vtd,
        Self::AmdVi,
    ];

    /// Its name for programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LinuxVtd => "linux-vtd-strict",
            Self::LinuxLazy => "linux-vtd-lazy",
            Self::LinuxPassThrough => "linux-vtd-pass-through",
            Self::LinuxAmdVi => "linux-amdvi-strict",
            Self::LinuxNone => "linux-none",
            Self::Vtd => "vtd",
            Self::AmdVi => "amdvi",
        }
    }

    /// Its heading. Of each side the first says whose it is.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::LinuxVtd => "Linux VT-d",
            Self::LinuxLazy => "lazy",
            Self::LinuxPassThrough => "pass-through",
            Self::LinuxAmdVi => "AMD-Vi",
            Self::LinuxNone => "none",
            Self::Vtd => "ours VT-d",
            Self::AmdVi => "AMD-Vi",
        }
    }

    /// Whether it is one of Linux's.
    pub(super) fn is_linux(self) -> bool {
        !matches!(self, Self::Vtd | Self::AmdVi)
    }

    /// Linux's in strict mode on the same unit, for one of ours.
    pub(super) fn beside(self) -> Option<Self> {
        match self {
            Self::Vtd => Some(Self::LinuxVtd),
            Self::AmdVi => Some(Self::LinuxAmdVi),
            _ => None,
        }
    }

    /// The unit of its machine.
    pub(super) fn iommu(self) -> Iommu {
        match self {
            Self::LinuxVtd | Self::LinuxLazy | Self::LinuxPassThrough | Self::Vtd => {
                Iommu::Vtd { bits: 48, caching_mode: false }
            }
            Self::LinuxAmdVi | Self::AmdVi => Iommu::AmdVi,
            Self::LinuxNone => Iommu::None,
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// What it was measured with: names and versions.
    pub(super) versions: Vec<(&'static str, String)>,
    columns: Vec<(Column, Figures)>,
}

impl Measured {
    /// Puts figures in, of a column that may have some already.
    pub(super) fn put(&mut self, column: Column, figures: Figures) {
        match self.columns.iter_mut().find(|(it, _)| *it == column) {
            Some((_, already)) => already.extend(figures),
            None => self.columns.push((column, figures)),
        }
    }

    /// The columns that there are.
    pub(super) fn columns(&self) -> impl Iterator<Item = (Column, &Figures)> {
        self.columns.iter().map(|(column, figures)| (*column, figures))
    }

    /// A column.
    pub(super) fn get(&self, column: Column) -> Option<&Figures> {
        self.columns().find(|(it, _)| *it == column).map(|(_, figures)| figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_boots_tell_of_a_column_is_put_together() {
        let figures = |line: &str| Figures::read(&[line.to_owned()]);
        let mut measured = Measured::default();
        measured.put(Column::LinuxVtd, figures("bench a 1 1 1 1"));
        measured.put(Column::LinuxNone, figures("bench a 2 2 2 2"));
        measured.put(Column::LinuxVtd, figures("bench b 3 3 3 3"));
        let column = measured.get(Column::LinuxVtd).unwrap();
        assert!(column.get("a").is_some_and(|it| it.make == 1) && column.get("b").is_some());
        assert_eq!(measured.columns().count(), 2);
    }
}
