//! From the command line to the exit code.

use std::io::{self, Write};

use libdma::protocol::path::{FAULTS, JSON};

use super::capture::capture;
use super::client::Client;
use super::error::Error;
use super::options::{Command, Options, Report};
use super::plan::{Input, Report as Plan};

/// The exit code of a check that found something.
pub const FOUND: u8 = 4;

/// The exit code of a plan in which something is refused.
pub const REFUSED: u8 = 1;

/// The exit code of a plan for a table that is none.
pub const NO_TABLE: u8 = 2;

/// Writes the report on `out`; the exit code.
///
/// # Errors
///
/// Whatever keeps the report from being had.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<u8, Error> {
    let report = match &options.command {
        None => Report::Units,
        Some(Command::Report(report)) => *report,
        Some(Command::Plan(told)) => {
            let plan = Plan::new(Input::read(told)?);
            write(out, &if options.json { plan.json() } else { plan.text() })?;
            return Ok(match (plan.has_no_table(), plan.refuses()) {
                (true, _) => NO_TABLE,
                (false, true) => REFUSED,
                (false, false) => 0,
            });
        }
        Some(Command::Release { device }) => {
            if options.json {
                return Err(Error::NoJson);
            }
            Client::connect(options)?.release(*device)?;
            write(out, &format!("{device} is released from quarantine\n"))?;
            return Ok(0);
        }
        Some(Command::Capture(told)) => {
            if options.json {
                return Err(Error::NoJson);
            }
            write(out, &capture(&told.folder)?)?;
            return Ok(0);
        }
    };
    let client = Client::connect(options)?;
    let path = format!("{}{}", report.node(), if options.json { JSON } else { "" });
    let text = client.read(&path)?;
    write(out, &text)?;
    if report == (Report::Faults { check: true }) && has_faults(&client)? {
        return Ok(FOUND);
    }
    Ok(0)
}

fn write(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Whether any access was blocked.
fn has_faults(client: &Client) -> Result<bool, Error> {
    let path = format!("{FAULTS}{JSON}");
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&client.read(&path)?).map_err(|_| Error::Nonsense { path })?;
    Ok(!rows.is_empty())
}
