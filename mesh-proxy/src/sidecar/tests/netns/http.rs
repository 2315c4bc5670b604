//! HTTP by routes that name a Service, gRPC and WebSocket, through both sidecars.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Faults;
use super::apps::HTTP;
use super::client;
use super::net::APPLICATION;
use super::town::{GRPC, Name, ROUTES, SPLIT, Town, Version, cluster};

const V4: Version = Version::V4;
const CALLS: u32 = 80;

pub(super) fn routes(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let routes = cluster(ROUTES, V4, 80);
    for (path, pod, code) in [
        ("/set", Some("cart"), 200),
        ("/own", Some("web"), 200),
        ("/invalid", None, 500),
        // No rule: nothing falls through to the Service's endpoints.
        ("/other", None, 404),
    ] {
        let outcome = town.get(Name::Web, routes, path);
        if (outcome.pod(), outcome.code()) != (pod, Some(code)) {
            faults.push(format!("{path}: {outcome}"));
        }
    }
    let headers = [("x-gone", "1"), ("x-stays", "1"), ("x-route", "no")];
    let outcome = client::get(town.net(Name::Web), APPLICATION, routes, "/set", &headers);
    let seen = ["x-gone", "x-stays", "x-route"].map(|name| outcome.answer().and_then(|seen| seen.header(name)));
    if seen != [None, Some("1"), Some("yes")] {
        faults.push(format!("the filter of headers: {seen:?}"));
    }
    // A pod's address is no Service's: no route decides, and no filter.
    let outcome = town.get(Name::Web, Name::Cart.at(V4, HTTP), "/set");
    if outcome.answer().is_none_or(|seen| seen.header("x-route").is_some()) {
        faults.push(format!("by the pod's address: {outcome}"));
    }
    let mut to_cart = 0;
    for _ in 0..CALLS {
        match town.get(Name::Web, cluster(SPLIT, V4, 80), "/").pod() {
            Some("cart") => to_cart += 1,
            Some("plain") => {}
            other => faults.push(format!("a share: {other:?}")),
        }
    }
    // Three to one: 60 of 80, and farther off than that once in a million times.
    if !(40..=76).contains(&to_cart) {
        faults.push(format!("{to_cart} of {CALLS} went to cart, which is to have three in four"));
    }
    faults
}

pub(super) fn others(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    let service = cluster(GRPC, V4, 80);
    for (what, to, path, expected) in [
        ("a rule", service, "/shop.Cart/Add", ("0", Some("cart"))),
        ("an invalid backend", service, "/shop.Broken/Add", ("14", None)),
        ("no rule", service, "/shop.Other/Add", ("12", None)),
        ("a Service without routes", Name::Cart.service(Version::V6, 80), "/shop.Any/Any", ("0", Some("cart"))),
        ("a port without a name", Name::Cart.service(V4, 81), "/shop.Any/Any", ("0", Some("cart"))),
        ("a pod's address", Name::Cart.at(V4, HTTP), "/shop.Any/Any", ("0", Some("cart"))),
    ] {
        let said = town.runtime().block_on(grpc(town, to, path));
        let as_expected = match &said {
            Ok((status, pod)) => status == expected.0 && expected.1.is_none_or(|name| pod.as_deref() == Some(name)),
            Err(_) => false,
        };
        if !as_expected {
            faults.push(format!("gRPC, {what}: {said:?}, not {expected:?}"));
        }
    }
    for to in [Name::Cart.service(V4, 80), Name::Cart.service(V4, 81), Name::Cart.at(Version::V6, HTTP)] {
        let said = web_socket(town, to);
        if said.as_deref().ok() != Some(&[0x81, 2, b'h', b'i'][..]) {
            faults.push(format!("WebSocket to {to}: {said:?}"));
        }
    }
    faults
}

/// A call of `web`; the status that it ends with, and who says so.
async fn grpc(town: &Town, to: SocketAddr, path: &str) -> Result<(String, Option<String>), String> {
    let stream = town.net(Name::Web).connect(APPLICATION, to).map_err(|error| error.to_string())?;
    stream.set_nonblocking(true).map_err(|error| error.to_string())?;
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).map_err(|error| error.to_string())?);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{to}{path}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Body::new(Full::new(Bytes::from_static(&[0; 5]))));
    let response = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?;
    let all = body.trailers().into_iter().chain([&head.headers]);
    let mut found = all.filter_map(|headers| {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Some((text("grpc-status")?, text("grpc-message")))
    });
    found.next().ok_or_else(|| format!("{head:?}"))
}

/// A connection that becomes one for messages; what comes back of one.
fn web_socket(town: &Town, to: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = town.net(Name::Web).connect(APPLICATION, to)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13";
    write!(stream, "GET /chat HTTP/1.1\r\nhost: chat\r\n{upgrade}\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    // A text of two letters; the pod says the same again.
    let mut message = [0x81, 2, b'h', b'i'];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(message.to_vec())
}
