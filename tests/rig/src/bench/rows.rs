//! The rows of the table: what is compared with what, what is aimed at, and what an unmap takes from the device.

use crate::bench::column::{Column, Measured};
use crate::bench::figures::{Figure, Figures};
use Revokes::{Access, Claim, Nothing};
use Target::{AndCopy, Both, BothAnd, MakeEach, Times, Within};
use Unit::{Bytes, Instructions, Share};

/// What an unmap ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revokes {
    /// The driver's claim: the window that the memory is in stays mapped for the device.
    Claim,
    /// The device's access: the unit has forgotten it.
    Access,
    /// Nothing is mapped or unmapped for a device.
    Nothing,
}

impl Revokes {
    /// In the words of the table.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Access => "access",
            Self::Nothing => "",
        }
    }
}

/// What a row's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Instructions, of the operation and of what undoes it.
    Instructions,
    /// Bytes that are held; nothing undoes them.
    Bytes,
    /// Bytes of tables, and the bytes that are mapped by them.
    Share,
}

impl Unit {
    /// Its name for programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Bytes => "bytes",
            Self::Share => "bytes of tables, of bytes mapped",
        }
    }
}

/// A part of the table that can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Operations in the bare guest, which have Linux's beside them.
    Operations,
    /// Requests to iommud's process in Linux.
    Requests,
    /// The same on Redox.
    Redox,
    /// Memory of iommud's process.
    Memory,
}

impl Part {
    /// All of them, in the order in which they are measured.
    pub(super) const ALL: [Self; 4] = [Self::Operations, Self::Requests, Self::Redox, Self::Memory];
}

/// The figure of writing nothing.
const NO_COPY: &str = "copy/0";

/// What is aimed at, in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing.
    None,
    /// Both together, at most.
    Both(u64),
    /// Both together, at most so much and what making another figure takes.
    BothAnd(u64, &'static str),
    /// Both together, at most so much and what writing so many bytes takes more than writing none.
    AndCopy(u64, &'static str),
    /// Making it, at most so much for each of so many.
    MakeEach(u64, u64),
    /// At most so many percent more than another figure, both together.
    Within(u64, &'static str),
    /// At most so many percent of another figure, both together, for each of so many.
    Times(u64, &'static str, u64),
}

impl Target {
    /// How many instructions that is, with the figures of the same guest.
    fn limit(self, figures: &Figures) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Both(limit) => Some(limit),
            Self::BothAnd(limit, other) => Some(limit + figures.get(other)?.make),
            Self::AndCopy(limit, other) => {
                let nothing = figures.get(NO_COPY)?.make;
                Some(limit + figures.get(other)?.make.saturating_sub(nothing))
            }
            Self::MakeEach(limit, count) => Some(limit * count),
            Self::Within(percent, other) => {
                let other = figures.get(other)?.both();
                Some(other + other * percent / 100)
            }
            Self::Times(percent, other, count) => {
                Some(figures.get(other)?.both() * percent / 100 / count)
            }
        }
    }

    /// Whether the operation and what undoes it are looked at apart.
    pub(super) fn is_of_parts(self) -> bool {
        matches!(self, Self::MakeEach(..))
    }

    /// What is held against it.
    fn held_against(self, figure: Figure) -> u64 {
        match self {
            Self::MakeEach(..) => figure.make,
            _ => figure.both(),
        }
    }

    /// In the words of the table.
    pub(super) fn words(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Both(limit) => format!("{limit}"),
            Self::AndCopy(limit, _) => format!("{limit} + copy"),
            Self::BothAnd(limit, _) => format!("{limit} + zeroing"),
            Self::MakeEach(limit, _) => format!("map {limit} each"),
            Self::Within(percent, _) => format!("first + {percent} %"),
            Self::Times(percent, _, _) => format!("{:.1} x next", percent as f64 / 100.0),
        }
    }
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// What is done and undone.
    pub(super) label: &'static str,
    /// Linux's figure, if Linux has such a thing.
    pub(super) linux: &'static str,
    /// Ours.
    pub(super) ours: &'static str,
    /// What its figures are.
    pub(super) unit: Unit,
    /// How many operations of Linux's ours does at a time.
    pub(super) count: u64,
    /// What is aimed at.
    pub(super) target: Target,
    /// What the undoing ends, of ours. Linux's ends the device's access, but where it is lazy or lets devices through.
    pub(super) revokes: Revokes,
}

/// Rows that belong together.
pub(super) struct Group {
    /// Their heading.
    pub(super) heading: &'static str,
    /// What they are measured with.
    pub(super) part: Part,
    /// The rows.
    pub(super) rows: &'static [Row],
}

const fn row(
    label: &'static str,
    linux: &'static str,
    ours: &'static str,
    target: Target,
    revokes: Revokes,
) -> Row {
    Row { label, linux, ours, unit: Instructions, count: 1, target, revokes }
}

/// A row of memory.
const fn held(label: &'static str, ours: &'static str, unit: Unit) -> Row {
    Row { label, linux: "", ours, unit, count: 1, target: Target::None, revokes: Nothing }
}

/// All rows.
#[rustfmt::skip]
pub(super) const GROUPS: [Group; 10] = [
    Group {
        heading: "streaming memory in windows: map + unmap",
        part: Part::Operations,
        rows: &[
            row("4 KiB", "single/4k", "stream/4k", Both(120), Claim),
            row("64 KiB", "single/64k", "stream/64k", Target::None, Claim),
            row("2 MiB", "single/2m", "stream/2m", Target::None, Claim),
            row("ring of 128 x 4 KiB", "ring-128", "stream/ring-128", Target::None, Claim),
            row("32 mixed sizes at random", "mixed-32", "stream/mixed-32", Target::None, Claim),
            row("scatter list of 16 x 4 KiB, put together and taken apart each time", "sg-16", "stream/sg-16-anew", Both(900), Claim),
            row("scatter list of 16 x 4 KiB, mapped again", "sg-16", "stream/sg-16", Both(900), Claim),
            row("64 foreign bytes, bounced to the device", "single/64", "bounced/64", AndCopy(200, "copy/64"), Claim),
            row("1500 foreign bytes, bounced to the device", "single/1500", "bounced/1500", AndCopy(200, "copy/1500"), Claim),
            row("4 KiB foreign, bounced to the device", "single/4k", "bounced/4096", AndCopy(200, "copy/4096"), Claim),
            row("64 foreign bytes, bounced there and back", "single/64", "bounced-back/64", Target::None, Claim),
            row("1500 foreign bytes, bounced there and back", "single/1500", "bounced-back/1500", Target::None, Claim),
            row("4 KiB foreign, bounced there and back", "single/4k", "bounced-back/4096", Target::None, Claim),
            row("  writing no bytes to a buffer", "", "copy/0", Target::None, Nothing),
            row("  writing 64 bytes", "", "copy/64", Target::None, Nothing),
            row("  writing 1500 bytes", "", "copy/1500", Target::None, Nothing),
            row("  writing 4 KiB", "", "copy/4096", Target::None, Nothing),
        ],
    },
    Group {
        heading: "strict streaming memory, service called directly: map + unmap",
        part: Part::Operations,
        rows: &[
            row("4 KiB", "single/4k", "strict/4k", Both(1000), Access),
            row("64 KiB", "single/64k", "strict/64k", Target::None, Access),
            row("2 MiB", "single/2m", "strict/2m", Target::None, Access),
            row("ring of 128 x 4 KiB", "ring-128", "strict/ring-128", Target::None, Access),
            row("32 mixed sizes at random", "mixed-32", "strict/mixed-32", Target::None, Access),
            row("scatter list of 16 x 4 KiB, put together and taken apart each time", "sg-16", "strict/sg-16-anew", Target::None, Access),
            row("scatter list of 16 x 4 KiB, mapped again", "sg-16", "strict/sg-16", Target::None, Access),
            Row { count: 32, ..row("4 KiB, each of a batch of 32", "single/4k", "strict/batch-32", Target::None, Access) },
        ],
    },
    Group {
        heading: "coherent memory and pools: alloc + free",
        part: Part::Operations,
        rows: &[
            row("pool block of 256 bytes", "pool/256", "pool/256", Both(60), Claim),
            row("pool block of 256 bytes, zeroed", "pool/256-zeroed", "pool/256-zeroed", Target::None, Claim),
            row("coherent 4 KiB", "coherent/4k", "coherent/4k", BothAnd(250, "zero/4k"), Claim),
            row("  of which zeroing 4 KiB", "", "zero/4k", Target::None, Nothing),
            row("coherent 256 bytes", "coherent/256", "coherent/256", BothAnd(250, "zero/256"), Claim),
            row("  of which zeroing 256 bytes", "", "zero/256", Target::None, Nothing),
        ],
    },
    Group {
        heading: "a page table alone, at an address that is given (Linux: iommu_map, iommu_unmap)",
        part: Part::Operations,
        rows: &[
            row("4 KiB", "iommu-unattached/4k", "alone/4k", Target::None, Nothing),
            row("256 x 4 KiB", "iommu-unattached/256x4k", "alone/256x4k", Target::None, Nothing),
            row("2 MiB", "", "alone/2m", Target::None, Nothing),
            row("4 KiB, with invalidation", "iommu/4k", "alone-told/4k", Target::None, Access),
            row("256 x 4 KiB, with invalidation", "iommu/256x4k", "alone-told/256x4k", Target::None, Access),
            row("2 MiB, with invalidation", "iommu/2m", "alone-told/2m", Target::None, Access),
        ],
    },
    Group {
        heading: "the engine: map + unmap, addresses and what is noted of them included (Linux: iommu_map, iommu_unmap)",
        part: Part::Operations,
        rows: &[
            row("4 KiB, tables only", "iommu-unattached/4k", "tables/4k", Both(250), Nothing),
            row("256 x 4 KiB, tables only", "iommu-unattached/256x4k", "tables/256x4k", MakeEach(8, 256), Nothing),
            row("2 MiB, tables only", "", "tables/2m", Target::None, Nothing),
            row("4 KiB, with invalidation", "iommu/4k", "engine/4k", Both(450), Access),
            row("256 x 4 KiB, with invalidation", "iommu/256x4k", "engine/256x4k", MakeEach(8, 256), Access),
            row("2 MiB, with invalidation", "iommu/2m", "engine/2m", Both(450), Access),
            row("4 KiB beside 64 GiB", "iommu/4k-beside-64g", "engine/4k-beside-64g", Target::None, Access),
            row("64 GiB: 32768 maps, one unmap", "iommu/64g", "engine/64g", Target::None, Access),
            row("a device into a domain and out", "attach", "attach", Target::None, Access),
        ],
    },
    Group {
        heading: "many live at once, 16 at random given back and taken anew (mappings: the engine's; Linux: dma_map_single)",
        part: Part::Operations,
        rows: &[
            row("addresses alone, 1,000 live", "iova/1000", "iova/1000", Target::None, Nothing),
            row("addresses alone, 10,000 live", "iova/10000", "iova/10000", Within(10, "iova/1000"), Nothing),
            row("addresses alone, 100,000 live", "iova/100000", "iova/100000", Within(10, "iova/1000"), Nothing),
            row("addresses alone, 1,000,000 live", "iova/1000000", "iova/1000000", Within(10, "iova/1000"), Nothing),
            row("mixed addresses, 1,000 live", "iova-mixed/1000", "iova-mixed/1000", Target::None, Nothing),
            row("mixed addresses, 1,000,000 live", "iova-mixed/1000000", "iova-mixed/1000000", Within(10, "iova-mixed/1000"), Nothing),
            row("addresses alone, 1,000 live, 512 at a time", "iova-512/1000", "iova-512/1000", Target::None, Nothing),
            row("addresses alone, 1,000,000 live, 512 at a time", "iova-512/1000000", "iova-512/1000000", Within(10, "iova-512/1000"), Nothing),
            row("4 KiB mappings, 1,000 live", "live/1000", "live/1000", Target::None, Access),
            row("4 KiB mappings, 10,000 live", "live/10000", "live/10000", Target::None, Access),
            row("4 KiB mappings, 100,000 live", "live/100000", "live/100000", Target::None, Access),
            row("4 KiB mappings, 1,000,000 live", "live/1000000", "live/1000000", Target::None, Access),
        ],
    },
    Group {
        heading: "64 KiB of the driver's own memory, by requests to iommud's process in Linux: map + unmap",
        part: Part::Requests,
        rows: &[
            row("one at a time", "single/64k", "request/1", Target::None, Access),
            row("the same messages, and no work", "", "message/1", Target::None, Nothing),
            Row { count: 32, ..row("each of a batch of 32", "single/64k", "request/32", Times(150, "message/32", 32), Access) },
            Row { count: 32, ..row("the same messages, and no work", "", "message/32", Target::None, Nothing) },
            row("a greeting, which changes nothing", "", "request/hello", Target::None, Nothing),
            row("the same messages, each with a socket for its answer, and no work", "", "message/hello", Target::None, Nothing),
        ],
    },
    Group {
        heading: "64 KiB of the driver's own memory, by requests to iommud's process on Redox: map + unmap",
        part: Part::Redox,
        rows: &[
            row("one at a time", "", "redox/request/1", Target::None, Access),
            row("calls as long to a scheme that does nothing", "", "redox/message/1", Target::None, Nothing),
            Row { count: 32, ..row("each of a batch of 32", "", "redox/request/32", Times(150, "redox/message/32", 32), Access) },
            Row { count: 32, ..row("calls as long to a scheme that does nothing", "", "redox/message/32", Target::None, Nothing) },
            row("a greeting, which changes nothing", "", "redox/request/hello", Target::None, Nothing),
            row("calls as long to a scheme that does nothing", "", "redox/message/hello", Target::None, Nothing),
        ],
    },
    Group {
        heading: "page tables, of the memory that is mapped",
        part: Part::Memory,
        rows: &[
            held("1 GiB of 4 KiB mappings side by side", "tables/dense-4k", Share),
            held("1 GiB of 64 KiB mappings side by side", "tables/dense-64k", Share),
            held("1 GiB of 2 MiB mappings side by side", "tables/dense-2m", Share),
            held("4 KiB mappings, one in each GiB", "tables/apart-4k", Share),
            held("64 KiB mappings, one in each GiB", "tables/apart-64k", Share),
            held("2 MiB mappings, one in each GiB", "tables/apart-2m", Share),
            held("1,000,000 4 KiB mappings, where iommud puts them", "tables/million", Share),
        ],
    },
    Group {
        heading: "iommud --sim, a process of the host's: resident memory, that of the simulated machine included",
        part: Part::Memory,
        rows: &[
            held("idle", "resident/idle", Bytes),
            held("with a device open, and after the rows above", "resident/begun", Bytes),
            held("with 1,000,000 4 KiB mappings", "resident/million", Bytes),
            held("after they are unmapped", "resident/after", Bytes),
        ],
    },
];

impl Row {
    /// Its figure in a column, for one of Linux's operations.
    pub(super) fn figure(&self, measured: &Measured, column: Column) -> Option<Figure> {
        let name = if column.is_linux() { self.linux } else { self.ours };
        let figure = measured.get(column)?.get(name)?;
        let count = if column.is_linux() { 1 } else { self.count };
        let Figure { make, make_mean, undo, undo_mean } = figure;
        let each = |all: u64| (all + count / 2) / count;
        Some(Figure {
            make: each(make),
            make_mean: each(make_mean),
            undo: each(undo),
            undo_mean: each(undo_mean),
        })
    }

    /// Whether a column of ours is no more than what is aimed at.
    pub(super) fn is_met(&self, measured: &Measured, column: Column) -> Option<bool> {
        let figure = self.figure(measured, column)?;
        let limit = self.target.limit(measured.get(column)?)?;
        Some(self.target.held_against(figure) <= limit)
    }

    /// Whether our devices all tried what it says that the undoing ends.
    pub(super) fn is_tried(&self, measured: &Measured) -> bool {
        let mut ours = measured.columns().filter(|(column, _)| !column.is_linux()).peekable();
        ours.peek().is_some() && ours.all(|(_, figures)| figures.ends(self.ours).is_some())
    }

    /// A column of ours, for each instruction of Linux's strict mode on the same unit.
    pub(super) fn ratio(&self, measured: &Measured, column: Column) -> Option<f64> {
        let linux = self.figure(measured, column.beside()?)?.both();
        let ours = self.figure(measured, column)?.both();
        Some(ours as f64 / linux.max(1) as f64)
    }
}

/// Where a device found that undoing something ends something else than its row says: it is no longer what the row is about.
pub(super) fn contradicted(measured: &Measured) -> Option<String> {
    let ours = measured.columns().filter(|(column, _)| !column.is_linux());
    let mut all =
        ours.flat_map(|of| GROUPS.iter().flat_map(|group| group.rows).map(move |row| (of, row)));
    all.find_map(|((column, figures), row)| {
        let (said, found) = (row.revokes.words(), figures.ends(row.ours)?);
        let why = || format!("{}: {} ends {found}, and not {said}", column.name(), row.ours);
        (found != said).then(why)
    })
}

/// What should have been told and was not: a figure that a row of these parts is about, and the column; of ours, and of Linux's
/// where that is measured, too.
pub(super) fn missing(measured: &Measured, parts: &[Part], with_linux: bool) -> Option<String> {
    let of_part = |group: &&Group| parts.contains(&group.part);
    let wanted = |column: Column| {
        let rows = GROUPS.iter().filter(of_part).flat_map(|group| group.rows);
        rows.map(move |row| if column.is_linux() { row.linux } else { row.ours })
    };
    let is_wanted = |column: &Column| with_linux || !column.is_linux();
    Column::ALL.into_iter().filter(is_wanted).find_map(|column| {
        let Some(figures) = measured.get(column) else {
            return Some(format!("{} told nothing", column.name()));
        };
        // The other columns of Linux's have streaming memory, and what else these machines and settings give.
        let is_whole = column == Column::LinuxVtd || !column.is_linux();
        let streaming = GROUPS[0].rows.iter().map(|row| row.linux);
        let mut names = streaming.chain(wanted(column).filter(|_| is_whole));
        let is_told = |name: &str| name.is_empty() || figures.get(name).is_some();
        let name = match column.is_linux() {
            true => names.find(|name| !is_told(name))?,
            false => wanted(column).find(|name| !is_told(name))?,
        };
        Some(format!("{} told nothing of {name}", column.name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_the_device_found() {
        let measured = |lines: &[(Column, &str)]| {
            let mut measured = Measured::default();
            for (column, line) in lines {
                measured.put(*column, Figures::read(&[(*line).to_owned()]));
            }
            measured
        };
        let strict = GROUPS.iter().flat_map(|group| group.rows).find(|it| it.ours == "strict/4k");
        let strict = strict.unwrap();
        let good = "ends strict/4k access";
        let both = measured(&[(Column::Vtd, good), (Column::AmdVi, good)]);
        assert!(strict.is_tried(&both) && contradicted(&both).is_none());
        let one = measured(&[(Column::Vtd, good), (Column::AmdVi, "")]);
        assert!(!strict.is_tried(&one) && contradicted(&one).is_none());
        let bad = measured(&[(Column::Vtd, good), (Column::AmdVi, "ends strict/4k claim")]);
        let why = contradicted(&bad).unwrap();
        assert!(why.contains("strict/4k ends claim, and not access"), "{why}");
    }

    #[test]
    fn what_a_guest_did_not_tell_is_missed() {
        let lines = |column: Column| {
            let rows = GROUPS.iter().flat_map(|group| group.rows);
            let name = move |row: &Row| if column.is_linux() { row.linux } else { row.ours };
            rows.map(move |row| format!("bench {} 1 1 1 1", name(row)))
        };
        let all = |column: Column| Figures::read(&lines(column).collect::<Vec<_>>());
        let missing =
            |measured: &Measured, parts: &[Part], linux| super::missing(measured, parts, linux);
        let mut measured = Measured::default();
        measured.put(Column::Vtd, all(Column::Vtd));
        let told = missing(&measured, &Part::ALL, false);
        assert_eq!(told.as_deref(), Some("amdvi told nothing"));
        measured.put(Column::AmdVi, all(Column::AmdVi));
        assert_eq!(missing(&measured, &Part::ALL, false), None);
        let told = missing(&measured, &Part::ALL, true);
        assert_eq!(told.as_deref(), Some("linux-vtd-strict told nothing"));
        measured.put(Column::LinuxVtd, all(Column::LinuxVtd));
        for column in [Column::LinuxLazy, Column::LinuxPassThrough, Column::LinuxAmdVi] {
            measured.put(column, all(column));
        }
        let told = missing(&measured, &Part::ALL, true);
        assert_eq!(told.as_deref(), Some("linux-none told nothing"));
        let but_pools = lines(Column::LinuxNone).filter(|line| !line.contains("pool/"));
        measured.put(Column::LinuxNone, Figures::default());
        let told = missing(&measured, &Part::ALL, true);
        assert_eq!(told.as_deref(), Some("linux-none told nothing of single/4k"));
        measured.put(Column::LinuxNone, Figures::read(&but_pools.collect::<Vec<_>>()));
        assert_eq!(missing(&measured, &Part::ALL, true), None);
        let mut requests = Measured::default();
        let columns = [Column::Vtd, Column::AmdVi];
        columns.into_iter().for_each(|it| requests.put(it, figures_of(Part::Requests)));
        assert_eq!(missing(&requests, &[Part::Requests], false), None);
        assert!(missing(&requests, &[Part::Requests, Part::Memory], false).is_some());
        let but_one = lines(Column::AmdVi).filter(|line| !line.contains("strict/2m "));
        let mut short = Measured::default();
        short.put(Column::Vtd, all(Column::Vtd));
        short.put(Column::AmdVi, Figures::read(&but_one.collect::<Vec<_>>()));
        let told = missing(&short, &Part::ALL, false);
        assert_eq!(told.as_deref(), Some("amdvi told nothing of strict/2m"));
    }

    /// A figure for each row of ours of this part.
    fn figures_of(part: Part) -> Figures {
        let rows = GROUPS.iter().filter(|group| group.part == part).flat_map(|group| group.rows);
        Figures::read(&rows.map(|row| format!("bench {} 1 1 1 1", row.ours)).collect::<Vec<_>>())
    }

    fn measured(column: Column, lines: &[&str]) -> Measured {
        let lines: Vec<_> = lines.iter().map(|line| line.to_string()).collect();
        let mut measured = Measured::default();
        measured.put(column, Figures::read(&lines));
        measured
    }

    fn is_met(target: Target, lines: &[&str]) -> Option<bool> {
        row("", "", "x", target, Nothing).is_met(&measured(Column::Vtd, lines), Column::Vtd)
    }

    #[test]
    fn targets_are_held_against_what_they_speak_of() {
        assert_eq!(is_met(Both(120), &["bench x 100 9 20 9"]), Some(true));
        assert_eq!(is_met(Both(120), &["bench x 100 9 21 9"]), Some(false));
        let zeroing = "bench zero/4k 30 9 5 9";
        assert_eq!(is_met(BothAnd(200, "zero/4k"), &[zeroing, "bench x 130 9 100 9"]), Some(true));
        assert_eq!(is_met(BothAnd(200, "zero/4k"), &[zeroing, "bench x 131 9 100 9"]), Some(false));
        let (none, copy) = ("bench copy/0 20 9 5 9", "bench copy/64 50 9 5 9");
        let is_met_with = |line| is_met(AndCopy(200, "copy/64"), &[none, copy, line]);
        assert_eq!(is_met_with("bench x 130 9 100 9"), Some(true));
        assert_eq!(is_met_with("bench x 131 9 100 9"), Some(false));
        assert_eq!(is_met(MakeEach(8, 256), &["bench x 2048 9 9000 9"]), Some(true));
        assert_eq!(is_met(MakeEach(8, 256), &["bench x 2049 9 0 9"]), Some(false));
        let first = "bench first 50 9 50 9";
        assert_eq!(is_met(Within(10, "first"), &[first, "bench x 60 9 50 9"]), Some(true));
        assert_eq!(is_met(Within(10, "first"), &[first, "bench x 60 9 51 9"]), Some(false));
        let empty = "bench empty 1000 9 600 9";
        assert_eq!(is_met(Times(150, "empty", 32), &[empty, "bench x 50 9 25 9"]), Some(true));
        assert_eq!(is_met(Times(150, "empty", 32), &[empty, "bench x 50 9 26 9"]), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert_eq!(is_met(Both(1), &[]), None);
        assert_eq!(is_met(BothAnd(1, "y"), &["bench x 0 0 0 0"]), None);
        assert_eq!(is_met(Target::None, &["bench x 0 0 0 0"]), None);
    }

    #[test]
    fn ours_is_for_one_operation_and_the_ratio_is_to_linux() {
        let mut measured = measured(Column::Vtd, &["bench x 3200 3200 3200 3200"]);
        let linux = Figures::read(&["bench y 300 300 100 100".to_owned()]);
        measured.put(Column::LinuxVtd, linux);
        let row = Row { count: 32, ..row("", "y", "x", Target::None, Nothing) };
        assert_eq!(row.figure(&measured, Column::Vtd).map(Figure::both), Some(200));
        assert_eq!(row.ratio(&measured, Column::Vtd), Some(0.5));
        assert_eq!(row.ratio(&measured, Column::AmdVi), None);
    }

    #[test]
    fn every_target_speaks_of_rows_that_there_are() {
        let rows = || GROUPS.iter().flat_map(|group| group.rows);
        let is_row = |name| rows().any(|row| row.ours == name);
        for row in rows() {
            match row.target {
                BothAnd(_, other) | AndCopy(_, other) | Within(_, other) | Times(_, other, _) => {
                    assert!(is_row(other) && is_row(NO_COPY), "{other}")
                }
                _ => {}
            }
            let same = rows().filter(|it| it.ours == row.ours).count();
            assert_eq!(same, 1, "{}", row.ours);
        }
    }
}
