//! `keepalived.conf`, as keepalived.conf(5) describes it, with what DPVS's keepalived adds.
//!
//! * [`lines`]: included files, parameters, conditions and repetitions, until only plain lines are left.
//! * [`tree`]: words and blocks.
//! * [`translate`]: what the blocks mean; [`service`], [`server`], [`checker`]: those of IPVS.

mod address;
mod checker;
mod lines;
mod server;
mod service;
mod translate;
mod tree;
mod words;

use std::path::Path;

use crate::{Imported, Report};

/// Translates a configuration of keepalived, files that it includes as well. `id` is the configuration's (`keepalived -i`), by
/// default the host's name up to its first dot; lines behind `@ID` are for those of that name.
pub fn keepalived(file: &Path, text: &str, id: &str) -> Imported {
    let mut report = Report::default();
    let lines = lines::read(file, text, id, &mut report);
    let blocks = tree::parse(lines, &mut report);
    let output = translate::translate(&blocks, &mut report);
    report.0.sort_by(|a, b| {
        (&*a.place.file != file, &a.place.file, a.place.line).cmp(&(
            &*b.place.file != file,
            &b.place.file,
            b.place.line,
        ))
    });
    output.finish(report)
}

/// Whether a text looks like one of keepalived's, and not like rules of ipvsadm.
pub fn is_keepalived(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    !first.is_some_and(|line| line.starts_with('-') || line.starts_with("ipvsadm "))
}
