//! Health checks of real servers.

mod target;

pub(crate) use target::{body_pattern, checks_of, target};
