//! Answers to plain HTTP requests, with the faults that they ask for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use super::Report;
use super::server::Cut;

/// Whatever an echo sends.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// How many requests of each `uuid` have failed so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    failed: Mutex<BTreeMap<String, u32>>,
}

pub(super) async fn answer(faults: &Faults, report: &Report, parts: &Parts, body: Incoming) -> Result<Response<Body>, Cut> {
    // A report is of the whole request; a client that does not finish it is not answered.
    if drain(body).await.is_err() {
        return Err(Cut);
    }
    let query = Query::of(parts);
    let path = parts.uri.path();
    if let Some(code) = path.strip_prefix("/status/") {
        return Ok(empty(code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_REQUEST)));
    }
    if path.starts_with("/retry/") {
        match faults.next(&query) {
            Err(refusal) => return Ok(refuse(&refusal)),
            Ok(Some(fault)) => {
                tokio::time::sleep(fault.delay).await;
                return fault.code.map(empty).ok_or(Cut);
            }
            Ok(None) => {}
        }
    }
    match query.duration("delay") {
        Ok(delay) => tokio::time::sleep(delay).await,
        Err(refusal) => return Ok(refuse(&refusal)),
    }
    Ok(reported(report, &parts.headers))
}

/// A response with a text.
pub(super) fn text(code: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn empty(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response
}

/// What a request asks for that cannot be done.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(String);

fn refuse(refusal: &Refusal) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, "application/json", serde_json::json!({ "message": refusal.0 }).to_string())
}

fn reported(report: &Report, request: &HeaderMap) -> Response<Body> {
    // A map of strings always has a JSON form.
    let mut json = serde_json::to_string_pretty(report).unwrap_or_default();
    json.push('\n');
    let mut response = text(StatusCode::OK, "application/json", json);
    set_headers(request, response.headers_mut());
    response
}

/// `X-Echo-Set-Header: name:value, name:value`; what is no header is left out.
pub(super) fn set_headers(request: &HeaderMap, response: &mut HeaderMap) {
    let wanted = request.get_all("x-echo-set-header").iter().filter_map(|line| line.to_str().ok());
    for pair in wanted.flat_map(|line| line.split(',')) {
        let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
        if let (Ok(name), Ok(value)) = (name.trim().parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            response.append(name, value);
        }
    }
}

async fn drain(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// One failure.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    delay: Duration,
    /// None: the connection is cut.
    code: Option<StatusCode>,
}

impl Faults {
    /// How the next request of a `uuid` fails, or that it does not.
    fn next(&self, query: &Query) -> Result<Option<Fault>, Refusal> {
        let uuid = query.get("uuid").ok_or_else(|| Refusal("uuid is required".to_owned()))?;
        let wanted: u32 = query
            .get("succeedAfter")
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| Refusal("succeedAfter is required".to_owned()))?;
        let delay = query.duration("delayRetry")?;
        let code = query.get("responseCode").and_then(|code| StatusCode::from_u16(code.parse().ok()?).ok());
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failed.entry(uuid.to_owned()).or_default();
        if *count >= wanted {
            return Ok(None);
        }
        *count += 1;
        Ok(Some(Fault { delay, code }))
    }
}

/// The query of a request; names and values as they are written, since none that an echo knows needs escapes.
#[derive(Debug)]
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn of(request: &'a Parts) -> Self {
        let query = request.uri.query().unwrap_or_default();
        Self(query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| *value)
    }

    fn duration(&self, name: &str) -> Result<Duration, Refusal> {
        match self.get(name) {
            None => Ok(Duration::ZERO),
            Some(text) => duration(text).ok_or_else(|| Refusal(format!("{name}={text}: not a duration like 500ms or 1.5s"))),
        }
    }
}

/// Longer waits are refused: an echo is no place to park connections.
const LONGEST: f64 = 3600.0;

/// `1h2m3.5s`, `250ms`, `10us`
fn duration(mut text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = text[..digits].parse().ok()?;
        let unit = &text[digits..];
        let letters = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        seconds += number
            * match &unit[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        text = &unit[letters..];
    }
    (seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1s", Some(1000)),
            ("1.5s", Some(1500)),
            ("250ms", Some(250)),
            ("1m1s", Some(61_000)),
            ("", Some(0)),
            ("1", None),
            ("s", None),
            ("1..2s", None),
            ("1x", None),
            ("-1s", None),
            ("2h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn the_first_requests_of_a_uuid_fail() {
        let faults = Faults::default();
        let ask = |query: &str| {
            let request = http::Request::get(format!("/retry/x?{query}")).body(()).unwrap().into_parts().0;
            faults.next(&Query::of(&request)).map_err(drop)
        };
        let cut = Fault { delay: Duration::from_millis(100), code: None };
        let code = Fault { delay: Duration::ZERO, code: Some(StatusCode::SERVICE_UNAVAILABLE) };
        assert_eq!(ask("uuid=a&succeedAfter=2&delayRetry=100ms"), Ok(Some(cut)));
        assert_eq!(ask("uuid=a&succeedAfter=2&responseCode=503"), Ok(Some(code)));
        assert_eq!(ask("uuid=a&succeedAfter=2"), Ok(None));
        assert_eq!(ask("uuid=b&succeedAfter=0"), Ok(None), "each uuid counts for itself");
        for bad in ["succeedAfter=1", "uuid=c", "uuid=c&succeedAfter=x", "uuid=c&succeedAfter=1&delayRetry=soon"] {
            assert_eq!(ask(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn response_headers_are_set_on_demand() {
        let mut request = HeaderMap::new();
        request.append("x-echo-set-header", HeaderValue::from_static("x-a: 1, X-B:2:3 ,x-a:4, no header:5"));
        let mut response = HeaderMap::new();
        set_headers(&request, &mut response);
        let got: Vec<_> = response.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(got, [("x-a", "1"), ("x-a", "4"), ("x-b", "2:3")]);
    }
}
