//! The engine on an emulated machine with no operating system: the bare guest of tier t1.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`harness`] | choosing cases, running them, reporting, ending |
//! | [`cases`](mod@cases) | the cases, by suite |
//! | [`platform`] | [`platform::Metal`]: the engine's platform on this machine |
//! | [`memory`] | what lies where, and what the CPU sees |
//! | [`cpu`] | traps, the serial line, the way out |
//! | [`start_info`] | what the boot loader has to say |
//! | [`edu`] | QEMU's `edu` device, as far as cases need it |
//!
//! The image is the binary beside this library: entry code, heap and panic handler, and nothing else.
//!
//! # Booting it by hand
//!
//! `tests/run t1` does all of this. By hand, from the workspace's root:
//!
//! ```text
//! cargo build --release -p metal --features image
//! qemu-system-x86_64 -machine q35 -accel tcg -cpu max -m 256M -no-reboot -nodefaults -display none \
//!     -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 \
//!     -kernel target/release/metal -append 'bare vtd engine' DEVICES
//! ```
//!
//! `-cpu max` is there for `rdrand`. DEVICES are, with EDU for `edu,dma_mask=0xffffffffffffffff`:
//!
//! | machine | devices | suites |
//! | --- | --- | --- |
//! | VT-d, 3 levels | `-device intel-iommu,intremap=off,aw-bits=39 -device EDU` | `bare vtd engine` |
//! | VT-d, 4 levels | `-device intel-iommu,intremap=off,aw-bits=48 -device EDU` | `bare vtd engine` |
//! | caching mode | `-device intel-iommu,intremap=off,aw-bits=48,caching-mode=on -device EDU` | `bare vtd engine` |
//! | behind a bridge | `-device intel-iommu,intremap=off,aw-bits=48 -device pcie-root-port,id=root-port,chassis=1,slot=1 -device EDU,bus=root-port` | `bare vtd engine` |
//! | two devices that ask in one name | `-device intel-iommu,intremap=off,aw-bits=48 -device pcie-pci-bridge,id=bridge -device EDU,bus=bridge,addr=3 -device EDU,bus=bridge,addr=5` | `bare vtd engine group` |
//! | AMD-Vi | `-device amd-iommu,intremap=off -device EDU` (QEMU 10.0: with `pt=off`, from 10.2: with `dma-remap=on`) | `bare amdvi engine` |
//! | no IOMMU | `-device EDU` | `bare none` |
//!
//! `tests/rig/src/suite/metal.rs` has more of them.
//!
//! The words after `-append` choose the cases: a suite, or one case as `suite/case`, each in the order
//! given. A word that names neither, or no word at all, fails the boot.
//!
//! The first case's line comes 0.1 s after QEMU starts (QEMU 7.2, TCG, 2 cores). Each transfer of `edu`'s
//! takes 0.1 s more, unless time is the number of instructions, as it is in t1: with `-icount shift=6,sleep=off`
//! these 0.1 s are 1.6 million instructions, some milliseconds of the host's. Blocked transfers make QEMU
//! complain on its standard error, which is as it should be.
//!
//! # What it says
//!
//! A line for each case, `case suite/name ... ok` or `case suite/name ... FAILED: why`, and at the end
//! `N passed, N failed, 0 skipped`. QEMU's exit status is 33 when every case passed, 35 when one failed or
//! the choice was empty, and 37 after a panic or an exception of the CPU: then the case that was running is
//! reported as failed and the end line is missing. Everything else, 0 included, is a crash too.
#![cfg(target_arch = "x86_64")]
#![no_std]

extern crate alloc;

pub mod cases;
pub mod cpu;
pub mod edu;
pub mod harness;
pub mod memory;
pub mod platform;
pub mod start_info;
