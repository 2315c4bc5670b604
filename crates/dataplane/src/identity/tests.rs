//! Certificates of workloads against real handshakes: of servers here, of clients in `capture/inbound`.

pub(crate) mod pki;

use std::net::SocketAddr;

use isthmus_routing::MeshedPod;
use rcgen::KeyUsagePurpose;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::telemetry::heard::Heard;
use crate::upstream::UpstreamTlsError;
use pki::{Authority, Leaf, identity, shown, stolen};

/// Whose certificates are taken, and who is where: accounts of `shop` by the address of a pod.
pub(crate) fn snapshot(authorities: &str, workloads: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot {
        mesh: Some(Arc::new(Mesh { trust_domain: TrustDomain::default(), authorities: authorities.to_owned() })),
        ..Snapshot::default()
    };
    for (account, ip) in workloads {
        let workloads = snapshot.workloads.entry(identity(account)).or_default();
        Arc::make_mut(workloads).pods.insert(ip.parse().expect("an address"), MeshedPod::default());
    }
    snapshot
}

fn compile(snapshot: &Snapshot, own: Option<&Certificate>, previous: Option<&Arc<Membership>>) -> Arc<Membership> {
    let own = own.cloned().map(Arc::new);
    Membership::compile(snapshot, own, &[], previous).expect("there is a mesh")
}

/// Shows a certificate to one client, whoever that is.
async fn server(certificate: &Certificate) -> SocketAddr {
    let config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .expect("both versions")
        .with_no_client_auth()
        .with_cert_resolver(shown(certificate));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(socket).await {
            // Until the client has seen what it wants.
            let _ = stream.read_u8().await;
        }
    });
    address
}

/// What a certificate is, and why it is refused.
pub(crate) type Case = (&'static str, Leaf, Option<&'static str>);

/// Leaves of the right authority, for whoever expects `cart` or, if `any`, any workload.
pub(crate) fn cases() -> Vec<Case> {
    let of = |edit: fn(&mut Leaf)| Leaf::of("cart").with(edit);
    let other = "is not one of a workload";
    vec![
        ("right", Leaf::of("cart"), None),
        ("no keyUsage, so nothing is restricted", of(|leaf| leaf.usages.clear()), None),
        ("no extKeyUsage, so nothing is restricted", of(|leaf| leaf.purposes.clear()), None),
        ("clocks differ by 5 minutes", of(|leaf| leaf.valid = (300, 3600)), None),
        ("clocks differ by 6 minutes", of(|leaf| leaf.valid = (360, 3600)), Some("not valid yet")),
        ("clocks differ by a day", of(|leaf| leaf.valid = (86_400, 172_800)), Some("not valid yet")),
        ("clocks differ by a day the other way", of(|leaf| leaf.valid = (-172_800, -86_400)), Some("expired")),
        ("expired", of(|leaf| leaf.valid = (-600, -1)), Some("expired")),
        ("another trust domain", of(|leaf| leaf.uris = vec!["spiffe://other/ns/shop/sa/cart".to_owned()]), Some(other)),
        ("no URI", of(|leaf| leaf.uris.clear()), Some("has 0 URIs")),
        ("two URIs", of(|leaf| leaf.uris.push("https://cluster.local/".to_owned())), Some("has 2 URIs")),
        ("another scheme", of(|leaf| leaf.uris = vec!["http://cluster.local/ns/shop/sa/cart".to_owned()]), Some(other)),
        ("an upper-case domain", of(|leaf| leaf.uris = vec!["spiffe://Cluster.Local/ns/shop/sa/cart".to_owned()]), Some(other)),
        ("a port", of(|leaf| leaf.uris = vec!["spiffe://cluster.local:1/ns/shop/sa/cart".to_owned()]), Some(other)),
        ("an escape", of(|leaf| leaf.uris = vec!["spiffe://cluster.local/ns/shop/sa/c%61rt".to_owned()]), Some(other)),
        ("escaped dots", of(|leaf| leaf.uris = vec!["spiffe://cluster.local/ns/shop/sa/%2e%2e".to_owned()]), Some(other)),
        ("dots", of(|leaf| leaf.uris = vec!["spiffe://cluster.local/ns/shop/sa/..".to_owned()]), Some(other)),
        ("two slashes", of(|leaf| leaf.uris = vec!["spiffe://cluster.local//ns/shop/sa/cart".to_owned()]), Some(other)),
        ("a slash at the end", of(|leaf| leaf.uris = vec!["spiffe://cluster.local/ns/shop/sa/cart/".to_owned()]), Some(other)),
        ("no path", of(|leaf| leaf.uris = vec!["spiffe://cluster.local".to_owned()]), Some(other)),
        ("2049 bytes", of(|leaf| leaf.uris = vec![format!("{:a<2049}", leaf.uris[0])]), Some(other)),
        ("an authority", of(|leaf| leaf.is_authority = true), Some("is one of an authority")),
        ("may sign", of(|leaf| leaf.usages.push(KeyUsagePurpose::KeyCertSign)), Some("may sign others")),
        ("may revoke", of(|leaf| leaf.usages.push(KeyUsagePurpose::CrlSign)), Some("may sign others")),
        ("must not sign", of(|leaf| leaf.usages = vec![KeyUsagePurpose::KeyEncipherment]), Some("must not be used")),
    ]
}

#[tokio::test]
async fn a_server_is_taken_if_it_is_the_workload_that_was_called() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let own = right.sign(&Leaf::of("caller"));
    let membership = compile(&snapshot(&right.pem, &[("cart", "127.0.0.1")]), Some(&own), None);
    let check = async |what: &str, shown: Certificate, refusal: Option<&str>| {
        let address = server(&shown).await;
        let tls = membership.upstream(&address).expect("it is a workload's");
        let said = tls.connect(TcpStream::connect(address).await.expect("it listens"), None).await.map(drop);
        match (said, refusal) {
            (Ok(()), None) => {}
            (Err(error), Some(text)) if error.is_refusal() && error.to_string().contains(text) => {}
            (said, _) => panic!("{what}: {said:?}"),
        }
    };
    for (what, leaf, refusal) in cases() {
        check(what, right.sign(&leaf), refusal).await;
    }
    let client_only = Leaf::of("cart").with(|leaf| leaf.purposes.truncate(0)).with(|leaf| {
        leaf.purposes.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    });
    for (what, shown, refusal) in [
        ("an authority between", right.below("between").sign(&Leaf::of("cart")), None),
        ("another authority", wrong.sign(&Leaf::of("cart")), Some("no authority of the mesh")),
        ("another authority between", wrong.below("right").sign(&Leaf::of("cart")), Some("no authority of the mesh")),
        ("the address is another's by now", right.sign(&Leaf::of("other")), Some("ServiceAccount/shop/cart was expected")),
        ("for clients only", right.sign(&client_only), Some("")),
        ("another's certificate", stolen(right.sign(&Leaf::of("cart"))), Some("BadSignature")),
        (
            "an authority for other names",
            right.below_for("other.example").sign(&Leaf::of("cart")),
            Some("NameConstraintViolation"),
        ),
    ] {
        check(what, shown, refusal).await;
    }
}

#[tokio::test]
async fn nothing_is_taken_that_is_signed_as_in_tls_1_2() {
    let authority = Authority::new("one");
    let membership = compile(&snapshot(&authority.pem, &[]), None, None);
    let address = server(&authority.sign(&Leaf::of("cart"))).await;
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("ring has suites for it")
        .dangerous()
        .with_custom_certificate_verifier(membership.trust.expecting(&identity("cart")))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::try_from("cart.shop.sa.cluster.local").expect("a name");
    let error = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop).expect_err("another version");
    assert!(error.to_string().contains("TLS 1.3 only"), "{error}");
}

#[tokio::test]
async fn without_a_certificate_of_our_own_nobody_is_called() {
    let heard = Heard::listen();
    let authority = Authority::new("one");
    let strange = authority.sign(&Leaf::of("caller").with(|leaf| leaf.uris.clear()));
    let broken = Certificate { chain: "none".to_owned(), key: String::new() };
    let cart = authority.sign(&Leaf::of("cart"));
    for own in [None, Some(&strange), Some(&broken)] {
        let membership = compile(&snapshot(&authority.pem, &[("cart", "127.0.0.1")]), own, None);
        assert!(membership.own().is_none() && membership.certificate_ends() == 0);
        let address = server(&cart).await;
        let tls = membership.upstream(&address).expect("it is a workload's");
        let error =
            tls.connect(TcpStream::connect(address).await.expect("it listens"), None).await.map(drop).expect_err("nothing");
        assert!(matches!(error, UpstreamTlsError::NoIdentity), "{error}");
    }
    for said in ["there is no certificate of our own, so", "our own certificate cannot be used, so"] {
        assert!(heard.count(&[said, "is called and none can call"]) > 0, "{said}");
    }
    let mut nobodys = snapshot("", &[("cart", "127.0.0.1")]);
    nobodys.mesh = None;
    let own = authority.sign(&Leaf::of("caller"));
    let membership = compile(&nobodys, Some(&own), None);
    let address = server(&cart).await;
    let tls = membership.upstream(&address).expect("no leave to do without");
    assert!(tls.connect(TcpStream::connect(address).await.expect("it listens"), None).await.is_err());
    assert!(Membership::compile(&Snapshot::default(), None, &[], None).is_none());
    let known = compile(&snapshot(&authority.pem, &[]), Some(&own), None);
    let membership = compile(&nobodys, Some(&own), Some(&known));
    let address = server(&cart).await;
    let tls = membership.upstream(&address).expect("it is a workload's");
    tls.connect(TcpStream::connect(address).await.expect("it listens"), None).await.map(drop).expect("who was believed is");
    assert!(Membership::compile(&Snapshot::default(), None, &[], Some(&known)).is_none(), "the mesh is over");
}

#[test]
fn a_clock_that_is_behind_is_told_by_our_own_certificate() {
    let authority = Authority::new("one");
    for (valid, is_told) in [((-600, 3600), false), ((60, 3600), true)] {
        let heard = Heard::listen();
        let own = authority.sign(&Leaf::of("caller").with(|leaf| leaf.valid = valid));
        let membership = compile(&snapshot(&authority.pem, &[]), Some(&own), None);
        let left = membership.certificate_ends().saturating_sub(UnixTime::now().as_secs());
        assert!((3590..=3600).contains(&left), "{left} s");
        assert_eq!(
            heard.count(&["the clock of this node is behind that of the controller; set it (NTP)"]) > 0,
            is_told,
            "{valid:?}"
        );
    }
}

#[test]
fn an_address_is_a_workloads_unless_it_is_our_own_or_its_port_is_excluded() {
    let authority = Authority::new("one");
    let mut snapshot = snapshot(&authority.pem, &[("cart", "10.0.0.1"), ("cart", "10.0.0.2"), ("other", "fd00::1")]);
    let cart = Arc::make_mut(snapshot.workloads.get_mut(&identity("cart")).expect("it is there"));
    cart.pods.insert([10, 0, 0, 2].into(), MeshedPod { plain_ports: vec![9090] });
    let membership = Membership::compile(&snapshot, None, &[[10, 0, 0, 1].into()], None).expect("a mesh");
    for (address, server_name) in [
        ("10.0.0.1:80", None),
        ("10.0.0.2:80", Some("cart.shop.sa.cluster.local")),
        ("10.0.0.2:9090", None),
        ("10.0.0.3:80", None),
        ("[fd00::1]:9090", Some("other.shop.sa.cluster.local")),
    ] {
        let found = membership.upstream(&address.parse().expect("an address"));
        assert_eq!(found.map(|tls| tls.server_name()), server_name, "{address}");
    }
    assert_eq!(membership.identity_at(&[10, 0, 0, 1].into()), Some(&identity("cart")));
}

#[test]
fn what_is_unchanged_is_kept_and_what_is_shown_or_believed_makes_another() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (first_certificate, second_certificate) = (one.sign(&Leaf::of("caller")), one.sign(&Leaf::of("caller")));
    let places = [("cart", "10.0.0.1")];
    let first = compile(&snapshot(&one.pem, &places), Some(&first_certificate), None);
    let at = "10.0.0.1:80".parse().expect("an address");
    let tls = |membership: &Membership| membership.upstream(&at).expect("it is a workload's").clone();
    let same = compile(&snapshot(&one.pem, &places), Some(&first_certificate), Some(&first));
    assert!(Arc::ptr_eq(&first, &same));
    let more = compile(&snapshot(&one.pem, &[places[0], ("cart", "10.0.0.2")]), Some(&first_certificate), Some(&first));
    assert!(!Arc::ptr_eq(&first, &more) && Arc::ptr_eq(&tls(&first), &tls(&more)), "sessions and pools stay");
    let both = format!("{}{}", one.pem, two.pem);
    for (authorities, own) in [(&one.pem, Some(&second_certificate)), (&both, Some(&first_certificate)), (&one.pem, None)] {
        let other = compile(&snapshot(authorities, &places), own, Some(&first));
        assert!(!Arc::ptr_eq(&tls(&first), &tls(&other)));
    }
    assert_eq!(first.own().map(|own| own.server_name.as_str()), Some("caller.shop.sa.cluster.local"));
    // Another authority signs from now on, and the same ones are believed.
    let turned = format!("{}\n{}", two.pem, one.pem);
    let [before, after] = [&both, &turned].map(|authorities| snapshot(authorities, &places));
    let before = compile(&before, Some(&first_certificate), None);
    let after = compile(&after, Some(&first_certificate), Some(&before));
    assert!(Arc::ptr_eq(&tls(&before), &tls(&after)), "pools stay");
}
