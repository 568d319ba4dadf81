//! What the API can do, one entry each: the router and the OpenAPI document are both made from these, so that neither can have
//! what the other lacks.

use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::access::{Role, require_write};
use super::routes::Api;

/// Writes the schema of a type, or a reference to it.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A method of a path.
pub(super) struct Endpoint {
    pub path: &'static str,
    pub method: Method,
    /// What serves it, once the role is checked.
    handler: MethodRouter<Api>,
    /// What its peers must be allowed.
    pub role: Role,
    /// Its name in the OpenAPI document, from which generators make names of functions.
    pub id: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What else there is to know.
    pub description: Option<&'static str>,
    /// An object whose properties are the parameters of the query.
    pub query: Option<SchemaOf>,
    /// The JSON body of the request.
    pub body: Option<SchemaOf>,
    /// What it gives or changes has a version.
    pub is_versioned: bool,
    pub answer: Answer,
}

/// What a request that succeeds is answered with.
pub(super) enum Answer {
    /// 204, without a body.
    Done,
    /// 200, with JSON.
    Json(SchemaOf),
    /// 200, with something else, of this media type.
    Other(&'static str),
    /// 200, with server-sent events whose data is this.
    Stream(SchemaOf),
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        match self {
            Answer::Done => StatusCode::NO_CONTENT,
            Answer::Json(_) | Answer::Other(_) | Answer::Stream(_) => StatusCode::OK,
        }
    }
}

fn schema_of<T: JsonSchema>() -> SchemaOf {
    |generator| generator.subschema_for::<T>()
}

impl Endpoint {
    fn new<H, T>(method: Method, path: &'static str, handler: H, id: &'static str, summary: &'static str) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("one of the methods below");
        let role = if method == Method::GET { Role::Read } else { Role::Write };
        Self {
            path,
            method,
            handler: on(filter, handler),
            role,
            id,
            summary,
            description: None,
            query: None,
            body: None,
            is_versioned: false,
            answer: Answer::Done,
        }
    }

    /// The parameters of its query.
    pub fn queried<T: JsonSchema>(self) -> Self {
        Self { query: Some(schema_of::<T>()), ..self }
    }

    /// The JSON body of its request.
    pub fn takes<T: JsonSchema>(self) -> Self {
        Self { body: Some(schema_of::<T>()), ..self }
    }

    /// The JSON that it answers with; without this, it answers with nothing.
    pub fn gives<T: JsonSchema>(self) -> Self {
        Self { answer: Answer::Json(schema_of::<T>()), ..self }
    }

    /// It answers with something of this media type.
    pub fn gives_other(self, media_type: &'static str) -> Self {
        Self { answer: Answer::Other(media_type), ..self }
    }

    /// It takes conditions, and its answers have tags.
    pub fn versioned(self) -> Self {
        Self { is_versioned: true, ..self }
    }

    /// It changes nothing, whatever its method.
    pub fn reads(self) -> Self {
        Self { role: Role::Read, ..self }
    }

    /// What serves it.
    pub fn route(self) -> MethodRouter<Api> {
        match self.role {
            Role::Read => self.handler,
            Role::Write => self.handler.route_layer(from_fn(require_write)),
        }
    }

    /// It answers with a stream of events with this data.
    pub fn streams<T: JsonSchema>(self) -> Self {
        Self { answer: Answer::Stream(schema_of::<T>()), ..self }
    }

    /// What there is to know besides the summary.
    pub fn described(self, description: &'static str) -> Self {
        Self { description: Some(description), ..self }
    }
}

macro_rules! methods {
    ($($name:ident $method:ident)*) => {
        $(
            /// An endpoint with this method: path, handler, id and summary.
            pub(super) fn $name<H, T>(path: &'static str, handler: H, id: &'static str, summary: &'static str) -> Endpoint
            where
                H: Handler<T, Api>,
                T: 'static,
            {
                Endpoint::new(Method::$method, path, handler, id, summary)
            }
        )*
    };
}

methods!(get GET post POST put PUT delete DELETE);
