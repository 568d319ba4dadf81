//! Metrics for Prometheus.
//!
//! The core only hands out a [`Scene`]: what there is at the moment. Whoever renders it reads the workers' counters and the
//! health checks' records himself, on a thread of his own, so that a hundred thousand servers do not keep the core long.
//!
//! Names follow the conventions of Prometheus: totals end with `_total`, units are seconds and bytes. Series of services
//! and servers are limited by the configuration ([`Shown`]), and a metric says how many were left out.

mod control;
mod daemon;
mod seen;
mod services;
mod sheet;
#[cfg(test)]
mod tests;
mod workers;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use dataplane::shared::Shared;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::registry::Registry;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::control::ControlMetrics;
pub use self::seen::Seen;
use self::sheet::Sheet;
use crate::core::{Devices, Facts};
use crate::stats::Books;

/// What a scrape shows.
pub struct Scene {
    /// Workers' counters.
    pub shared: Arc<Shared>,
    /// Services and servers.
    pub seen: Seen,
    /// What their totals are reckoned from.
    pub books: Arc<Books>,
    /// The ports' devices and the pool of packets.
    pub devices: Arc<Devices>,
    /// What the daemon is.
    pub facts: Facts,
    /// What the control thread observed of itself.
    pub control: Arc<ControlMetrics>,
    /// When snapshots were published.
    pub publications: Publications,
    /// Whether the daemon drains before it stops.
    pub draining: bool,
    /// Routes and usable neighbours of the forwarding table.
    pub routes: (u64, u64),
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// When the last snapshots were published.
#[derive(Clone, Debug, Default)]
pub struct Publications {
    /// Generation and time, the latest one last.
    last: VecDeque<(u64, SystemTime)>,
}

impl Publications {
    /// How many are remembered; a worker that is so far behind has stopped.
    const REMEMBERED: usize = 32;

    /// Takes note of one.
    pub fn note(&mut self, generation: u64, now: SystemTime) {
        if self.last.len() == Self::REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back((generation, now));
    }

    /// The latest one.
    fn latest(&self) -> Option<(u64, SystemTime)> {
        self.last.back().copied()
    }

    /// When a generation was published, or the first one after it that is remembered.
    fn time_of(&self, generation: u64) -> Option<SystemTime> {
        let after = self.last.iter().find(|(published, _)| *published >= generation);
        after.or(self.last.back()).map(|(_, time)| *time)
    }
}

/// How many services or servers have metrics of their own; written `"all"`, `"none"` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(pub usize);

impl Shown {
    /// Every one.
    pub const ALL: Self = Self(usize::MAX);
    /// None.
    pub const NONE: Self = Self(0);
}

impl Default for Shown {
    fn default() -> Self {
        Self(10_000)
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Shown;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", \"none\" or the largest number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Shown, E> {
                match text {
                    "all" => Ok(Shown::ALL),
                    "none" => Ok(Shown::NONE),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Shown, E> {
                Ok(Shown(usize::try_from(number).unwrap_or(usize::MAX)))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Shown, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::ALL => serializer.serialize_str("all"),
            Self::NONE => serializer.serialize_str("none"),
            Self(number) => serializer.serialize_u64(number as u64),
        }
    }
}

impl JsonSchema for Shown {
    fn schema_name() -> Cow<'static, str> {
        "Shown".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"all\", \"none\" or the largest number.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "enum": ["all", "none"] }],
        })
    }
}

/// How much of a scene is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Services with metrics of their own.
    pub services: Shown,
    /// Servers, of all services together.
    pub servers: Shown,
}

/// Writes a scene as text, piece by piece.
///
/// # Errors
///
/// Those of `out`.
pub fn render(scene: Scene, out: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::with_prefix("dpvs");
    registry.register_collector(Box::new(scene));
    prometheus_client::encoding::prometheus_text::encode(out, &registry)
}

impl Collector for Scene {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet::new(encoder);
        daemon::write(self, &mut sheet)?;
        workers::write(self, &mut sheet)?;
        services::write(self, &mut sheet)
    }
}

/// Seconds since 1970.
fn unix_time(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
