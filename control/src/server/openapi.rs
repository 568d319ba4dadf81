//! The OpenAPI 3.1 document, made from the endpoints and the types that they take and give.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::access::Role;
use super::endpoint::{Answer, Endpoint};

/// Where it is.
pub(super) const PATH: &str = "/v1/openapi.json";

const ABOUT: &str = "\
The API of dpvsd, a layer-4 load balancer. Changes take effect at once and last until the daemon ends; the configuration file \
is not changed. Unknown fields are refused.\n\n\
Answers about what is configured have an entity tag, its version; counters do not change it. A service has a version of its \
own, all else that of the whole configuration. With If-Match, a change is made only if nobody else has made one since (412 \
otherwise).";

/// Describes these endpoints.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<dpvs_api::ApiError>();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let operations = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        operations[endpoint.method.as_str().to_lowercase()] = operation(endpoint, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "dpvsd", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "paths": paths,
        "components": {
            "headers": { "ETag": { "description": "Version of what is configured", "schema": { "type": "string" } } },
            "parameters": {
                "IfMatch": condition("If-Match", "Versions one of which must still be in force"),
                "IfNoneMatch": condition("If-None-Match", "Versions that the peer has"),
            },
            "schemas": generator.take_definitions(true),
            "responses": {
                "Error": { "description": "What is wrong, and where", "content": { "application/json": { "schema": error } } }
            },
        },
    })
}

fn condition(name: &str, description: &str) -> Value {
    let schema = json!({ "type": "string", "pattern": r#"^\*$|^(W/)?"[!#-~]*"(, *(W/)?"[!#-~]*")*$"# });
    json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema })
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut answer = json!({ "description": "Done" });
    let mut parameters: Vec<Value> = path_parameters(endpoint.path).collect();
    if let Some(query) = endpoint.query {
        parameters.extend(query_parameters(query(generator), generator));
    }
    if endpoint.is_versioned {
        let condition = if endpoint.role == Role::Read { "IfNoneMatch" } else { "IfMatch" };
        parameters.push(json!({ "$ref": format!("#/components/parameters/{condition}") }));
        answer["headers"] = json!({ "ETag": { "$ref": "#/components/headers/ETag" } });
    }
    match &endpoint.answer {
        Answer::Done => {}
        Answer::Json(schema) => answer["content"] = json!({ "application/json": { "schema": schema(generator) } }),
        // OpenAPI 3.1 has no word for the events of a stream (3.2 has).
        Answer::Stream(schema) => answer["content"] = json!({ "text/event-stream": { "x-data": schema(generator) } }),
        Answer::Other(media_type) => answer["content"] = json!({ *media_type: {} }),
    }
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "responses": {
            endpoint.answer.status().as_str(): answer,
            "4XX": { "$ref": "#/components/responses/Error" },
            "5XX": { "$ref": "#/components/responses/Error" },
        },
    });
    if endpoint.is_versioned && endpoint.role == Role::Read {
        operation["responses"]["304"] = json!({ "description": "The version is the one of If-None-Match" });
    }
    if let Some(description) = endpoint.description {
        operation["description"] = description.into();
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = endpoint.body {
        let content = json!({ "application/json": { "schema": body(generator) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

/// The parts of a path in braces.
fn path_parameters(path: &'static str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let (description, schema) = match name {
            "protocol" => (
                "Protocol of the service, or fwmark",
                json!({ "type": "string", "enum": ["tcp", "udp", "sctp", "fwmark"] }),
            ),
            "address" => ("Virtual address, IPv6 without brackets; of fwmark, the mark", json!({ "type": "string" })),
            "port" => ("Virtual port; of fwmark, the family: inet or inet6", json!({ "type": "string" })),
            "server" => ("Address of the server, IPv6 without brackets", json!({ "type": "string" })),
            "server_port" => ("Port of the server", json!({ "type": "integer", "minimum": 0, "maximum": u16::MAX })),
            "local" => ("Local address", json!({ "type": "string" })),
            _ => ("", json!({ "type": "string" })),
        };
        json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
    })
}

/// A parameter for each property of an object.
fn query_parameters(schema: schemars::Schema, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = schema.to_value();
    let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()).unwrap_or_default();
    // Parameters have no use for the object as such.
    let object = generator.definitions_mut().remove(name).unwrap_or(schema);
    let required = |name: &str| object["required"].as_array().is_some_and(|names| names.contains(&name.into()));
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        // In a query there is no null: what is optional is absent.
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
        }
        json!({
            "name": name, "in": "query", "required": required(name), "description": description, "schema": schema,
        })
    };
    object["properties"].as_object().into_iter().flatten().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::server::routes::endpoints;

    /// Set, the test writes the file instead of comparing it.
    const UPDATE: &str = "DPVS_UPDATE_DOCS";

    #[test]
    fn the_committed_document_is_current() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let text = serde_json::to_string_pretty(&document(&endpoints())).unwrap() + "\n";
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == text,
            "docs/openapi.json is old: run 'cargo nextest run -p control openapi' with {UPDATE}=1"
        );
    }

    #[test]
    fn ids_are_unique_and_references_lead_somewhere() {
        let endpoints = endpoints();
        let ids: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        assert_eq!(ids.len(), endpoints.len());
        let document = document(&endpoints);
        let text = document.to_string();
        let mut references = 0;
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            references += 1;
        }
        assert!(references > 50, "{references}");
        for (path, parameters) in document["paths"].as_object().unwrap() {
            let named = parameters.as_object().unwrap().values().all(|operation| {
                let described = operation["parameters"].as_array().into_iter().flatten();
                described.filter(|parameter| parameter["in"] == "path").all(|parameter| parameter["description"] != "")
            });
            assert!(named, "{path} has a parameter that is not described");
        }
    }
}
