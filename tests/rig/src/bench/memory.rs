//! Memory of the real iommud, which simulates the machine and is a process of this host: what its tables take by its own
//! account, and what the system says of the process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::column::Column;
use crate::bench::figures::Figures;
use crate::bench::requests::told;
use crate::cargo::{Failure, scratch_dir};
use crate::qemu::Iommu;

/// The agent, among the guest's programs.
const AGENT: &str = "guest";

/// The variable that tells all of them where iommud's socket is.
const SOCKET: &str = "IOMMUD_SOCKET";

/// A million requests, 128 at a time, and as many to undo them.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs it with the unit of this column.
pub(super) fn measure(programs: &[impl AsRef<Path>], column: Column) -> Result<Figures, Failure> {
    let agent = programs.iter().map(AsRef::as_ref).find(|it| it.ends_with(AGENT));
    let agent = agent.ok_or(Failure { why: "there is no agent".into(), lines: Vec::new() })?;
    let mut command = Command::new(agent);
    command.args(["held", if column.iommu() == Iommu::AmdVi { "amdvi" } else { "vtd" }]);
    command.env("PATH", agent.parent().unwrap_or(Path::new("/")));
    // The path of a socket must not be long.
    command.env(SOCKET, "bench-iommud.sock").current_dir(scratch_dir());
    told(command, column, LIMIT)
}
