//! The example of the mesh: what clients of Services meet, by their namespace.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use isthmus_cli::standalone::{Echoes, Mesh, Settings, Standalone};
use isthmus_cli::table;
use isthmus_dataplane::{Limits, Options, Outbound};
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::case::Exchange;
use isthmus_tests::client::{self, Answer};
use serde_json::{Value, json};

use super::{OFFSET, example};

/// The example as clients of one namespace meet it.
struct Clients {
    standalone: Standalone,
    bed: Bed,
}

impl Clients {
    async fn of(namespace: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let std::net::IpAddr::V4(own) = own_address() else { panic!("no loopback address of version 4") };
        // Services count on from there, and no other test is there.
        let first_address =
            Ipv4Addr::new(127, 192 + own.octets()[1] % 63, own.octets()[2], NEXT.fetch_add(1, Ordering::Relaxed) * 16 + 1);
        let settings = Settings {
            echo: Echoes::Running,
            port_offset: OFFSET,
            mesh: Some(Mesh { namespace: namespace.to_owned(), first_address }),
            ..Settings::default()
        };
        let standalone = Standalone::open(&[example("mesh")], settings).await.expect("the example");
        let outbound = Some(Outbound { namespace: namespace.to_owned(), port_offset: OFFSET });
        let bed = Bed::start(Options { outbound, ..options(Limits::default()) }).await;
        bed.serve((*standalone.view().snapshot).clone()).await;
        Self { standalone, bed }
    }

    fn socket(&self, service: &str) -> SocketAddr {
        let report = self.bed.dataplane.reports().borrow().clone();
        let found = report.services.iter().find(|found| found.service.name == service);
        found.unwrap_or_else(|| panic!("{service} is not among {:?}", report.services)).address
    }

    async fn ask(&self, service: &str, exchange: Value) -> Answer {
        let exchange: Exchange = serde_json::from_value(exchange).expect("an exchange");
        client::send(self.socket(service), false, &exchange).await.unwrap_or_else(|fault| panic!("{service}: {fault}"))
    }

    fn table(&self) -> Vec<String> {
        let report = self.bed.dataplane.reports().borrow().clone();
        table::render(self.standalone.view(), Some(&report)).into_iter().map(|line| line.text).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_does_what_the_readme_says() {
    let clients = Clients::of("default").await;
    assert!(clients.standalone.view().is_good(), "{:?}", clients.table());
    let mut first = 0;
    for _ in 0..60 {
        let answer = clients.ask("cart", json!({"path": "/cart/1"})).await;
        first += u32::from(answer.echo()["service"] == "cart-v1");
    }
    assert!((45..60).contains(&first), "{first} of 60 are the first version; nine in ten were asked for");
    let canary = clients.ask("cart", json!({"host": "what.ever", "headers": {"x-canary": "yes"}})).await;
    assert_eq!((canary.echo()["service"].as_str(), canary.header("x-routed-by")), (Some("cart-v2"), None));
    assert_eq!(clients.ask("cart", json!({"path": "/other"})).await.status, 404, "nothing falls through to the Service");
    assert_eq!(clients.ask("cart-v1", json!({"path": "/other"})).await.echo()["service"], "cart-v1", "which has no routes");
    for (method, expected) in [("Count", "stock-replica"), ("Reserve", "stock")] {
        let answer = clients.ask("stock", json!({"path": format!("/stock.v1.Stock/{method}"), "grpc": true})).await;
        assert_eq!((answer.grpc_status(), answer.header("x-echo-service")), (Some(0), Some(expected)), "{method}");
    }

    let mobile = Clients::of("mobile").await;
    for path in ["/cart/1", "/other"] {
        let answer = mobile.ask("cart", json!({"path": path})).await;
        assert_eq!(
            (answer.echo()["service"].as_str(), answer.header("x-routed-by")),
            (Some("cart-v2"), Some("mobile")),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_shows_services_and_their_routes() {
    let clients = Clients::of("mobile").await;
    let (table, cart) = (clients.table(), clients.socket("cart"));
    let has = |parts: &[&str]| table.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    let (address, curl) = (format!("http://{cart}"), format!("curl http://{cart}/"));
    let all: [&[&str]; 7] = [
        &[&address, "Service/default/cart:80", "1 consumer route of mobile"],
        &["Service/default/stock:7070", "1 route"],
        &["Service/default/cart-v1:80", "no routes: its endpoints"],
        &["HTTPRoute/default/cart", "on Service/default/cart:80"],
        &["HTTPRoute/mobile/cart", "on Service/default/cart:80 for clients of mobile"],
        &["/cart/*", "timeout 2s", "cart-v1:80 90% (echo), cart-v2:80 10% (echo)"],
        &[&curl],
    ];
    for parts in all {
        assert!(has(parts), "{parts:?} are not in\n{}", table.join("\n"));
    }
    assert!(!has(&["LISTENING"]), "no Gateway is no fault here:\n{}", table.join("\n"));
}

#[tokio::test]
async fn without_the_mesh_one_line_says_so() {
    let settings = Settings { echo: Echoes::Named, ..Settings::default() };
    let standalone = Standalone::open(&[example("mesh")], settings).await.expect("the example");
    assert!(standalone.view().snapshot.services.is_empty());
    let texts: Vec<_> = standalone.view().messages.iter().map(|message| message.text.as_str()).collect();
    for route in ["HTTPRoute/default/cart", "HTTPRoute/mobile/cart"] {
        let expected = format!("{route} is for clients of Service cart, which only --mesh serves");
        assert!(texts.contains(&expected.as_str()), "{texts:?}");
    }
}
