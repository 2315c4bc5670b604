//! Redirects, answered here.

use http::HeaderValue;
use http::header::LOCATION;
use isthmus_routing::filter::Redirect;
use isthmus_routing::filter::redirect::Scheme;
use pingora_http::RequestHeader;

use crate::proxy::local_response::Reply;
use crate::telemetry::Flags;

/// Where a request came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// Whether under TLS.
    pub(crate) https: bool,
    /// The host in its normal form.
    pub(crate) host: &'a str,
    /// The listener's port, as its object has it.
    pub(crate) port: u16,
    /// What the rule's match took of the path.
    pub(crate) prefix: Option<usize>,
}

/// The answer.
pub(crate) fn answer(redirect: &Redirect, request: &RequestHeader, arrival: &Arrival<'_>) -> Reply {
    let scheme = if arrival.https { Scheme::Https } else { Scheme::Http };
    let (path, query) = (request.uri.path(), request.uri.query());
    let location = redirect.location(scheme, arrival.host, arrival.port, path, query, arrival.prefix);
    match HeaderValue::try_from(location) {
        Ok(location) => Reply::plain(redirect.status).with_header(LOCATION, location),
        Err(_) => Reply::error(500, Flags::default(), "the redirect's Location cannot be sent"),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_routing::filter::PathModifier;

    use super::*;

    #[test]
    fn the_location_is_made_of_redirect_and_request() {
        let request = RequestHeader::build("GET", b"/a/b?c=d", None).expect("a request");
        let redirect = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
        let path = Some(PathModifier::Prefix("/x".to_owned()));
        for (redirect, https, port, expected) in [
            (redirect.clone(), false, 80, (302, "http://shop.example/a/b?c=d")),
            (redirect.clone(), true, 8443, (302, "https://shop.example:8443/a/b?c=d")),
            (
                Redirect { scheme: Some(Scheme::Https), status: 301, ..redirect.clone() },
                false,
                80,
                (301, "https://shop.example/a/b?c=d"),
            ),
            (Redirect { path, ..redirect.clone() }, false, 80, (302, "http://shop.example/x/b?c=d")),
        ] {
            let arrival = Arrival { https, host: "shop.example", port, prefix: Some(2) };
            let reply = answer(&redirect, &request, &arrival);
            let location = reply.header(&LOCATION).and_then(|value| value.to_str().ok());
            assert_eq!((reply.code(), location), (expected.0, Some(expected.1)));
        }
    }
}
