//! What is written to Services and read of nodes, with a scripted API server.

use std::sync::Mutex;
use std::time::Duration;

use isthmus_push::server::Role;
use tokio::sync::watch;

use super::*;
use crate::testing::{Answer, Server};

fn record(addresses: &[&str]) -> Record {
    Record {
        gateway: key("edge"),
        service: NamespacedName::new("shop", "isthmus-edge"),
        uid: "s1".into(),
        resource_version: "5".into(),
        seen: Vec::new(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok(), "{what}");
}

/// A Service of this version and ingress; answers a patch of another version with a conflict.
fn service_server(version: &'static str, ingress: &Value, mut failures: Vec<u16>) -> Server {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "isthmus-edge", "namespace": "shop", "uid": "s1",
        "resourceVersion": version}, "status": {"loadBalancer": {"ingress": ingress}}});
    Server::new(move |call| {
        if call.method == "GET" {
            return Answer::json(service.clone());
        }
        if let Some(code) = failures.pop() {
            return Answer::status(code, "no");
        }
        match call.body["metadata"]["resourceVersion"] == version {
            true => Answer::json(service.clone()),
            false => Answer::status(409, "conflict"),
        }
    })
}

#[tokio::test]
async fn records_are_written_once_and_by_the_leader() {
    let server = service_server("5", &json!([]), vec![500, 403]);
    let (role, roles) = watch::channel(Role::Follower { leader: None });
    let recorder = Recorder::start(server.client(), roles);
    recorder.record(vec![record(&["192.0.2.1", "2001:db8::1"])]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.calls().len(), 0);
    role.send_replace(Role::Leader);
    until("told", || recorder.faults().borrow().contains_key(&key("edge"))).await;
    until("written", || recorder.faults().borrow().is_empty()).await;
    let calls = server.calls();
    let last = calls.last().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("PATCH", "/api/v1/namespaces/shop/services/isthmus-edge/status"));
    let ingress = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "2001:db8::1", "ipMode": "VIP"}]);
    assert_eq!(
        last.body,
        json!({"metadata": {"uid": "s1", "resourceVersion": "5"}, "status": {"loadBalancer": {"ingress": ingress}}})
    );
    recorder.record(vec![record(&["192.0.2.1", "2001:db8::1"])]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.calls().len(), calls.len(), "the watch has not shown it yet");
}

#[tokio::test]
async fn nobody_elses_write_is_undone() {
    for (what, ingress, patches) in [("the spec changed", json!([]), 2), ("the addresses changed", ips(&["192.0.2.9"]), 1)] {
        let server = service_server("6", &ingress, Vec::new());
        let (_role, roles) = watch::channel(Role::Leader);
        let recorder = Recorder::start(server.client(), roles);
        recorder.record(vec![record(&["192.0.2.1"])]);
        until("read", || server.count(|call| call.method == "GET") == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(server.count(|call| call.method == "PATCH"), patches, "{what}");
        assert!(recorder.faults().borrow().is_empty());
    }
}

#[tokio::test]
async fn nodes_are_watched_only_when_they_are_needed() {
    let node = json!({"metadata": {"name": "n1", "resourceVersion": "1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}});
    let watches = Arc::new(Mutex::new(Vec::new()));
    let held = Arc::clone(&watches);
    let server = Server::new(move |call| {
        if call.is_watch() {
            let (sender, answer) = Answer::watch();
            held.lock().unwrap().push(sender);
            return answer;
        }
        Answer::list(1, std::slice::from_ref(&node))
    });
    let (needed, needs) = watch::channel(false);
    let mut nodes = nodes::follow(server.client(), needs);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.calls().len(), 0);
    needed.send_replace(true);
    let known = tokio::time::timeout(Duration::from_secs(10), nodes.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    let known: Vec<_> = known.unwrap().outside().flatten().copied().collect();
    assert_eq!(known, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}
