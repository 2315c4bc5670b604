use isthmus_routing::{Gateway, Listener, Protocol, Snapshot};

use super::*;
use crate::Options;
use crate::config::Owner;
use crate::telemetry::Telemetry;
use crate::tls::handshake::Shaken;

/// The listeners of `same-namespace-with-https-listener` in the conformance suite's base manifests.
fn port(protocol: Protocol) -> Arc<Port> {
    let listener = |(name, hostname): (&str, Option<&str>)| Listener {
        hostname: hostname.map(|hostname| hostname.parse().expect("a hostname")),
        ..Listener::new(name.to_owned(), 443, protocol)
    };
    let listeners = [
        ("https", None),
        ("https-with-hostname", Some("second-example.org")),
        ("https-with-wildcard-hostname", Some("*.wildcard.org")),
        ("https-with-hostname-matching-wildcard", Some("fourth-example.wildcard.org")),
    ];
    of(listeners.map(listener).into())
}

fn of(listeners: Vec<Listener>) -> Arc<Port> {
    of_gateway("Gateway/infra/edge", listeners)
}

fn of_gateway(key: &str, listeners: Vec<Listener>) -> Arc<Port> {
    let gateway = Gateway { addresses: vec![[127, 0, 0, 1].into()], listeners, ..Gateway::default() };
    let key = key.parse().expect("a key");
    let snapshot = Snapshot { gateways: [(key, Arc::new(gateway))].into(), ..Snapshot::default() };
    let telemetry = Telemetry::start(&Options::default()).expect("nothing to open");
    let config = Config::compile(&Arc::new(snapshot), &Arc::default(), None, &telemetry);
    config.ports.into_values().next().expect("a port")
}

/// A connection that was made to the listener of a port that takes this name.
fn tls(port: &Port, server_name: &str, standing: &Arc<()>) -> TlsInfo {
    let listener = port.parents.get(server_name).expect("somebody has shaken hands");
    let Owner::Gateway(gateway) = &port.owner else { panic!("{} is no Gateway", port.owner) };
    TlsInfo {
        listener: Arc::new(Shaken::new(gateway, listener.source().name(), Arc::downgrade(standing))),
        server_name: (!server_name.is_empty()).then(|| server_name.to_owned()),
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        client_certificate: None,
        alpn: None,
    }
}

fn outcome(port: Option<&Arc<Port>>, tls: Option<&TlsInfo>, host: &str) -> Result<String, u16> {
    parent(port, tls, host).map(|parent| parent.source().name().to_owned()).map_err(|reply| reply.code())
}

/// The pairs of `HTTPRouteHTTPSListenerDetectMisdirectedRequests`. Where it expects 404, the listener `https` is the right one and no
/// route of it matches.
#[test]
fn a_request_belongs_to_the_listener_of_its_handshake() {
    let (port, standing) = (port(Protocol::Https), Arc::new(()));
    for (server_name, host, expected) in [
        ("example.org", "example.org", Ok("https")),
        ("example.org", "second-example.org", Err(421)),
        ("example.org", "unknown-example.org", Ok("https")),
        ("second-example.org", "second-example.org", Ok("https-with-hostname")),
        ("second-example.org", "example.org", Err(421)),
        ("second-example.org", "unknown-example.org", Err(421)),
        ("third-example.wildcard.org", "third-example.wildcard.org", Ok("https-with-wildcard-hostname")),
        ("third-example.wildcard.org", "fith-example.wildcard.org", Ok("https-with-wildcard-hostname")),
        ("third-example.wildcard.org", "fourth-example.wildcard.org", Err(421)),
        ("third-example.wildcard.org", "second-example.org", Err(421)),
        ("third-example.wildcard.org", "unknown-example.org", Err(421)),
        ("fourth-example.wildcard.org", "fourth-example.wildcard.org", Ok("https-with-hostname-matching-wildcard")),
        ("fourth-example.wildcard.org", "fith-example.wildcard.org", Err(421)),
        ("unknown-example.org", "example.org", Ok("https")),
        ("unknown-example.org", "unknown-example.org", Ok("https")),
        // Without SNI a client is with the listener that takes every host.
        ("", "example.org", Ok("https")),
        ("", "second-example.org", Err(421)),
    ] {
        let found = outcome(Some(&port), Some(&tls(&port, server_name, &standing)), host);
        assert_eq!(found, expected.map(str::to_owned), "SNI `{server_name}`, Host `{host}`");
    }
}

#[test]
fn without_tls_the_host_alone_decides() {
    let port = port(Protocol::Http);
    for (host, name) in
        [("second-example.org", "https-with-hostname"), ("x.wildcard.org", "https-with-wildcard-hostname"), ("x", "https")]
    {
        assert_eq!(outcome(Some(&port), None, host), Ok(name.to_owned()));
    }
    // It was made when the port did not speak TLS.
    assert_eq!(outcome(Some(&self::port(Protocol::Https)), None, "x"), Err(421));
}

#[test]
fn a_host_that_no_listener_takes_is_not_found() {
    let port = of(vec![Listener {
        hostname: Some("a.example".parse().expect("a hostname")),
        ..Listener::new("one".to_owned(), 443, Protocol::Https)
    }]);
    let standing = Arc::new(());
    assert_eq!(outcome(Some(&port), Some(&tls(&port, "a.example", &standing)), "b.example"), Err(404));
    assert_eq!(outcome(None, None, "a.example"), Err(404), "the address is not served any more");
}

/// On a port that is shared with TLS listeners their names are no more this connection's than those of other HTTPS listeners.
#[test]
fn a_host_of_a_tls_listener_is_misdirected() {
    let listener = |name: &str, hostname: &str, protocol| Listener {
        hostname: Some(hostname.parse().expect("a hostname")),
        ..Listener::new(name.to_owned(), 443, protocol)
    };
    let standing = Arc::new(());
    let port = of(vec![
        listener("https", "a.example", Protocol::Https),
        Listener { passthrough: true, ..listener("passed", "*.b.example", Protocol::Tls) },
        Listener::new("any", 443, Protocol::Https),
    ]);
    for (server_name, host, expected) in [
        ("a.example", "a.example", Ok("https")),
        ("a.example", "x.b.example", Err(421)),
        ("other.example", "x.b.example", Err(421)),
        ("", "x.b.example", Err(421)),
    ] {
        let found = outcome(Some(&port), Some(&tls(&port, server_name, &standing)), host);
        assert_eq!(found, expected.map(str::to_owned), "SNI `{server_name}`, Host `{host}`");
    }
}

/// A client keeps its connection while listeners change. What it was made to counts, and not what its server name leads to now.
#[test]
fn a_kept_connection_does_not_pass_to_another_listener() {
    let listener = |name: &str, hostname: &str| Listener {
        hostname: Some(hostname.parse().expect("a hostname")),
        ..Listener::new(name.to_owned(), 443, Protocol::Https)
    };
    let wildcard = || listener("wildcard", "*.example");
    let edge = "Gateway/infra/edge";
    let before = of(vec![wildcard()]);
    for (change, gateway, listeners, goes, host, expected) in [
        ("nothing", edge, vec![wildcard()], false, "a.example", Ok("wildcard")),
        ("another name", edge, vec![wildcard(), listener("b", "b.example")], false, "a.example", Ok("wildcard")),
        ("another name, asked for", edge, vec![wildcard(), listener("b", "b.example")], false, "b.example", Err((421, false))),
        ("its own name", edge, vec![wildcard(), listener("a", "a.example")], false, "a.example", Err((421, true))),
        ("its own name, another host", edge, vec![wildcard(), listener("a", "a.example")], false, "c.example", Ok("wildcard")),
        ("it is renamed", edge, vec![listener("other", "*.example")], true, "a.example", Err((421, true))),
        ("it asks for something else", edge, vec![wildcard()], true, "a.example", Err((421, true))),
        ("another Gateway", "Gateway/infra/other", vec![wildcard()], false, "a.example", Err((421, true))),
    ] {
        let mut standing = Arc::new(());
        let tls = tls(&before, "a.example", &standing);
        if goes {
            standing = Arc::default();
        }
        let after = of_gateway(gateway, listeners);
        let found = super::parent(Some(&after), Some(&tls), host);
        let found = found.map(|parent| parent.source().name()).map_err(|reply| (reply.code(), reply.is_closing()));
        assert_eq!(found, expected, "{change}");
        drop(standing);
    }
}
