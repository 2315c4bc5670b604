//! Snapshots come and go under a manager whose application answers by itself.

use std::net::{IpAddr, Ipv4Addr};

use isthmus_routing::{Gateway, GatewayKey, Identity, Listener, Protocol, Workloads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::connection::serve::Front;
use crate::connection::serve::tests::Echo;
use crate::drain::Readiness;
use crate::limits::Limits;
use crate::listen::permit::Permits;
use crate::stream::Streams;
use crate::udp::tests::bed;
use crate::{AccessLog, Options};

const HOME: [u8; 4] = [127, 0, 0, 1];

struct Fixture {
    snapshots: watch::Sender<Arc<Snapshot>>,
    orders: mpsc::Sender<Drain>,
    reports: watch::Receiver<Arc<Report>>,
    readiness: Arc<Readiness>,
    running: JoinHandle<()>,
}

async fn start(snapshot: Snapshot, limits: Limits) -> Fixture {
    start_at(snapshot, limits, everywhere()).await
}

async fn start_at(snapshot: Snapshot, limits: Limits, site: Site) -> Fixture {
    let site = Arc::new(site);
    let options = Options { threads: 1, access_log: AccessLog::Off, limits, ..Options::default() };
    let telemetry = Telemetry::start(&options).expect("nothing to open");
    let limits = Arc::new(options.limits);
    let readiness = Arc::new(Readiness::default());
    let shared = Arc::new(ArcSwap::from_pointee(Config::before(Arc::default())));
    let context = Context {
        front: Arc::new(Front::new(Arc::new(Echo), limits.clone())),
        streams: Streams { config: shared.clone(), telemetry: telemetry.clone(), limits: limits.clone() },
        permits: Permits::new(&limits),
        readiness: readiness.clone(),
        limits,
        capture: None,
    };
    let (report, mut reports) = watch::channel(Arc::default());
    let (orders, ordered) = mpsc::channel(1);
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let manager = Manager::new(Arc::new(context), shared, telemetry, report, site);
    assert_eq!(readiness.state(), State::Starting);
    let running = tokio::spawn(manager.run(receiver, ordered));
    sender.send_replace(Arc::new(snapshot));
    reports.changed().await.expect("a report");
    reports.mark_unchanged();
    Fixture { snapshots: sender, orders, reports, readiness, running }
}

impl Fixture {
    async fn serve(&mut self, snapshot: Snapshot) {
        self.reports.mark_unchanged();
        self.snapshots.send_replace(Arc::new(snapshot));
        self.reports.changed().await.expect("a report");
    }

    fn faults(&self) -> Vec<(String, Option<String>)> {
        self.reports.borrow().listeners.iter().map(|listener| (listener.name.clone(), listener.fault.clone())).collect()
    }
}

/// Where Gateways without an address listen.
fn everywhere() -> Site {
    let addresses = vec![IpAddr::from([0, 0, 0, 0]), IpAddr::from([0_u16; 8])];
    Site { addresses, ..Site::default() }
}

/// A name, a port and a protocol.
type Wanted<'a> = (&'a str, u16, Protocol);

/// Gateways with a name, an address and listeners.
fn snapshot(gateways: &[(&str, [u8; 4], &[Wanted<'_>])]) -> Snapshot {
    let listener = |(name, port, protocol): &Wanted<'_>| Listener::new((*name).to_owned(), *port, *protocol);
    let gateway = |(name, address, listeners): &(&str, [u8; 4], &[Wanted<'_>])| {
        let key = GatewayKey { namespace: "infra".to_owned(), name: (*name).to_owned() };
        let addresses = vec![IpAddr::V4(Ipv4Addr::from(*address))];
        (key, Arc::new(Gateway { addresses, listeners: listeners.iter().map(listener).collect(), ..Gateway::default() }))
    };
    Snapshot { gateways: gateways.iter().map(gateway).collect(), ..Snapshot::default() }
}

/// A port that nobody has at this moment.
fn free() -> u16 {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

async fn connect(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}

async fn ask(stream: &mut TcpStream, text: &str, expected: &str) {
    stream.write_all(text.as_bytes()).await.expect("is taken");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with(expected) {
        assert!(stream.read_buf(&mut seen).await.expect("readable") > 0, "{}", String::from_utf8_lossy(&seen));
    }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
}

const GET: &str = "GET /get HTTP/1.1\r\nHost: h\r\n\r\n";
const HALF: &str = "POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab";

#[tokio::test]
async fn listeners_come_and_go_without_touching_others() {
    let (a, b) = (free(), free());
    let both = snapshot(&[("edge", HOME, &[("a", a, Protocol::Http), ("b", b, Protocol::Http)])]);
    let only_a = snapshot(&[("edge", HOME, &[("a", a, Protocol::Http)])]);
    let mut f = start(both.clone(), Limits::default()).await;
    assert_eq!(f.readiness.state(), State::Ready);
    let (mut on_a, mut idle, mut busy) =
        (connect(a).await.expect("a"), connect(b).await.expect("b"), connect(b).await.expect("b"));
    ask(&mut on_a, GET, "/get 0\n").await;
    ask(&mut idle, GET, "/get 0\n").await;
    ask(&mut busy, GET, "/get 0\n").await;
    busy.write_all(HALF.as_bytes()).await.expect("is taken");

    f.serve(only_a).await;
    assert!(is_closed(&mut idle).await, "an idle connection of a removed listener ends");
    assert!(connect(b).await.is_err(), "nobody listens");
    ask(&mut on_a, GET, "/get 0\n").await;

    f.serve(both).await;
    let mut again = connect(b).await.expect("b is back");
    ask(&mut again, GET, "/get 0\n").await;
    ask(&mut busy, "cd", "/post 4\n").await;
    assert!(is_closed(&mut busy).await, "it was told to end with its request");
    ask(&mut on_a, GET, "/get 0\n").await;
}

#[tokio::test]
async fn every_listener_is_reported_with_what_to_do() {
    let (a, b) = (free(), free());
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, b)).expect("it is free");
    let wanted = snapshot(&[
        ("first", HOME, &[("plain", a, Protocol::Http), ("tls", a, Protocol::Https), ("taken", b, Protocol::Http)]),
        ("second", HOME, &[("late", a, Protocol::Http)]),
        ("third", [192, 0, 2, 1], &[("elsewhere", a, Protocol::Http)]),
    ]);
    let mut f = start(wanted, Limits { bind_retry: Duration::from_millis(20), ..Limits::default() }).await;
    let expected = [
        ("plain", None),
        ("tls", Some("speaks HTTP on port")),
        ("taken", Some("is in use by another process")),
        ("late", Some("Gateway/infra/first has 127.0.0.1:")),
        ("elsewhere", Some("192.0.2.1 is no address of this machine")),
    ];
    for ((name, fault), (expected_name, part)) in f.faults().into_iter().zip(expected) {
        assert_eq!((name.as_str(), fault.is_some()), (expected_name, part.is_some()), "{fault:?}");
        assert!(fault.unwrap_or_default().contains(part.unwrap_or_default()), "{name}");
    }
    assert_eq!(f.readiness.state(), State::Ready, "one listener serves");

    drop(taken);
    f.reports.changed().await.expect("a report when it could be opened");
    assert_eq!(f.faults()[2], ("taken".to_owned(), None));
    ask(&mut connect(b).await.expect("open"), GET, "/get 0\n").await;
}

#[tokio::test]
async fn an_address_may_give_way_to_all_addresses() {
    let port = free();
    let mut f = start(snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]), Limits::default()).await;
    f.serve(snapshot(&[("edge", [0, 0, 0, 0], &[("a", port, Protocol::Http)])])).await;
    assert_eq!(f.faults(), [("a".to_owned(), None)]);
    ask(&mut connect(port).await.expect("open"), GET, "/get 0\n").await;
}

#[tokio::test]
async fn a_changed_protocol_ends_what_spoke_the_old_one() {
    let port = free();
    let mut f = start(snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]), Limits::default()).await;
    let mut plain = connect(port).await.expect("open");
    ask(&mut plain, GET, "/get 0\n").await;
    f.serve(snapshot(&[("edge", HOME, &[("a", port, Protocol::Https)])])).await;
    assert!(is_closed(&mut plain).await);
    ask(&mut connect(port).await.expect("open"), GET, "use https:// for the URL").await;
    assert!(f.faults()[0].1.as_ref().is_some_and(|fault| fault.contains("no certificate")), "{:?}", f.faults());
}

#[tokio::test]
async fn the_last_sessions_of_a_removed_listener_make_way_for_a_new_one() {
    let (endpoint, _answering) = bed::endpoint("a").await;
    let address = bed::nobody().await;
    let shares = &[(1, Some("a"), &[endpoint][..])];
    let limits = Limits { bind_retry: Duration::from_millis(20), ..Limits::default() };
    let mut fixture = start(bed::snapshot(address, shares), limits).await;
    let client = bed::Client::of("127.0.0.1", address).await;
    let first = client.ask("x").await.expect("an answer");
    fixture.serve(Snapshot::default()).await;
    assert_eq!(client.ask("x").await.as_ref(), Some(&first), "the session goes on without its listener");
    assert_eq!(bed::Client::of("127.0.0.1", address).await.ask("x").await, None, "no other one begins");
    // On all addresses, which is another socket and cannot be had beside the old one.
    for address in [address, (Ipv4Addr::UNSPECIFIED, address.port()).into()] {
        fixture.serve(bed::snapshot(address, shares)).await;
        while fixture.faults().iter().any(|(_, fault)| fault.is_some()) {
            fixture.reports.changed().await.expect("a report");
        }
        assert!(client.ask("x").await.is_some_and(|answer| answer != first), "a new session");
    }
}

#[tokio::test]
async fn connections_past_the_limit_are_closed() {
    let port = free();
    let wanted = snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]);
    let _f = start(wanted, Limits { connections: 1, ..Limits::default() }).await;
    let mut first = connect(port).await.expect("open");
    ask(&mut first, GET, "/get 0\n").await;
    let mut second = connect(port).await.expect("the kernel takes it");
    assert!(is_closed(&mut second).await);
    ask(&mut first, GET, "/get 0\n").await;
}

#[tokio::test]
async fn a_drain_serves_on_then_ends_and_cuts_at_its_deadline() {
    let port = free();
    let f = start(snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]), Limits::default()).await;
    let (mut idle, mut slow, mut stuck) =
        (connect(port).await.expect("open"), connect(port).await.expect("open"), connect(port).await.expect("open"));
    ask(&mut idle, GET, "/get 0\n").await;
    for stream in [&mut slow, &mut stuck] {
        ask(stream, GET, "/get 0\n").await;
        stream.write_all(HALF.as_bytes()).await.expect("is taken");
    }
    let (lame_duck, deadline) = (Duration::from_millis(100), Duration::from_millis(300));
    let since = Instant::now();
    f.readiness.advance(State::Draining);
    f.orders.try_send(Drain { since, lame_duck, deadline }).expect("the first order");
    let mut late = connect(port).await.expect("still accepting");
    ask(&mut late, GET, "/get 0\n").await;
    assert!(is_closed(&mut idle).await);
    assert!(since.elapsed() >= lame_duck);
    assert!(connect(port).await.is_err(), "closed now");
    ask(&mut slow, "cd", "/post 4\n").await;
    f.running.await.expect("no panic");
    assert!(since.elapsed() >= deadline, "the stuck request was waited for");
    assert!(is_closed(&mut stuck).await);
}

#[tokio::test]
async fn nobody_left_to_order_ends_everything() {
    let port = free();
    let f = start(snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]), Limits::default()).await;
    let mut idle = connect(port).await.expect("open");
    ask(&mut idle, GET, "/get 0\n").await;
    drop(f.orders);
    f.running.await.expect("no panic");
    assert!(is_closed(&mut idle).await);
    assert!(connect(port).await.is_err());
}

#[tokio::test]
async fn a_gateway_without_an_address_listens_on_both_families_side_by_side() {
    let port = free();
    let mut wanted = snapshot(&[("edge", HOME, &[("a", port, Protocol::Http)])]);
    wanted.gateways.values_mut().for_each(|gateway| Arc::make_mut(gateway).addresses.clear());
    let mut f = start(wanted, Limits::default()).await;
    let reported: Vec<_> = f.reports.borrow().listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(reported, [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    assert_eq!(f.faults(), [("a".to_owned(), None), ("a".to_owned(), None)]);
    for home in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)] {
        ask(&mut TcpStream::connect((home, port)).await.expect("open"), GET, "/get 0\n").await;
    }
    f.serve(snapshot(&[("edge", HOME, &[])])).await;
    assert!(connect(port).await.is_err(), "its last listener has gone");
}

#[tokio::test]
async fn a_gateway_that_calls_workloads_is_ready_with_its_certificate_or_when_that_does_not_come() {
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(60));
    let plain = || snapshot(&[("edge", HOME, &[("a", free(), Protocol::Http)])]);
    let mesh = || {
        let identity = Identity { namespace: "shop".to_owned(), account: "cart".to_owned() };
        Snapshot { workloads: [(identity, Arc::new(Workloads::default()))].into(), ..plain() }
    };
    let certificate = || Some(Arc::new(Certificate { chain: String::new(), key: String::new() }));
    // What is served, whether there is to be a certificate and is one already, how long it is waited for, whether it is ready at once.
    for (served, identity, own_certificate, expected) in [
        (mesh(), Some(None), long, false),
        (mesh(), Some(None), short, false),
        (mesh(), Some(certificate()), long, true),
        (mesh(), None, long, true),
        (plain(), Some(None), long, true),
    ] {
        let (certificates, receiver) = watch::channel(identity.clone().flatten());
        let site = Site { identity: identity.map(|_| receiver), ..everywhere() };
        let begun = Instant::now();
        let f = start_at(served, Limits { own_certificate, ..Limits::default() }, site).await;
        let is_ready = || f.readiness.state() == State::Ready;
        assert_eq!(is_ready(), expected);
        if expected {
            continue;
        }
        if own_certificate == long {
            tokio::time::sleep(short).await;
            assert!(!is_ready(), "it waits for longer");
            certificates.send_replace(certificate());
        }
        while !is_ready() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is ready soon");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(begun.elapsed() >= short);
    }
}
