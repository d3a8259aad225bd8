//! What a plan is made from.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use iommu_engine::acpi::{dmar, ivrs};
use iommu_engine::policy::Policy;

use super::dump::Dump;
use super::live;
use crate::ctl::error::Error;
use crate::ctl::options::PlanOptions;
use crate::policy;

/// The largest table that is read. Those of real machines have some kilobytes.
const LARGEST_TABLE: u64 = 1 << 20;

/// The largest dump that is read: some thousands of functions.
const LARGEST_DUMP: u64 = 64 << 20;

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The DMAR table.
    pub dmar: Option<Table>,
    /// The IVRS table.
    pub ivrs: Option<Table>,
    /// The PCI functions; `None` if nobody told.
    pub functions: Option<Dump>,
    /// What the administrator decides.
    pub policy: Policy,
}

/// A table, and where it comes from.
#[derive(Clone, Debug)]
pub struct Table {
    /// Where it comes from, in words.
    pub from: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Input {
    /// Reads what the command line names; this machine, if it names nothing.
    ///
    /// # Errors
    ///
    /// Whatever cannot be read, and functions or a policy that are none. Tables are not looked at.
    pub fn read(options: &PlanOptions) -> Result<Self, Error> {
        let told = options.policy.as_deref().map(policy::load).transpose()?;
        if options.this_machine() {
            let policy = match told {
                Some(policy) => Some(policy),
                None => policy::load_default()?.map(|(policy, _)| policy),
            };
            return Ok(Self {
                dmar: of_this_machine(dmar::table::SIGNATURE)?,
                ivrs: of_this_machine(ivrs::table::SIGNATURE)?,
                functions: Some(live::functions().map_err(Error::functions)?),
                policy: policy.unwrap_or_default(),
            });
        }
        let table = |file: &Path| {
            let bytes = read(file, LARGEST_TABLE)?;
            Ok::<_, Error>(Table { from: file.display().to_string(), bytes })
        };
        let dump = |file: &Path| {
            let text = read(file, LARGEST_DUMP)?;
            Dump::parse(&text).map_err(|error| Error::Functions { file: file.into(), error })
        };
        Ok(Self {
            dmar: options.dmar.as_deref().map(table).transpose()?,
            ivrs: options.ivrs.as_deref().map(table).transpose()?,
            functions: options.pci.as_deref().map(dump).transpose()?,
            policy: told.unwrap_or_default(),
        })
    }
}

fn of_this_machine(signature: [u8; 4]) -> Result<Option<Table>, Error> {
    let bytes = live::table(signature).map_err(Error::tables)?;
    Ok(bytes.map(|bytes| Table { from: "this machine".into(), bytes }))
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let unreadable = |error| Error::Unreadable { file: file.into(), error };
    let mut bytes = Vec::new();
    let read = |file: File| file.take(most + 1).read_to_end(&mut bytes);
    File::open(file).and_then(read).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(Error::TooLarge { file: file.into(), most });
    }
    Ok(bytes)
}
