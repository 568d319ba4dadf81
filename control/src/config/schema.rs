//! The JSON Schema of the configuration file, for editors and other programs that write it.

use dpvs_file::INCLUDE;
use serde_json::{Map, Value, json};

use super::Config;

/// What a string with an environment variable looks like, whatever it stands for.
const VARIABLE: &str = r"\$\{";

/// The schema (2020-12) as JSON text.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(Config).to_value();
    allow_variables(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("Configuration of dpvsd"));
        root.insert("description".to_owned(), json!("deploy/dpvsd.toml explains every key"));
        // Included files need none; the check says so if there is none at all.
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            let include = json!({
                "type": "array",
                "items": { "type": "string" },
                "default": [],
                "description": "Further files with marks and services: names, folders, or patterns such as conf.d/*.toml, \
                                relative to this file",
            });
            properties.insert(INCLUDE.to_owned(), include);
        }
    }
    // JSON values with string keys can be written.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// Lets strings of a certain form have environment variables in place of it.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(allow_variables),
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                // Names and values there are no schemas.
                if !["default", "enum", "const", "required"].contains(&key.as_str()) {
                    allow_variables(value);
                }
            }
            allow_here(object);
        }
        _ => {}
    }
}

fn allow_here(object: &mut Map<String, Value>) {
    if object.get("type") == Some(&json!("string")) {
        if let Some(Value::String(pattern)) = object.get_mut("pattern") {
            *pattern = format!("{pattern}|{VARIABLE}");
        }
        if let Some(words) = object.remove("enum") {
            object.insert("anyOf".to_owned(), json!([{ "enum": words }, { "pattern": VARIABLE }]));
        }
    }
    let is_word = |choice: &Value| choice.get("type") == Some(&json!("string"));
    if let Some(Value::Array(choices)) = object.get_mut("oneOf")
        && choices.iter().all(is_word)
    {
        choices.push(json!({ "type": "string", "pattern": VARIABLE }));
    }
}
