//! Configurations of other directors, translated.

use std::io::Write;
use std::path::Path;

use crate::cli::ImportFormat;
use crate::run::{Error, read};

/// Prints the translation of a file, and on standard error what of it has none.
pub(crate) fn import(
    output: &mut dyn Write,
    file: &Path,
    format: Option<ImportFormat>,
    config_id: Option<&str>,
    strict: bool,
) -> Result<(), Error> {
    let text = read(file)?;
    let format = format.unwrap_or_else(|| match dpvs_import::is_keepalived(&text) {
        true => ImportFormat::Keepalived,
        false => ImportFormat::Ipvsadm,
    });
    let imported = match format {
        ImportFormat::Keepalived => dpvs_import::keepalived(file, &text, &config_id.map_or_else(host, str::to_owned)),
        ImportFormat::Ipvsadm => dpvs_import::ipvsadm(file, &text),
    };
    let word = if strict { "error" } else { "warning" };
    for warning in &imported.warnings {
        eprintln!("{}: {word}: {}", warning.place, warning.message);
    }
    if strict && !imported.warnings.is_empty() {
        return Err(Error::Said(1));
    }
    Ok(output.write_all(imported.text.as_bytes())?)
}

/// The host's name up to its first dot, as keepalived takes it.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}
