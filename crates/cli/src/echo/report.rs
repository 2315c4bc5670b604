//! What an echo says that it received.

use std::collections::BTreeMap;

use http::request::Parts;
use serde::{Deserialize, Serialize};

/// Who answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The namespace of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The pod that the echo plays.
    pub pod: String,
}

/// A request as it arrived, in the shape of the conformance suite's `echo-basic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// With the query.
    pub path: String,
    /// The Host header or `:authority`.
    pub host: String,
    /// The method.
    pub method: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub proto: String,
    /// By name, written `Like-This`; Host is not among them.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The port that the echo listens on.
    #[serde(default)]
    pub http_port: String,
    /// The namespace of the Service.
    pub namespace: String,
    /// Empty.
    #[serde(default)]
    pub ingress: String,
    /// The Service.
    #[serde(default)]
    pub service: String,
    /// The pod.
    pub pod: String,
}

impl Report {
    /// Reports on a request.
    pub fn new(request: &Parts, identity: &Identity, port: u16) -> Self {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &request.headers {
            if name != http::header::HOST {
                headers.entry(canonical(name.as_str())).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
        }
        let path = request.uri.path_and_query().map_or_else(|| request.uri.path(), http::uri::PathAndQuery::as_str);
        Self {
            path: path.to_owned(),
            host: host(request),
            method: request.method.to_string(),
            proto: format!("{:?}", request.version),
            headers,
            http_port: port.to_string(),
            namespace: identity.namespace.clone(),
            ingress: String::new(),
            service: identity.service.clone(),
            pod: identity.pod.clone(),
        }
    }
}

/// Who the client asked for.
pub(super) fn host(request: &Parts) -> String {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let header = || request.headers.get(http::header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    authority.map(str::to_owned).or_else(header).unwrap_or_default()
}

/// `x-request-id` -> `X-Request-Id`
fn canonical(name: &str) -> String {
    name.split('-')
        .map(|word| match word.split_at_checked(1) {
            Some((first, rest)) => first.to_ascii_uppercase() + rest,
            None => String::new(),
        })
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_shape_of_echo_basic() {
        let request = http::Request::get("/a/b?c=d")
            .header("host", "shop.example.com:8080")
            .header("x-two", "1")
            .header("X-TWO", "2")
            .header("a--b", "")
            .body(())
            .unwrap();
        let identity = Identity { namespace: "ns".into(), service: "svc".into(), pod: "svc-echo".into() };
        let report = Report::new(&request.into_parts().0, &identity, 3000);
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "path": "/a/b?c=d", "host": "shop.example.com:8080", "method": "GET", "proto": "HTTP/1.1",
                "headers": {"X-Two": ["1", "2"], "A--B": [""]},
                "httpPort": "3000", "namespace": "ns", "ingress": "", "service": "svc", "pod": "svc-echo",
            })
        );
    }
}
