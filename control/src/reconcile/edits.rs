//! What operations change of what runs, value by value, for people to read.

use std::collections::HashMap;

use dpvs_api::{Edit, MarkRule, Operation, Service, ServiceId, Timeouts};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::Running;

/// The values that edits among the operations change.
pub(super) fn edits(operations: &[Operation], running: &Running) -> Vec<Edit> {
    let services = running.services.iter().map(|service| (service.id, service)).collect();
    operations.iter().enumerate().flat_map(|(index, operation)| of(index, operation, running, &services)).collect()
}

fn of(index: usize, operation: &Operation, running: &Running, services: &HashMap<ServiceId, &Service>) -> Vec<Edit> {
    let (old, new) = match operation {
        Operation::EditService { service: id, settings } => {
            let Some(old) = services.get(id) else { return Vec::new() };
            (object(&old.settings), object(settings))
        }
        Operation::EditServer { service: id, server } => {
            let old = services.get(id).and_then(|old| old.servers.iter().find(|old| old.address == server.address));
            let Some(old) = old else { return Vec::new() };
            (object(old), object(server))
        }
        Operation::SetTimeouts { timeouts } => {
            let now = running.timeouts;
            // 0 leaves a value as it is.
            let value = |new: u32, now: u32| if new == 0 { now } else { new };
            let new = Timeouts {
                tcp: value(timeouts.tcp, now.tcp),
                tcp_fin: value(timeouts.tcp_fin, now.tcp_fin),
                udp: value(timeouts.udp, now.udp),
            };
            (object(&now), object(&new))
        }
        Operation::SetSysctls { values } => {
            let mut old = object(&running.sysctls);
            old.retain(|name, _| values.contains_key(name));
            (old, object(values))
        }
        Operation::SetMarks { rules } => {
            let text = |rule: &MarkRule| Value::from(rule.to_string());
            let list =
                |rules: &[MarkRule]| Map::from_iter([("rules".to_owned(), rules.iter().map(text).collect::<Value>())]);
            (list(&running.marks), list(rules))
        }
        _ => return Vec::new(),
    };
    let mut names: Vec<&String> = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))).collect();
    names.retain(|name| old.get(*name) != new.get(*name));
    let value = |object: &Map<String, Value>, name: &str| object.get(name).cloned().unwrap_or_default();
    let edit =
        |name: &String| Edit { operation: index, field: name.clone(), old: value(&old, name), new: value(&new, name) };
    names.into_iter().map(edit).collect()
}

/// The fields of a value; types of the API are all written as objects.
fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
