//! Requests through a real data plane while the API server and the controller fail: a route that nobody edits answers every one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isthmus_cli::echo::{Echo, Identity};
use isthmus_dataplane::{Dataplane, Options};
use isthmus_tests::api_server::{Action, Bundle, Ending, Fault, Refusal, Select};
use isthmus_tests::bed::own_address;
use isthmus_tests::raw::Raw;
use serde_json::json;

use super::stage::Stage;
use super::{PATIENCE, scenario};

/// Sends requests one after the other, on one connection and on new ones in turn, until it is told to end: how many there were, and the
/// answers that were not 200.
async fn ask(address: SocketAddr, is_over: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut count, mut faults) = (0, Vec::new());
    let mut kept = Raw::connect(address).await;
    while !is_over.load(Ordering::SeqCst) {
        count += 1;
        let mut fresh = None;
        let connection = if count % 2 == 0 { &mut kept } else { fresh.insert(Raw::connect(address).await) };
        connection.send("GET / HTTP/1.1\r\nhost: neighbour.example.com\r\n\r\n").await;
        match connection.response().await {
            Ok(response) if response.status == 200 => {}
            other => faults.push(format!("{count}: {:?}", other.map(|response| response.status))),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (count, faults)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_loses_no_request() {
    let identity = Identity { namespace: "shop".to_owned(), service: "neighbour".to_owned(), pod: "neighbour-0".to_owned() };
    let echo = Echo::start(identity).await.unwrap();
    let stage = Stage::new(Bundle::V1_7).await;
    let server = &stage.server;
    scenario::start(server);
    server.patch(
        "EndpointSlice",
        "shop/neighbour",
        json!({
            "ports": [{"name": "http", "port": echo.address().port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [echo.address().ip()], "conditions": {"ready": true}}],
        }),
    );
    let controller = stage.controller("a", "one").await;
    stage.at_rest().await;

    let address = own_address();
    let options = Options { addresses: vec![address], ..Options::default() };
    let dataplane = Dataplane::start(options, stage.snapshots("shop", "edge").unwrap()).await.unwrap();
    let version = stage.snapshot("shop", "edge").unwrap().version();
    let mut reports = dataplane.reports();
    let served = reports.wait_for(|report| report.version == Some(version));
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();

    let is_over = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(ask(SocketAddr::new(address, 8080), Arc::clone(&is_over)));
    // Everything at once, and then the controller dies and comes again.
    server.fault(Fault::new(Select::any(), Action::Refuse(Refusal::internal())).every(7));
    server.fault(Fault::new(Select::any(), Action::ResetAfter).every(11));
    scenario::edit(server).await;
    server.end_watches(&Select::any(), Ending::Gone);
    server.compact();
    controller.kill().await;
    server.apply(scenario::route("meanwhile", "/meanwhile", "front", 50));
    let again = stage.controller("b", "one").await;
    let look = || stage.conditions("HTTPRoute", "shop/meanwhile").contains("isthmus.dev/Programmed=True");
    server.wait_for("the route that came meanwhile is programmed", PATIENCE, |_| look().then_some(())).await;
    is_over.store(true, Ordering::SeqCst);
    let (count, faults) = client.await.unwrap();
    assert!(again.is_running());
    assert!(count > 20, "{count} requests");
    assert_eq!(faults, Vec::<String>::new(), "of {count} requests");
}
