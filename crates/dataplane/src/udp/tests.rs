pub(crate) mod bed;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::run;
use crate::limits::Limits;
use bed::{Bed, endpoint, nobody};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn answers_come_from_the_address_that_was_spoken_to() {
    let (address, _answering) = endpoint("a").await;
    for (ip, clients) in [
        ("127.0.0.1", &["127.0.0.1"][..]),
        ("0.0.0.0", &["127.0.0.1", "127.0.0.2", "127.3.2.1"]),
        ("::1", &["::1"]),
        ("::", &["::1"]),
    ] {
        let bed = Bed::start(ip, Limits::default(), &[(1, Some("a"), &[address])]).await;
        for client in clients {
            let client = bed.client(client).await;
            assert!(
                client.ask("hello").await.is_some_and(|answer| answer.ends_with(" hello")),
                "{ip} {client:?}",
                client = client.0
            );
        }
        if ip == "0.0.0.0" {
            // One client that speaks to two addresses has two sessions, and each hears its own.
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            for (to, text) in [("127.0.0.5", "five"), ("127.0.0.6", "six")] {
                socket.send_to(text.as_bytes(), (to, bed.address.port())).await.expect("sent");
                let mut buffer = [0; 99];
                let (length, from) =
                    timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await.expect("soon").expect("received");
                assert_eq!(from.ip().to_string(), to);
                assert!(buffer[..length].ends_with(text.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn datagrams_of_any_length_pass_whole() {
    let (address, _answering) = endpoint("a").await;
    let bed = Bed::start("0.0.0.0", Limits::default(), &[(1, Some("a"), &[address])]).await;
    let client = bed.client("127.0.0.1").await;
    for length in [0, 1, 1_472, 1_473, 9_000, 65_000] {
        let text = vec![b'x'; length];
        client.say(&text).await;
        let answer = client.hear(Duration::from_secs(5)).await.expect("an answer");
        assert!(answer.starts_with(b"a ") && answer.ends_with(&text), "{length}: {}", answer.len());
    }
    // The largest there is, one way.
    client.say(&[b'x'; 65_507]).await;
    bed.counted("received", 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_clients_has_a_session_of_its_own_and_stays_with_its_endpoint() {
    let (a, _answering) = endpoint("a").await;
    let (b, _answering) = endpoint("b").await;
    let bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("x"), &[a, b])]).await;
    let mut clients = JoinSet::new();
    for number in 0..100 {
        let client = bed.client("127.0.0.1").await;
        clients.spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            for turn in 0..10 {
                let text = format!("{number}/{turn}");
                let answer = client.ask(&text).await.expect("an answer");
                let (session, own) = answer.rsplit_once(' ').expect("words");
                assert_eq!(own, text);
                seen.insert(session.to_owned());
            }
            assert_eq!(seen.len(), 1, "one endpoint, from one port: {seen:?}");
            seen.pop_first().expect("one")
        });
    }
    let sessions: std::collections::BTreeSet<_> = clients.join_all().await.into_iter().collect();
    assert_eq!(sessions.len(), 100, "no two clients share a session");
    let at_a = sessions.iter().filter(|session| session.starts_with("a ")).count();
    assert!((30..=70).contains(&at_a), "{at_a} of 100 are at one of two endpoints");
    assert_eq!(bed.count("active"), 100);
}

#[tokio::test]
async fn sessions_go_by_the_weights_and_invalid_shares_are_dropped() {
    let (a, _answering) = endpoint("a").await;
    let (b, _answering) = endpoint("b").await;
    let bed = Bed::start("127.0.0.1", Limits::default(), &[(5, Some("a"), &[a]), (3, Some("b"), &[b]), (2, None, &[])]).await;
    let mut answers = std::collections::BTreeMap::new();
    // Kept, so that none of them gets the port of another, whose session it would go on with.
    let mut clients = Vec::new();
    for _ in 0..40 {
        let (client, invalid) = (bed.client("127.0.0.1").await, bed.count("invalid_backend"));
        client.say(b"who").await;
        tokio::select! {
            answer = client.hear(SHORT * 50) => *answers.entry(answer.expect("an answer")[0]).or_insert(0) += 1,
            () = bed.counted("invalid_backend", invalid + 1) => {}
        }
        clients.push(client);
    }
    assert_eq!(answers, [(b'a', 20), (b'b', 12)].into());
    assert_eq!(bed.count("invalid_backend"), 8);
}

#[tokio::test]
async fn what_has_nowhere_to_go_is_counted_by_reason() {
    let bed = Bed::start("127.0.0.1", Limits::default(), &[]).await;
    let client = bed.client("127.0.0.1").await;
    client.say(b"no share").await;
    bed.counted("invalid_backend", 1).await;
    bed.serve(&[(1, Some("a"), &[])]);
    client.say(b"no endpoint").await;
    bed.counted("no_endpoint", 1).await;
    bed.serve_without_route();
    client.say(b"no route").await;
    bed.counted("no_route", 1).await;
    assert_eq!(bed.count("active"), 0);
}

#[tokio::test]
async fn idle_sessions_end_and_unanswered_ones_sooner() {
    let (address, _answering) = endpoint("a").await;
    let limits = Limits { udp_idle: SHORT * 15, udp_unanswered: SHORT * 3, ..Limits::default() };
    let bed = Bed::start("127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    let (answered, again, once) = (bed.client("127.0.0.1").await, bed.client("127.0.0.1").await, bed.client("127.0.0.1").await);
    let first = answered.ask("x").await.expect("an answer");
    again.say(b"hush").await;
    again.say(b"hush").await;
    once.say(b"hush").await;
    bed.counted("active", 3).await;
    bed.counted("active", 1).await;
    assert_eq!(bed.count("idle"), 2, "those without an answer, however often they asked");
    assert_eq!(answered.ask("x").await.as_ref(), Some(&first), "the other one goes on");
    bed.counted("active", 0).await;
    assert_eq!(bed.count("idle"), 3);
    assert_ne!(answered.ask("x").await.as_ref(), Some(&first), "another session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_clients_takes_only_its_own_place() {
    let (address, _answering) = endpoint("a").await;
    let limits = Limits { udp_sessions: 60, udp_client_sessions: 20, ..Limits::default() };
    let bed = Bed::start("127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    let client = bed.client("127.0.0.1").await;
    let first = client.ask("x").await.expect("an answer");
    assert_eq!(client.ask("x").await.as_ref(), Some(&first));
    for number in 0..5_000_u32 {
        // First one address with many ports, then many addresses.
        let ip = if number < 2_500 { "127.0.0.9".to_owned() } else { format!("127.1.{}.{}", number / 250, number % 250 + 1) };
        bed.client(&ip).await.say(b"flood").await;
        if number == 2_499 {
            assert_eq!(client.ask("x").await.as_ref(), Some(&first));
            assert_eq!(bed.count("active"), 21, "its share and the client");
        }
        assert!(bed.count("active") <= 60);
    }
    assert_eq!(client.ask("x").await.as_ref(), Some(&first), "the client kept its session");
    assert_eq!(bed.count("active"), 60);
    assert!(bed.count("replaced") > 1_000, "{:?}", bed.metrics.udp().shown());
    assert_eq!(bed.count("limit") + bed.count("client_limit"), 0, "forged ones make room for each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_clients_that_speak_twice_locks_nobody_out() {
    let (address, _answering) = endpoint("a").await;
    // An answer comes to each of them, as a resolver would give it.
    let limits = Limits { udp_sessions: 60, udp_in_use: SHORT, ..Limits::default() };
    let bed = Bed::start("127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    let client = bed.client("127.0.0.1").await;
    let first = client.ask("x").await.expect("an answer");
    for number in 0..600_u32 {
        let forged = bed.client(&format!("127.1.{}.{}", number / 250, number % 250 + 1)).await;
        forged.say(b"flood").await;
        forged.say(b"flood").await;
        // 60 of them take longer than sessions are in use.
        sleep(SHORT / 25).await;
        if number % 10 == 0 {
            assert_eq!(client.ask("x").await.as_ref(), Some(&first), "{number}: the client speaks, so it keeps its session");
        }
        if number % 100 == 99 {
            let newcomer = bed.client("127.0.0.1").await;
            newcomer.say(b"x").await;
            assert!(newcomer.hear(Duration::from_secs(5)).await.is_some(), "{number}: one question, one answer");
        }
    }
    assert!(bed.count("replaced") >= 540, "{:?}", bed.metrics.udp().shown());
    assert_eq!((bed.count("active"), bed.count("limit")), (60, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_at_other_listeners_leave_a_listener_its_part() {
    let (address, _answering) = endpoint("a").await;
    let limits = Limits { udp_all_sessions: 80, udp_sessions: 50, udp_unanswered: SHORT * 10, ..Limits::default() };
    let places = super::Places::new(&limits);
    let mut flooded = Vec::new();
    for _ in 0..3 {
        let bed = Bed::beside(&places, "127.0.0.1", limits.clone(), &[(1, Some("a"), &[address])]).await;
        for number in 1..=200 {
            bed.client(&format!("127.1.0.{number}")).await.say(b"flood").await;
        }
        bed.counted("received", 200).await;
        flooded.push(bed);
    }
    bounded(&flooded, 80).await;
    let taken: u64 = flooded.iter().map(|bed| bed.count("active")).sum();
    assert!(taken >= 60, "{taken}: they have taken what is lent");
    let quiet = Bed::beside(&places, "127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    for number in 1..=10 {
        let client = quiet.client(&format!("127.2.0.{number}")).await;
        client.say(b"x").await;
        assert!(client.hear(Duration::from_secs(5)).await.is_some(), "client {number} of a listener that nobody floods");
    }
    assert_eq!(quiet.count("replaced"), 0);
    // Those that are flooded serve new clients too, and give back what the fourth one has.
    for bed in &flooded {
        assert!(bed.client("127.0.0.1").await.ask("x").await.is_some());
    }
    flooded.push(quiet);
    bounded(&flooded, 80).await;
}

/// Waits until all together have no more sessions than that.
async fn bounded(beds: &[Bed], most: u64) {
    let open = || beds.iter().map(|bed| bed.count("active")).sum::<u64>();
    let bounded = async {
        while open() > most {
            sleep(SHORT / 10).await;
        }
    };
    assert!(timeout(SHORT * 50, bounded).await.is_ok(), "{} sessions", open());
}

#[tokio::test]
async fn sessions_in_use_make_no_room() {
    let (address, _answering) = endpoint("a").await;
    let in_use = Duration::from_secs(60);
    let limits = Limits { udp_sessions: 3, udp_client_sessions: 2, udp_in_use: in_use, ..Limits::default() };
    let bed = Bed::start("127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    let mut used = Vec::new();
    for ip in ["127.0.0.1", "127.0.0.1", "127.0.0.2"] {
        let client = bed.client(ip).await;
        for _ in 0..2 {
            assert!(client.ask("x").await.is_some());
        }
        used.push(client);
    }
    bed.client("127.0.0.1").await.say(b"x").await;
    bed.counted("client_limit", 1).await;
    bed.client("127.0.0.3").await.say(b"x").await;
    bed.counted("limit", 1).await;
    assert_eq!((bed.count("active"), bed.count("replaced")), (3, 0));
}

#[tokio::test]
async fn an_endpoint_that_does_not_listen_is_passed_over() {
    let (alive, _answering) = endpoint("a").await;
    let bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("x"), &[alive, nobody().await])]).await;
    for number in 0..40 {
        let answer = bed.client("127.0.0.1").await.ask("x").await;
        assert!(answer.is_some(), "the next datagram of client {number} goes to the other one");
    }
    let lost = bed.count("unreachable");
    assert!((1..=3).contains(&lost), "{lost} of 40 sessions went where nobody listens");
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint_until_that_is_gone() {
    let (a, _answering) = endpoint("a").await;
    let (b, _answering) = endpoint("b").await;
    let bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("x"), &[a])]).await;
    let client = bed.client("127.0.0.1").await;
    let first = client.ask("x").await.expect("an answer");
    for shares in [&[(1, Some("x"), &[a, b][..])][..], &[(0, Some("x"), &[a]), (1, Some("y"), &[b])], &[(1, Some("x"), &[a])]] {
        bed.serve(shares);
        assert_eq!(client.ask("x").await.as_ref(), Some(&first), "{shares:?}");
    }
    bed.serve(&[(1, Some("x"), &[b])]);
    bed.counted("endpoint_removed", 1).await;
    assert!(client.ask("x").await.is_some_and(|answer| answer.starts_with("b ")));
}

#[tokio::test]
async fn a_session_ends_when_its_route_leaves_the_backend_whoever_else_refers_to_that() {
    let (a, _answering) = endpoint("a").await;
    let (b, _answering) = endpoint("b").await;
    for referred in [false, true] {
        let bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("x"), &[a])]).await;
        let client = bed.client("127.0.0.1").await;
        assert!(client.ask("x").await.is_some_and(|answer| answer.starts_with("a ")));
        let others = [(1, Some("x"), &[a][..])];
        bed.serve_beside(&[(1, Some("y"), &[b])], &others[..usize::from(referred)]);
        bed.counted("endpoint_removed", 1).await;
        assert!(client.ask("x").await.is_some_and(|answer| answer.starts_with("b ")), "{referred}");
        bed.serve_without_route();
        bed.counted("endpoint_removed", 2).await;
    }
}

#[tokio::test]
async fn what_an_endpoint_says_after_it_is_gone_does_not_reach_the_client() {
    let endpoint = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("x"), &[endpoint.local_addr().expect("an address")])]).await;
    let client = bed.client("127.0.0.1").await;
    client.say(b"x").await;
    let (_, session) = endpoint.recv_from(&mut [0; 9]).await.expect("received");
    for number in [1, 2] {
        // Nothing has to be asked for: whatever the endpoint sends is the client's.
        endpoint.send_to(&[number], session).await.expect("sent");
        assert_eq!(client.hear(Duration::from_secs(5)).await, Some(vec![number]));
    }
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    stranger.send_to(b"forged", session).await.expect("sent");
    assert_eq!(client.hear(SHORT).await, None, "nobody else can speak to the client");
    bed.serve(&[(1, Some("x"), &[])]);
    bed.counted("endpoint_removed", 1).await;
    let _ = endpoint.send_to(b"late", session).await;
    assert_eq!(client.hear(SHORT).await, None);
}

#[tokio::test]
async fn a_listener_that_ends_serves_its_sessions_and_no_others() {
    let (address, _answering) = endpoint("a").await;
    let limits = Limits { udp_unanswered: SHORT * 10, ..Limits::default() };
    let bed = Bed::start("127.0.0.1", limits, &[(1, Some("a"), &[address])]).await;
    let client = bed.client("127.0.0.1").await;
    let first = client.ask("x").await.expect("an answer");
    bed.closing.end();
    for _ in 0..5 {
        sleep(SHORT).await;
        assert_eq!(client.ask("x").await.as_ref(), Some(&first));
    }
    let late = bed.client("127.0.0.1").await;
    late.say(b"x").await;
    bed.counted("ending", 1).await;
    assert!(!bed.running.is_finished());
    timeout(Duration::from_secs(5), bed.running).await.expect("it ends when its last session is idle").expect("ended");
}

#[tokio::test]
async fn a_listener_ends_at_once_without_sessions_or_when_it_is_cut() {
    let (address, _answering) = endpoint("a").await;
    for used in [false, true] {
        let mut bed = Bed::start("127.0.0.1", Limits::default(), &[(1, Some("a"), &[address])]).await;
        if used {
            assert!(bed.client("127.0.0.1").await.ask("x").await.is_some());
        }
        bed.closing.end();
        if used {
            assert!(timeout(SHORT, &mut bed.running).await.is_err(), "a session is left");
            bed.closing.cut();
        }
        timeout(Duration::from_secs(5), &mut bed.running).await.expect("soon").expect("ended");
        assert_eq!((bed.count("active"), bed.count("drain_deadline")), (0, u64::from(used)));
        assert!(bed.closing.is_empty());
    }
}
