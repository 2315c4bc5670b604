//! Rewriting what is forwarded.

use http::HeaderValue;
use http::header::HOST;
use isthmus_routing::filter::Rewrite;
use pingora_error::{ErrorType::InternalError, OrErr, Result};
use pingora_http::RequestHeader;

use crate::proxy::wire;

/// Gives a request another host, another path, or both. `prefix` is what the rule's match took of the path.
pub(crate) fn rewrite(request: &mut RequestHeader, rewrite: &Rewrite, prefix: Option<usize>) -> Result<()> {
    if let Some(hostname) = &rewrite.hostname {
        let host = HeaderValue::from_str(hostname).or_err(InternalError, "a hostname is fit for a header")?;
        // Pingora takes `:authority` from it for HTTP/2.
        request.insert_header(HOST, host)?;
    }
    if let Some(path) = &rewrite.path {
        let new = path.apply(request.uri.path(), prefix).into_owned();
        if new != request.uri.path() {
            wire::set_path(request, &new).or_err(InternalError, "while rewriting the path")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use isthmus_routing::filter::PathModifier;

    use super::*;

    #[test]
    fn host_and_path_change_and_the_query_stays() {
        let full = |path: &str| Some(PathModifier::Full(path.to_owned()));
        let prefix = |path: &str| Some(PathModifier::Prefix(path.to_owned()));
        for (target, matched, hostname, path, expected) in [
            ("/a/b?c=d", None, Some("new.example"), None, ("new.example", "/a/b?c=d")),
            ("/a/b?c=d", None, None, full("/x"), ("old.example", "/x?c=d")),
            ("/a/b?c=d", Some(2), None, prefix("/x"), ("old.example", "/x/b?c=d")),
            ("/a", Some(2), None, prefix("/"), ("old.example", "/")),
            ("/a/b", Some(2), Some("new.example"), prefix("/x/"), ("new.example", "/x/b")),
        ] {
            let mut request = RequestHeader::build("GET", target.as_bytes(), None).expect("a request");
            request.insert_header(HOST, "old.example").expect("a header");
            let change = Rewrite { hostname: hostname.map(str::to_owned), path };
            rewrite(&mut request, &change, matched).expect("rewritten");
            let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).expect("a host");
            assert_eq!((host, std::str::from_utf8(request.raw_path()).expect("text")), expected, "{target} {change:?}");
        }
    }
}
