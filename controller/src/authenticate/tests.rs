use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_routing::GatewayKey;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Answer, Server};

const USER: &str = "system:serviceaccount:shop:isthmus-edge";

fn provisioned(synced: bool) -> watch::Receiver<Arc<Provisioned>> {
    let gateway = GatewayKey { namespace: "shop".into(), name: "edge".into() };
    let accounts = BTreeMap::from([(("shop".to_owned(), "isthmus-edge".to_owned()), gateway)]);
    watch::channel(Arc::new(Provisioned { synced, accounts, ..Provisioned::default() })).1
}

fn good() -> Value {
    json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": USER, "extra": {
        "authentication.kubernetes.io/pod-name": ["edge-1"], "authentication.kubernetes.io/pod-uid": ["p1"]}}})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut status = good();
    *status.pointer_mut(pointer).unwrap() = value;
    status
}

fn server(status: Value) -> Server {
    Server::new(move |call| {
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"));
        assert_eq!(call.body["spec"]["audiences"], json!([AUDIENCE]));
        Answer::json(
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": call.body["spec"], "status": status}),
        )
    })
}

#[tokio::test]
async fn a_pod_is_of_a_gateway_or_of_a_workload() {
    let pod = "/user/extra/authentication.kubernetes.io~1pod-uid";
    let user = |name: &str| with("/user/username", json!(name));
    let (everywhere, shop) = (Workloads::Everywhere, Workloads::Of(BTreeSet::from(["shop".to_owned()])));
    for (what, status, workloads, expected) in [
        ("a Gateway's", good(), &Workloads::Nobody, "edge-1 of Gateway/shop/edge as ServiceAccount/shop/isthmus-edge"),
        ("a Gateway's in a mesh", good(), &everywhere, "edge-1 of Gateway/shop/edge as ServiceAccount/shop/isthmus-edge"),
        ("not authenticated", with("/authenticated", json!(false)), &everywhere, "Unauthorized"),
        ("another audience", with("/audiences", json!(["https://kubernetes.default.svc"])), &everywhere, "Unauthorized"),
        ("no audience", with("/audiences", json!([])), &everywhere, "Unauthorized"),
        ("a user", user("admin"), &everywhere, "Unauthorized"),
        ("a node", user("system:node:one"), &everywhere, "Unauthorized"),
        ("not bound to a pod", with("/user/extra", json!({})), &everywhere, "Unauthorized"),
        ("half bound to a pod", with(pod, json!([])), &everywhere, "Unauthorized"),
        ("a workload", user("system:serviceaccount:shop:cart"), &everywhere, "edge-1 of ServiceAccount/shop/cart"),
        (
            "a workload of a namespace that is read",
            user("system:serviceaccount:shop:cart"),
            &shop,
            "edge-1 of ServiceAccount/shop/cart",
        ),
        ("one of another", user("system:serviceaccount:bank:cart"), &shop, "Forbidden(\"namespace bank is"),
        (
            "a Gateway's name elsewhere",
            user("system:serviceaccount:bank:isthmus-edge"),
            &everywhere,
            "edge-1 of ServiceAccount/bank/isthmus-edge",
        ),
        ("a workload without a mesh", user("system:serviceaccount:shop:cart"), &Workloads::Nobody, "Forbidden"),
    ] {
        let authenticator = Authenticator::new(server(status).client(), provisioned(true), workloads.clone());
        let actual = match authenticator.authenticate("token").await {
            Ok(Peer { subject: Subject::Gateway { gateway, identity }, pod }) => format!("{pod} of {gateway} as {identity}"),
            Ok(Peer { subject: Subject::Workload { identity }, pod }) => format!("{pod} of {identity}"),
            Err(denied) => format!("{denied:?}"),
        };
        assert!(actual.starts_with(expected), "{what}: {actual}");
    }
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_denies_nobody_and_is_told_once_in_a_while() {
    let (mut lines, log) = std::io::pipe().unwrap();
    let log = tracing_subscriber::fmt().with_writer(move || log.try_clone().unwrap());
    let heard = tracing::subscriber::set_default(log.finish());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Answer::status(500, "broken")
    });
    let authenticator = Authenticator::new(server.client(), provisioned(true), Workloads::Everywhere);
    for _ in 0..2 {
        assert!(matches!(authenticator.authenticate("token").await, Err(Denied::Unavailable(_))));
    }
    assert!(asked.load(Ordering::Relaxed) >= 2, "no answer is not kept");
    drop(heard);
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("tokens of proxies cannot be judged now").count(), 1, "{text}");
}

#[tokio::test]
async fn an_account_is_unknown_only_once_all_are_known() {
    let other = with("/user/username", json!("system:serviceaccount:shop:other"));
    let authenticator = Authenticator::new(server(other.clone()).client(), provisioned(false), Workloads::Everywhere);
    assert!(matches!(authenticator.authenticate("token").await, Err(Denied::Unavailable(_))));
    let authenticator = Authenticator::new(server(other.clone()).client(), provisioned(true), Workloads::Nobody);
    assert!(matches!(authenticator.authenticate("token").await, Err(Denied::Forbidden(_))));
    let authenticator = Authenticator::new(server(other).client(), provisioned(true), Workloads::Everywhere);
    assert!(matches!(authenticator.authenticate("token").await, Ok(Peer { subject: Subject::Workload { .. }, .. })));
}

#[tokio::test]
async fn an_answer_is_kept_for_each_token() {
    let server = server(good());
    let authenticator = Authenticator::new(server.client(), provisioned(true), Workloads::Everywhere);
    for token in ["one", "one", "two", "one"] {
        authenticator.authenticate(token).await.unwrap();
    }
    assert_eq!(server.calls().len(), 2);
    for token in ["", &"x".repeat(LONGEST + 1)] {
        assert!(matches!(authenticator.authenticate(token).await, Err(Denied::Unasked(_))));
    }
    assert_eq!(server.calls().len(), 2, "what cannot be a token is not asked about");
}

#[tokio::test]
async fn only_the_first_answer_about_a_bad_token_cost_a_question() {
    let server = server(with("/authenticated", json!(false)));
    let authenticator = Authenticator::new(server.client(), provisioned(true), Workloads::Everywhere);
    let text = "the API server does not take the token".to_owned();
    assert_eq!(authenticator.authenticate("one").await, Err(Denied::Unauthorized(text.clone())));
    assert_eq!(authenticator.authenticate("one").await, Err(Denied::Unasked(text)));
    assert_eq!(server.calls().len(), 1);
}

#[test]
fn answers_end_and_are_bounded() {
    let now = Instant::now();
    let bearer = Bearer { namespace: "a".into(), account: "b".into(), pod: "c".into() };
    let denied = || Err(Denied::Unauthorized("no".into()));
    let mut answers = Answers::default();
    answers.put([1; 32], now, Ok(bearer));
    answers.put([2; 32], now, denied());
    assert!(answers.get(&[2; 32], now + KEEP_DENIED - Duration::from_millis(1)).is_some());
    assert!(answers.get(&[2; 32], now + KEEP_DENIED).is_none());
    assert!(answers.get(&[1; 32], now + KEEP - Duration::from_millis(1)).is_some());
    assert!(answers.get(&[1; 32], now + KEEP).is_none());
    for number in 0..2 * MOST as u64 {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        answers.put(hash, now, denied());
    }
    assert_eq!(answers.kept.len(), MOST);
    answers.put([9; 32], now + KEEP_DENIED, denied());
    assert_eq!(answers.kept.len(), 1, "what has ended makes room");
}
