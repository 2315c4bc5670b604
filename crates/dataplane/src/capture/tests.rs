//! Connections of a workload through the whole data plane of its sidecar.

mod bed;

use std::time::{Duration, Instant};

use isthmus_routing::{BackendKey, Inbound, MtlsMode, Snapshot, Spoken};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::identity;
use crate::identity::tests::pki::{Authority, Leaf};
use crate::stream::reset;
use crate::telemetry::heard::Heard;
use bed::{Bed, OWN, POD, Setup, ask, front, hold, is_refused, key, parrot, read_to, route_nowhere, web};

const CART: &str = "Service/shop/cart:80";
const PAY: &str = "Service/shop/pay:80";
const CART_IP: [u8; 4] = [10, 96, 0, 1];
const PAY_IP: [u8; 4] = [10, 96, 0, 2];

#[tokio::test]
async fn a_service_is_told_by_its_address_and_its_language_by_the_first_bytes() {
    let (http, echo) = (web("cart").await, parrot("").await);
    for (spoken, endpoint, sent, answered, direction) in [
        (Spoken::Unknown, http, "GET /any HTTP/1.1\r\nHost: nobody.example\r\n\r\n", "cart", "requests_total"),
        (Spoken::Http, http, "GET /any HTTP/1.1\r\nHost: nobody.example\r\n\r\n", "cart", "requests_total"),
        (Spoken::Unknown, echo, "*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nPING\r\n", "stream_connections_active"),
        (Spoken::Stream, echo, "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "stream_connections_active"),
        (Spoken::Unknown, parrot("hello").await, "", "hello", "stream_connections_active"),
        (Spoken::Stream, parrot("hello").await, "", "hello", "stream_connections_active"),
    ] {
        let mut snapshot = Snapshot::default();
        hold(&mut snapshot, CART, CART_IP.into(), spoken, endpoint);
        let bed = Bed::start(&snapshot).await;
        let mut client = bed.dial(Some((CART_IP, 80).into())).await;
        client.write_all(sent.as_bytes()).await.expect("is taken");
        read_to(&mut client, answered).await;
        let parent = r#"direction="outbound",parent_kind="Service",parent_namespace="shop",parent_name="cart""#;
        bed.counted(&[direction, parent]).await;
        bed.counted(&["connections_active", parent]).await;
        assert_eq!(bed.calls.borrow().iter().map(ToString::to_string).collect::<Vec<_>>(), [CART], "{spoken:?} {sent}");
    }
}

#[tokio::test]
async fn nothing_goes_past_the_routes_of_a_service() {
    for spoken in [Spoken::Unknown, Spoken::Http, Spoken::Stream] {
        let mut snapshot = Snapshot::default();
        hold(&mut snapshot, CART, CART_IP.into(), spoken, web("cart").await);
        route_nowhere(&mut snapshot, CART);
        let bed = Bed::start(&snapshot).await;
        let mut client = bed.dial(Some((CART_IP, 80).into())).await;
        let answer = ask(&mut client, "matches this GET\n").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{spoken:?}: {answer}");
        // The Service has routes, so these are the bytes of a request that is none.
        let mut other = bed.dial(Some((CART_IP, 80).into())).await;
        other.write_all(b"\x16\x03\x01\x02\x00").await.expect("is taken");
        read_to(&mut other, "is not HTTP/1\n").await;
    }
}

#[tokio::test]
async fn a_service_that_is_called_for_the_first_time_is_waited_for() {
    let mut snapshot = Snapshot::default();
    front(&mut snapshot, CART, CART_IP.into());
    let mut bed = Bed::start(&snapshot).await;
    let mut client = bed.dial(Some((CART_IP, 80).into())).await;
    let answered = tokio::spawn(async move { ask(&mut client, "cart").await });
    let called = bed.calls.wait_for(|calls| calls.contains(&key::<BackendKey>(CART))).await.map(|calls| calls.len());
    assert_eq!(called.expect("it is asked for"), 1);
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    bed.serve(&snapshot).await;
    assert!(answered.await.expect("an answer").starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_that_does_not_come_is_an_error_and_not_waited_for_again() {
    let mut snapshot = Snapshot::default();
    front(&mut snapshot, CART, CART_IP.into());
    let bed = Bed::start(&snapshot).await;
    let begun = Instant::now();
    let mut first = bed.dial(Some((CART_IP, 80).into())).await;
    let answer = ask(&mut first, "try again\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Connection: close"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let parent = r#"direction="outbound",parent_kind="Service",parent_namespace="shop",parent_name="cart""#;
    bed.counted(&["requests_total", parent, r#"code="503""#]).await;
    bed.counted(&["connection_faults_total", r#"reason="not_held""#]).await;

    let begun = Instant::now();
    ask(&mut bed.dial(Some((CART_IP, 80).into())).await, "try again\n").await;
    let mut stream = bed.dial(Some((CART_IP, 80).into())).await;
    stream.write_all(b"\x16\x03\x01").await.expect("is taken");
    assert!(is_refused(&mut stream).await);
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());

    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    bed.serve(&snapshot).await;
    ask(&mut bed.dial(Some((CART_IP, 80).into())).await, "cart").await;
}

#[tokio::test]
async fn a_service_that_goes_away_takes_only_its_own_connections_with_it() {
    let mut snapshot = Snapshot::default();
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    hold(&mut snapshot, PAY, PAY_IP.into(), Spoken::Unknown, web("pay").await);
    let bed = Bed::start(&snapshot).await;
    let mut cart = bed.dial(Some((CART_IP, 80).into())).await;
    let mut pay = bed.dial(Some((PAY_IP, 80).into())).await;
    ask(&mut cart, "cart").await;
    ask(&mut pay, "pay").await;
    snapshot.frontends.remove(&key("shop/cart"));
    snapshot.services.remove(&key(CART));
    bed.serve(&snapshot).await;
    let answer = ask(&mut cart, "any more\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(is_refused(&mut cart).await, "it is closed");
    ask(&mut pay, "pay").await;
    assert_eq!(bed.calls.borrow().len(), 1, "it is not asked for any more");
}

#[tokio::test]
async fn who_is_nobody_in_the_mesh_gets_what_was_sent() {
    let mut snapshot = Snapshot::default();
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    let bed = Bed::start(&snapshot).await;
    for (server, sent, answered) in
        [(parrot("hello").await, "", "hello"), (parrot("").await, "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n")]
    {
        let mut client = bed.dial(Some(server)).await;
        client.write_all(sent.as_bytes()).await.expect("is taken");
        read_to(&mut client, answered).await;
    }
    let parent = r#"direction="outbound",parent_kind="Passthrough",parent_namespace="",parent_name="""#;
    bed.counted(&["connections_accepted_total", parent]).await;
    bed.counted(&["stream_connections_total", parent, r#"result="closed""#]).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    assert!(is_refused(&mut bed.dial(Some(nobody)).await).await);
    bed.counted(&["stream_connections_total", parent, r#"result="unreachable""#]).await;
    assert!(bed.calls.borrow().is_empty());
}

#[tokio::test]
async fn what_must_go_nowhere_is_refused_counted_and_told() {
    let heard = Heard::listen();
    let mut snapshot = Snapshot::default();
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    let bed = Bed::start(&snapshot).await;
    let (outbound, inbound) = (r#"direction="outbound",parent_kind="","#, r#"direction="inbound",parent_kind="Workload","#);
    for (to, reason) in [
        (None, "not_redirected"),
        (Some((POD, OWN).into()), "loop"),
        (Some(([127, 0, 0, 1], OWN).into()), "loop"),
        (Some((CART_IP, 81).into()), "no_service_port"),
    ] {
        assert!(is_refused(&mut bed.dial(to).await).await, "{to:?}");
        bed.counted(&["connection_faults_total", outbound, reason]).await;
    }
    for (at, reason) in [(None, "not_redirected"), (Some((POD, OWN).into()), "loop"), (Some(([127, 0, 0, 8], 80).into()), "loop")]
    {
        assert!(is_refused(&mut bed.arrive(at).await).await, "{at:?}");
        bed.counted(&["connection_faults_total", inbound, reason]).await;
    }
    for (reason, what_to_do) in [
        ("not_redirected", "find out who does, such as a scan"),
        ("loop", "names a port of the sidecar's, and take it out"),
        ("no_service_port", "Call a port that the Service has"),
    ] {
        heard.line(&[&format!("reason=\"{reason}\""), what_to_do]).await;
        assert_eq!(heard.count(&[&format!("reason=\"{reason}\"")]), 1, "not for each: {reason}");
    }
}

#[tokio::test]
async fn without_a_configuration_or_a_certificate_it_is_not_ready() {
    let heard = Heard::listen();
    let (certificates, identity) = watch::channel(None);
    let bed = Bed::with(None, Setup { identity: Some(identity), ..Setup::default() }).await;
    let begun = Instant::now();
    let (mut outbound, mut inbound) = (bed.dial(Some((CART_IP, 80).into())).await, bed.arrive(Some((POD, 80).into())).await);
    let both = tokio::join!(is_refused(&mut outbound), is_refused(&mut inbound));
    assert_eq!(both, (true, true));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    for direction in ["direction=\"outbound\"", "direction=\"inbound\""] {
        bed.counted(&["connection_faults_total", direction, "reason=\"not_held\""]).await;
    }
    // Of either side, and once.
    heard.line(&["reason=\"not_held\"", "see in this log whether the controller is reached"]).await;
    assert_eq!(heard.count(&["a connection is refused"]), 1);

    let authority = Authority::new("one");
    let mut snapshot = identity::tests::snapshot(&authority.pem, &[]);
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    bed.serve(&snapshot).await;
    assert!(bed.page("/readyz").await.starts_with("HTTP/1.1 503"));
    let end = "isthmus_mesh_certificate_end_timestamp_seconds ";
    assert!(bed.page("/metrics").await.contains(&format!("\n{end}0\n")));
    ask(&mut bed.dial(Some((CART_IP, 80).into())).await, "cart").await;
    certificates.send_replace(Some(std::sync::Arc::new(authority.sign(&Leaf::of("cart")))));
    for _ in 0..300 {
        if bed.page("/readyz").await.starts_with("HTTP/1.1 200") {
            let page = bed.page("/metrics").await;
            let ends = page.lines().find_map(|line| line.strip_prefix(end)?.parse::<u64>().ok()).expect("there is a mesh");
            let left = ends.saturating_sub(rustls_pki_types::UnixTime::now().as_secs());
            assert!((3500..=3600).contains(&left), "{left} s");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is not ready");
}

/// Somebody at a free port, who accepts nothing: the kernel does. Of the networks in 127.0.0.0/8 the pod's own is the cluster's.
async fn at(address: [u8; 4]) -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind((std::net::Ipv4Addr::from(address), 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn with_the_controller_away_a_strict_workload_calls_nobody_who_may_be_new_in_the_cluster() {
    const NEAR: [u8; 4] = [127, 9, 1, 1];
    const FAR: [u8; 4] = [127, 8, 1, 1];
    let heard = Heard::listen();
    let (now, long) = (tokio::time::Instant::now(), Duration::from_secs(31));
    let long_ago = now.checked_sub(long).expect("the machine is up for longer");
    let (away, seen) = watch::channel(None);
    let mut snapshot = Snapshot::default();
    hold(&mut snapshot, CART, CART_IP.into(), Spoken::Unknown, web("cart").await);
    let ((_near, near), (_far, far), (_known, known)) = tokio::join!(at(NEAR), at(FAR), at([127, 9, 1, 2]));
    hold(&mut snapshot, PAY, PAY_IP.into(), Spoken::Unknown, known);
    let bed = Bed::with(None, Setup { away: Some(seen), ..Setup::default() }).await;
    for (mode, since, to, is_taken) in [
        (MtlsMode::Strict, None, near, true),
        (MtlsMode::Strict, Some(now), near, true),
        (MtlsMode::Strict, Some(long_ago), near, false),
        (MtlsMode::Strict, Some(long_ago), (CART_IP.map(|byte| byte.max(2)), 80).into(), false),
        (MtlsMode::Strict, Some(long_ago), far, true),
        (MtlsMode::Strict, Some(long_ago), known, true),
        (MtlsMode::Permissive, Some(long_ago), near, true),
        (MtlsMode::Strict, None, near, true),
    ] {
        snapshot.inbound = Some(std::sync::Arc::new(Inbound { mode, ..Inbound::default() }));
        bed.serve(&snapshot).await;
        away.send_replace(since);
        let mut client = bed.dial(Some(to)).await;
        let what = format!("{mode:?} {:?} {to}", since.map(|since| since.elapsed()));
        if is_taken {
            let ended = tokio::time::timeout(Duration::from_millis(100), is_refused(&mut client)).await;
            assert!(ended.is_err(), "{what}");
        } else {
            assert!(is_refused(&mut client).await, "{what}");
        }
        ask(&mut bed.dial(Some((CART_IP, 80).into())).await, "cart").await;
    }
    let direction = r#"direction="outbound",parent_kind="","#;
    bed.counted(&["connection_faults_total", direction, r#"reason="unknown_destination""#, "} 2"]).await;
    heard.line(&["the controller is away", "the log says why it cannot be reached"]).await;
}

#[tokio::test]
async fn what_fills_one_side_leaves_the_other_alone_and_a_drain_waits_for_both() {
    let snapshot = Snapshot { inbound: Some(std::sync::Arc::default()), ..Snapshot::default() };
    let ((_workload, workload), (_stranger, stranger)) = tokio::join!(at(POD), at([127, 0, 0, 1]));
    for is_inbound_last in [true, false] {
        let limits = crate::Limits { captured: 1, ..crate::Limits::mesh() };
        let bed = Bed::with(Some(&snapshot), Setup { limits, ..Setup::default() }).await;
        let inbound = bed.arrive(Some(workload)).await;
        bed.counted(&["stream_connections_active", r#"direction="inbound""#]).await;
        assert!(is_refused(&mut bed.arrive(Some(workload)).await).await, "one more is too many");
        bed.counted(&["connection_faults_total", r#"direction="inbound""#, r#"reason="limit""#]).await;
        let outbound = bed.dial(Some(stranger)).await;
        bed.counted(&["stream_connections_active", r#"direction="outbound""#]).await;
        assert!(is_refused(&mut bed.dial(Some(stranger)).await).await, "one more is too many");
        bed.counted(&["connection_faults_total", r#"direction="outbound",parent_kind="","#, r#"reason="limit""#]).await;

        let (first, last) = if is_inbound_last { (outbound, inbound) } else { (inbound, outbound) };
        let drained = bed.dataplane.drain(Duration::ZERO, Duration::from_secs(20));
        tokio::pin!(drained);
        // An end alone would wait for the other side's.
        reset(&first);
        drop(first);
        let early = tokio::time::timeout(Duration::from_millis(300), drained.as_mut()).await;
        assert!(early.is_err(), "the last one is waited for, inbound: {is_inbound_last}");
        reset(&last);
        drop(last);
        tokio::time::timeout(Duration::from_secs(5), drained).await.expect("and nothing else");
    }
}
