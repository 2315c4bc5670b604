//! The pages, as they are served, in front of applications that are well, unwell, slow or not there.

use std::net::Ipv4Addr;

use axum::body::to_bytes;
use axum::http::{HeaderName, Request, header};
use axum::routing::post;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An application with pages of every kind; its port.
async fn application() -> u16 {
    let echo = |headers: HeaderMap, uri: Uri| async move {
        let text =
            |name: HeaderName| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join("+");
        let probe = HeaderName::from_static("x-probe");
        format!("{uri} host={} probe={} accept={}", text(header::HOST), text(probe), text(header::ACCEPT))
    };
    let to = |place: &'static str| get(move || async move { (StatusCode::FOUND, [(header::LOCATION, place)]) });
    serve(
        Router::new()
            .route("/well", get(|| async { "well" }))
            .route("/unwell", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "no database") }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }))
            .route("/long", get(|| async { "x".repeat(1 << 20) }))
            .route("/echo", get(echo))
            .route("/a%20b", get(|| async { "encoded" }))
            .route("/to-well", to("/well"))
            .route("/to-unwell", to("/unwell"))
            .route("/elsewhere", to("https://example.com/"))
            .route("/nowhere", to("::"))
            .route("/circle", to("/circle"))
            .route("/grpc.health.v1.Health/Check", post(|| async { "never: this is HTTP/1.1" })),
    )
    .await
}

async fn serve(router: Router) -> u16 {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// A port at which nobody listens.
fn nobody() -> u16 {
    std::net::TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port()
}

/// What the sidecar answers: its code and its text.
async fn ask(router: Router, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let port = serve(router).await;
    let mut request = Request::builder().method(method).uri(path).header("host", "sidecar");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let address = (LOCAL, port).into();
    let response = ask::http1(address, Scheme::Http, request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let text = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    (head.status.as_u16(), String::from_utf8(text.to_vec()).unwrap())
}

async fn ask_probe(probe: &str) -> (u16, String) {
    let probes: Probes = format!("[{probe}]").parse().unwrap();
    ask(pages(probes, None, LOCAL), "GET", "/probe/0", &[]).await
}

#[tokio::test]
async fn a_page_answers_as_the_application_does() {
    let port = application().await;
    for (path, code, text) in [
        ("/well", 200, "well"),
        ("well", 200, "well"),
        ("/well#part", 200, "well"),
        ("/unwell", 500, "no database"),
        ("/absent", 404, ""),
        ("/a b", 200, "encoded"),
        ("/a%20b", 200, "encoded"),
        ("/to-well", 200, "well"),
        ("/to-unwell", 500, "no database"),
        ("/elsewhere", 200, "the application sends elsewhere\n"),
        ("/nowhere", 200, "the application sends elsewhere\n"),
        ("/circle", 508, "the application sends from page to page\n"),
        ("/long", 200, ""),
        ("/slow", 504, "the application has not answered within 1 s\n"),
    ] {
        let probe = format!(r#"{{"http": {{"port": {port}, "path": "{path}", "scheme": "HTTP"}}, "timeout": 1}}"#);
        assert_eq!(ask_probe(&probe).await, (code, text.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_page_is_asked_for_with_the_declared_headers_only() {
    let port = application().await;
    let page = |headers: &str| {
        format!(r#"{{"http": {{"port": {port}, "path": "/echo?q=1", "scheme": "HTTP", "headers": {headers}}}, "timeout": 5}}"#)
    };
    let (_, text) = ask_probe(&page("[]")).await;
    assert_eq!(text, format!("/echo?q=1 host=127.0.0.1:{port} probe= accept=*/*"));
    let headers = r#"[{"name": "Host", "value": "shop"}, {"name": "X-Probe", "value": "a"}, {"name": "X-Probe", "value": "b"}]"#;
    let probes: Probes = format!("[{}]", page(headers)).parse().unwrap();
    let asked = [("x-probe", "of the one who asks"), ("accept", "text/plain")];
    let (_, text) = ask(pages(probes, None, LOCAL), "GET", "/probe/0?q=2", &asked).await;
    assert_eq!(text, "/echo?q=1 host=shop probe=a+b accept=*/*");
}

#[tokio::test]
async fn an_application_that_is_down_fails_every_probe() {
    let port = nobody();
    for way in [
        format!(r#""http": {{"port": {port}, "path": "/", "scheme": "HTTP"}}"#),
        format!(r#""http": {{"port": {port}, "path": "/", "scheme": "HTTPS"}}"#),
        format!(r#""tcp": {{"port": {port}}}"#),
        format!(r#""grpc": {{"port": {port}, "service": ""}}"#),
    ] {
        let (code, text) = ask_probe(&format!(r#"{{{way}, "timeout": 5}}"#)).await;
        assert_eq!(code, 503, "{way}: {text}");
        assert!(text.starts_with(&format!("the application takes no connection at 127.0.0.1:{port}: ")), "{text}");
    }
}

#[tokio::test]
async fn a_port_that_takes_connections_is_well() {
    let port = application().await;
    let (code, _) = ask_probe(&format!(r#"{{"tcp": {{"port": {port}}}, "timeout": 1}}"#)).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn nothing_but_what_is_declared_is_asked() {
    let port = application().await;
    let declared = |path: &str| format!(r#"[{{"http": {{"port": {port}, "path": "{path}", "scheme": "HTTP"}}, "timeout": 1}}]"#);
    for (method, path, expected) in [
        ("GET", "/probe/0", 200),
        ("GET", "/probe/1", 404),
        ("GET", "/probe/-1", 404),
        ("GET", "/probe/", 404),
        ("GET", "/probe/0/unwell", 404),
        ("GET", "/probe/..%2fechoes", 404),
        ("GET", "/well", 404),
        ("GET", "/app-metrics", 404),
        ("GET", "/app-metrics/well", 404),
        ("POST", "/probe/0", 405),
    ] {
        let probes = declared("/well").parse().unwrap();
        let (code, text) = ask(pages(probes, None, LOCAL), method, path, &[("content-length", "0")]).await;
        assert_eq!(code, expected, "{method} {path}: {text}");
    }
}

#[tokio::test]
async fn metrics_are_passed_on_with_what_the_scraper_asks() {
    let port = application().await;
    let metrics = |path: &str| Some(format!(r#"{{"port": {port}, "path": "{path}", "scheme": "http"}}"#).parse().unwrap());
    for (path, asked, expected) in [
        ("/echo", "/app-metrics", format!("/echo host=127.0.0.1:{port} probe=yes accept=text/plain")),
        ("/echo", "/app-metrics?module=x", format!("/echo?module=x host=127.0.0.1:{port} probe=yes accept=text/plain")),
        ("/echo?own=1", "/app-metrics?module=x", format!("/echo?own=1 host=127.0.0.1:{port} probe=yes accept=text/plain")),
    ] {
        let headers = [("accept", "text/plain"), ("x-probe", "yes"), ("connection", "keep-alive")];
        let (code, text) = ask(pages(Probes::default(), metrics(path), LOCAL), "GET", asked, &headers).await;
        assert_eq!((code, text), (200, expected), "{path} {asked}");
    }
    let (code, text) = ask(pages(Probes::default(), metrics("/long"), LOCAL), "GET", "/app-metrics", &[]).await;
    assert_eq!((code, text.len()), (200, 1 << 20), "whole");
    let down = format!(r#"{{"port": {}, "path": "/", "scheme": "http"}}"#, nobody()).parse().unwrap();
    assert_eq!(ask(pages(Probes::default(), Some(down), LOCAL), "GET", "/app-metrics", &[]).await.0, 502);
}

#[tokio::test]
async fn any_certificate_will_do() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["whoever".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let router = Router::new().route("/", get(|| async { "with TLS" }));
            let service = hyper_util::service::TowerToHyperService::new(router);
            let served = hyper::server::conn::http1::Builder::new();
            tokio::spawn(served.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
    let page = |port: u16| format!(r#"{{"http": {{"port": {port}, "path": "/", "scheme": "HTTPS"}}, "timeout": 5}}"#);
    assert_eq!(ask_probe(&page(port)).await, (200, "with TLS".to_owned()));
    let (code, text) = ask_probe(&page(application().await)).await;
    assert!(code == 503 && text.starts_with("the application has not made TLS at 127.0.0.1:"), "{code} {text}");
}

/// A server that answers each request of a gRPC client with these.
async fn health(
    headers: &'static [(&'static str, &'static str)],
    body: &'static [u8],
    trailers: &'static [(&'static str, &'static str)],
) -> u16 {
    let answer = move |request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let map = |list: &'static [(&'static str, &'static str)]| {
            list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let frames = [
            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes::Bytes::from_static(body))),
            Ok(hyper::body::Frame::trailers(map(trailers))),
        ];
        let frames = frames.into_iter().skip(usize::from(body.is_empty()));
        let mut response = http::Response::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        response.headers_mut().extend(map(headers));
        Ok::<_, std::convert::Infallible>(response)
    };
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(answer);
            let served = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(served.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
    port
}

#[tokio::test]
async fn a_grpc_server_is_well_only_if_it_says_so() {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
    const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 2];
    const UNKNOWN: &[u8] = &[0, 0, 0, 0, 0];
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    for (headers, body, trailers, code, part) in [
        (&[][..], SERVING, ok, 200, "serves"),
        (&[], NOT_SERVING, ok, 503, "does not serve"),
        (&[], UNKNOWN, ok, 503, "does not serve"),
        (&[], SERVING, &[("grpc-status", "13")], 503, "grpc-status 13"),
        (&[("grpc-status", "12")], &[], &[], 503, "grpc-status 12"),
        (&[], b"no gRPC at all", &[], 503, "no gRPC, but 200"),
    ] {
        let port = health(headers, body, trailers).await;
        let (seen, text) = ask_probe(&format!(r#"{{"grpc": {{"port": {port}, "service": "cart"}}, "timeout": 5}}"#)).await;
        assert!(seen == code && text.contains(part), "{seen} {text}, not {code} {part}");
    }
    // A server that speaks HTTP/1.1 only.
    let port = serve(Router::new()).await;
    let (code, text) = ask_probe(&format!(r#"{{"grpc": {{"port": {port}, "service": ""}}, "timeout": 5}}"#)).await;
    assert!(code >= 500, "{code} {text}");
}
