use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Answer, Call, Server};

/// An API server with one Lease.
#[derive(Clone, Default)]
struct Leases {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    lease: Option<Value>,
    version: u64,
    /// Replicas, by the client that asks, that get no answer.
    cut_off: Vec<&'static str>,
    /// Every so many calls, one fails.
    fails_each: Option<usize>,
    calls: usize,
    /// Every holder there was, in order.
    holders: Vec<String>,
    conflicts: usize,
}

impl Leases {
    fn server(&self, of: &'static str) -> Server {
        let leases = self.clone();
        Server::new(move |call: &Call| leases.answer(of, call))
    }

    fn answer(&self, of: &'static str, call: &Call) -> Answer {
        let mut inner = self.inner.lock().unwrap();
        if inner.cut_off.contains(&of) {
            return Answer::Silence;
        }
        inner.calls += 1;
        if inner.fails_each.is_some_and(|each| inner.calls.is_multiple_of(each)) {
            return Answer::status(500, "etcd");
        }
        match (call.method.as_str(), &inner.lease) {
            ("GET", Some(lease)) => return Answer::json(lease.clone()),
            ("POST", None) => {}
            ("POST", Some(_)) => return Answer::status(409, "already exists"),
            ("PUT", Some(lease)) => {
                let known = call.body.pointer("/metadata/resourceVersion").expect("an optimistic lock");
                if *known != lease["metadata"]["resourceVersion"] {
                    inner.conflicts += 1;
                    return Answer::status(409, "modified");
                }
            }
            _ => return Answer::status(404, "not found"),
        }
        inner.version += 1;
        let mut lease = call.body.clone();
        lease["metadata"]["resourceVersion"] = inner.version.to_string().into();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap().to_owned();
        if inner.holders.last() != Some(&holder) {
            inner.holders.push(holder);
        }
        inner.lease = Some(lease.clone());
        Answer::json(lease)
    }

    fn cut_off(&self, replica: &'static str, cut: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.cut_off.retain(|other| *other != replica);
        if cut {
            inner.cut_off.push(replica);
        }
    }

    fn holders(&self) -> Vec<String> {
        self.inner.lock().unwrap().holders.clone()
    }
}

struct Replica {
    role: watch::Receiver<Role>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn push(pod: &str) -> SocketAddr {
    if pod == "a" { "10.0.0.1:15410".parse().unwrap() } else { "[fd00::2]:15410".parse().unwrap() }
}

impl Replica {
    fn start(leases: &Leases, pod: &'static str) -> Self {
        Self::with(leases, pod, None)
    }

    fn with(leases: &Leases, pod: &'static str, ready: Option<watch::Receiver<Option<String>>>) -> Self {
        let (role, receiver) = watch::channel(Role::Follower { leader: None });
        let (shutdown, stop) = oneshot::channel();
        let stop = async {
            let _ = stop.await;
        };
        let options = Options { ready, ..Options::new("isthmus-system", pod, push(pod)) };
        let task = tokio::spawn(run(leases.server(pod).client(), options, role, stop));
        Self { role: receiver, shutdown: Some(shutdown), task }
    }

    fn leads(&self) -> bool {
        *self.role.borrow() == Role::Leader
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_knows_where_it_is() {
    let leases = Leases::default();
    let a = Replica::start(&leases, "a");
    seconds(1).await;
    let b = Replica::start(&leases, "b");
    seconds(60).await;
    assert!(a.leads());
    assert_eq!(*b.role.borrow(), Role::Follower { leader: Some(push("a")) });
    assert_eq!(leases.holders(), ["a_10.0.0.1:15410"]);
    let lease = leases.inner.lock().unwrap().lease.clone().unwrap();
    assert_eq!((&lease["spec"]["leaseDurationSeconds"], &lease["spec"]["leaseTransitions"]), (&json!(15), &json!(0)));
    assert_ne!(lease["spec"]["acquireTime"], lease["spec"]["renewTime"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let leases = Leases::default();
    let mut a = Replica::start(&leases, "a");
    seconds(1).await;
    let b = Replica::start(&leases, "b");
    seconds(20).await;
    a.shutdown.take().unwrap().send(()).unwrap();
    a.task.await.unwrap();
    assert_eq!(*a.role.borrow(), Role::Follower { leader: None });
    assert_eq!(leases.holders(), ["a_10.0.0.1:15410", ""]);
    seconds(2).await;
    assert!(b.leads());
    assert_eq!(leases.holders().last().unwrap(), "b_[fd00::2]:15410");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let leases = Leases::default();
    let a = Replica::start(&leases, "a");
    seconds(1).await;
    let b = Replica::start(&leases, "b");
    seconds(33).await;
    leases.cut_off("a", true);
    let (mut lost, mut gained) = (None, None);
    for step in 0..400_u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!(a.leads() && b.leads()), "two leaders after {step} tenths of a second");
        lost = lost.or_else(|| (!a.leads()).then_some(step));
        gained = gained.or_else(|| b.leads().then_some(step));
    }
    let (lost, gained) = (lost.unwrap(), gained.unwrap());
    assert!((60..=125).contains(&lost), "lost after {lost}");
    assert!((90..=170).contains(&gained) && gained >= lost + 20, "lost after {lost}, gained after {gained}");
    leases.cut_off("a", false);
    seconds(10).await;
    assert_eq!(*a.role.borrow(), Role::Follower { leader: Some(push("b")) });
    assert!(b.leads());
}

#[tokio::test(start_paused = true)]
async fn of_candidates_that_come_together_one_leads() {
    for round in 0..20 {
        let leases = Leases::default();
        if round % 2 == 0 {
            let spec = json!({"holderIdentity": "gone_10.0.0.9:15410", "leaseDurationSeconds": 15, "leaseTransitions": 4});
            leases.inner.lock().unwrap().lease =
                Some(json!({"metadata": {"name": "isthmus-controller", "resourceVersion": "0"}, "spec": spec}));
        }
        let replicas = [Replica::start(&leases, "a"), Replica::start(&leases, "b")];
        for step in 0..300 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(replicas.iter().filter(|replica| replica.leads()).count() <= 1);
            assert!(
                round % 2 != 0 || step > 140 || leases.holders().is_empty(),
                "a stranger's Lease is respected for its duration"
            );
        }
        assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
        assert_eq!(leases.holders().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_took_is_lost() {
    let leases = Leases::default();
    let a = Replica::start(&leases, "a");
    seconds(20).await;
    {
        let mut inner = leases.inner.lock().unwrap();
        let mut lease = inner.lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = "thief_10.0.0.7:15410".into();
        lease["metadata"]["resourceVersion"] = "1000".into();
        inner.version = 1000;
        inner.lease = Some(lease);
    }
    seconds(6).await;
    assert_eq!(*a.role.borrow(), Role::Follower { leader: Some("10.0.0.7:15410".parse().unwrap()) });
    seconds(20).await;
    assert!(a.leads(), "it never renews");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_now_and_then_costs_no_leadership() {
    let leases = Leases::default();
    let a = Replica::start(&leases, "a");
    seconds(1).await;
    for _ in 0..20 {
        leases.cut_off("a", true);
        seconds(4).await;
        leases.cut_off("a", false);
        seconds(7).await;
        assert!(a.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_in_a_pattern_leave_a_leader() {
    for each in 2..=5 {
        let leases = Leases::default();
        leases.inner.lock().unwrap().fails_each = Some(each);
        let a = Replica::start(&leases, "a");
        seconds(10).await;
        for _ in 0..60 {
            assert!(a.leads(), "each {each}");
            seconds(1).await;
        }
    }
}

#[test]
fn identities_say_where_to_go() {
    for (identity, expected) in [
        ("isthmus-controller-7d4-x2_10.0.0.1:15410", Some("10.0.0.1:15410")),
        ("pod_[fd00::1]:15410", Some("[fd00::1]:15410")),
        ("pod", None),
        ("pod_name", None),
        ("", None),
    ] {
        assert_eq!(address(identity), expected.map(|address| address.parse().unwrap()), "{identity}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_ready_leaves_a_free_lease_to_others_for_a_while() {
    let leases = Leases::default();
    let (ready, unready) = watch::channel(Some("a right is missing".to_owned()));
    let mut first = Replica::with(&leases, "a", Some(unready.clone()));
    seconds(1).await;
    assert!(first.leads(), "there was no Lease: somebody has to begin");
    first.shutdown.take().unwrap().send(()).unwrap();
    seconds(1).await;
    let mut second = Replica::with(&leases, "b", Some(unready));
    seconds(10).await;
    assert!(!second.leads());
    seconds(10).await;
    assert!(second.leads(), "nobody else wants it");
    second.shutdown.take().unwrap().send(()).unwrap();
    seconds(1).await;
    let third = Replica::with(&leases, "a", Some(ready.subscribe()));
    seconds(5).await;
    assert!(!third.leads());
    ready.send_replace(None);
    seconds(2).await;
    assert!(third.leads());
}
