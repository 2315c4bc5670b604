//! `filters` -> the model's filters.

use isthmus_api::shared::{self, PathMatchType, RequestMirror};
use isthmus_routing::Target;
use isthmus_routing::filter::redirect::Scheme;
use isthmus_routing::filter::{Cors, Filter, Mirror, PathModifier, Redirect, Rewrite};
use isthmus_routing::value::{HeaderName, HeaderValue, Method};
use isthmus_routing::{Hostname, RouteKey};

use super::matches::{is_path, parse};
use super::{RuleFault, header};
use crate::graph::backend_ref::{BackendFault, Backends};

/// The filters of a rule or of a backendRef.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// In the order of the object.
    pub(super) filters: Vec<Filter>,
    /// What they refer to in vain.
    pub(super) unresolved: Vec<BackendFault>,
    /// Whether one of them is not known, so that what it would have processed has to be answered with an error.
    pub(super) unknown: bool,
}

/// Converts all filters of one list.
///
/// > Specifying the same filter multiple times is not supported unless explicitly
/// > indicated in the filter.
///
/// > All filters are expected to be compatible with each other except for the
/// > URLRewrite and RequestRedirect filters, which may not be combined.
pub(super) fn filters(
    from: &[shared::Filter],
    matches: &shared::Matches,
    route: &RouteKey,
    backends: &Backends<'_, '_>,
) -> Result<Filters, RuleFault> {
    let mut into = Filters::default();
    for (at, filter) in from.iter().enumerate() {
        check_combination(&from[..at], filter)?;
        let converted = convert(filter, matches, route, backends, &mut into);
        into.filters.extend(converted.map_err(|fault| fault.within(&format!("filters[{at}].{}", field(filter))))?);
    }
    Ok(into)
}

fn check_combination(before: &[shared::Filter], filter: &shared::Filter) -> Result<(), RuleFault> {
    use shared::Filter::{ExtensionRef, RequestMirror, RequestRedirect, UrlRewrite};
    let name = filter.type_name();
    let repeatable = matches!(filter, RequestMirror(_) | ExtensionRef { .. });
    if !repeatable && before.iter().any(|other| other.type_name() == name) {
        return Err(RuleFault::incompatible(format_args!("filter {name} is there twice; join them into one")));
    }
    let excludes = |other: &shared::Filter| {
        matches!((filter, other), (RequestRedirect(_), UrlRewrite(_)) | (UrlRewrite(_), RequestRedirect(_)))
    };
    if before.iter().any(excludes) {
        return Err(RuleFault::incompatible(format_args!("filters RequestRedirect and URLRewrite cannot be combined; keep one")));
    }
    Ok(())
}

fn convert(
    filter: &shared::Filter,
    matches: &shared::Matches,
    route: &RouteKey,
    backends: &Backends<'_, '_>,
    into: &mut Filters,
) -> Result<Option<Filter>, RuleFault> {
    Ok(Some(match filter {
        shared::Filter::RequestHeaderModifier(from) => Filter::RequestHeaderModifier(header::modifier(from)?),
        shared::Filter::ResponseHeaderModifier(from) => Filter::ResponseHeaderModifier(header::modifier(from)?),
        shared::Filter::RequestRedirect(from) => Filter::RequestRedirect(redirect(from, matches)?),
        shared::Filter::UrlRewrite(from) => Filter::UrlRewrite(Rewrite {
            hostname: from.hostname.as_deref().map(hostname).transpose()?,
            path: from.path.as_ref().map(|path| path_modifier(path, matches)).transpose()?,
        }),
        shared::Filter::RequestMirror(from) => Filter::RequestMirror(mirror(from, route, backends, &mut into.unresolved)?),
        shared::Filter::Cors(from) => Filter::Cors(cors(from)?),
        // > If a reference to a custom filter type cannot be resolved, the filter
        // > MUST NOT be skipped. Instead, requests that would have been processed by
        // > that filter MUST receive a HTTP error response.
        shared::Filter::ExtensionRef { group, kind, name } => {
            into.unknown = true;
            into.unresolved.push(BackendFault::FilterKind { group: group.clone(), kind: kind.clone(), name: name.clone() });
            return Ok(None);
        }
        shared::Filter::ExternalAuth => return Err(RuleFault::closed("the filter is not supported; remove it")),
        shared::Filter::Incomplete { .. } => {
            return Err(RuleFault::closed("the filter is incomplete; give it the field that its type needs"));
        }
    }))
}

fn redirect(from: &shared::RequestRedirect, matches: &shared::Matches) -> Result<Redirect, RuleFault> {
    let scheme = match from.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return Err(RuleFault::unsupported("scheme", format_args!("`{other}` is neither `http` nor `https`"))),
    };
    let status = match from.status_code {
        301 => 301,
        302 => 302,
        303 => 303,
        307 => 307,
        308 => 308,
        other => return Err(RuleFault::unsupported("statusCode", format_args!("{other} is none of 301, 302, 303, 307 and 308"))),
    };
    let port = from.port.map(|port| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(RuleFault::unsupported("port", format_args!("{port} is not a port"))),
    });
    Ok(Redirect {
        scheme,
        hostname: from.hostname.as_deref().map(hostname).transpose()?,
        path: from.path.as_ref().map(|path| path_modifier(path, matches)).transpose()?,
        port: port.transpose()?,
        status,
    })
}

fn hostname(text: &str) -> Result<String, RuleFault> {
    let hostname: Hostname = parse(text, "hostname")?;
    match hostname.is_wildcard() {
        true => Err(RuleFault::unsupported("hostname", format_args!("`{text}` has a wildcard; name one host"))),
        false => Ok(text.to_owned()),
    }
}

/// > ReplacePrefixMatch is only compatible with a `PathPrefix` HTTPRouteMatch.
/// > Using any other HTTPRouteMatch type on the same HTTPRouteRule will result in
/// > the implementation setting the Accepted Condition for the Route to `status: False`.
///
/// A path that lacks its first `/` gets it, because without it a request line cannot be written.
fn path_modifier(from: &shared::PathModifier, matches: &shared::Matches) -> Result<PathModifier, RuleFault> {
    let absolute = |text: &str, field: &str| match is_path(text) {
        true if text.starts_with('/') => Ok(text.to_owned()),
        true => Ok(format!("/{text}")),
        false => Err(RuleFault::unsupported(
            field,
            format_args!("`{}` contains characters that have to be percent-encoded in a path", text.escape_default()),
        )),
    };
    match from {
        shared::PathModifier::ReplaceFullPath(text) => Ok(PathModifier::Full(absolute(text, "path.replaceFullPath")?)),
        shared::PathModifier::ReplacePrefixMatch(text) => {
            let prefix = |one: &shared::HttpMatch| one.path.r#type == PathMatchType::PathPrefix;
            if !matches!(matches, shared::Matches::Http(list) if list.iter().all(prefix)) {
                let fault =
                    "needs a path match of type PathPrefix in every match of the rule; use replaceFullPath or another match";
                return Err(RuleFault::unsupported("path.replacePrefixMatch", format_args!("{fault}")));
            }
            let text = if text.is_empty() { String::new() } else { absolute(text, "path.replacePrefixMatch")? };
            Ok(PathModifier::Prefix(text))
        }
    }
}

/// > In either error case, the Message of the `ResolvedRefs` Condition
/// > should be used to provide more detail about the problem.
fn mirror(
    from: &RequestMirror,
    route: &RouteKey,
    backends: &Backends<'_, '_>,
    unresolved: &mut Vec<BackendFault>,
) -> Result<Mirror, RuleFault> {
    let (numerator, denominator) = match from.fraction {
        None => (1, 1),
        Some(fraction) => {
            let parts = u32::try_from(fraction.numerator).ok().zip(u32::try_from(fraction.denominator).ok());
            match parts {
                Some((numerator, denominator)) if denominator > 0 && numerator <= denominator => (numerator, denominator),
                _ => {
                    let shown = format_args!("{}/{} is not a share from 0 to 1", fraction.numerator, fraction.denominator);
                    return Err(RuleFault::unsupported("fraction", shown));
                }
            }
        }
    };
    let target = backends.resolve(route, &from.backend_ref).map_or_else(
        |fault| {
            unresolved.push(fault);
            Target::Invalid
        },
        Target::Backend,
    );
    Ok(Mirror { target, numerator, denominator })
}

fn cors(from: &shared::Cors) -> Result<Cors, RuleFault> {
    for (at, origin) in from.allow_origins.iter().enumerate() {
        let field = format!("allowOrigins[{at}]");
        parse::<HeaderValue>(origin, &field)?;
        if origin != "*" && !origin.starts_with("http://") && !origin.starts_with("https://") {
            return Err(RuleFault::unsupported(
                &field,
                format_args!("`{origin}` is not `*`, `http://<host>` or `https://<host>`"),
            ));
        }
    }
    for (at, method) in from.allow_methods.iter().enumerate() {
        parse::<Method>(method, &format!("allowMethods[{at}]"))?;
    }
    for (list, names) in [("allowHeaders", &from.allow_headers), ("exposeHeaders", &from.expose_headers)] {
        for (at, name) in names.iter().enumerate() {
            parse::<HeaderName>(name, &format!("{list}[{at}]"))?;
        }
    }
    Ok(Cors {
        allow_origins: from.allow_origins.clone(),
        allow_credentials: from.allow_credentials,
        allow_methods: from.allow_methods.clone(),
        allow_headers: from.allow_headers.clone(),
        expose_headers: from.expose_headers.clone(),
        max_age: u32::try_from(from.max_age).unwrap_or(0),
    })
}

/// The field that a filter's type has in the object.
fn field(filter: &shared::Filter) -> &'static str {
    match filter.type_name() {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "RequestMirror" => "requestMirror",
        "CORS" => "cors",
        "ExternalAuth" => "externalAuth",
        "ExtensionRef" => "extensionRef",
        _ => "type",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{gateway, plain_listener, route, service, translated};
    use isthmus_api::NamespacedName;
    use isthmus_routing::{RouteKey, RouteKind};

    /// The filters of the first rule as the snapshot has them, or the message of `Accepted`.
    fn converted(path: &str, filters: &Value) -> Value {
        let rule = json!({"matches": [{"path": {"type": path, "value": "/p"}}], "filters": filters});
        let spec = json!({"parentRefs": [{"name": "edge"}], "rules": [rule]});
        let translation = translated([gateway(&plain_listener()), service("front", 80), route("HTTPRoute", "r", spec)]);
        let key = RouteKey { namespace: "shop".to_owned(), name: "r".to_owned(), kind: RouteKind::Http };
        match translation.snapshot.routes.get(&key) {
            Some(route) => serde_json::to_value(&route.rules[0].filters).unwrap(),
            None => translation.statuses.http_routes[&NamespacedName::new("shop", "r")].parents[0].conditions[0]
                .message
                .clone()
                .into(),
        }
    }

    fn check(table: &[(Value, Value)]) {
        for (filter, expected) in table {
            assert_eq!(&converted("PathPrefix", &json!([filter])), expected, "{filter}");
        }
    }

    #[test]
    fn redirects_and_rewrites() {
        let redirect = |redirect: Value| json!({"type": "RequestRedirect", "requestRedirect": redirect});
        let rewrite = |rewrite: Value| json!({"type": "URLRewrite", "urlRewrite": rewrite});
        let full = |path: &str| json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": path}});
        let prefix = |path: &str| json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": path}});
        let encode = "contains characters that have to be percent-encoded in a path";
        check(&[
            (redirect(json!({})), json!([{"RequestRedirect": {"status": 302}}])),
            (
                redirect(json!({"scheme": "https", "hostname": "a.example", "port": 8443, "statusCode": 308})),
                json!([{"RequestRedirect": {"scheme": "https", "hostname": "a.example", "port": 8443, "status": 308}}]),
            ),
            (redirect(full("/x")), json!([{"RequestRedirect": {"path": {"full": "/x"}, "status": 302}}])),
            (
                redirect(json!({"hostname": "*.example"})),
                json!("rules[0]: filters[0].requestRedirect.hostname: `*.example` has a wildcard; name one host"),
            ),
            (redirect(json!({"port": 0})), json!("rules[0]: filters[0].requestRedirect.port: 0 is not a port")),
            (rewrite(json!({"hostname": "a.example"})), json!([{"URLRewrite": {"hostname": "a.example"}}])),
            (rewrite(full("x")), json!([{"URLRewrite": {"path": {"full": "/x"}}}])),
            (rewrite(full("")), json!([{"URLRewrite": {"path": {"full": "/"}}}])),
            (rewrite(prefix("/x/")), json!([{"URLRewrite": {"path": {"prefix": "/x/"}}}])),
            (rewrite(prefix("")), json!([{"URLRewrite": {"path": {"prefix": ""}}}])),
            (rewrite(full("/a b")), format!("rules[0]: filters[0].urlRewrite.path.replaceFullPath: `/a b` {encode}").into()),
            (
                rewrite(full("/a\r\nb: c")),
                format!("rules[0]: filters[0].urlRewrite.path.replaceFullPath: `/a\\r\\nb: c` {encode}").into(),
            ),
        ]);
        assert_eq!(
            converted("Exact", &json!([rewrite(prefix("/x"))])),
            json!(
                "rules[0]: filters[0].urlRewrite.path.replacePrefixMatch: needs a path match of type PathPrefix in every match of the rule; use replaceFullPath or another match"
            )
        );
    }

    #[test]
    fn mirrors() {
        let mirror = |name: &str, more: Value| {
            let mut mirror = json!({"backendRef": {"name": name, "port": 80}});
            mirror.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"type": "RequestMirror", "requestMirror": mirror})
        };
        let of = |target: Value, numerator: u32, denominator: u32| json!([{"RequestMirror": {"target": target, "numerator": numerator, "denominator": denominator}}]);
        let front = json!({"Backend": "Service/shop/front:80"});
        check(&[
            (mirror("front", json!({})), of(front.clone(), 1, 1)),
            (mirror("front", json!({"percent": 30})), of(front.clone(), 30, 100)),
            (mirror("front", json!({"fraction": {"numerator": 1, "denominator": 3}})), of(front.clone(), 1, 3)),
            (mirror("front", json!({"fraction": {"numerator": 1}})), of(front, 1, 100)),
            (mirror("gone", json!({})), of(json!("Invalid"), 1, 1)),
            (
                mirror("front", json!({"percent": 101})),
                json!("rules[0]: filters[0].requestMirror.fraction: 101/100 is not a share from 0 to 1"),
            ),
            (
                mirror("front", json!({"fraction": {"numerator": 0, "denominator": 0}})),
                json!("rules[0]: filters[0].requestMirror.fraction: 0/0 is not a share from 0 to 1"),
            ),
        ]);
        let twice = converted("PathPrefix", &json!([mirror("front", json!({})), mirror("front", json!({}))]));
        assert_eq!(twice.as_array().map(Vec::len), Some(2), "a mirror may be repeated");
    }

    #[test]
    fn cors_and_combinations() {
        let cors = |cors: Value| json!({"type": "CORS", "cors": cors});
        check(&[
            (
                cors(
                    json!({"allowOrigins": ["*", "https://*.example.com"], "allowMethods": ["*"], "allowHeaders": ["X-A"], "maxAge": 10}),
                ),
                json!([{"CORS": {
                    "allow_origins": ["*", "https://*.example.com"], "allow_credentials": false, "allow_methods": ["*"], "allow_headers": ["X-A"], "max_age": 10,
                }}]),
            ),
            (cors(json!({"allowCredentials": true})), json!([{"CORS": {"allow_credentials": true, "max_age": 5}}])),
            (
                cors(json!({"allowOrigins": ["example.com"]})),
                json!("rules[0]: filters[0].cors.allowOrigins[0]: `example.com` is not `*`, `http://<host>` or `https://<host>`"),
            ),
        ]);
        for (list, name) in [("allowMethods", "G ET"), ("allowHeaders", "a b"), ("exposeHeaders", "a\n")] {
            let found = converted("PathPrefix", &json!([cors(json!({list: [name]}))]));
            assert!(
                found.as_str().is_some_and(|fault| fault.starts_with(&format!("rules[0]: filters[0].cors.{list}[0]: "))),
                "{found}"
            );
        }
        let modifier = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["a"]}});
        assert_eq!(
            converted("PathPrefix", &json!([modifier, modifier])),
            json!("rules[0]: filter RequestHeaderModifier is there twice; join them into one")
        );
    }
}
