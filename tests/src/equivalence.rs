//! The same route on two parents decides alike: cases of listeners, run on a listener and, rewritten, on a Service.
//!
//! Of each case, the routes' parent becomes a Service that has the listener's port and no endpoints of its own: whatever falls through to it
//! shows. Both sides get the same requests on real sockets, and everything is compared: the rule, who was asked, what with, and what came back.

mod controller;
mod net;
mod place;
mod pod;
mod rewrite;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::thread;

use http::HeaderMap;
use isthmus_api::NamespacedName;
use isthmus_routing::RouteTable;
use serde_json::Value;

use self::place::{Found, Place, Played, Role};
use crate::case::{Case, Exchange};
use crate::client::Answer;
use crate::decide::{self, Asked};
use crate::input::{self, Input};
use crate::stand_in::Seen;

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Both parents decide alike.
    Alike,
    /// It is about something that only one kind of parent has.
    Apart(&'static str),
}

/// The proxies of both kinds: of each as many as the cases have Gateways, or namespaces of clients.
#[derive(Debug)]
pub struct Stage {
    places: BTreeMap<Role, Place>,
    start: fn(&Role) -> Result<Place, String>,
}

impl Stage {
    /// With proxies as they are shipped, `isthmus-gateway` and `isthmus-mesh-proxy` behind the kernel's redirection, where there can be network
    /// namespaces; else with data planes in this process, and the reason. The processes end with the thread that uses it.
    pub fn new() -> (Self, Option<&'static str>) {
        let unavailable = net::unavailable();
        let start = if unavailable.is_none() { Place::pod } else { Place::here };
        (Self { places: BTreeMap::new(), start }, unavailable)
    }

    /// Runs a case on both kinds of parents.
    ///
    /// # Errors
    /// All that differs, one line for each request.
    ///
    /// # Panics
    /// When a proxy does not start.
    pub fn compare(&mut self, case: &Case) -> Result<Verdict, String> {
        let documents = input::documents(case)?;
        if let Some(reason) = rewrite::apart(&documents, case) {
            return Ok(Verdict::Apart(reason));
        }
        let (rewritten, parent) = rewrite::for_service(&documents);
        let (listener, service) = (Input::of(case, documents, false)?, Input::of(case, rewritten, true)?);
        let served = listener.translate(&listener.placeholder_endpoints()).snapshot;
        let Some((gateway, _)) = served.gateways.iter().find(|(_, gateway)| !gateway.listeners.is_empty()) else {
            return Ok(Verdict::Apart("the Gateway serves nothing"));
        };
        let listener = (Role::Gateway(gateway.clone()), listener, None);
        let service = (Role::Clients(parent.namespace.clone()), service, Some(&parent));
        for (role, ..) in [&listener, &service] {
            if !self.places.contains_key(role) {
                self.places.insert(role.clone(), (self.start)(role).unwrap_or_else(|fault| panic!("{role:?}: {fault}")));
            }
        }
        let [listener, service] = thread::scope(|scope| {
            let sides = [&listener, &service].map(|(role, input, parent)| {
                let place = &self.places[role];
                scope.spawn(move || place.play(case, input, *parent).map_err(|fault| format!("{role:?}: {fault}")))
            });
            sides.map(|side| side.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let (listener, service) = (listener?, service?);

        let mut faults = Vec::new();
        if listener.snapshot.routes != service.snapshot.service_routes {
            faults.push("the rules differ in the snapshots".to_owned());
        }
        for (exchange, found) in case.requests.iter().zip(listener.found.iter().zip(&service.found)) {
            let same_rule = compare_rules(exchange, &parent, &listener, &service);
            if let Err(fault) = same_rule.and_then(|()| compare(exchange, found)) {
                faults.push(format!("{}: {fault}", exchange.title()));
            }
        }
        if faults.is_empty() { Ok(Verdict::Alike) } else { Err(faults.join("\n  ")) }
    }
}

fn compare_rules(exchange: &Exchange, parent: &NamespacedName, listener: &Played, service: &Played) -> Result<(), String> {
    let (port, listeners) = decide::listeners(&listener.snapshot, exchange)?;
    let (_, at_service) = decide::service(&service.snapshot, exchange, parent)?;
    let (Some(at_listener), Some(at_service)) = (listeners.first(), at_service) else {
        return Err(format!("one of them has nothing on port {port}"));
    };
    let Ok(asked) = Asked::of(exchange) else { return Ok(()) };
    let request = asked.request();
    let tables = [
        RouteTable::compile(at_listener, &listener.snapshot),
        RouteTable::of(at_service.routes_for(&parent.namespace), &service.snapshot.service_routes),
    ];
    let found = tables.each_ref().map(|table| table.find(&request).map(|found| (found.route.to_string(), found.index)));
    equal("rule", &found[0], &found[1])
}

fn compare(exchange: &Exchange, found: (&Result<Found, String>, &Result<Found, String>)) -> Result<(), String> {
    match found {
        (Ok(Found::Once(one)), Ok(Found::Once(other))) => one.compare(other),
        (Ok(Found::Often(one)), Ok(Found::Often(other))) => alike(one, other, exchange.times.unwrap_or(1)),
        (one, other) => Err(format!("on the listener {one:?}, on the service {other:?}")),
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
    /// `tries`: whether it counts how often a backend was asked.
    fn of(answer: &Answer, seen: &[Seen], tries: bool) -> Self {
        let mut asked: Vec<_> = seen.iter().map(heard).collect();
        // Copies overtake each other.
        asked.sort();
        if !tries {
            asked.dedup();
        }
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
        Self { status: answer.status, headers, trailers: lines(&answer.trailers), body, asked }
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
