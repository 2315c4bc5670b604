//! Why a request is refused -> the `Status` object that a client gets.

use serde_json::{Value, json};

use super::kinds::Resource;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub code: u16,
    /// The word that clients decide by.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Seconds for the header `Retry-After`.
    pub retry_after: Option<u32>,
    details: Option<Value>,
    /// No `Status`, only text: what is not served at all.
    plain: bool,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, details: None, plain: false }
    }

    /// 409: somebody else has written.
    pub fn conflict() -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled: {why}"))
    }

    /// 410: the version that was asked for is gone.
    pub fn gone() -> Self {
        Self::new(410, "Expired", "The resourceVersion for the provided watch is too old.")
    }

    /// 429: too many requests; try again after so many seconds.
    pub fn too_many(retry_after: u32) -> Self {
        let mut refusal = Self::new(429, "TooManyRequests", "Too many requests, please try again later.");
        refusal.details = Some(json!({"retryAfterSeconds": retry_after}));
        refusal.retry_after = Some(retry_after);
        refusal
    }

    /// 500.
    pub fn internal() -> Self {
        Self::new(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
    }

    /// 503.
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    }

    /// 403: as without a rule in RBAC.
    pub fn forbidden() -> Self {
        Self::new(403, "Forbidden", "forbidden: User \"system:serviceaccount:isthmus-system:isthmus-controller\" cannot do this")
    }

    pub(super) fn not_served() -> Self {
        Self { plain: true, ..Self::new(404, "NotFound", "404 page not found\n") }
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified())).about(resource, name)
    }

    pub(super) fn no_namespace(name: &str) -> Self {
        let mut refusal = Self::new(404, "NotFound", format!("namespaces \"{name}\" not found"));
        refusal.details = Some(json!({"name": name, "kind": "namespaces"}));
        refusal
    }

    pub(super) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified())).about(resource, name)
    }

    pub(super) fn modified(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    pub(super) fn invalid(resource: &Resource, name: &str, why: &str) -> Self {
        let what =
            if resource.group.is_empty() { resource.kind.clone() } else { format!("{}.{}", resource.kind, resource.group) };
        Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {why}")).about(resource, name)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn wrong_media_type() -> Self {
        let known = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {known}"),
        )
    }

    pub(super) fn too_large_version(asked: u64, present: u64) -> Self {
        let mut refusal = Self::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {present}"));
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        refusal.details = Some(json!({"causes": [cause], "retryAfterSeconds": 1}));
        refusal.retry_after = Some(1);
        refusal
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(json!({"name": name, "group": resource.group, "kind": resource.plural}));
        self
    }

    /// The media type and the body of the answer.
    pub(super) fn body(&self) -> (&'static str, String) {
        if self.plain {
            return ("text/plain; charset=utf-8", self.message.clone());
        }
        ("application/json", self.status().to_string())
    }

    /// The `Status` object.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}
