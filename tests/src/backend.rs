//! Backends that do as they are told, well or badly, and the snapshot that leads to one.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use isthmus_routing::{
    Attachment, Backend, BackendKey, BackendProtocol, Endpoint, Gateway, GatewayKey, HttpMatch, Listener, Matches, PathMatch,
    Protocol, Route, RouteKey, RouteKind, Rule, Snapshot, Target, Timeouts, Transport, WeightedBackend,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::raw::find;

/// The port of the listener that [`leads_to`] makes.
pub const PORT: u16 = 8080;

/// Starts a backend that hands each connection to `handler`. It ends with the test's runtime.
///
/// # Panics
/// When no socket can be had.
pub async fn backend<F, Fut>(handler: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(handler(stream));
        }
    });
    address
}

/// Answers every request of a connection with the same bytes; closes after the first if `close`.
pub async fn canned(response: &'static [u8], close: bool) -> SocketAddr {
    backend(move |mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            if stream.write_all(response).await.is_err() || close {
                return;
            }
        }
    })
    .await
}

/// Answers 200 with the request's head and body as text.
pub async fn mirror_text() -> SocketAddr {
    backend(|mut stream| async move {
        let mut buffer = Vec::new();
        while let Some((head, body)) = read_request(&mut stream, &mut buffer).await {
            let text = format!("{head}{}", String::from_utf8_lossy(&body));
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Reads one request: its head as text and its body. `buffer` keeps what came after it. `None` at the end.
pub async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            while find(buffer, b"\r\n").is_none() {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let line = find(buffer, b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).ok()?.trim(), 16).ok()?;
            let end = line + 2 + size + 2;
            while buffer.len() < end {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            body.extend_from_slice(&buffer[line + 2..line + 2 + size]);
            buffer.drain(..end);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = lower.lines().find_map(|line| line.strip_prefix("content-length:")) {
        let length: usize = length.trim().parse().ok()?;
        while buffer.len() < length {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        body.extend(buffer.drain(..length));
    }
    Some((head, body))
}

/// A Gateway on `address` whose only rule leads to the endpoints.
pub fn leads_to(address: IpAddr, endpoints: &[SocketAddr], protocol: BackendProtocol) -> Snapshot {
    let key = BackendKey { namespace: "default".to_owned(), name: "backend".to_owned(), port: 80, transport: Transport::Tcp };
    let mut sorted: Vec<_> = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
    sorted.sort();
    let rule = Rule {
        name: None,
        matches: Matches::Http(vec![any_path()]),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key.clone()), filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let mut snapshot = with_rules(address, RouteKind::Http, vec![rule]);
    snapshot.backends.insert(key, Arc::new(Backend { protocol, endpoints: sorted, ..Backend::default() }));
    snapshot
}

/// A Gateway on `address` whose only listener speaks `protocol` (TLS: passed on) and leads every connection or datagram to the endpoints.
pub fn streams_to(address: IpAddr, endpoints: &[SocketAddr], protocol: Protocol) -> Snapshot {
    let kind = match protocol {
        Protocol::Tls => RouteKind::Tls,
        Protocol::Udp => RouteKind::Udp,
        _ => RouteKind::Tcp,
    };
    let mut snapshot = leads_to(address, endpoints, BackendProtocol::Http);
    let backend = BackendKey { transport: protocol.transport(), ..snapshot.backends.keys().next().expect("one").clone() };
    let rule = Rule {
        name: None,
        matches: Matches::Any,
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(backend.clone()), filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let mut streams = with_rules(address, kind, vec![rule]);
    streams.backends.extend(snapshot.backends.pop_first().map(|(_, endpoints)| (backend, endpoints)));
    edit_listener(&mut streams, |listener| {
        listener.protocol = protocol;
        listener.passthrough = protocol == Protocol::Tls;
    });
    streams
}

/// A match for every path.
pub fn any_path() -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix("/".to_owned()), headers: Vec::new(), query: Vec::new(), method: None }
}

/// A Gateway on `address` with one HTTP listener and one route of these rules.
pub fn with_rules(address: IpAddr, kind: RouteKind, rules: Vec<Rule>) -> Snapshot {
    let route = RouteKey { namespace: "default".to_owned(), name: "route".to_owned(), kind };
    let listener = Listener {
        routes: vec![Attachment { route: route.clone(), hostnames: Vec::new() }],
        ..Listener::new("http".to_owned(), PORT, Protocol::Http)
    };
    let gateway = GatewayKey { namespace: "default".to_owned(), name: "gateway".to_owned() };
    Snapshot {
        gateways: BTreeMap::from([(
            gateway,
            Arc::new(Gateway { addresses: vec![address], listeners: vec![listener], ..Gateway::default() }),
        )]),
        routes: BTreeMap::from([(route, Arc::new(Route { created: 0, rules }))]),
        ..Snapshot::default()
    }
}

/// Changes the only rule of a snapshot from [`leads_to`].
pub fn edit_rule(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Rule)) {
    if let Some(route) = snapshot.routes.values_mut().next() {
        edit(&mut Arc::make_mut(route).rules[0]);
    }
}

/// Changes the first listener of a snapshot's only Gateway.
pub fn edit_listener(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Listener)) {
    if let Some(gateway) = snapshot.gateways.values_mut().next() {
        edit(&mut Arc::make_mut(gateway).listeners[0]);
    }
}

/// Changes a snapshot's only backend.
pub fn edit_backend(snapshot: &mut Snapshot, edit: impl FnOnce(&mut Backend)) {
    if let Some(backend) = snapshot.backends.values_mut().next() {
        edit(Arc::make_mut(backend));
    }
}
