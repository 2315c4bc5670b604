//! Others that reach the port and want its room. The API server is the one at `127.0.0.1`.

use std::time::Instant;

use super::super::{review, serve};
use super::*;

/// A pod that means no good.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

async fn started() -> (Running, Arc<Material>) {
    let running = start(&Cluster::new("31"), Role::Leader).await;
    let first = material();
    running.material.send_replace(Some(first.clone()));
    (running, first)
}

/// That a pod gets its sidecar, and how long that takes.
async fn injects(running: &Running, bundle: &str) -> Duration {
    let start = Instant::now();
    let response = ask(running, bundle, &super::review(&pod(&json!({}), &json!({})), &json!({}))).await;
    assert_eq!(response["patchType"], "JSONPatch", "{response}");
    start.elapsed()
}

#[tokio::test]
async fn slow_bodies_of_one_address_hold_nobody_else_up() {
    let (running, first) = started().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = connect_tls(POD, running.address, &first.bundle).await.unwrap();
        stream.write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
        slow.push(stream);
    }
    let took = injects(&running, &first.bundle).await;
    assert!(took < review::BODY, "{took:?}");
    let mut answer = String::new();
    timeout(PATIENCE, slow[0].read_to_string(&mut answer)).await.expect("it is cut").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn idle_connections_of_one_address_keep_nobody_else_out_and_end() {
    let (running, first) = started().await;
    injects(&running, &first.bundle).await;
    let mut silent = connect_tls(POD, running.address, &first.bundle).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..serve::SHARES.connections {
        idle.push(connect(POD, running.address).await.unwrap());
    }
    let mut one_too_many = idle.pop().unwrap();
    let took = Instant::now();
    let read = timeout(PATIENCE, one_too_many.read_u8()).await.expect("it is cut");
    assert!(read.is_err() && took.elapsed() < serve::FIRST, "{read:?} {:?}", took.elapsed());
    injects(&running, &first.bundle).await;
    let text = running.metrics.text().unwrap();
    assert!(text.contains("isthmus_controller_webhook_connections_cut_total 1\n"), "{text}");
    for stream in &mut idle {
        assert!(timeout(PATIENCE, stream.read_u8()).await.expect("no handshake").is_err());
    }
    assert!(timeout(PATIENCE, silent.read_u8()).await.expect("no request").is_err());
    let mut again = connect_tls(POD, running.address, &first.bundle).await.unwrap();
    again.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(again.read_u8().await.unwrap(), b'H', "its share is free again");
}
