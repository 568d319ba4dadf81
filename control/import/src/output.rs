//! The configuration that a translation leads to.

use dpvs_api::{Service, Timeouts};
use serde::Serialize;
use toml::{Table, Value};

use crate::{Imported, Report};

/// What of a configuration can be translated.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Output {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    pub services: Vec<Service>,
}

impl Output {
    /// The text of the configuration.
    pub fn finish(self, report: Report) -> Imported {
        let text = defaults().and_then(|defaults| dpvs_file::write(&self, &defaults));
        // All of these types can be written.
        Imported { text: text.unwrap_or_else(|error| format!("# {error}\n")), warnings: report.0 }
    }
}

fn defaults() -> Result<Table, toml::ser::Error> {
    let mut defaults = dpvs_file::service_defaults()?;
    defaults.insert("timeouts".to_owned(), Value::try_from(Timeouts::default())?);
    Ok(defaults)
}
