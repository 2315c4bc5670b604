//! Peers that break, stall or lie.

use bytes::Bytes;
use isthmus_routing::BackendKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::scripted::Opened;
use super::*;
use crate::client::backoff::Outlook;
use crate::client::connect::{self, Stream, Target};
use crate::message::{Held, Hello};

fn hello(held: Option<Held>, calls: BTreeSet<BackendKey>) -> Hello {
    Hello { oldest: ModelVersion(1), newest: ModelVersion(1), package: "test".to_owned(), held, calls }
}

/// A stream of a proxy that reads and answers as the test does.
async fn open(bed: &Bed, pod: &str) -> (ProxyBed, Stream) {
    open_as(bed, &format!("good {pod}"), BTreeSet::new()).await.unwrap()
}

/// The same for whoever shows this token.
pub(super) async fn open_as(
    bed: &Bed,
    token: &str,
    calls: BTreeSet<BackendKey>,
) -> Result<(ProxyBed, Stream), connect::ConnectError> {
    let files = ProxyBed::new(bed.server.address(), token, &bed.authority.pem);
    let target = Target::Service(files.options.controller.clone());
    let stream = connect::open(&files.options, &target, hello(None, calls)).await?;
    Ok((files, stream))
}

pub(super) fn text(text: &str) -> Bytes {
    let mut chunk = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    chunk.extend_from_slice(text.as_bytes());
    chunk.into()
}

#[tokio::test]
async fn a_proxy_that_does_not_read_is_dropped_and_the_others_are_served() {
    let limits = ServerLimits { write: Duration::from_secs(1), ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    // More than all buffers between, and quick to read.
    let mut large = snapshot(1);
    for n in 0..40 {
        let certificate = Arc::new(Certificate { chain: "x".repeat(100 << 10), key: String::new() });
        large.certificates.insert(format!("Secret/infra/large-{n}").parse().unwrap(), certificate);
    }
    let version = bed.publish(&large);
    let (_files, _stream) = open(&bed, "slow").await;
    let good = bed.proxy("good").run();
    bed.acked("good", version).await;
    bed.gone("slow").await;
    assert_eq!(bed.count(|counts| &counts.slow), 1);
    assert_eq!(good.served(), [large]);
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_sent_no_more_and_dropped() {
    let limits = ServerLimits { write: Duration::from_millis(300), unanswered: 2, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    bed.publish(&snapshot(1));
    let (_files, mut stream) = open(&bed, "mute").await;
    let edits = async {
        for n in 2.. {
            bed.publish(&snapshot(n));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reads = async {
        let mut commits = 0;
        while let Ok(Some(frame)) = stream.reader.next().await {
            commits += usize::from(frame.starts_with(b"{\"commit\""));
        }
        commits
    };
    let commits = tokio::select! {
        commits = reads => commits,
        () = edits => unreachable!("edits go on for ever"),
        () = tokio::time::sleep(SOON) => panic!("it is not dropped"),
    };
    assert_eq!(commits, 2);
}

#[tokio::test]
async fn a_refusal_stands_until_something_newer_is_served() {
    let bed = Bed::start().await;
    let first = bed.publish(&snapshot(1));
    let (_files, stream) = open(&bed, "a").await;
    let say = |message: String| stream.chunks.try_send(text(&message)).unwrap();
    bed.until("a", |_| true).await;
    while bed.count(|counts| &counts.commits) < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say(format!(r#"{{"ack":{{"version":"{first}"}}}}"#));
    bed.acked("a", first).await;
    let second = bed.publish(&snapshot(2));
    while bed.count(|counts| &counts.commits) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let why = "why".repeat(100_000);
    say(format!(r#"{{"nack":{{"version":"{second}","reason":"{why}"}}}}"#));
    say(format!(r#"{{"nack":{{"version":"{second}","reason":"no news"}}}}"#));
    say(format!(r#"{{"ack":{{"version":"{first}","faults":{{"http":"news"}}}}}}"#));
    let seen = bed.until("a", |proxy| !proxy.listeners.is_empty()).await;
    assert_eq!((seen.acked, seen.nack), (Some(first), Some((second, why[..4000].to_owned()))), "no longer than people read");
}

#[tokio::test]
async fn garbage_from_a_proxy_ends_its_stream_and_nothing_else() {
    let limits = ServerLimits { message: 1000, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let _good = bed.proxy("good").run();
    bed.acked("good", version).await;
    let too_long = Bytes::from_static(b"\0\0\x03\xe9");
    for (what, chunk, ends) in [
        ("no JSON", text("}"), true),
        ("a broken answer", text(r#"{"ack":{"version":"x"}}"#), true),
        ("too long", too_long, true),
        ("text", Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"), true),
        ("a version that was never sent", text(r#"{"ack":{"version":"0123456789abcdef"}}"#), false),
        ("news of a newer release", text(r#"{"praise":{"of":"folly"}}"#), false),
    ] {
        let (_files, mut stream) = open(&bed, "bad").await;
        stream.chunks.send(chunk).await.unwrap();
        let reads = async { while let Ok(Some(_)) = stream.reader.next().await {} };
        let ended = tokio::time::timeout(Duration::from_millis(if ends { 5000 } else { 200 }), reads).await.is_ok();
        assert_eq!(ended, ends, "{what}");
        assert!(bed.seen("bad").is_none_or(|proxy| proxy.acked.is_none()), "{what}");
        drop(stream);
        bed.gone("bad").await;
    }
    assert_eq!(bed.seen("good").and_then(|proxy| proxy.acked), Some(version));
}

#[tokio::test]
async fn strangers_are_cut_and_cost_no_stream() {
    let short = Duration::from_millis(300);
    let limits = ServerLimits { handshake: short, admission: short, strangers: 4, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(bed.server.address()).await.unwrap());
    }
    silent[1].write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    for stranger in &mut silent {
        let end = tokio::time::timeout(SOON, stranger.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "it is cut");
    }
    let _proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    assert_eq!(bed.count(|counts| &counts.cut), 8);
}

#[tokio::test]
async fn a_request_without_a_first_message_is_cut() {
    let limits = ServerLimits { admission: Duration::from_millis(300), streams: 1, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let files = bed.proxy("mute");
    let (chunks, body) = crate::body::Outgoing::new(1);
    let asked = connect::post(&files.options, &Target::Leader(bed.server.address()), body).await;
    assert!(asked.is_err(), "it has said nothing");
    drop(chunks);
    assert_eq!(bed.count(|counts| &counts.cut), 1);
    let _proxy = bed.proxy("a").run();
    bed.acked("a", version).await;
    let _other = bed.proxy("b").run();
    let full = async {
        while bed.count(|counts| &counts.refused) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, full).await.expect("there is room for one stream");
}

/// A proxy whose controller is the test.
async fn scripted() -> (Running, mpsc::Receiver<Opened>, ProxyBed) {
    let authority = Authority::new();
    let (address, streams) = scripted::start(&authority).await;
    let files = ProxyBed::new(address, "good a", &authority.pem);
    let running = files.run();
    (running, streams, files)
}

async fn next(streams: &mut mpsc::Receiver<Opened>) -> (Opened, String) {
    let mut opened = tokio::time::timeout(SOON, streams.recv()).await.expect("it comes again").unwrap();
    let hello = opened.heard().await.unwrap();
    assert!(hello.starts_with("{\"hello\""), "{hello}");
    (opened, hello)
}

/// What the proxy answers once it serves the snapshot.
async fn give(opened: &mut Opened, snapshot: &Snapshot) -> String {
    let version = snapshot.version();
    opened.say(r#"{"welcome":{"model":1,"package":"test"}}"#).await;
    opened.say(r#"{"reset":{}}"#).await;
    for item in snapshot.changes(&Snapshot::default()).puts {
        let value = serde_json::to_string(&item.value()).unwrap();
        opened.say(&format!(r#"{{"put":{{"key":"{}","value":{value}}}}}"#, item.key())).await;
    }
    opened.say(&format!(r#"{{"commit":{{"version":"{version}"}}}}"#)).await;
    opened.heard().await.unwrap()
}

#[tokio::test]
async fn an_item_that_cannot_be_read_is_a_refusal_and_the_stream_goes_on() {
    let (proxy, mut streams, _files) = scripted().await;
    let (mut opened, _) = next(&mut streams).await;
    let first = snapshot(1).version();
    assert_eq!(give(&mut opened, &snapshot(1)).await, format!(r#"{{"ack":{{"version":"{first}"}}}}"#));

    let broken = snapshot(2).version();
    opened.say(r#"{"put":{"key":"Service/infra/shop:80","value":{"protocol":"h9","endpoints":[]}}}"#).await;
    opened.say(&format!(r#"{{"commit":{{"version":"{broken}"}}}}"#)).await;
    let nack = opened.heard().await.unwrap();
    assert!(
        nack.starts_with(&format!(r#"{{"nack":{{"version":"{broken}","reason":"Service/infra/shop:80: unknown variant"#)),
        "{nack}"
    );
    assert_eq!(proxy.served(), [snapshot(1)]);

    // Mended, with an item of a newer model.
    let mended = snapshot(3).version();
    opened
        .say(r#"{"put":{"key":"Service/infra/shop:80","value":{"protocol":"HTTP","endpoints":["10.0.0.1:3"],"zone":"a"}}}"#)
        .await;
    opened.say(r#"{"put":{"key":"FutureRoute/infra/dns","value":{"anything":1}}}"#).await;
    opened.say(r#"{"praise":{"of":"folly"}}"#).await;
    opened.say(&format!(r#"{{"commit":{{"version":"{mended}"}}}}"#)).await;
    assert_eq!(
        opened.heard().await.unwrap(),
        format!(r#"{{"ack":{{"version":"{mended}","unknown":["FutureRoute/infra/dns"]}}}}"#)
    );
    assert_eq!(proxy.served(), [snapshot(1), snapshot(3)]);
}

#[tokio::test]
async fn whatever_a_controller_breaks_the_proxy_goes_on_and_comes_again() {
    let (proxy, mut streams, _files) = scripted().await;
    let (mut opened, _) = next(&mut streams).await;
    give(&mut opened, &snapshot(1)).await;
    let version = snapshot(1).version();
    let held = format!(r#""held":{{"version":"{version}","served":{{"version":"{version}"}}}}"#);
    let huge = 0xffff_ffff_u32.to_be_bytes();
    for (what, chunk) in [
        ("killed in the middle of a message", &b"\0\0\x01\0{\"put\""[..]),
        ("killed between messages, before the commit", &text(r#"{"remove":{"key":"HTTPRoute/infra/shop"}}"#)),
        ("a message that is too long", &huge),
        ("no JSON", &text("}")),
        ("text", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("a commit without a version", &text(r#"{"commit":{}}"#)),
    ] {
        opened.send(chunk).await;
        if what.starts_with("killed") {
            // So that it has arrived.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(opened);
        } else {
            assert_eq!(opened.heard().await, None, "{what}");
        }
        let (again, hello) = next(&mut streams).await;
        assert!(hello.contains(&held), "{what}: {hello}");
        opened = again;
        if what.starts_with("killed") {
            opened.say(&format!(r#"{{"commit":{{"version":"{version}"}}}}"#)).await;
            assert_eq!(opened.heard().await.unwrap(), format!(r#"{{"ack":{{"version":"{version}"}}}}"#), "{what}");
        }
    }
    // Changes to what it does not hold.
    opened.say(r#"{"remove":{"key":"HTTPRoute/infra/shop"}}"#).await;
    assert_eq!(opened.heard().await, None);
    let (mut opened, _) = next(&mut streams).await;
    opened.say(r#"{"commit":{"version":"0123456789abcdef"}}"#).await;
    assert_eq!(opened.heard().await, None);
    assert_eq!(proxy.served(), [snapshot(1)], "through all of it");
}

async fn connect_from(source: u8, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, source], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Passes bytes between a proxy and a controller, to which they come from 127.0.0.`source`, until it is told to hold them back without a word.
async fn relay(source: u8, to: SocketAddr, held: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (mut held, far) = (held.clone(), connect_from(source, to).await);
            tokio::spawn(async move {
                let (mut near, mut far) = (near, far);
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    () = async { drop(held.wait_for(|held| *held).await) } => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_peer_that_has_vanished_is_noticed_at_both_ends() {
    let ping = crate::Ping { every: Duration::from_millis(100), patience: Duration::from_millis(200) };
    let limits = ServerLimits { ping, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let (hold, held) = watch::channel(false);
    let mut files = bed.proxy("a");
    files.options.controller = relay(1, bed.server.address(), held).await.to_string();
    files.options.limits.ping = ping;
    // Whoever connects while bytes are held back gets nowhere.
    files.options.limits.connect = Duration::from_secs(1);
    let proxy = files.run();
    bed.acked("a", version).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bed.count(|counts| &counts.streams), 1, "silence is no death");
    hold.send_replace(true);
    bed.gone("a").await;
    hold.send_replace(false);
    bed.acked("a", version).await;
    assert_eq!(proxy.served(), [snapshot(1)]);
}

#[tokio::test]
async fn one_address_cannot_keep_the_others_out() {
    let long = Duration::from_secs(600);
    let limits = ServerLimits { handshake: long, strangers: 4, strangers_each: 2, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect_from(2, bed.server.address()).await);
    }
    let _good = bed.proxy("good").run();
    bed.acked("good", version).await;
}

/// What the controller says to a token from 127.0.0.`source`.
async fn shows(bed: &Bed, source: u8, token: &str) -> connect::ConnectError {
    let (_hold, held) = watch::channel(false);
    let address = relay(source, bed.server.address(), held).await;
    let files = ProxyBed::new(address, token, &bed.authority.pem);
    let target = Target::Leader(address);
    connect::open(&files.options, &target, hello(None, BTreeSet::new())).await.expect_err("it gets no stream")
}

#[tokio::test]
async fn bad_tokens_of_one_address_are_looked_at_a_few_times_and_the_others_are_served() {
    let limits = ServerLimits { failures_each: 5, forget: Duration::from_secs(3600), ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    for n in 0..20 {
        let token = if n % 2 == 0 { format!("forged {n}") } else { format!("stranger {n}") };
        let error = shows(&bed, 2, &token).await;
        let expected =
            if n < 5 { "does not take the token" } else { "says 429 Too Many Requests: too many tokens from 127.0.0.2" };
        assert!(error.to_string().contains(expected), "{n}: {error}");
        assert_eq!(error.outlook(), Outlook::Poor, "it does not come again each second");
    }
    let counted = |bed: &Bed| {
        let [denied, limited] = [bed.count(|counts| &counts.denied), bed.count(|counts| &counts.limited)];
        (bed.looked_at.load(Ordering::Relaxed), denied, limited, bed.count(|counts| &counts.unjudged))
    };
    assert_eq!(counted(&bed), (5, 5, 15, 0));
    shows(&bed, 2, "good late").await;
    assert_eq!(counted(&bed), (5, 5, 16, 0), "nor is a good one");
    let _good = bed.proxy("a").run();
    bed.acked("a", version).await;
    // What the API server does not answer is nobody's failure.
    for _ in 0..10 {
        let error = shows(&bed, 3, "early a").await;
        assert_eq!(error.outlook(), Outlook::Poor, "no leader is to come who could ask: {error}");
    }
    assert_eq!(counted(&bed), (16, 5, 16, 10));
}

#[tokio::test]
async fn bad_tokens_of_many_addresses_have_a_limit_too_and_a_good_one_gets_its_turn() {
    let limits = ServerLimits { failures: 12, failures_each: 5, forget: Duration::from_secs(12), ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    let start = tokio::time::Instant::now();
    let mut others = (10..=250).cycle();
    while bed.count(|counts| &counts.limited) < 50 {
        let error = shows(&bed, others.next().unwrap(), "forged").await;
        let (text, waits) = (error.to_string(), error.outlook() == Outlook::Unknown);
        assert!(if text.contains("says 503") { waits } else { text.contains("does not take the token") }, "{error:?}");
    }
    // 12 at once, then one in a second.
    let most = 12 + start.elapsed().as_secs() + 1;
    let looked_at = u64::from(bed.looked_at.load(Ordering::Relaxed));
    assert!((12..=most).contains(&looked_at), "{looked_at} of at most {most}");
    let _good = bed.proxy("a").run();
    bed.acked("a", version).await;
}

/// Sidecars without a mesh, or of namespaces that are not read, come again and again; so do those whose token is known to be none.
#[tokio::test]
async fn whoever_costs_nobody_a_question_keeps_nobody_out() {
    let limits = ServerLimits { failures: 5, failures_each: 5, forget: Duration::from_secs(3600), ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let version = bed.publish(&snapshot(1));
    for n in 0..20 {
        let token = if n % 2 == 0 { "stranger" } else { "known" };
        let error = shows(&bed, 10 + n, &format!("{token} {n}")).await;
        assert!(error.to_string().contains("does not take the token"), "{n}: {error}");
    }
    assert_eq!((bed.count(|counts| &counts.denied), bed.count(|counts| &counts.limited)), (20, 0));
    let _good = bed.proxy("a").run();
    bed.acked("a", version).await;
}

#[tokio::test]
async fn a_controller_says_whether_there_will_be_a_leader_soon() {
    let limits = ServerLimits { streams: 1, ..ServerLimits::default() };
    let bed = Bed::with(limits, Models::default(), Arc::new(Authority::new())).await;
    let asked = async |expected: Outlook, text: &str| {
        let error = open_as(&bed, "good a", BTreeSet::new()).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("says 503") && error.to_string().contains(text), "{error}");
        assert_eq!(error.outlook(), expected, "{error}");
    };
    asked(Outlook::Soon, "has not read the cluster yet").await;
    bed.publish(&snapshot(1));
    bed.role.send_replace(Role::Follower { leader: None });
    asked(Outlook::Soon, "no other does yet").await;
    bed.role.send_replace(Role::Leader);
    let _only = open(&bed, "b").await;
    asked(Outlook::Poor, "as many streams as it may").await;
}

/// Passes each connection on after this time.
async fn late(to: SocketAddr, by: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(by).await;
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stream_that_ends_at_once_was_no_good_one_however_long_it_took_to_open() {
    let authority = Authority::new();
    let (address, mut streams) = scripted::start(&authority).await;
    let healthy = Duration::from_secs(1);
    let mut files = ProxyBed::new(late(address, healthy * 5 / 4).await, "good a", &authority.pem);
    let for_ever = Duration::from_secs(1 << 30);
    files.options.limits = ClientLimits { healthy, pace: for_ever, longest_wait: for_ever, ..ClientLimits::default() };
    let _running = files.run();
    let (opened, _) = next(&mut streams).await;
    opened.say(r#"{"renew":{}}"#).await;
    let again = tokio::time::timeout(healthy * 3, streams.recv()).await;
    assert!(again.is_err(), "after a good one it would have come again without a wait");
}
