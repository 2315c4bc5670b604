//! Pages of the application: for a probe, and of its metrics.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::ask::{self, AskError};
use super::{Page, Scheme};

/// What the kubelet reads of an answer, and shows in an event.
const SHOWN: usize = 10 * 1024;
/// How often the kubelet follows.
const REDIRECTS: usize = 10;
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/isthmus");

/// What must not stand in a path as it is; `%` may, since what is encoded stays so.
const ENCODED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// Of one connection only, or made anew by whoever sends: RFC 9110, section 7.6.1.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The kubelet's probe: redirections are followed on the same port, and one that leads elsewhere is as good as an answer.
pub(super) async fn probe(page: &Page, pod: IpAddr) -> Result<Response, AskError> {
    let address = SocketAddr::from((pod, page.port));
    let mut target = target(&page.path)?;
    for _ in 0..REDIRECTS {
        let response = ask::http1(address, page.scheme, declared(page, address, &target)?).await?;
        if !response.status().is_redirection() {
            return Ok(shown(response).await);
        }
        match here(response.headers(), address, page.scheme) {
            Some(next) => target = next,
            None => return Ok("the application sends elsewhere\n".into_response()),
        }
    }
    Ok((StatusCode::LOOP_DETECTED, "the application sends from page to page\n").into_response())
}

/// The application's metrics, for somebody who asks with these headers.
pub(super) async fn pass(
    page: &Page,
    pod: IpAddr,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<http::Response<Incoming>, AskError> {
    let address = SocketAddr::from((pod, page.port));
    let target = match query.filter(|_| !page.path.contains('?')) {
        Some(query) => target(&format!("{}?{query}", page.path))?,
        None => target(&page.path)?,
    };
    let mut request = declared(page, address, &target)?;
    for name in headers.keys().filter(|name| !HOP_BY_HOP.contains(name)) {
        request.headers_mut().remove(name);
        let values = headers.get_all(name).iter();
        request.headers_mut().extend(values.map(|value| (name.clone(), value.clone())));
    }
    let mut response = ask::http1(address, page.scheme, request).await?;
    HOP_BY_HOP.iter().for_each(|name| drop(response.headers_mut().remove(name)));
    Ok(response)
}

/// A path as it is declared may lack its slash, and have what a request must not.
fn target(path: &str) -> Result<PathAndQuery, http::Error> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = path.split('#').next().unwrap_or_default();
    Ok(PathAndQuery::try_from(format!("{slash}{}", utf8_percent_encode(path, ENCODED)))?)
}

/// The request that is declared, to `target`.
fn declared(page: &Page, address: SocketAddr, target: &PathAndQuery) -> Result<Request<Body>, http::Error> {
    let mut request = Request::get(target.as_str()).body(Body::empty())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(address.to_string())?);
    headers.insert(header::USER_AGENT, AGENT);
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // A header that is declared several times has several values, and none of ours.
    for wanted in &page.headers {
        headers.remove(&wanted.name);
    }
    for wanted in &page.headers {
        headers.append(HeaderName::try_from(&wanted.name)?, HeaderValue::try_from(&wanted.value)?);
    }
    Ok(request)
}

/// Where on the same port it goes on, if it does.
fn here(headers: &HeaderMap, address: SocketAddr, scheme: Scheme) -> Option<PathAndQuery> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    let location: Uri = location.parse().ok()?;
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let same = location.authority().is_none_or(|authority| authority.as_str() == address.to_string())
        && location.scheme_str().is_none_or(|other| other == scheme);
    location.into_parts().path_and_query.filter(|target| same && target.as_str().starts_with('/'))
}

/// The answer as the kubelet wants it: the code, and the beginning of the text.
async fn shown(response: http::Response<Incoming>) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    // Longer than that, or cut off: the code says enough.
    let text = Limited::new(response.into_body(), SHOWN).collect().await.map_or_else(|_| Bytes::new(), |text| text.to_bytes());
    let mut shown = (status, text).into_response();
    if let Some(kind) = kind {
        shown.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    shown
}
