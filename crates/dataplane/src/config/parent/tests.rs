//! Services as parents, through the whole data plane: what their clients get.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, Method, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use isthmus_routing::filter::{Filter, HeaderModifier, Redirect};
use isthmus_routing::matching::{GrpcMatch, MethodMatch, ValueMatch};
use isthmus_routing::{Backend, Endpoint, Gateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::{Dataplane, Limits, Options, Outbound};

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A data plane of clients in the namespace `client`.
struct Bed {
    snapshots: watch::Sender<Arc<Snapshot>>,
    dataplane: Dataplane,
}

impl Bed {
    async fn start(snapshot: &Snapshot) -> Self {
        let outbound = Some(Outbound { namespace: "client".to_owned(), port_offset: 8000 });
        Self::with(snapshot, Options { outbound, ..Options::default() }).await
    }

    async fn with(snapshot: &Snapshot, options: Options) -> Self {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot.clone()));
        Self { snapshots, dataplane: Dataplane::start(options, receiver).await.expect("it starts") }
    }

    async fn serve(&self, snapshot: &Snapshot) {
        let version = snapshot.version();
        self.snapshots.send_replace(Arc::new(snapshot.clone()));
        self.dataplane.reports().wait_for(|report| report.version == Some(version)).await.expect("served");
    }

    /// What is wrong with a Service's address.
    fn fault(&self, service: &str) -> Option<String> {
        let report = self.dataplane.reports().borrow().clone();
        report.services.iter().find(|found| found.service == key(service)).expect("it is reported").fault.clone()
    }
}

fn key<T: std::str::FromStr<Err: fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a key")
}

/// A loopback address that nobody else uses.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    Ipv4Addr::new(127, 192 + (process % 32) as u8, (process / 32 % 256) as u8, NEXT.fetch_add(1, Relaxed)).into()
}

/// A server that says in headers what it is and what it was asked.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let answer = service_fn(move |request: http::Request<Incoming>| async move {
                let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
                let host = host.or(request.uri().host()).unwrap_or_default();
                let response =
                    Response::builder().header("x-name", name).header("x-host", host).header("x-path", request.uri().path());
                let response = match request.headers().get("x-added") {
                    Some(added) => response.header("x-added", added),
                    None => response,
                };
                let is_grpc = request.headers().contains_key(CONTENT_TYPE);
                let response =
                    if is_grpc { response.header(CONTENT_TYPE, "application/grpc").header("grpc-status", 0) } else { response };
                response.body(String::new())
            });
            tokio::spawn(async move {
                // Clients that go away are no matter here.
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    });
    address
}

/// What a request is answered with.
struct Answer {
    code: u16,
    headers: HeaderMap,
}

impl Answer {
    fn get(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The code, and who answered.
    fn by(&self) -> (u16, &str) {
        (self.code, self.get("x-name"))
    }
}

/// A request on a connection of its own, HTTP/2 with prior knowledge.
async fn ask(to: SocketAddr, version: Version, method: Method, target: (&str, &str), headers: &[(&str, &str)]) -> Answer {
    let socket = TokioIo::new(TcpStream::connect(to).await.expect("it listens"));
    let (host, path) = target;
    let mut request = http::Request::builder().method(method);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = if version == Version::HTTP_2 {
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = request.uri(format!("http://{host}{path}")).body(String::new()).expect("a request");
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = conn::http1::handshake(socket).await.expect("HTTP/1");
        tokio::spawn(connection);
        sender.send_request(request.uri(path).header(HOST, host).body(String::new()).expect("a request")).await
    };
    let answer = answer.expect("an answer");
    Answer { code: answer.status().as_u16(), headers: answer.headers().clone() }
}

async fn get(to: SocketAddr, version: Version, host: &str, path: &str) -> Answer {
    ask(to, version, Method::GET, (host, path), &[]).await
}

/// A rule for a prefix; backends by weight, none is invalid.
fn rule(path: &str, backends: &[(u32, Option<&str>)], filters: Vec<Filter>) -> Rule {
    let backend = |(weight, name): &(u32, Option<&str>)| WeightedBackend {
        weight: *weight,
        target: name.map_or(Target::Invalid, |name| Target::Backend(key(name))),
        filters: Vec::new(),
    };
    Rule {
        name: None,
        matches: Matches::Http(vec![HttpMatch {
            path: PathMatch::Prefix(path.to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }]),
        filters,
        backends: backends.iter().map(backend).collect(),
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    }
}

fn redirect() -> Filter {
    Filter::RequestRedirect(Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 })
}

fn attach(route: &str) -> Vec<Attachment> {
    vec![Attachment { route: key(route), hostnames: Vec::new() }]
}

/// Edits a Service of a snapshot.
fn edit(snapshot: &mut Snapshot, service: &str, edit: impl FnOnce(&mut ServiceParent)) {
    edit(Arc::make_mut(snapshot.services.entry(key(service)).or_default()));
}

fn add_route(snapshot: &mut Snapshot, name: &str, rules: Vec<Rule>) {
    snapshot.service_routes.insert(key(name), Arc::new(Route { created: 0, rules }));
}

/// A Service with one address and its endpoints, and no routes.
fn service(snapshot: &mut Snapshot, name: &str, endpoints: &[SocketAddr]) -> SocketAddr {
    let address = own_address();
    edit(snapshot, name, |service| service.addresses = vec![address]);
    let endpoints = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
    snapshot.backends.insert(key(name), Arc::new(Backend { endpoints, ..Backend::default() }));
    let port = key::<BackendKey>(name).port;
    SocketAddr::new(address, if port < 1024 { port + 8000 } else { port })
}

const CART: &str = "Service/shop/cart:80";
const PAY: &str = "Service/shop/pay:80";
const NEXT: &str = "Service/other/next:80";

#[tokio::test]
async fn the_routes_of_a_service_decide_and_nothing_falls_through_to_it() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    service(&mut snapshot, PAY, &[echo("pay").await]);
    service(&mut snapshot, NEXT, &[echo("next").await]);
    service(&mut snapshot, "Service/shop/empty:80", &[]);
    let added = HeaderModifier {
        set: vec![("x-added".parse().expect("a name"), "here".parse().expect("a value"))],
        ..HeaderModifier::default()
    };
    let rules = vec![
        rule("/next", &[(1, Some(NEXT))], vec![Filter::RequestHeaderModifier(added)]),
        rule("/split", &[(2, Some(CART)), (1, Some(PAY)), (1, None)], Vec::new()),
        rule("/invalid", &[(1, None)], Vec::new()),
        rule("/empty", &[(1, Some("Service/shop/empty:80"))], Vec::new()),
    ];
    add_route(&mut snapshot, "HTTPRoute/shop/cart", rules);
    edit(&mut snapshot, CART, |cart| cart.routes = attach("HTTPRoute/shop/cart"));
    let _bed = Bed::start(&snapshot).await;
    for version in BOTH {
        for host in ["cart.shop.svc.cluster.local", "cart", "www.example.com", "10.0.0.1:80"] {
            let answer = get(cart, version, host, "/next/x").await;
            assert_eq!(answer.by(), (200, "next"), "{version:?} {host}");
            assert_eq!((answer.get("x-host"), answer.get("x-path"), answer.get("x-added")), (host, "/next/x", "here"));
            assert_eq!(get(cart, version, host, "/elsewhere").await.by(), (404, ""), "{version:?} {host}");
        }
        assert_eq!(get(cart, version, "cart", "/invalid").await.by(), (500, ""), "{version:?}");
        assert_eq!(get(cart, version, "cart", "/empty").await.by(), (503, ""), "{version:?}");
        let mut shares = BTreeMap::<_, usize>::new();
        for _ in 0..40 {
            let answer = get(cart, version, "cart", "/split").await;
            *shares.entry((answer.code, answer.get("x-name").to_owned())).or_default() += 1;
        }
        let expected = [((200, "cart".to_owned()), 20), ((200, "pay".to_owned()), 10), ((500, String::new()), 10)];
        assert_eq!(shares, BTreeMap::from(expected), "{version:?}");
    }
}

#[tokio::test]
async fn calls_of_grpc_are_routed_and_an_invalid_share_is_unavailable() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    let pay = service(&mut snapshot, PAY, &[echo("pay").await]);
    let matching = |service: &str| {
        let method = MethodMatch { service: Some(ValueMatch::Exact(service.to_owned())), method: None };
        Matches::Grpc(vec![GrpcMatch { method: Some(method), headers: Vec::new() }])
    };
    let rules = vec![
        Rule { matches: matching("a.Pay"), ..rule("", &[(1, Some(PAY))], Vec::new()) },
        Rule { matches: matching("a.Invalid"), ..rule("", &[(1, None)], Vec::new()) },
    ];
    add_route(&mut snapshot, "GRPCRoute/shop/cart", rules);
    edit(&mut snapshot, CART, |cart| cart.routes = attach("GRPCRoute/shop/cart"));
    let _bed = Bed::start(&snapshot).await;
    for (to, path, name, status) in [
        (cart, "/a.Pay/Do", "pay", "0"),
        (cart, "/a.Invalid/Do", "", "14"),
        (cart, "/a.Other/Do", "", "12"),
        (pay, "/a.Other/Do", "pay", "0"),
    ] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = ask(to, Version::HTTP_2, Method::POST, ("cart", path), &headers).await;
        assert_eq!((answer.by(), answer.get("grpc-status")), ((200, name), status), "{path}");
    }
}

#[tokio::test]
async fn without_routes_its_endpoints_are_asked_as_they_are_until_it_gets_some() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    let bed = Bed::start(&snapshot).await;
    for version in BOTH {
        for path in ["/", "/any/path"] {
            let answer = get(cart, version, "any.example", path).await;
            assert_eq!(answer.by(), (200, "cart"), "{version:?} {path}");
            assert_eq!((answer.get("x-host"), answer.get("x-path")), ("any.example", path));
        }
    }
    let mut open = TcpStream::connect(cart).await.expect("it listens");
    let kept = async |open: &mut TcpStream| {
        open.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(open.read_u8().await.expect("an answer"));
        }
        String::from_utf8(head).expect("a header")
    };
    assert!(kept(&mut open).await.starts_with("HTTP/1.1 200 "));
    add_route(&mut snapshot, "HTTPRoute/shop/cart", vec![rule("/only", &[(1, Some(CART))], Vec::new())]);
    edit(&mut snapshot, CART, |cart| cart.routes = attach("HTTPRoute/shop/cart"));
    bed.serve(&snapshot).await;
    assert!(kept(&mut open).await.starts_with("HTTP/1.1 404 "), "on a connection that was open before");
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/only").await.by(), (200, "cart"));
    // A route that has not come yet is not the same as none.
    snapshot.service_routes.clear();
    bed.serve(&snapshot).await;
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/only").await.by(), (404, ""));
}

#[tokio::test]
async fn a_namespaces_consumer_routes_are_its_own_clients_only() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    service(&mut snapshot, PAY, &[echo("pay").await]);
    service(&mut snapshot, NEXT, &[echo("next").await]);
    add_route(&mut snapshot, "HTTPRoute/shop/producer", vec![rule("/", &[(1, Some(PAY))], Vec::new())]);
    add_route(&mut snapshot, "HTTPRoute/client/consumer", vec![rule("/mine", &[(1, Some(NEXT))], Vec::new())]);
    edit(&mut snapshot, CART, |cart| {
        cart.routes = attach("HTTPRoute/shop/producer");
        cart.consumers = [("client".to_owned(), attach("HTTPRoute/client/consumer"))].into();
    });
    let bed = Bed::start(&snapshot).await;
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/mine").await.by(), (200, "next"));
    assert_eq!(
        get(cart, Version::HTTP_11, "cart", "/x").await.by(),
        (404, ""),
        "the producer's routes are replaced, not added to"
    );
    edit(&mut snapshot, CART, |cart| {
        let consumers = cart.consumers.remove("client").expect("it is there");
        cart.consumers.insert("elsewhere".to_owned(), consumers);
    });
    bed.serve(&snapshot).await;
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/mine").await.by(), (200, "pay"));
    edit(&mut snapshot, CART, |cart| cart.routes.clear());
    bed.serve(&snapshot).await;
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/mine").await.by(), (200, "cart"), "others' routes are no routes");
}

/// > * If redirect scheme is empty, the redirect port MUST be the Gateway
/// >   Listener port.
///
/// A Service's own port takes that place, and not the one that is opened for it.
#[tokio::test]
async fn a_redirect_names_the_services_port() {
    let mut snapshot = Snapshot::default();
    let mut addresses = Vec::new();
    for (name, location) in [(CART, "http://cart/x?y"), ("Service/shop/cart:8081", "http://cart:8081/x?y")] {
        addresses.push((service(&mut snapshot, name, &[]), location));
        edit(&mut snapshot, name, |cart| cart.routes = attach("HTTPRoute/shop/cart"));
    }
    add_route(&mut snapshot, "HTTPRoute/shop/cart", vec![rule("/", &[], vec![redirect()])]);
    let _bed = Bed::start(&snapshot).await;
    for (address, location) in addresses {
        for version in BOTH {
            let answer = get(address, version, "cart", "/x?y").await;
            assert_eq!((answer.code, answer.get(LOCATION.as_str())), (302, location), "{version:?}");
        }
    }
}

#[tokio::test]
async fn services_come_and_go_and_what_cannot_be_opened_is_reported() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    let pay = service(&mut snapshot, PAY, &[]);
    let next = service(&mut snapshot, NEXT, &[]);
    let datagrams = service(&mut snapshot, "Service/shop/dns:53/UDP", &[]);
    service(&mut snapshot, "Service/shop/past:1023", &[]);
    edit(&mut snapshot, "Service/shop/past:1023", |past| past.addresses.clear());
    let listener = Listener { bind_port: Some(8080), ..Listener::new("http", 80, Protocol::Http) };
    let edge = Gateway { addresses: vec![next.ip()], listeners: vec![listener], ..Gateway::default() };
    snapshot.gateways.insert(key("Gateway/infra/edge"), Arc::new(edge));
    let taken = TcpListener::bind(pay).await.expect("it is free");
    let outbound = Some(Outbound { namespace: "client".to_owned(), port_offset: 8000 });
    let limits = Limits { bind_retry: Duration::from_millis(20), ..Limits::default() };
    let bed = Bed::with(&snapshot, Options { outbound, limits, ..Options::default() }).await;
    assert_eq!(bed.fault(CART), None);
    assert!(bed.fault(PAY).is_some_and(|fault| fault.contains("in use by another process")));
    assert!(bed.fault(NEXT).is_some_and(|fault| fault.contains("Gateway/infra/edge has")));
    let reported: Vec<_> = bed.dataplane.reports().borrow().services.iter().map(|found| found.address).collect();
    assert_eq!(reported, [next, cart, pay], "datagrams are not routed, and nothing is opened without an address");
    assert!(TcpStream::connect(datagrams).await.is_err());
    drop(taken);
    let opened = |report: &crate::Report| report.services.iter().all(|found| found.fault.is_none() || found.address == next);
    bed.dataplane.reports().wait_for(|report| opened(report)).await.expect("it is tried again");
    assert_eq!(get(pay, Version::HTTP_11, "pay", "/").await.by(), (503, ""));
    snapshot.services.remove(&key(PAY));
    bed.serve(&snapshot).await;
    assert!(TcpStream::connect(pay).await.is_err(), "it is gone");
    assert_eq!(get(cart, Version::HTTP_11, "cart", "/").await.by(), (200, "cart"));
    // A Gateway's proxy has nothing to do with Services.
    let gateway = Bed::with(&snapshot, Options::default()).await;
    assert!(gateway.dataplane.reports().borrow().services.is_empty());
    assert_eq!(gateway.dataplane.reports().borrow().listeners.len(), 1);
}

#[tokio::test]
async fn requests_and_connections_are_counted_for_the_service() {
    let mut snapshot = Snapshot::default();
    let cart = service(&mut snapshot, CART, &[echo("cart").await]);
    let pay = service(&mut snapshot, PAY, &[echo("pay").await]);
    add_route(&mut snapshot, "HTTPRoute/shop/cart", vec![rule("/a", &[(1, Some(CART))], Vec::new())]);
    edit(&mut snapshot, CART, |cart| cart.routes = attach("HTTPRoute/shop/cart"));
    let outbound = Some(Outbound { namespace: "client".to_owned(), port_offset: 8000 });
    let admin = vec![([127, 0, 0, 1], 0).into()];
    let bed = Bed::with(&snapshot, Options { outbound, admin, ..Options::default() }).await;
    for (to, path) in [(cart, "/a"), (cart, "/b"), (pay, "/a")] {
        get(to, Version::HTTP_11, "any", path).await;
    }
    let of = |name: &str| format!(r#"direction="outbound",parent_kind="Service",parent_namespace="shop",parent_name="{name}""#);
    let request = |name: &str, route: (&str, &str, &str, &str), backend: (&str, &str, &str), code: u16| {
        let ((kind, namespace, route, rule), (of_backend, backend, port)) = (route, backend);
        format!(
            r#"isthmus_requests_total{{{},parent_section="80",route_kind="{kind}",route_namespace="{namespace}",route_name="{route}",rule="{rule}",backend_namespace="{of_backend}",backend_name="{backend}",backend_port="{port}",code="{code}"}} 1"#,
            of(name)
        )
    };
    let wanted = [
        request("cart", ("HTTPRoute", "shop", "cart", "0"), ("shop", "cart", "80"), 200),
        request("cart", ("", "", "", ""), ("", "", ""), 404),
        request("pay", ("", "", "", ""), ("shop", "pay", "80"), 200),
        format!(r#"isthmus_connections_accepted_total{{{},port="80"}} 2"#, of("cart")),
        format!(r#"isthmus_connections_accepted_total{{{},port="80"}} 1"#, of("pay")),
    ];
    // A request is counted after its answer.
    let mut text = String::new();
    for _ in 0..100 {
        text.clear();
        let mut admin = TcpStream::connect(bed.dataplane.admin().expect("it is asked for")).await.expect("it listens");
        admin.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.expect("sent");
        admin.read_to_string(&mut text).await.expect("text");
        if wanted.iter().all(|line| text.lines().any(|found| found == line)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not all of {wanted:#?} in {text}");
}
