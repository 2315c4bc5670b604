//! The same route on two parents decides alike: cases of listeners, run on a listener and, rewritten, on a Service.
//!
//! Of each case, the routes' parent becomes a Service that has the listener's port and no endpoints of its own: whatever falls through to it
//! shows. Both sides get the same requests on real sockets, and everything is compared: the rule, who was asked, what with, and what came back.

mod rewrite;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;
use isthmus_api::NamespacedName;
use isthmus_routing::{RouteTable, Snapshot};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::bed::{Bed, bind_port};
use crate::case::{Case, Exchange};
use crate::client::{self, Answer};
use crate::decide::{self, Asked};
use crate::input::{self, Input};
use crate::serve;
use crate::stand_in::{Seen, StandIn};

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Both parents decide alike.
    Alike,
    /// It is about something that only one kind of parent has.
    Apart(&'static str),
}

/// The two data planes.
#[derive(Debug)]
pub struct Beds {
    listener: Bed,
    /// By the namespace of their clients.
    service: BTreeMap<String, Bed>,
}

impl Beds {
    /// On `listener` the cases are as they are written.
    pub fn new(listener: Bed) -> Self {
        Self { listener, service: BTreeMap::new() }
    }

    /// Runs a case on both kinds of parents.
    ///
    /// # Errors
    /// All that differs, one line for each request.
    pub async fn compare(&mut self, case: &Case) -> Result<Verdict, String> {
        let documents = input::documents(case)?;
        if let Some(reason) = rewrite::apart(&documents, case) {
            return Ok(Verdict::Apart(reason));
        }
        let (rewritten, parent) = rewrite::for_service(&documents);
        let mut listener = Side::start(case, Input::of(case, documents, false)?).await?;
        if listener.snapshot.gateways.values().all(|gateway| gateway.listeners.is_empty()) {
            return Ok(Verdict::Apart("the Gateway serves nothing"));
        }
        let mut service = Side::start(case, Input::of(case, rewritten, true)?).await?;
        self.listener.serve(listener.snapshot.clone()).await;
        if !self.service.contains_key(&parent.namespace) {
            self.service.insert(parent.namespace.clone(), serve::client_bed(&parent.namespace).await);
        }
        self.service[&parent.namespace].serve(service.snapshot.clone()).await;

        let mut faults = Vec::new();
        if listener.snapshot.routes != service.snapshot.service_routes {
            faults.push("the rules differ in the snapshots".to_owned());
        }
        for exchange in &case.requests {
            if let Err(fault) = compare(exchange, &parent, &mut listener, &mut service).await {
                faults.push(format!("{}: {fault}", exchange.title()));
            }
        }
        if faults.is_empty() { Ok(Verdict::Alike) } else { Err(faults.join("\n  ")) }
    }
}

/// One kind of parent with backends of its own: some of them count.
struct Side {
    snapshot: Snapshot,
    _stand_ins: Vec<StandIn>,
    seen: UnboundedReceiver<Seen>,
}

impl Side {
    async fn start(case: &Case, input: Input) -> Result<Self, String> {
        let (sender, seen) = unbounded_channel();
        let stand_ins = serve::stand_ins(&input, case, &sender).await?;
        Ok(Self { snapshot: serve::snapshot(&input, &stand_ins), _stand_ins: stand_ins, seen })
    }

    async fn send(&mut self, address: SocketAddr, exchange: &Exchange) -> Result<Outcome, String> {
        let answer = client::send(address, false, exchange).await?;
        let expect = &exchange.expect;
        let mut asked: Vec<_> =
            serve::arrived(expect.mirrors.len(), expect.backend.is_some(), &mut self.seen).await.iter().map(heard).collect();
        // Copies overtake each other.
        asked.sort();
        if expect.tries.is_none() {
            // How often it is tried within a time is not the same twice.
            asked.dedup();
        }
        Ok(Outcome { asked, ..Outcome::of(&answer) })
    }
}

async fn compare(exchange: &Exchange, parent: &NamespacedName, listener: &mut Side, service: &mut Side) -> Result<(), String> {
    let (port, listeners) = decide::listeners(&listener.snapshot, exchange)?;
    let (key, at_service) = decide::service(&service.snapshot, exchange, parent)?;
    let (Some(at_listener), Some(at_service)) = (listeners.first(), at_service) else {
        return Err(format!("one of them has nothing on port {port}"));
    };
    if let Ok(asked) = Asked::of(exchange) {
        let request = asked.request();
        let tables = [
            RouteTable::compile(at_listener, &listener.snapshot),
            RouteTable::of(at_service.routes_for(&parent.namespace), &service.snapshot.service_routes),
        ];
        let found = tables.each_ref().map(|table| table.find(&request).map(|found| (found.route.to_string(), found.index)));
        equal("rule", &found[0], &found[1])?;
    }
    let gateway = listener.snapshot.gateways.values().find_map(|gateway| gateway.addresses.first());
    let address = SocketAddr::new(*gateway.ok_or("the gateway has no address")?, bind_port(port));
    let service_address = serve::service_socket(&service.snapshot, &key).ok_or("the service has no address")?;
    match exchange.times {
        None => {
            let (one, other) = (listener.send(address, exchange).await?, service.send(service_address, exchange).await?);
            one.compare(&other)
        }
        Some(times) => {
            let one = serve::counted(address, false, exchange, None, times, &mut listener.seen).await?;
            let other = serve::counted(service_address, false, exchange, None, times, &mut service.seen).await?;
            alike(&one, &other, times)
        }
    }
}

/// Shares by who answered: each within 0.08 of the other side's.
fn alike(one: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>, times: u32) -> Result<(), String> {
    let share = |of: &BTreeMap<String, u32>, name: &str| f64::from(of.get(name).copied().unwrap_or_default()) / f64::from(times);
    let differs = |name: &&String| (share(one, name) - share(other, name)).abs() > 0.08;
    match one.keys().chain(other.keys()).find(differs) {
        None => Ok(()),
        Some(name) => {
            Err(format!("{name} has a share of {} on the listener and {} on the service", share(one, name), share(other, name)))
        }
    }
}

/// What came back and what was asked for it, without what no two requests have in common.
#[derive(Debug, Default)]
struct Outcome {
    status: u16,
    headers: BTreeMap<String, Vec<String>>,
    trailers: BTreeMap<String, Vec<String>>,
    /// Empty if it is the echo's report, which is in `asked`, or our own words about a request that no rule takes.
    body: Vec<u8>,
    asked: Vec<Heard>,
}

/// A request as a backend heard it: who it is, method, path, host, protocol, headers.
type Heard = (String, String, String, String, String, BTreeMap<String, Vec<String>>);

impl Outcome {
    fn of(answer: &Answer) -> Self {
        let mut headers = lines(&answer.headers);
        let mut body = answer.body.to_vec();
        let is_report = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["headers"].is_object());
        let is_unrouted = answer.status == 404 && body.starts_with(NO_ROUTE.as_bytes());
        if is_report || is_unrouted {
            // The report tells which headers came, some of which have no fixed length; the other one names the parent.
            headers.remove("content-length");
            body.clear();
        }
        if answer.status == 404 && answer.header("content-type").is_some_and(|value| value.starts_with("text/plain")) {
            // Of the same text, without it: an answer to HEAD.
            headers.remove("content-length");
        }
        if let Some(message) = headers.get_mut("grpc-message").and_then(|values| values.first_mut())
            && message.starts_with(NO_ROUTE)
        {
            NO_ROUTE.clone_into(message);
        }
        Self { status: answer.status, headers, trailers: lines(&answer.trailers), body, asked: Vec::new() }
    }

    fn compare(&self, other: &Self) -> Result<(), String> {
        equal("status", &self.status, &other.status)?;
        equal("what the backends were asked", &self.asked, &other.asked)?;
        equal("response headers", &self.headers, &other.headers)?;
        equal("trailers", &self.trailers, &other.trailers)?;
        equal("body", &String::from_utf8_lossy(&self.body), &String::from_utf8_lossy(&other.body))
    }
}

fn heard(seen: &Seen) -> Heard {
    let report = &seen.report;
    let headers = report.headers.iter().map(|(name, values)| line(&name.to_ascii_lowercase(), values.clone())).collect();
    let [method, path, host, proto] = [&report.method, &report.path, &report.host, &report.proto].map(String::clone);
    (seen.backend.to_string(), method, path, host, proto, headers)
}

fn lines(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let values = |name: &http::HeaderName| {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    headers.keys().map(|name| line(name.as_str(), values(name))).collect()
}

/// How our own words begin for a request that no rule takes. The rest names the parent.
const NO_ROUTE: &str = "no route ";

/// Headers that differ from request to request: only that they are there is compared.
const VOLATILE: [&str; 4] = ["date", "traceparent", "tracestate", "x-request-id"];

fn line(name: &str, values: Vec<String>) -> (String, Vec<String>) {
    let values = if VOLATILE.contains(&name) { vec!["(volatile)".to_owned(); values.len()] } else { values };
    (name.to_owned(), values)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, listener: &T, service: &T) -> Result<(), String> {
    if listener == service { Ok(()) } else { Err(format!("{what}: on the listener {listener:?}, on the service {service:?}")) }
}
