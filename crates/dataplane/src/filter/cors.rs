//! Cross-origin answers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use isthmus_routing::filter::Cors;
use pingora_error::Result;
use pingora_http::ResponseHeader;

/// Response headers that a filter has decided on when the request came; the request's Origin may be modified afterwards.
pub(crate) type Granted = Vec<(HeaderName, HeaderValue)>;

/// The answer to a preflight; none: the request is none.
pub(crate) fn preflight(cors: &Cors, method: &http::Method, headers: &HeaderMap) -> Option<Granted> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    Cors::is_preflight(method, headers).then(|| {
        let origin = text(header::ORIGIN).unwrap_or_default();
        let requested_method = text(header::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or_default();
        cors.preflight(origin, requested_method, text(header::ACCESS_CONTROL_REQUEST_HEADERS))
    })
}

/// What the response to any other request gets.
pub(crate) fn actual(cors: &Cors, headers: &HeaderMap) -> Granted {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    cors.actual(origin.unwrap_or_default())
}

/// Gives it to a response; what the backend allows on its own does not count.
pub(crate) fn grant(response: &mut ResponseHeader, granted: &Granted) -> Result<()> {
    for name in Cors::HEADERS {
        response.remove_header(&name);
    }
    for (name, value) in granted {
        if name == header::VARY {
            add_vary(response, value)?;
        } else {
            response.insert_header(name, value)?;
        }
    }
    Ok(())
}

fn add_vary(response: &mut ResponseHeader, value: &HeaderValue) -> Result<()> {
    let named = |line: &HeaderValue| {
        let mut fields = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        fields.any(|field| field == b"*" || field.eq_ignore_ascii_case(value.as_bytes()))
    };
    if !response.headers.get_all(header::VARY).iter().any(named) {
        response.append_header(header::VARY, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_cannot_allow_what_the_filter_does_not() {
        let granted: Granted = vec![
            (header::VARY, HeaderValue::from_static("origin")),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.example")),
        ];
        for (vary, expected) in
            [(None, vec!["origin"]), (Some("Accept, ORIGIN"), vec!["Accept, ORIGIN"]), (Some("accept"), vec!["accept", "origin"])]
        {
            let mut response = ResponseHeader::build(200, None).expect("a response");
            response.insert_header("Access-Control-Allow-Origin", "*").expect("a header");
            response.insert_header("Access-Control-Allow-Credentials", "true").expect("a header");
            if let Some(vary) = vary {
                response.insert_header("Vary", vary).expect("a header");
            }
            grant(&mut response, &granted).expect("granted");
            let origins: Vec<_> = response.headers.get_all(header::ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect();
            assert_eq!(origins, ["https://a.example"]);
            assert!(!response.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
            assert_eq!(response.headers.get_all(header::VARY).iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn only_preflights_are_answered() {
        let cors = Cors {
            allow_origins: vec!["https://a.example".to_owned()],
            allow_credentials: false,
            allow_methods: vec!["PUT".to_owned()],
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: 5,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://a.example"));
        assert_eq!(preflight(&cors, &http::Method::OPTIONS, &headers), None);
        headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        assert_eq!(preflight(&cors, &http::Method::GET, &headers), None);
        let answer = preflight(&cors, &http::Method::OPTIONS, &headers).expect("a preflight");
        assert!(answer.contains(&(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("PUT"))), "{answer:?}");
        assert!(
            actual(&cors, &headers)
                .contains(&(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.example")))
        );
    }
}
