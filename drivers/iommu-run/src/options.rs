//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;

/// Where pcid-spawner looks for a driver that is named without a folder (base 9e128703,
/// `drivers/pcid-spawner/src/main.rs`).
const DRIVERS: &str = "/usr/lib/drivers";

/// Starts a driver with the one device that it is for, and nothing else: its DMA reaches the memory that the
/// driver asks iommud for, and the driver can open neither another device nor physical memory.
///
/// Write it before the driver's command in pcid's configuration: `command = ["/usr/bin/iommu-run", "nvmed"]`.
///
/// The driver finds the device's handle as $IOMMU_DEVICE. It can open the schemes event, irq, log, logging, null,
/// pipe, rand, time and zero, those named by --keep, and a stand-in for memory that gives none. It can give a scheme
/// of its own any name in which the function's is (disk.pci-0000-00-02.0-nvme), and those named by --serve. What it
/// asks for beyond that is refused, and told on standard error.
///
/// Exit codes: the driver's own once it runs; before that 2 wrong usage, 3 iommud is not running, 4 iommud does
/// not give the device, 5 pcid's channel does not tell which device it is, 6 the namespace cannot be made, 7 the
/// driver cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "iommu-run", verbatim_doc_comment)]
pub struct Options {
    /// Let the driver open this scheme, too. `memory`, `pci` and `iommu` undo confinement
    #[arg(long, value_name = "SCHEME", value_parser = scheme_name)]
    pub keep: Vec<String>,

    /// Let the driver give a scheme of its own this name, too
    #[arg(long, value_name = "NAME", value_parser = scheme_name)]
    pub serve: Vec<String>,

    /// Do not ask iommud: start the driver with plain contiguous memory, its device unconfined
    #[arg(long)]
    pub without_iommu: bool,

    /// The driver, in /usr/lib/drivers if not said otherwise, and its arguments
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

impl Options {
    /// Where the driver's program is.
    pub fn program(&self) -> PathBuf {
        // Joining keeps a path that starts at the root as it is. clap saw to it that there is a command.
        Path::new(DRIVERS).join(self.command.first().map_or(OsStr::new(""), OsString::as_os_str))
    }
}

/// A scheme's name, as it stands in a path.
fn scheme_name(text: &str) -> Result<String, &'static str> {
    let plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if plain && !text.ends_with('*') {
        Ok(text.to_string())
    } else {
        Err("a scheme's name alone is wanted, as `acpi`")
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(line.split(' '))
    }

    #[test]
    fn everything_from_the_driver_on_is_the_drivers() {
        let options = parse("iommu-run --keep acpi nvmed --keep --help -x").unwrap();
        assert_eq!((options.keep.len(), options.command.len()), (1, 4));
        assert!(!options.without_iommu);
    }

    #[test]
    fn a_driver_is_looked_for_where_pcid_spawner_does() {
        let program = |line| parse(line).unwrap().program();
        assert_eq!(program("iommu-run nvmed"), Path::new("/usr/lib/drivers/nvmed"));
        let path = "/scheme/initfs/lib/drivers/nvmed";
        assert_eq!(program("iommu-run /scheme/initfs/lib/drivers/nvmed -v"), Path::new(path));
    }

    #[test]
    fn what_is_no_schemes_name_is_refused() {
        for line in [
            "iommu-run",
            "iommu-run --keep nvmed",
            "iommu-run --keep /scheme/acpi nvmed",
            "iommu-run --keep * nvmed",
            "iommu-run --keep disk.* nvmed",
            "iommu-run --serve  nvmed",
            "iommu-run --pretend nvmed",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_help_lists_the_schemes_that_there_are() {
        let help = Options::command().render_long_help().to_string();
        let words: Vec<&str> = help.split([' ', ',', '\n']).collect();
        for scheme in crate::allowed::SCHEMES {
            assert!(words.contains(&scheme), "{scheme}: {help}");
        }
    }
}
