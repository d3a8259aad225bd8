//! From the command line to the exit code.

use std::io::{self, Write};

use libdma::protocol::path::{FAULTS, JSON};

use super::client::Client;
use super::error::Error;
use super::options::{Options, Report};

/// The exit code of a check that found something.
pub const FOUND: u8 = 4;

/// Writes the report on `out`; the exit code.
///
/// # Errors
///
/// Whatever keeps the report from being had.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<u8, Error> {
    let report = options.report.unwrap_or(Report::Units);
    let client = Client::connect(options)?;
    let path = format!("{}{}", report.node(), if options.json { JSON } else { "" });
    let text = client.read(&path)?;
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    if report == (Report::Faults { check: true }) && has_faults(&client)? {
        return Ok(FOUND);
    }
    Ok(0)
}

/// Whether any access was blocked.
fn has_faults(client: &Client) -> Result<bool, Error> {
    let path = format!("{FAULTS}{JSON}");
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&client.read(&path)?).map_err(|_| Error::Nonsense { path })?;
    Ok(!rows.is_empty())
}
