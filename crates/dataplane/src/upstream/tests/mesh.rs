//! Requests and streams through the whole proxy to workloads behind sidecars.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use isthmus_routing::{
    Attachment, Backend, BackendTls, Certificate, Endpoint, Gateway, Listener, Matches, MtlsMode, Protocol, ProxyProtocol, Route,
    Rule, Snapshot, Target, Timeouts, WeightedBackend,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::pki::Leaf as Names;
use super::requests::{BOTH, Bed, Client, Scene};
use super::server::Server;
use super::validation;
use crate::capture::inbound::tests::bed::Bed as Sidecar;
use crate::identity::tests::pki::{Authority, Leaf, pair};
use crate::identity::tests::{cases, snapshot};
use crate::limits::Limits;
use crate::telemetry::heard::Heard;
use crate::upstream::PROVIDER;
use crate::{Dataplane, Options};

/// One account, wherever it is.
fn workload(authorities: &str) -> Snapshot {
    snapshot(authorities, &[("cart", "127.0.0.1")])
}

fn signed(authority: &Authority, account: &str) -> Certificate {
    authority.sign(&Leaf::of(account))
}

/// Options of a proxy with a certificate, and what changes it.
fn identified(certificate: Option<Certificate>) -> (watch::Sender<Option<Arc<Certificate>>>, Options) {
    let (sender, identity) = watch::channel(certificate.map(Arc::new));
    (sender, Options { identity: Some(identity), ..Options::default() })
}

#[tokio::test]
async fn requests_go_by_mtls_to_workloads_and_never_without() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    for (protocol, version) in BOTH {
        let heard = Heard::listen();
        let server = Server::with(None, false).await;
        let sidecar = Sidecar::start(server.address, Limits::default()).await;
        sidecar.serve(workload(&authority.pem), MtlsMode::Permissive, Some(&signed(&authority, "cart")));
        let scene = |mesh| Scene { mesh, ..Scene::default() }.at(sidecar.address, None, protocol);
        let (certificates, options) = identified(Some(signed(&authority, "edge")));
        let bed = Bed::with(&scene(workload(&authority.pem)), options).await;
        let mut client = Client::connect(bed.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("/0").await, 200);
        }
        let seen = server.take_seen();
        assert!(seen.len() == 20 && seen.iter().all(|seen| seen.version == version), "{seen:?}");
        assert_eq!(server.connections(), 1, "connections are kept");
        // Whom it is called by, who it is by now, and whom either believes; none of it is what the other side expects.
        let elsewhere = snapshot(&authority.pem, &[("other", "127.0.0.1")]);
        for (number, (what, mesh, own, shown)) in (0_u8..).zip([
            ("another account", elsewhere.clone(), signed(&authority, "cart"), Some(signed(&authority, "edge"))),
            ("another server", workload(&authority.pem), signed(&authority, "other"), Some(signed(&authority, "edge"))),
            ("another server's authority", workload(&authority.pem), signed(&other, "cart"), Some(signed(&authority, "edge"))),
            ("another client's authority", workload(&authority.pem), signed(&authority, "cart"), Some(signed(&other, "edge"))),
            ("no certificate", workload(&authority.pem), signed(&authority, "cart"), None),
        ]) {
            // So that it can be told when it is served.
            let mark = snapshot(&authority.pem, &[("mark", &format!("192.0.2.{number}"))]).workloads;
            let mesh = Snapshot { workloads: mesh.workloads.into_iter().chain(mark).collect(), ..mesh };
            sidecar.serve(workload(&authority.pem), MtlsMode::Permissive, Some(&own));
            certificates.send_replace(shown.map(Arc::new));
            bed.serve(&scene(mesh)).await;
            let code = bed.get("/0").await;
            assert!(matches!(code, 502 | 503), "{protocol:?}, {what}: {code}");
            assert_eq!(server.take_seen().len(), 0, "{protocol:?}, {what}");
            // An address that is another's by now, which the sidecar there says.
            if what == "another account" {
                heard.line(&["for `other.shop.sa.cluster.local`, is refused", "UnrecognisedName", "Nothing was sent"]).await;
            }
        }
        // What is excluded from the mesh is called without it.
        bed.serve(&scene(Snapshot::default())).await;
        assert_eq!(bed.get("/0").await, 200);
    }
}

/// What makes a certificate that of a workload is more than Pingora verifies.
#[tokio::test]
async fn requests_go_only_to_who_shows_the_certificate_of_the_workload() {
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let own = signed(&authority, "edge");
    let shown = cases().into_iter().map(|(what, leaf, refusal)| (what, authority.sign(&leaf), refusal.is_none()));
    let others = [
        ("another authority", signed(&other, "cart"), false),
        ("another account", signed(&authority, "other"), false),
        ("right again", signed(&authority, "cart"), true),
    ];
    let shown: Vec<_> = shown.chain(others).collect();
    for (protocol, _) in BOTH {
        let config = |certificate: &Certificate| {
            let (chain, key) = pair(certificate);
            let config = rustls::ServerConfig::builder_with_provider(PROVIDER.clone()).with_safe_default_protocol_versions();
            config.expect("both versions").with_no_client_auth().with_single_cert(chain, key).expect("they fit")
        };
        for (what, certificate, is_taken) in &shown {
            let server = Server::start(config(certificate)).await;
            let scene = Scene { mesh: workload(&authority.pem), ..Scene::default() }.at(server.address, None, protocol);
            let (_certificates, options) = identified(Some(own.clone()));
            let bed = Bed::with(&scene, options).await;
            let codes = [bed.get("/0").await, bed.get("/0").await];
            // Pingora forgives no clock; what the controller signs holds from ten minutes before.
            let is_taken = *is_taken && *what != "clocks differ by 5 minutes";
            let expected = if is_taken { [200; 2] } else { [503; 2] };
            assert_eq!((codes, server.take_seen().is_empty()), (expected, !is_taken), "{protocol:?}, {what}");
        }
    }
}

#[tokio::test]
async fn a_policy_wins_over_the_mesh() {
    let authority = super::pki::Authority::new("policy");
    let mesh = Authority::new("mesh");
    let server = Server::start(authority.server(&Names::of(&["a.example"]))).await;
    let sidecar = Sidecar::start(server.address, Limits::default()).await;
    sidecar.serve(workload(&mesh.pem), MtlsMode::Permissive, Some(&signed(&mesh, "cart")));
    let (_, options) = identified(Some(signed(&mesh, "edge")));
    for (bundles, code) in [(&["right"][..], 200), (&["gone"], 503)] {
        let policy = BackendTls::Verified(validation("a.example", Some(bundles), &[]));
        let scene = Scene { mesh: workload(&mesh.pem), ..Scene::new(&[("right", &authority)]) };
        let scene = scene.at(sidecar.address, Some(policy), BOTH[0].0);
        let bed = Bed::with(&scene, options.clone()).await;
        assert_eq!(bed.get("/0").await, code, "{bundles:?}");
    }
    assert_eq!(server.take_seen().first().map(|seen| seen.server_name.clone()).as_deref(), Some("a.example"));
}

/// Its header would have to go within TLS, where Pingora cannot put it.
#[tokio::test]
async fn http_with_the_proxy_protocol_is_not_sent_to_a_workload() {
    let authority = Authority::new("one");
    let server = Server::with(None, true).await;
    let mut scene = Scene { mesh: workload(&authority.pem), ..Scene::default() }.backend(&server, None, BOTH[0].0);
    scene.backends[0].proxy_protocol = Some(ProxyProtocol::V1);
    let (_, options) = identified(Some(signed(&authority, "edge")));
    let bed = Bed::with(&scene, options).await;
    assert_eq!((bed.get("/0").await, server.connections()), (503, 0));
}

/// Certificates of both sides, and their authority, change while clients are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_use_loses_nothing() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let both = format!("{}{}", old.pem, new.pem);
    for (protocol, _) in BOTH {
        let server = Server::with(None, false).await;
        let sidecar = Sidecar::start(server.address, Limits::default()).await;
        sidecar.serve(workload(&old.pem), MtlsMode::Strict, Some(&signed(&old, "cart")));
        let scene =
            |authorities: &str| Scene { mesh: workload(authorities), ..Scene::default() }.at(sidecar.address, None, protocol);
        let (certificates, options) = identified(Some(signed(&old, "edge")));
        let bed = Bed::with(&scene(&old.pem), options).await;
        let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (address, done, served) = (bed.address, done.clone(), served.clone());
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    while !done.load(Relaxed) {
                        assert_eq!(client.get("/0").await, 200, "after {}", served.load(Relaxed));
                        served.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        let pause = async || {
            let before = served.load(Relaxed);
            for _ in 0..2000 {
                if served.load(Relaxed) >= before + 20 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("nobody is served any more");
        };
        for (believed, server, edge) in [
            (&old.pem, &old, &old),
            (&both, &old, &old),
            (&both, &new, &old),
            (&both, &new, &new),
            (&new.pem, &new, &new),
            (&new.pem, &new, &new),
        ] {
            // Neither side knows when the other one changes.
            sidecar.serve(workload(&both), MtlsMode::Strict, Some(&signed(server, "cart")));
            pause().await;
            certificates.send_replace(Some(Arc::new(signed(edge, "edge"))));
            pause().await;
            bed.snapshots.send_replace(Arc::new(scene(believed).snapshot(bed.address)));
            pause().await;
        }
        done.store(true, Relaxed);
        for client in clients {
            client.await.expect("no request was lost");
        }
        assert!(server.connections() >= 6, "new certificates make new connections: {}", server.connections());
    }
}

/// Bytes that a client of this Gateway's TCP listener sends go to the endpoint.
fn stream_snapshot(port: u16, backend: Backend, mesh: Snapshot) -> Snapshot {
    let (route, key) = ("TCPRoute/a/all", "Service/a/b:80");
    let listener = Listener {
        routes: vec![Attachment { route: route.parse().expect("a key"), hostnames: Vec::new() }],
        ..Listener::new("tcp", port, Protocol::Tcp)
    };
    let gateway = Gateway { addresses: vec![[127, 0, 0, 1].into()], listeners: vec![listener], ..Gateway::default() };
    let target = Target::Backend(key.parse().expect("a key"));
    let rule = Rule {
        name: None,
        matches: Matches::Any,
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target, filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    Snapshot {
        gateways: [("Gateway/a/edge".parse().expect("a key"), Arc::new(gateway))].into(),
        routes: [(route.parse().expect("a key"), Arc::new(Route { created: 0, rules: vec![rule] }))].into(),
        backends: [(key.parse().expect("a key"), Arc::new(backend))].into(),
        ..mesh
    }
}

#[tokio::test]
async fn streams_go_by_mtls_to_workloads_whoever_speaks_first() {
    let authority = Authority::new("one");
    let application = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = application.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = application.accept().await.expect("a connection");
            tokio::spawn(async move {
                socket.write_all(b"220 ready\r\n").await?;
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let sidecar = Sidecar::start(address, Limits::default()).await;
    sidecar.serve(workload(&authority.pem), MtlsMode::Strict, Some(&signed(&authority, "cart")));
    for (own, proxy_protocol, is_served) in [
        (Some(signed(&authority, "edge")), None, true),
        (Some(signed(&authority, "edge")), Some(ProxyProtocol::V1), true),
        (None, None, false),
    ] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
        let backend = Backend { endpoints: vec![Endpoint { address: sidecar.address }], proxy_protocol, ..Backend::default() };
        let snapshot = stream_snapshot(free.port(), backend, workload(&authority.pem));
        let (_snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let (_certificates, options) = identified(own);
        let _dataplane = Dataplane::start(options, receiver).await.expect("it starts");
        let mut client = TcpStream::connect(free).await.expect("it listens");
        let mut greeting = [0; 11];
        let greeted = client.read_exact(&mut greeting).await;
        assert_eq!(greeted.is_ok(), is_served, "{greeted:?}");
        if !is_served {
            continue;
        }
        assert_eq!(&greeting, b"220 ready\r\n");
        let from = client.local_addr().expect("connected");
        client.write_all(b"ping").await.expect("sent");
        client.shutdown().await.expect("sent");
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.expect("the end");
        let header = proxy_protocol.map(|_| format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), free.port()));
        assert_eq!(rest, header.unwrap_or_default() + "ping", "the application gets what it asks for, and nobody else");
    }
}
