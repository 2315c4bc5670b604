//! The example with what is not HTTP, and edits of such routes.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_cli::echo::Datagram;
use isthmus_tests::case::Exchange;
use isthmus_tests::client;
use serde_json::json;
use tokio::net::UdpSocket;

use super::{OFFSET, Scratch, Served, example};

/// A client of UDP ports.
struct Client(UdpSocket);

impl Client {
    async fn to(served: &Served, port: u16) -> Self {
        let socket = UdpSocket::bind((served.address, 0)).await.expect("a socket");
        socket.connect((served.address, port)).await.expect("a peer");
        Self(socket)
    }

    /// The answer, if one comes.
    async fn ask(&self, request: &str) -> Option<Datagram> {
        self.0.send(request.as_bytes()).await.ok()?;
        let mut buffer = [0; 2048];
        let length = tokio::time::timeout(Duration::from_secs(2), self.0.recv(&mut buffer)).await.ok()?.ok()?;
        serde_json::from_slice(&buffer[..length]).ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_do_what_the_readme_says() {
    let streams = Served::start(&example("streams")).await;
    let mut primaries = 0;
    for _ in 0..60 {
        primaries += u32::from(streams.answers(5432, json!({})).await == "postgres-primary");
    }
    assert!((45..60).contains(&primaries), "{primaries} of 60 are the primary; nine in ten were asked for");
    assert_eq!(streams.answers(53, json!({})).await, "dns", "TCP on the number that UDP has, too");
    assert_eq!(streams.answers(143, json!({})).await, "mail", "TLS towards the backend");
    for (host, service) in [("mqtt.localhost", "mqtt"), ("a.vault.localhost", "vault")] {
        assert_eq!(streams.answers(443, json!({"host": host})).await, service);
    }
    let nobodys: Exchange = serde_json::from_value(json!({"host": "other.localhost"})).expect("an exchange");
    let socket = SocketAddr::new(streams.address.into(), 443 + OFFSET);
    assert!(client::send(socket, true, &nobodys).await.is_err(), "nobody takes that name");

    let (one, other) = (Client::to(&streams, 53 + OFFSET).await, Client::to(&streams, 53 + OFFSET).await);
    let (first, second) = (one.ask("hello").await.expect("an answer"), one.ask("again").await.expect("an answer"));
    assert_eq!((first.request.as_str(), first.pod.as_str()), ("hello", "dns-echo"));
    assert_eq!((second.request.as_str(), second.client), ("again", first.client), "a session keeps its place");
    assert_ne!(other.ask("hello").await.expect("an answer").client, first.client, "and is nobody else's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_streams_are_live() {
    let scratch = Scratch::example("streams");
    let mut served = Served::start(&scratch.0).await;
    assert_eq!(Client::to(&served, 53 + OFFSET).await.ask("hello").await.map(|answer| answer.service).as_deref(), Some("dns"));
    let since = std::time::Instant::now();
    scratch.write(
        "more.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: more}\nspec: {ports: [{port: 53, protocol: UDP}]}\n",
    );
    served.follow(since).await;
    let from = "  rules:\n    - backendRefs:\n        - name: dns\n          port: 53\n---\n# Who gets";
    scratch.replace("routes.yaml", from, &from.replace("name: dns", "name: more"));
    served.follow(since).await;
    assert_eq!(Client::to(&served, 53 + OFFSET).await.ask("hello").await.map(|answer| answer.service).as_deref(), Some("more"));
    scratch.replace("gateway.yaml", "    - name: dns\n      port: 53\n      protocol: UDP\n", "");
    served.follow(since).await;
    assert_eq!(Client::to(&served, 53 + OFFSET).await.ask("hello").await, None, "the port is closed");
    assert_eq!(served.answers(53, json!({})).await, "dns", "and that of TCP is not");
}
