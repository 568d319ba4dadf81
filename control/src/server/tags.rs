//! Entity tags (RFC 9110 section 8.8.3): versions of the configuration, by which a change can be refused that would undo another
//! one unseen.
//!
//! A tag stands for what is configured. The counters that are in the same answer do not change it.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use dpvs_api::{Author, ServiceId};

use super::access::Peer;
use super::input::Refusal;
use crate::core::Batch;

/// Whose change it is, and which version it presupposes.
#[derive(Debug)]
pub(super) struct Asked {
    pub by: Author,
    /// From `If-Match`; `None`: any version.
    pub only_if: Option<Vec<String>>,
}

impl Asked {
    /// A change of a service, or of more than one.
    pub fn batch(self, scope: Option<ServiceId>, operations: Vec<dpvs_api::Operation>) -> Batch {
        Batch { operations, by: self.by, scope, only_if: self.only_if }
    }
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let by = parts.extensions.get::<Peer>().map_or(Author::Daemon, |peer| peer.author.clone());
        Ok(Self { by, only_if: if_match(&parts.headers)? })
    }
}

/// The versions that `If-Match` names. What must merely exist (`*`) needs no check: changes of what does not are refused.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<String>>, Refusal> {
    let mut versions = None;
    for value in headers.get_all(header::IF_MATCH) {
        if let Listed::These(tags) = listed("If-Match", value)? {
            // Weak tags never match here (RFC 9110 section 13.1.1).
            let strong = tags.into_iter().filter(|tag| !tag.weak).map(|tag| tag.value.to_owned());
            versions.get_or_insert_with(Vec::new).extend(strong);
        }
    }
    Ok(versions)
}

/// Whether the peer has this version, as `If-None-Match` says.
pub(super) fn is_known(headers: &HeaderMap, version: &str) -> Result<bool, Refusal> {
    let mut is_known = false;
    for value in headers.get_all(header::IF_NONE_MATCH) {
        is_known |= match listed("If-None-Match", value)? {
            Listed::All => true,
            Listed::These(tags) => tags.iter().any(|tag| tag.value == version),
        };
    }
    Ok(is_known)
}

/// The answer with the tag of a version.
pub(super) fn tagged(mut response: Response, version: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

struct Tag<'a> {
    weak: bool,
    value: &'a str,
}

/// What a condition is about.
enum Listed<'a> {
    /// `*`: whatever there is.
    All,
    These(Vec<Tag<'a>>),
}

fn listed<'a>(name: &str, value: &'a HeaderValue) -> Result<Listed<'a>, Refusal> {
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Listed::All);
    }
    list(text).map(Listed::These).ok_or_else(|| {
        Refusal::invalid(format!(
            "{name}: '{text}' is no list of entity tags: give the ETag of an answer, with its quotes"
        ))
    })
}

/// `"a", W/"b"`; a tag may have any character but quotes.
fn list(text: &str) -> Option<Vec<Tag<'_>>> {
    let mut tags = Vec::new();
    let mut rest = text.trim();
    loop {
        let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let (value, after) = tag.strip_prefix('"')?.split_once('"')?;
        tags.push(Tag { weak, value });
        match after.trim_start() {
            "" => return Some(tags),
            more => rest = more.strip_prefix(',')?.trim_start(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn conditions_of_changes() {
        let read = |values: &[&str]| if_match(&headers(header::IF_MATCH, values));
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["*"]).unwrap(), None);
        assert_eq!(read(&["\"a.1\""]).unwrap().unwrap(), ["a.1"]);
        assert_eq!(read(&["\"a,1\" , W/\"b\",\"c\"", "\"d\""]).unwrap().unwrap(), ["a,1", "c", "d"]);
        assert!(read(&["W/\"b\""]).unwrap().unwrap().is_empty(), "it matches nothing");
        for bad in ["a.1", "\"a", "\"a\" \"b\"", "\"a\",", "", "W/a", "w/\"a\""] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_of_answers() {
        for (value, expected) in
            [("\"a\"", true), ("W/\"a\"", true), ("\"b\", \"a\"", true), ("*", true), ("\"b\"", false)]
        {
            assert_eq!(is_known(&headers(header::IF_NONE_MATCH, &[value]), "a").unwrap(), expected, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), "a").unwrap());
        assert!(is_known(&headers(header::IF_NONE_MATCH, &["a"]), "a").is_err());
    }
}
