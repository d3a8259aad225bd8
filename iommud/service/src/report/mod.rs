//! The text nodes: what the daemon says of itself, to people and to programs.
//!
//! | module | node |
//! | --- | --- |
//! | `units` | `units` |
//! | `devices` | `devices` |
//! | `groups` | `groups` |
//! | `domains` | `domains` |
//! | `mappings` | `mappings` |
//! | `faults` | `faults` |
//! | `quotas` | `quotas` |
//! | `handles` | `handles` |
//! | `config` | `config` |
//! | [`table`] | aligned columns |
//! | [`ago`] | how long ago something was |
//!
//! A report is a list of rows, each a struct. The same rows make the table for people and the JSON for
//! programs; JSON has every field, the table what fits a terminal.

pub mod ago;
mod config;
mod devices;
mod domains;
mod faults;
mod groups;
mod handles;
mod mappings;
mod quotas;
pub mod table;
mod units;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu_engine::platform::Platform;
use iommu_engine::policy::Resource;
use libdma::quota::Size;
use serde::Serialize;

use crate::node::{Form, Report};
use crate::service::Service;
use table::Table;

/// A row of a report.
trait Row: Serialize {
    /// The heads of the table's columns. A head that ends in a blank is of a column of numbers, to be
    /// aligned at the right.
    const COLUMNS: &'static [&'static str];

    /// What the table says when there are no rows.
    const NONE: &'static str;

    /// The row's cells, as many as there are columns.
    fn cells(&self) -> Vec<String>;

    /// Lines to be put under the row, where there is more to say than fits a cell.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Writes a report.
pub(crate) fn write<P: Platform>(service: &Service<P>, report: Report, form: Form) -> String {
    match report {
        Report::Units => render(&units::rows(service), form),
        Report::Devices => render(&devices::rows(service), form),
        Report::Groups => render(&groups::rows(service), form),
        Report::Domains => render(&domains::rows(service), form),
        Report::Mappings => render(&mappings::rows(service), form),
        Report::Faults => render(&faults::rows(service), form),
        Report::Quotas => render(&quotas::rows(service), form),
        Report::Handles => render(&handles::rows(service), form),
        Report::Config => render(&config::rows(service), form),
    }
}

/// So much of a resource, for people.
fn amount(of: Resource, amount: u64) -> String {
    if of.is_in_bytes() { Size(amount).to_string() } else { amount.to_string() }
}

fn render<R: Row>(rows: &[R], form: Form) -> String {
    match form {
        Form::Table => {
            let mut table = Table::new(R::COLUMNS);
            for row in rows {
                table.row(row.cells(), row.notes());
            }
            table.finish(R::NONE)
        }
        Form::Json => {
            // Rows are structs of numbers, texts and lists, which always can be written.
            let mut text = serde_json::to_string_pretty(rows).unwrap_or_default();
            text.push('\n');
            text
        }
    }
}
