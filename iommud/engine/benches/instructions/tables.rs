//! Page tables alone.

use dma_types::{Access, Iova, PhysAddr};
use iommu_engine::amdvi::page_table::AmdV1;
use iommu_engine::platform::{Segment, TableFrames};
use iommu_engine::table::{Format, PageTable};
use iommu_engine::vtd::context::AddressWidth;
use iommu_engine::vtd::second_stage::SecondStage;

use crate::Operation;
use crate::counted::rounds;
use crate::frames::Frames;

pub(crate) const OPERATIONS: [Operation; 19] = [
    Operation {
        name: "VT-d table: map + unmap 4 KiB",
        per: 1,
        run: || pair(second_stage(), 4 << 10, true, true),
    },
    Operation {
        name: "VT-d table: map + unmap 64 KiB",
        per: 1,
        run: || pair(second_stage(), 64 << 10, true, true),
    },
    Operation {
        name: "VT-d table: map + unmap 2 MiB",
        per: 1,
        run: || pair(second_stage(), 2 << 20, true, true),
    },
    Operation {
        name: "VT-d table: map 1 MiB, per 4 KiB",
        per: 256,
        run: || pair(second_stage(), 1 << 20, true, false),
    },
    Operation {
        name: "VT-d table: unmap 1 MiB, per 4 KiB",
        per: 256,
        run: || pair(second_stage(), 1 << 20, false, true),
    },
    Operation { name: "VT-d table: translate", per: 1, run: || translate(second_stage()) },
    Operation {
        name: "AMD-Vi table: map + unmap 4 KiB",
        per: 1,
        run: || pair(amd(), 4 << 10, true, true),
    },
    Operation {
        name: "AMD-Vi table: map + unmap 64 KiB",
        per: 1,
        run: || pair(amd(), 64 << 10, true, true),
    },
    Operation {
        name: "AMD-Vi table: map + unmap 2 MiB",
        per: 1,
        run: || pair(amd(), 2 << 20, true, true),
    },
    Operation {
        name: "AMD-Vi table: map 1 MiB, per 4 KiB",
        per: 256,
        run: || pair(amd(), 1 << 20, true, false),
    },
    Operation {
        name: "AMD-Vi table: unmap 1 MiB, per 4 KiB",
        per: 256,
        run: || pair(amd(), 1 << 20, false, true),
    },
    Operation { name: "AMD-Vi table: translate", per: 1, run: || translate(amd()) },
    Operation {
        name: "AMD-Vi table, pages of every length: map 1 MiB at an odd address, per 4 KiB",
        per: 256,
        run: || odd(true),
    },
    Operation {
        name: "AMD-Vi table, pages of every length: unmap 1 MiB at an odd address, per 4 KiB",
        per: 256,
        run: || odd(false),
    },
    Operation {
        name: "VT-d table: map 2 GiB by 2 MiB, per page",
        per: LARGE_PAGES,
        run: || many(second_stage(), true),
    },
    Operation {
        name: "VT-d table: unmap 2 GiB by 2 MiB, per page",
        per: LARGE_PAGES,
        run: || many(second_stage(), false),
    },
    Operation {
        name: "AMD-Vi table: map 2 GiB by 2 MiB, per page",
        per: LARGE_PAGES,
        run: || many(amd(), true),
    },
    Operation {
        name: "AMD-Vi table: unmap 2 GiB by 2 MiB, per page",
        per: LARGE_PAGES,
        run: || many(amd(), false),
    },
    Operation { name: "four dependent loads", per: 1, run: loads },
];

/// Pages of 4 KiB, 2 MiB and 1 GiB, and a unit that snoops.
fn second_stage() -> SecondStage {
    SecondStage::new(AddressWidth::Bits48, 0x4020_1000, true)
}

fn amd() -> AmdV1 {
    AmdV1::new(4, 0x4020_1000)
}

/// Memory that no larger page fits than is asked for.
fn memory(bytes: u64) -> [Segment; 1] {
    [Segment { start: PhysAddr::new(0x1_4000_0000), bytes }]
}

const NEIGHBOUR: u64 = 0x1_8000_0000;
const PLACE: u64 = NEIGHBOUR + (4 << 20);

/// The last page of the same table.
const LAST: u64 = PLACE + (2 << 20) - 4096;

/// A table in which a neighbour is mapped, so that no table comes and goes.
fn table<F: Format>(format: F, frames: &mut Frames) -> PageTable<F> {
    let mut table = PageTable::new(format, frames).expect("a frame");
    for (neighbour, bytes) in [(NEIGHBOUR, 2 << 20), (LAST, 4096)] {
        let iova = Iova::new(neighbour);
        table.map(frames, iova, &memory(bytes), Access::ReadWrite).expect("free addresses");
    }
    table
}

fn pair<F: Format>(format: F, bytes: u64, count_map: bool, count_unmap: bool) {
    let place = if bytes < 2 << 20 { PLACE } else { PLACE + (2 << 20) };
    pair_at(format, place, bytes, count_map, count_unmap);
}

/// Where memory and address are alike in two bits more than those of a page.
fn odd(count_map: bool) {
    pair_at(AmdV1::new(4, u64::MAX), PLACE + 0x4000, 1 << 20, count_map, !count_map);
}

fn pair_at<F: Format>(format: F, place: u64, bytes: u64, count_map: bool, count_unmap: bool) {
    let frames = &mut Frames::new(64);
    let mut table = table(format, frames);
    let iova = Iova::new(place);
    let memory = memory(bytes);
    let mut retired = Vec::new();
    rounds(|counted| {
        let mut map = || {
            table.map(frames, iova, &memory, Access::ReadWrite).expect("room");
        };
        if count_map {
            counted(&mut map)
        } else {
            map()
        }
        let mut unmap = || {
            table.unmap(frames, iova, bytes, &mut retired).expect("mapped");
        };
        if count_unmap { counted(&mut unmap) } else { unmap() }
    });
    assert!(retired.is_empty());
}

/// How many large pages are mapped one by one: in two tables, which come and go with them.
const LARGE_PAGES: u64 = 1024;

fn many<F: Format>(format: F, count_map: bool) {
    let frames = &mut Frames::new(64);
    let mut table = PageTable::new(format, frames).expect("a frame");
    let (bytes, mut retired) = (2 << 20, Vec::with_capacity(8));
    let memory = memory(bytes);
    let iova = |page: u64| Iova::new((page << 21) + (1 << 30));
    rounds(|counted| {
        let mut map = || {
            for page in 0..LARGE_PAGES {
                table.map(frames, iova(page), &memory, Access::ReadWrite).expect("room");
            }
        };
        if count_map {
            counted(&mut map)
        } else {
            map()
        }
        let mut unmap = || {
            for page in 0..LARGE_PAGES {
                table.unmap(frames, iova(page), bytes, &mut retired).expect("mapped");
            }
        };
        if count_map {
            unmap();
        } else {
            counted(&mut unmap);
        }
        retired.drain(..).for_each(|frame| frames.free_frame(frame));
    });
}

fn translate<F: Format>(format: F) {
    let frames = &mut Frames::new(64);
    let table = table(format, frames);
    let iova = Iova::new(LAST);
    rounds(|counted| {
        counted(&mut || assert!(table.translate(frames, core::hint::black_box(iova)).is_some()));
    });
}

/// The limit of a translation: loads of which each says where the next is, checked like a frame.
fn loads() {
    let mut links = vec![[0; 512]; 4];
    for (table, next) in [(0, 3), (3, 1), (1, 2), (2, 0)] {
        links[table] = [next; 512];
    }
    rounds(|counted| {
        counted(&mut || {
            let address = core::hint::black_box(LAST);
            let mut table = 0usize;
            for shift in [39, 30, 21, 12] {
                table = links[table][(address >> shift) as usize & 511];
            }
            assert_eq!(table, 0);
        });
    });
}
