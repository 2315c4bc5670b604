//! `matches` -> the model's matchers.

use std::str::FromStr;

use isthmus_api::shared::{self, MatchType, PathMatchType};
use isthmus_routing::matching::ValueMatch;
use isthmus_routing::path::normalise;
use isthmus_routing::value::{HeaderName, Pattern};
use isthmus_routing::{GrpcMatch, HeaderMatch, HttpMatch, Matches, MethodMatch, PathMatch, QueryParamMatch};

use super::RuleFault;

/// All matches of a rule, or the first that the model cannot hold.
pub(super) fn matches(matches: &shared::Matches) -> Result<Matches, RuleFault> {
    fn each<T, U>(matches: &[T], convert: fn(&T) -> Result<U, RuleFault>) -> Result<Vec<U>, RuleFault> {
        let convert = |(at, one): (usize, &T)| convert(one).map_err(|fault| fault.within(&format!("matches[{at}]")));
        matches.iter().enumerate().map(convert).collect()
    }
    Ok(match matches {
        shared::Matches::Http(list) => Matches::Http(each(list, http)?),
        shared::Matches::Grpc(list) => Matches::Grpc(each(list, grpc)?),
        shared::Matches::Any => Matches::Any,
    })
}

fn http(from: &shared::HttpMatch) -> Result<HttpMatch, RuleFault> {
    let method = from.method.as_deref().map(|method| parse(method, "method")).transpose()?;
    Ok(HttpMatch { path: path(&from.path)?, headers: headers(&from.headers)?, query: query(&from.query_params)?, method })
}

fn grpc(from: &shared::GrpcMatch) -> Result<GrpcMatch, RuleFault> {
    let method = from.method.as_ref().map(grpc_method).transpose()?.flatten();
    Ok(GrpcMatch { method, headers: headers(&from.headers)? })
}

/// > PathPrefix and Exact paths must be syntactically valid:
/// >
/// > - Must begin with the `/` character
/// > - Must not contain consecutive `/` characters (e.g. `/foo///`, `//`).
///
/// The API's rules also refuse what a normal form of the path does not contain, so such a value would never match.
fn path(from: &shared::PathMatch) -> Result<PathMatch, RuleFault> {
    if from.r#type == PathMatchType::RegularExpression {
        return Ok(PathMatch::Regex(parse(&from.value, "path.value")?));
    }
    let value = from.value.as_str();
    let lower = value.to_ascii_lowercase();
    let fault = if !value.starts_with('/') {
        Some("does not begin with `/`".to_owned())
    } else if ["//", "/./", "/../", "%2f", "#"].iter().any(|part| lower.contains(part)) {
        Some("contains one of `//`, `/./`, `/../`, `%2F` and `#`".to_owned())
    } else if value.ends_with("/..") || value.ends_with("/.") {
        Some("ends with `/..` or `/.`".to_owned())
    } else if !is_path(value) {
        Some("contains characters that have to be percent-encoded in a path".to_owned())
    } else {
        normalise(value).err().map(|fault| format!("never matches: {fault}"))
    };
    match fault {
        Some(fault) => Err(RuleFault::unsupported("path.value", format_args!("`{}` {fault}", value.escape_default()))),
        None if from.r#type == PathMatchType::Exact => Ok(PathMatch::Exact(value.to_owned())),
        None => Ok(PathMatch::Prefix(value.to_owned())),
    }
}

/// Whether a text has only characters that RFC 3986 has in a path, and whole percent-encodings.
pub(super) fn is_path(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let whole = match byte {
            b'%' => bytes.next().is_some_and(|b| b.is_ascii_hexdigit()) && bytes.next().is_some_and(|b| b.is_ascii_hexdigit()),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !whole {
            return false;
        }
    }
    true
}

/// > If multiple entries specify equivalent header names, only the first
/// > entry with an equivalent name MUST be considered for a match. Subsequent
/// > entries with an equivalent header name MUST be ignored.
fn headers(from: &[shared::HeaderMatch]) -> Result<Vec<HeaderMatch>, RuleFault> {
    let mut headers = Vec::<HeaderMatch>::with_capacity(from.len());
    for (at, header) in from.iter().enumerate() {
        let within = |fault: RuleFault| fault.within(&format!("headers[{at}]"));
        let name = parse::<HeaderName>(&header.name, "name").map_err(within)?;
        if !headers.iter().any(|known| known.name == name) {
            let value = value(header.r#type, &header.value, "value").map_err(within)?;
            headers.push(HeaderMatch { name, value });
        }
    }
    Ok(headers)
}

/// > If multiple entries specify equivalent query param names, only the first
/// > entry with an equivalent name MUST be considered for a match. Subsequent
/// > entries with an equivalent query param name MUST be ignored.
fn query(from: &[shared::QueryParamMatch]) -> Result<Vec<QueryParamMatch>, RuleFault> {
    let mut params = Vec::<QueryParamMatch>::with_capacity(from.len());
    for (at, param) in from.iter().enumerate() {
        if !params.iter().any(|known| known.name == param.name) {
            let value =
                value(param.r#type, &param.value, "value").map_err(|fault| fault.within(&format!("queryParams[{at}]")))?;
            params.push(QueryParamMatch { name: param.name.clone(), value });
        }
    }
    Ok(params)
}

/// > Value of the service to match against. If left empty or omitted, will
/// > match any service.
///
/// > Exact methods MUST be syntactically valid:
/// >
/// > - Must not contain `/` character
fn grpc_method(from: &shared::GrpcMethodMatch) -> Result<Option<MethodMatch>, RuleFault> {
    let part = |text: &Option<String>, field| match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) if from.r#type == MatchType::Exact && text.contains('/') => {
            Err(RuleFault::unsupported(field, format_args!("`{}` contains `/`", text.escape_default())))
        }
        Some(text) => value(from.r#type, text, field).map(Some),
    };
    let (service, method) = (part(&from.service, "method.service")?, part(&from.method, "method.method")?);
    Ok((service.is_some() || method.is_some()).then_some(MethodMatch { service, method }))
}

fn value(r#type: MatchType, text: &str, field: &str) -> Result<ValueMatch, RuleFault> {
    Ok(match r#type {
        MatchType::Exact => ValueMatch::Exact(text.to_owned()),
        MatchType::RegularExpression => ValueMatch::Regex(parse::<Pattern>(text, field)?),
    })
}

/// Parses into a type of the model; what it refuses is an unsupported value. Faults of `http` do not say which.
pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str, field: &str) -> Result<T, RuleFault> {
    text.parse().map_err(|fault: T::Err| {
        let fault = fault.to_string();
        if fault.contains('`') {
            return RuleFault::unsupported(field, format_args!("{fault}"));
        }
        let shown: String = text.chars().take(100).collect();
        RuleFault::unsupported(field, format_args!("`{}`: {fault}", shown.escape_default()))
    })
}

#[cfg(test)]
mod tests {
    use isthmus_api::shared::RouteView;
    use isthmus_api::{Object, decode};
    use serde_json::{Value, json};

    use super::matches;

    fn convert(kind: &str, one: &Value) -> Value {
        let object = decode(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "r", "namespace": "n"},
            "spec": {"rules": [{"matches": [one]}]},
        }));
        let rules = match object.unwrap() {
            Object::HttpRoute(route) => RouteView::from(&*route).rules,
            Object::GrpcRoute(route) => RouteView::from(&*route).rules,
            other => panic!("{other:?}"),
        };
        match matches(&rules[0].matches) {
            Ok(matches) => serde_json::to_value(matches).unwrap(),
            Err(fault) => fault.to_string().into(),
        }
    }

    #[test]
    fn http_matches() {
        let path = |r#type: &str, value: &str| json!({"path": {"type": r#type, "value": value}});
        for (one, expected) in [
            (json!({}), json!({"http": [{"path": {"prefix": "/"}}]})),
            (path("Exact", "/a%20b"), json!({"http": [{"path": {"exact": "/a%20b"}}]})),
            (path("PathPrefix", "/a/"), json!({"http": [{"path": {"prefix": "/a/"}}]})),
            (path("RegularExpression", "/[a-z]+"), json!({"http": [{"path": {"regex": "/[a-z]+"}}]})),
            (path("Exact", "a"), json!("matches[0].path.value: `a` does not begin with `/`")),
            (path("Exact", "/a//b"), json!("matches[0].path.value: `/a//b` contains one of `//`, `/./`, `/../`, `%2F` and `#`")),
            (
                path("Exact", "/a%2Fb"),
                json!("matches[0].path.value: `/a%2Fb` contains one of `//`, `/./`, `/../`, `%2F` and `#`"),
            ),
            (path("PathPrefix", "/a/.."), json!("matches[0].path.value: `/a/..` ends with `/..` or `/.`")),
            (
                path("PathPrefix", "/a b"),
                json!("matches[0].path.value: `/a b` contains characters that have to be percent-encoded in a path"),
            ),
            (
                path("PathPrefix", "/a%2"),
                json!("matches[0].path.value: `/a%2` contains characters that have to be percent-encoded in a path"),
            ),
            (
                json!({
                    "method": "POST",
                    "headers": [
                        {"name": "X-A", "value": "1"},
                        {"name": "x-a", "value": "(", "type": "RegularExpression"},
                        {"name": "b", "value": "c.*", "type": "RegularExpression"},
                    ],
                    "queryParams": [{"name": "q", "value": "1"}, {"name": "q", "value": "2"}, {"name": "Q", "value": "3"}],
                }),
                json!({"http": [{
                    "path": {"prefix": "/"},
                    "headers": [{"name": "x-a", "value": {"exact": "1"}}, {"name": "b", "value": {"regex": "c.*"}}],
                    "query": [{"name": "q", "value": {"exact": "1"}}, {"name": "Q", "value": {"exact": "3"}}],
                    "method": "POST",
                }]}),
            ),
        ] {
            assert_eq!(convert("HTTPRoute", &one), expected, "{one}");
        }
    }

    #[test]
    fn values_that_the_model_cannot_hold_name_their_field() {
        for (one, start) in [
            (
                json!({"path": {"type": "RegularExpression", "value": "("}}),
                "matches[0].path.value: `(` is not a regular expression",
            ),
            (
                json!({"path": {"type": "RegularExpression", "value": "(?=a)"}}),
                "matches[0].path.value: `(?=a)` is not a regular expression",
            ),
            (
                json!({"headers": [{"name": "a", "value": "b"}, {"name": "a b", "value": "c"}]}),
                "matches[0].headers[1].name: `a b`: ",
            ),
            (
                json!({"queryParams": [{"name": "a", "value": "[", "type": "RegularExpression"}]}),
                "matches[0].queryParams[0].value: `[` is not a regular expression",
            ),
        ] {
            let found = convert("HTTPRoute", &one);
            assert!(found.as_str().is_some_and(|fault| fault.starts_with(start)), "{one}: {found}");
        }
    }

    #[test]
    fn grpc_matches() {
        for (one, expected) in [
            (json!({}), json!({"grpc": [{}]})),
            (json!({"method": {"service": "", "method": ""}}), json!({"grpc": [{}]})),
            (
                json!({"method": {"service": "a.B", "method": "C"}}),
                json!({"grpc": [{"method": {"service": {"exact": "a.B"}, "method": {"exact": "C"}}}]}),
            ),
            (
                json!({"method": {"type": "RegularExpression", "method": "C|D"}, "headers": [{"name": "V", "value": "1"}]}),
                json!({"grpc": [{"method": {"method": {"regex": "C|D"}}, "headers": [{"name": "v", "value": {"exact": "1"}}]}]}),
            ),
            (json!({"method": {"service": "a/B"}}), json!("matches[0].method.service: `a/B` contains `/`")),
        ] {
            assert_eq!(convert("GRPCRoute", &one), expected, "{one}");
        }
    }
}
