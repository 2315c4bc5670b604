//! Requests through the whole proxy to TLS servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::filter::{Filter, Mirror};
use isthmus_routing::matching::{HttpMatch, PathMatch};
use isthmus_routing::{
    Attachment, Backend, BackendProtocol, BackendTls, Bundle, BundleKey, Certificate, Endpoint, Gateway, Listener, Matches,
    Protocol, ProxyProtocol, Route, Rule, Snapshot, Target, Timeouts, WeightedBackend,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::pki::{Authority, Leaf, bundle_key, pair};
use super::server::Server;
use super::{CASES, validation};
use crate::{AccessLog, Dataplane, Options};

/// A data plane in front of one backend for each path `/0`, `/1` and so on.
pub(super) struct Bed {
    pub(super) address: SocketAddr,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) dataplane: Dataplane,
}

/// A snapshot in the making.
#[derive(Default)]
pub(super) struct Scene {
    pub(super) backends: Vec<Backend>,
    pub(super) bundles: Vec<(BundleKey, Arc<Bundle>)>,
    pub(super) certificate: Option<Certificate>,
    pub(super) mirror: Option<usize>,
    /// Its mesh and its workloads are this one's.
    pub(super) mesh: Snapshot,
}

impl Scene {
    pub(super) fn new(bundles: &[(&str, &Authority)]) -> Self {
        let bundle = |(name, authority): &(&str, &Authority)| (bundle_key(name), authority.bundle());
        Self { bundles: bundles.iter().map(bundle).collect(), ..Self::default() }
    }

    pub(super) fn backend(self, server: &Server, tls: Option<BackendTls>, protocol: BackendProtocol) -> Self {
        self.at(server.address, tls, protocol)
    }

    pub(super) fn at(mut self, address: SocketAddr, tls: Option<BackendTls>, protocol: BackendProtocol) -> Self {
        let endpoints = vec![Endpoint { address }];
        self.backends.push(Backend { protocol, endpoints, tls, ..Backend::default() });
        self
    }

    pub(super) fn verified(
        self,
        server: &Server,
        (hostname, bundles, names): (&str, &[&str], &[&str]),
        protocol: BackendProtocol,
    ) -> Self {
        self.backend(server, Some(BackendTls::Verified(validation(hostname, Some(bundles), names))), protocol)
    }

    pub(super) fn snapshot(&self, address: SocketAddr) -> Snapshot {
        let name = |i: usize| format!("Service/a/b{i}:443").parse().expect("a key");
        let rule = |i: usize| Rule {
            name: None,
            matches: Matches::Http(vec![HttpMatch {
                path: PathMatch::Prefix(format!("/{i}")),
                headers: Vec::new(),
                query: Vec::new(),
                method: None,
            }]),
            filters: self.mirror.filter(|_| i == 0).map(|to| mirror(Target::Backend(name(to)))).into_iter().collect(),
            backends: vec![WeightedBackend { weight: 1, target: Target::Backend(name(i)), filters: Vec::new() }],
            timeouts: Timeouts::default(),
            retry: None,
            invalid: false,
        };
        let (route, secret) = ("HTTPRoute/a/all", "Secret/a/client");
        let listener = Listener {
            routes: vec![Attachment { route: route.parse().expect("a key"), hostnames: Vec::new() }],
            ..Listener::new("http", address.port(), Protocol::Http)
        };
        let gateway = Gateway {
            addresses: vec![address.ip()],
            listeners: vec![listener],
            client_certificate: self.certificate.as_ref().map(|_| secret.parse().expect("a key")),
            ..Gateway::default()
        };
        let rules = (0..self.backends.len()).map(rule).collect();
        let certificate = self.certificate.clone().map(|certificate| (secret.parse().expect("a key"), Arc::new(certificate)));
        Snapshot {
            gateways: [("Gateway/a/edge".parse().expect("a key"), Arc::new(gateway))].into(),
            routes: [(route.parse().expect("a key"), Arc::new(Route { created: 0, rules }))].into(),
            backends: self.backends.iter().enumerate().map(|(i, backend)| (name(i), Arc::new(backend.clone()))).collect(),
            certificates: certificate.into_iter().collect(),
            bundles: self.bundles.iter().cloned().collect(),
            mesh: self.mesh.mesh.clone(),
            workloads: self.mesh.workloads.clone(),
            ..Snapshot::default()
        }
    }
}

fn mirror(target: Target) -> Filter {
    Filter::RequestMirror(Mirror { target, numerator: 1, denominator: 1 })
}

impl Bed {
    async fn start(scene: &Scene) -> Self {
        Self::with(scene, Options::default()).await
    }

    pub(super) async fn with(scene: &Scene, options: Options) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let (snapshots, receiver) = watch::channel(Arc::new(scene.snapshot(address)));
        let dataplane = Dataplane::start(options, receiver).await.expect("it starts");
        Self { address, snapshots, dataplane }
    }

    pub(super) async fn serve(&self, scene: &Scene) {
        let mut reports = self.dataplane.reports();
        let snapshot = scene.snapshot(self.address);
        let version = snapshot.version();
        self.snapshots.send_replace(Arc::new(snapshot));
        reports.wait_for(|report| report.version == Some(version)).await.expect("served");
    }

    pub(super) async fn get(&self, path: &str) -> u16 {
        Client::connect(self.address).await.get(path).await
    }
}

/// A client with one connection.
pub(super) struct Client(TcpStream);

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("it listens"))
    }

    pub(super) async fn get(&mut self, path: &str) -> u16 {
        let head = self.ask(&format!("GET {path} HTTP/1.1\r\nhost: any.example\r\n\r\n")).await;
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
    }

    /// The response's header.
    async fn ask(&mut self, request: &str) -> String {
        self.0.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let end = loop {
            if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(self.0.read_buf(&mut answer).await.expect("an answer"), 0, "it was closed");
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok()).unwrap_or(0);
        let mut rest = vec![0; (end + length).saturating_sub(answer.len())];
        self.0.read_exact(&mut rest).await.expect("a body");
        head
    }
}

pub(super) const BOTH: [(BackendProtocol, http::Version); 2] =
    [(BackendProtocol::Http, http::Version::HTTP_11), (BackendProtocol::H2c, http::Version::HTTP_2)];

#[tokio::test]
async fn requests_are_sent_only_to_backends_whose_certificate_is_right() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    for (protocol, version) in BOTH {
        let mut scene = Scene::new(&[("right", &right), ("wrong", &wrong)]);
        let mut servers = Vec::new();
        for (hostname, bundles, names, shown, _) in CASES {
            let server = Server::start(right.server(shown)).await;
            scene = scene.verified(&server, (hostname, bundles, names), protocol);
            servers.push(server);
        }
        let bed = Bed::start(&scene).await;
        for (i, ((hostname, bundles, names, shown, refusal), server)) in CASES.iter().zip(&servers).enumerate() {
            for round in 0..2 {
                let what = format!("{protocol:?} {hostname} {bundles:?} {names:?} {shown:?} round {round}");
                assert_eq!(bed.get(&format!("/{i}")).await, if refusal.is_none() { 200 } else { 503 }, "{what}");
                let seen = server.take_seen();
                assert_eq!(seen.len(), usize::from(refusal.is_none()), "{what}: {seen:?}");
                for seen in seen {
                    assert_eq!((seen.version, seen.server_name.as_str()), (version, *hostname), "{what}");
                    assert!(seen.scheme.is_none_or(|scheme| scheme == "https"), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connection_serves_no_policy_that_would_not_have_made_it() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let server = Server::start(right.server(&Leaf::of(&["a.example", "URI:spiffe://x/a"]))).await;
    let policies: [(&[&str], &[&str], bool); 7] = [
        (&["right"], &[], true),
        (&["wrong"], &[], false),
        (&["right"], &["a.example"], true),
        (&["right"], &["b.example"], false),
        (&["right"], &["spiffe://x/a"], true),
        (&["wrong"], &["spiffe://x/a"], false),
        (&["right", "wrong"], &["spiffe://x/b"], false),
    ];
    for (protocol, _) in BOTH {
        let mut scene = Scene::new(&[("right", &right), ("wrong", &wrong)]);
        for (bundles, names, _) in policies {
            scene = scene.verified(&server, ("a.example", bundles, names), protocol);
        }
        // In the clear, and nothing at all.
        scene = scene.backend(&server, None, protocol).backend(&server, Some(BackendTls::Invalid), protocol);
        let bed = Bed::start(&scene).await;
        // Kept connections of those that are allowed are there for the others to be taken, if they could.
        for round in 0..3 {
            for (i, (_, _, allowed)) in policies.iter().enumerate() {
                let code = bed.get(&format!("/{i}")).await;
                assert_eq!(code, if *allowed { 200 } else { 503 }, "{protocol:?} {:?} round {round}", policies[i]);
                assert_eq!(server.take_seen().len(), usize::from(*allowed));
            }
            assert_ne!(bed.get(&format!("/{}", policies.len())).await, 200);
            assert_eq!(bed.get(&format!("/{}", policies.len() + 1)).await, 500);
            assert_eq!(server.take_seen(), []);
        }
    }
}

#[tokio::test]
async fn a_changed_bundle_takes_effect_at_once_and_kept_connections_are_left() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    for names in [&[][..], &["a.example"]] {
        for (protocol, _) in BOTH {
            let server = Server::start(old.server(&Leaf::of(&["a.example"]))).await;
            let scene = |authority| Scene::new(&[("ca", authority)]).verified(&server, ("a.example", &["ca"], names), protocol);
            let bed = Bed::start(&scene(&old)).await;
            assert_eq!((bed.get("/0").await, bed.get("/0").await), (200, 200));
            let connections = server.connections();
            bed.serve(&scene(&old)).await;
            assert_eq!((bed.get("/0").await, server.connections()), (200, connections), "nothing has changed");
            bed.serve(&scene(&new)).await;
            assert_eq!(bed.get("/0").await, 503, "{protocol:?} {names:?}");
            server.show(new.server(&Leaf::of(&["a.example"])));
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert_eq!(bed.get("/0").await, 200, "{protocol:?} {names:?}");
            bed.serve(&scene(&old)).await;
            assert_eq!(bed.get("/0").await, 503, "{protocol:?} {names:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_gets_well_without_waiting_for_its_refused_connections() {
    let authority = Authority::new("right");
    for (protocol, _) in BOTH {
        let server = Server::start(authority.server(&Leaf::of(&["b.example"]))).await;
        let scene = Scene::new(&[("ca", &authority)]).verified(&server, ("a.example", &["ca"], &["a.example"]), protocol);
        let bed = Bed::start(&scene).await;
        for _ in 0..20 {
            assert_eq!(bed.get("/0").await, 503);
        }
        let (connections, _) = (server.connections(), server.take_seen());
        assert!(connections <= 6, "a backend that is refused is not asked all the time, but this one was {connections} times");
        server.show(authority.server(&Leaf::of(&["a.example"])));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(bed.get("/0").await, 200);
        // And it renews its certificate.
        server.show(authority.server(&Leaf::of(&["c.example", "a.example"])));
        let mut client = Client::connect(bed.address).await;
        for _ in 0..5 {
            assert_eq!(client.get("/0").await, 200);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_refused_costs_no_request() {
    let authority = Authority::new("right");
    let good = Server::start(authority.server(&Leaf::of(&["a.example"]))).await;
    let bad = Server::start(authority.server(&Leaf::of(&["b.example"]))).await;
    for names in [&[][..], &["a.example"]] {
        for (protocol, _) in BOTH {
            let mut scene = Scene::new(&[("ca", &authority)]).verified(&good, ("a.example", &["ca"], names), protocol);
            scene.backends[0].endpoints.push(Endpoint { address: bad.address });
            scene.backends[0].endpoints.sort_unstable();
            let bed = Bed::start(&scene).await;
            for _ in 0..30 {
                assert_eq!(bed.get("/0").await, 200, "{protocol:?} {names:?}");
            }
            assert_eq!((good.take_seen().len(), bad.take_seen().len()), (30, 0));
        }
    }
}

#[tokio::test]
async fn a_backend_that_insists_gets_the_gateways_certificate_as_it_is_now() {
    let (authority, clients) = (Authority::new("right"), Authority::new("clients"));
    let leaf = |certificate: &Certificate| {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_slice(certificate.chain.as_bytes()).expect("PEM").to_vec()
    };
    let (one, two) = (pair(&clients, "one", 7), pair(&clients, "two", 7));
    for names in [&[][..], &["a.example"]] {
        for (protocol, _) in BOTH {
            let server = Server::start(authority.server_for(&Leaf::of(&["a.example"]), &clients)).await;
            let scene = |certificate: Option<&Certificate>| Scene {
                certificate: certificate.cloned(),
                ..Scene::new(&[("ca", &authority)]).verified(&server, ("a.example", &["ca"], names), protocol)
            };
            let bed = Bed::start(&scene(Some(&one))).await;
            for certificate in [&one, &one, &two, &one] {
                bed.serve(&scene(Some(certificate))).await;
                assert_eq!(bed.get("/0").await, 200);
                let seen = server.take_seen();
                assert_eq!(seen.iter().map(|seen| seen.certificate.clone()).collect::<Vec<_>>(), [Some(leaf(certificate))]);
            }
            bed.serve(&scene(None)).await;
            let code = bed.get("/0").await;
            assert!((500..504).contains(&code), "{code}");
            assert_eq!(server.take_seen(), []);
        }
    }
}

#[tokio::test]
async fn what_needs_http2_is_not_sent_with_http1() {
    let authority = Authority::new("right");
    let server = Server::start(authority.server(&Leaf::of(&["a.example"]))).await;
    server.show_without_alpn(authority.server(&Leaf::of(&["a.example"])));
    let scene = Scene::new(&[("ca", &authority)]).verified(&server, ("a.example", &["ca"], &[]), BackendProtocol::H2c).verified(
        &server,
        ("a.example", &["ca"], &[]),
        BackendProtocol::Http,
    );
    let bed = Bed::start(&scene).await;
    assert_eq!((bed.get("/0").await, server.take_seen()), (502, Vec::new()));
    assert_eq!((bed.get("/1").await, server.take_seen().len()), (200, 1));
}

#[tokio::test]
async fn a_policy_that_cannot_be_carried_out_is_an_error_and_nothing_is_sent() {
    let server = Server::with(None, false).await;
    for (protocol, _) in BOTH {
        let bed = Bed::start(&Scene::new(&[]).backend(&server, Some(BackendTls::Invalid), protocol)).await;
        assert_eq!(bed.get("/0").await, 500);
        let grpc = "POST /0 HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
        let head = Client::connect(bed.address).await.ask(grpc).await;
        assert!(head.starts_with("http/1.1 200") && head.contains("grpc-status: 14"), "{head}");
        assert_eq!(server.connections(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_tells_of_a_client_serves_that_client_alone() {
    let authority = Authority::new("right");
    for (tls, names) in [(false, &[][..]), (true, &[]), (true, &["a.example"])] {
        for (protocol, _) in BOTH {
            let config = tls.then(|| authority.server(&Leaf::of(&["a.example"])));
            let server = Server::with(config, true).await;
            let policy = tls.then(|| BackendTls::Verified(validation("a.example", Some(&["ca"]), names)));
            let mut scene = Scene::new(&[("ca", &authority)]).backend(&server, policy, protocol);
            scene.backends[0].proxy_protocol = Some(ProxyProtocol::V1);
            let bed = Bed::start(&scene).await;
            let (mut one, mut two) = (Client::connect(bed.address).await, Client::connect(bed.address).await);
            let mut used = Vec::new();
            for client in [0, 1, 0, 1] {
                let client = if client == 0 { &mut one } else { &mut two };
                assert_eq!(client.get("/0").await, 200, "{protocol:?} {tls}");
                let [seen] = &server.take_seen()[..] else { panic!("one request") };
                let from = client.0.local_addr().expect("connected");
                let line = format!("PROXY TCP4 {} {} {} {}\r", from.ip(), bed.address.ip(), from.port(), bed.address.port());
                assert_eq!(seen.line, line);
                used.push(seen.connection);
            }
            assert_eq!((used[0], used[1]), (used[2], used[3]));
            assert_ne!(used[0], used[1]);
            assert_eq!(server.handshakes().1, 0, "should Pingora resume one day, docs/defaults.md has to say so");
        }
    }
}

#[tokio::test]
async fn copies_go_by_the_policy_of_their_backend() {
    let authority = Authority::new("right");
    let (own, plain) = (Server::start(authority.server(&Leaf::of(&["a.example"]))).await, Server::with(None, false).await);
    let cases: [(&Server, Option<BackendTls>, bool); 6] = [
        (&plain, None, true),
        (&plain, Some(BackendTls::Invalid), false),
        (&own, Some(BackendTls::Verified(validation("a.example", Some(&["ca"]), &[]))), true),
        (&own, Some(BackendTls::Verified(validation("b.example", Some(&["ca"]), &[]))), false),
        (&own, Some(BackendTls::Verified(validation("b.example", Some(&["ca"]), &["a.example"]))), true),
        (&own, Some(BackendTls::Verified(validation("b.example", Some(&["ca"]), &["b.example"]))), false),
    ];
    let main = Server::with(None, false).await;
    for (server, policy, copied) in cases {
        for (protocol, _) in BOTH {
            let mut scene = Scene::new(&[("ca", &authority)]).backend(&main, None, BackendProtocol::Http);
            scene = scene.backend(server, policy.clone(), protocol);
            scene.mirror = Some(1);
            let bed = Bed::start(&scene).await;
            assert_eq!(bed.get("/0").await, 200);
            let mut seen = server.take_seen().len();
            for _ in 0..if copied { 100 } else { 30 } {
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen += server.take_seen().len();
                if seen > 0 {
                    break;
                }
            }
            assert_eq!(seen, usize::from(copied), "{policy:?} {protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_certificate_is_told_in_the_access_log_and_counted() {
    let authority = Authority::new("right");
    let server = Server::start(authority.server(&Leaf::of(&["b.example"]))).await;
    let scene = Scene::new(&[("ca", &authority)]).verified(&server, ("a.example", &["ca"], &[]), BackendProtocol::Http).verified(
        &server,
        ("a.example", &["ca"], &["a.example"]),
        BackendProtocol::Http,
    );
    let log = std::env::temp_dir().join(format!("isthmus-upstream-{}.log", std::process::id()));
    let admin = vec![([127, 0, 0, 1], 0).into()];
    let bed = Bed::with(&scene, Options { access_log: AccessLog::File(log.clone()), admin, ..Options::default() }).await;
    assert_eq!((bed.get("/0").await, bed.get("/1").await, bed.get("/1").await), (503, 503, 503));
    let mut scrape = Client::connect(bed.dataplane.admin().expect("it answers")).await;
    scrape.0.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut metrics = String::new();
    scrape.0.read_to_string(&mut metrics).await.expect("metrics");
    let count = metrics.lines().find(|line| line.starts_with("isthmus_refused_certificates_total{"));
    let count = count.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count >= 3), "{metrics}");
    bed.dataplane.drain(Duration::ZERO, Duration::from_secs(5)).await;
    let lines = std::fs::read_to_string(&log).expect("written");
    std::fs::remove_file(&log).expect("removed");
    assert_eq!(lines.lines().filter(|line| line.contains("\"UF,UCR\"")).count(), 3, "{lines}");
}
