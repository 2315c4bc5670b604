//! Who is believed.

use super::*;

async fn refused(bed: &Bed, counter: impl Fn(&server::Counts) -> &std::sync::atomic::AtomicU64 + Copy) {
    let tried = async {
        while bed.count(counter) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, tried).await.expect("it tries again");
}

#[tokio::test]
async fn a_token_is_read_at_each_connect_and_a_wrong_one_gets_nothing() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let files = bed.proxy("a");
    files.write("token", "forged");
    let proxy = files.run();
    refused(&bed, |counts| &counts.denied).await;
    files.write("token", "stranger a");
    let before = bed.count(|counts| &counts.denied);
    while bed.count(|counts| &counts.denied) < before + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    files.write("token", "early a");
    refused(&bed, |counts| &counts.unjudged).await;
    assert!(proxy.served().is_empty() && bed.seen("a").is_none());
    files.write("token", "good a");
    bed.acked("a", version).await;
}

#[tokio::test]
async fn a_proxy_gets_its_own_gateway_only() {
    let bed = Bed::start().await;
    let mut other = snapshot(7);
    let gateway = other.gateways.pop_first().unwrap().1;
    let key: GatewayKey = "Gateway/infra/other".parse().unwrap();
    other.gateways.insert(key.clone(), gateway);
    other
        .certificates
        .insert("Secret/infra/other".parse().unwrap(), Arc::new(Certificate { chain: "c".to_owned(), key: "k".to_owned() }));
    let versions = bed.gateways([(edge(), Arc::new(snapshot(1))), (key, Arc::new(other))].into());
    let proxy = bed.proxy("a").run();
    bed.acked("a", versions[&edge()]).await;
    assert_eq!(proxy.served(), [snapshot(1)]);
}

#[tokio::test]
async fn the_controller_must_show_the_right_name_signed_by_a_known_ca() {
    let bed = Bed::start().await;
    let version = bed.publish(&snapshot(1));
    let files = bed.proxy("a");
    let good = bed.authority.pem.clone();
    files.write("ca.crt", &Authority::new().pem);
    let proxy = files.run();
    refused(&bed, |counts| &counts.cut).await;
    files.write("ca.crt", "");
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.tls.send_replace(bed.authority.issue("controller.example"));
    files.write("ca.crt", &good);
    let before = bed.count(|counts| &counts.cut);
    while bed.count(|counts| &counts.cut) < before + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(proxy.served().is_empty());
    assert_eq!(bed.count(|counts| &counts.denied) + bed.count(|counts| &counts.streams), 0, "no token was shown to a stranger");
    bed.tls.send_replace(bed.authority.issue(SERVER_NAME));
    bed.acked("a", version).await;
}

#[tokio::test]
async fn a_new_ca_comes_by_overlap_and_a_new_certificate_without_a_restart() {
    let bed = Bed::start().await;
    let mut version = bed.publish(&snapshot(1));
    let new = Authority::new();
    let old = bed.authority.pem.clone();
    let files = bed.proxy("a");
    let proxy = files.run();
    bed.acked("a", version).await;
    for (ca, certificate) in [
        (format!("{old}{}", new.pem), bed.authority.issue(SERVER_NAME)),
        (format!("{old}{}", new.pem), new.issue(SERVER_NAME)),
        (new.pem.clone(), new.issue(SERVER_NAME)),
    ] {
        files.write("ca.crt", &ca);
        bed.tls.send_replace(certificate);
        version = bed.publish(&snapshot(2));
        bed.acked("a", version).await;
        // Another connection of the same proxy.
        let streams = bed.count(|counts| &counts.streams);
        bed.role.send_replace(Role::Follower { leader: Some(bed.server.address()) });
        bed.gone("a").await;
        bed.role.send_replace(Role::Leader);
        bed.acked("a", version).await;
        assert!(bed.count(|counts| &counts.streams) > streams);
    }
    assert_eq!(proxy.served(), [snapshot(1), snapshot(2)]);
    // One that cannot be used changes nothing.
    bed.tls.send_replace(Arc::new(Certificate { chain: "broken".to_owned(), key: String::new() }));
    let other = ProxyBed::new(bed.server.address(), "good b", &new.pem).run();
    bed.acked("b", version).await;
    drop(other);
}

#[tokio::test]
async fn a_first_certificate_that_cannot_be_used_is_an_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let authority = Authority::new();
    let (mut first, second) = (authority.issue(SERVER_NAME).as_ref().clone(), authority.issue(SERVER_NAME));
    first.key.clone_from(&second.key);
    let (_tls, tls) = watch::channel(Arc::new(first));
    let (_role, role) = watch::channel(Role::Leader);
    let authenticate: server::Authenticate = Arc::new(|token| Box::pin(async move { authenticate(&token) }));
    let options =
        server::Options { tls, authenticate, sign: refuse(), role, models: Models::default(), limits: ServerLimits::default() };
    let error = Server::start(listener, options).unwrap_err().to_string();
    assert!(error.starts_with("the certificate of the push server cannot be used: "), "{error}");
}
