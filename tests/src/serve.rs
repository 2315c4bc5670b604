//! Requests of a case through a data plane with real sockets.

mod stream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_api::NamespacedName;
use isthmus_cli::echo::Report;
use isthmus_dataplane::{Limits, Options};
use isthmus_routing::{BackendKey, Protocol, Snapshot};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::bed::{Bed, options, outbound, own_address, socket, unprivileged};
use crate::case::{Case, Exchange, Speech};
use crate::certificate::Pair;
use crate::client::{self, Answer};
use crate::decide;
use crate::input::{Addresses, Endpoints, Input};
use crate::stand_in::{Seen, StandIn};

/// How long a mirrored copy may take to arrive after the response.
const MIRROR_PATIENCE: Duration = Duration::from_secs(3);

/// Serves the case's objects and sends its requests: those to Gateways on the bed, those to Services on beds of their clients' namespaces.
///
/// # Errors
/// All exchanges that found something else, one line each.
pub async fn check(bed: &Bed, case: &Case) -> Result<(), String> {
    let input = Input::read(case)?;
    let (sender, mut seen) = unbounded_channel();
    let stand_ins = stand_ins(&input, case, &sender).await?;
    let mut clients: BTreeMap<Option<&str>, Vec<&Exchange>> = BTreeMap::new();
    if !case.requests.iter().any(|exchange| exchange.service.is_some()) {
        // What it serves is looked at even if nothing is sent.
        clients.insert(None, Vec::new());
    }
    for exchange in &case.requests {
        clients.entry(exchange.from()).or_default().push(exchange);
    }
    let mut faults = Vec::new();
    for (namespace, exchanges) in clients {
        let own = match namespace {
            None => None,
            Some(namespace) => Some(client_bed(namespace).await),
        };
        let mut snapshot = snapshot(&input, &stand_ins, input.addresses(own_address, own_address));
        unprivileged(&mut snapshot);
        own.as_ref().unwrap_or(bed).serve(snapshot.clone()).await;
        let mut stage = Stage { input: &input, snapshot: &snapshot, stand_ins: &stand_ins, seen: &mut seen };
        for exchange in exchanges {
            if let Err(fault) = stage.check(exchange).await {
                faults.push(format!("{}: {fault}", exchange.title()));
            }
            while stage.seen.try_recv().is_ok() {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n  ")) }
}

/// A data plane that stands before Services for clients of a namespace.
pub(crate) async fn client_bed(namespace: &str) -> Bed {
    Bed::start(Options { outbound: Some(outbound(namespace)), ..options(Limits::default()) }).await
}

/// What answers for the case's Services.
pub(crate) async fn stand_ins(input: &Input, case: &Case, sender: &UnboundedSender<Seen>) -> Result<Vec<StandIn>, String> {
    let lines = case.requests.iter().any(|exchange| !matches!(exchange.speech(), Speech::Http));
    let mut stand_ins = Vec::new();
    for key in input.echoed() {
        stand_ins.push(StandIn::start(key, input, lines, sender).await?);
    }
    Ok(stand_ins)
}

/// What is to be served at these addresses.
pub(crate) fn snapshot(input: &Input, stand_ins: &[StandIn], addresses: Addresses) -> Snapshot {
    let endpoints: Endpoints = stand_ins.iter().map(|one| (one.backend.clone(), one.address)).collect();
    (*input.translate_at(&endpoints, addresses).snapshot).clone()
}

/// Where a client of a Service's port gets in; none: the Service has no address.
pub(crate) fn service_socket(snapshot: &Snapshot, key: &BackendKey) -> Option<SocketAddr> {
    let of_service = |one: &&BackendKey| one.namespace == key.namespace && one.name == key.name;
    let address = snapshot.services.get(snapshot.services.keys().find(of_service)?)?.addresses.first()?;
    Some(SocketAddr::new(*address, outbound("").socket_port(key.port)?))
}

/// What the exchanges of a case have before them.
struct Stage<'c> {
    input: &'c Input,
    snapshot: &'c Snapshot,
    stand_ins: &'c [StandIn],
    seen: &'c mut UnboundedReceiver<Seen>,
}

impl Stage<'_> {
    async fn check(&mut self, exchange: &Exchange) -> Result<(), String> {
        if let Some(service) = &exchange.service {
            return self.check_service(exchange, service).await;
        }
        let (port, listeners) = decide::listeners(self.snapshot, exchange)?;
        if listeners.is_empty() && !exchange.expect.refused {
            return Err(format!("the gateway has no listener on port {port}"));
        }
        let named = |name: &str| exchange.gateway.as_ref().is_none_or(|wanted| wanted == name);
        let gateway = self.snapshot.gateways.iter().find(|(key, _)| named(&format!("{}/{}", key.namespace, key.name)));
        let address = gateway.and_then(|(_, gateway)| gateway.addresses.first()).ok_or("the gateway has no address")?;
        let address = socket(*address, port);
        let input = self.input;
        let (own, wanted) = (pair(input, exchange.client.as_ref())?, pair(input, exchange.expect.certificate.as_ref())?);
        if !matches!(exchange.speech(), Speech::Http) {
            let heard = stream::check(address, exchange, own, wanted).await?;
            return heard.map_or(Ok(()), |heard| self.check_handshake(exchange, &heard.backend));
        }
        let tls = listeners.iter().any(|listener| listener.protocol == Protocol::Https);
        if exchange.expect.refused {
            // A client of TLS 1.3 has shown its certificate only after its own handshake has ended.
            let late = listeners.iter().any(|listener| listener.client_validation.is_some());
            let begins = if listeners.is_empty() { "connect to " } else { "TLS handshake: " };
            return match client::send_as(address, tls, exchange, own).await {
                Err(fault) if fault.starts_with(begins) || (late && !fault.starts_with("connect to ")) => Ok(()),
                other => Err(format!("expected `{begins}` and a reason, found {other:?}")),
            };
        }
        match exchange.times {
            Some(times) => check_shares(address, tls, exchange, own, times, self.seen).await,
            None => {
                let answer = client::send_as(address, tls, exchange, own).await?;
                is_certificate(wanted, answer.certificate.as_ref())?;
                check_answer(exchange, &answer, self.seen).await?;
                exchange.expect.backend.as_ref().map_or(Ok(()), |backend| self.check_handshake(exchange, backend))
            }
        }
    }

    async fn check_service(&mut self, exchange: &Exchange, service: &NamespacedName) -> Result<(), String> {
        let (key, _) = decide::service(self.snapshot, exchange, service)?;
        let address = service_socket(self.snapshot, &key);
        if exchange.expect.refused {
            let Some(address) = address else { return Ok(()) };
            return match client::send(address, false, exchange).await {
                Err(fault) if fault.starts_with("connect to ") => Ok(()),
                other => Err(format!("expected no listener, found {other:?}")),
            };
        }
        let address = address.ok_or_else(|| format!("{key} has no address"))?;
        match exchange.times {
            Some(times) => check_shares(address, false, exchange, None, times, self.seen).await,
            None => check_answer(exchange, &client::send(address, false, exchange).await?, self.seen).await,
        }
    }

    /// What the backend was told in the handshake with it.
    fn check_handshake(&self, exchange: &Exchange, backend: &str) -> Result<(), String> {
        let expect = &exchange.expect;
        if expect.backend_server_name.is_none() && expect.backend_client.is_none() {
            return Ok(());
        }
        let stand_in = self.stand_ins.iter().find(|one| name(&one.backend) == backend);
        let met = stand_in.ok_or_else(|| format!("nothing stands in for {backend}"))?.met();
        if expect.backend_server_name.is_some() {
            equal("server name at the backend", expect.backend_server_name.as_ref(), met.server_name.as_ref())?;
        }
        is_certificate(pair(self.input, expect.backend_client.as_ref())?, met.client.as_ref())
            .map_err(|fault| format!("at the backend: {fault}"))
    }
}

fn pair<'i>(input: &'i Input, name: Option<&NamespacedName>) -> Result<Option<&'i Pair>, String> {
    let Some(name) = name else { return Ok(None) };
    input.certificates.get(name).map(Some).ok_or_else(|| format!("options.yaml makes no certificate {name}"))
}

/// Whether what was shown is what is wanted, if anything is.
fn is_certificate(wanted: Option<&Pair>, shown: Option<&CertificateDer<'static>>) -> Result<(), String> {
    match (wanted, shown) {
        (None, _) => Ok(()),
        (Some(_), None) => Err("no certificate was shown".to_owned()),
        (Some(wanted), Some(shown)) if wanted.der().0.first() == Some(shown) => Ok(()),
        _ => Err("another certificate was shown".to_owned()),
    }
}

async fn check_answer(exchange: &Exchange, answer: &Answer, seen: &mut UnboundedReceiver<Seen>) -> Result<(), String> {
    let expect = &exchange.expect;
    let arrived = arrived(expect.mirrors.len(), expect.backend.is_some(), seen).await;
    let tried: Vec<_> = arrived.iter().filter(|one| !expect.mirrors.contains(&name(&one.backend))).collect();

    if exchange.grpc {
        equal("grpc-status", expect.grpc_status.as_ref(), answer.grpc_status().as_ref())?;
        equal("status", Some(&200), Some(&answer.status))?;
    } else {
        equal("status", Some(&exchange.status()), Some(&answer.status))?;
    }
    if let Some(tries) = expect.tries {
        equal("tries", Some(&tries), Some(&tried.len()))?;
    }
    if let Some(backend) = &expect.backend {
        let last = tried.last().ok_or("no backend was asked")?;
        equal("backend", Some(backend), Some(&name(&last.backend)))?;
        if expect.backend_port.is_some() {
            equal("backend port", expect.backend_port.as_ref(), Some(&last.backend.port))?;
        }
        if expect.path.is_some() {
            equal("path at the backend", expect.path.as_ref(), Some(&last.report.path))?;
        }
        if expect.host.is_some() {
            equal("host at the backend", expect.host.as_ref(), Some(&last.report.host))?;
        }
        if expect.protocol.is_some() {
            equal("protocol at the backend", expect.protocol.as_ref(), Some(&last.report.proto))?;
        }
        for (header, value) in &expect.headers {
            equal(&format!("header {header} at the backend"), value.as_ref(), header_of(&last.report, header).as_ref())?;
        }
    }
    for (header, value) in &expect.response {
        let values: Vec<_> = answer.headers.get_all(header).iter().filter_map(|value| value.to_str().ok()).collect();
        let joined = (!values.is_empty()).then(|| values.join(","));
        equal(&format!("response header {header}"), value.as_ref(), joined.as_ref())?;
    }
    for mirror in &expect.mirrors {
        if !arrived.iter().any(|one| name(&one.backend) == *mirror) {
            return Err(format!("no copy came to {mirror}"));
        }
    }
    if let Some(limit) = expect.within_ms
        && answer.took > Duration::from_millis(limit)
    {
        return Err(format!("took {:?}, more than {limit} ms", answer.took));
    }
    match expect.at_least_ms {
        Some(least) if answer.took < Duration::from_millis(least) => Err(format!("took {:?}, less than {least} ms", answer.took)),
        _ => Ok(()),
    }
}

/// What has come to the backends: all of it, and mirrored copies as far as they come in time.
pub(crate) async fn arrived(mirrors: usize, backend: bool, seen: &mut UnboundedReceiver<Seen>) -> Vec<Seen> {
    let wanted = mirrors + usize::from(backend);
    let mut arrived = Vec::new();
    while let Ok(one) = seen.try_recv() {
        arrived.push(one);
    }
    let deadline = tokio::time::Instant::now() + MIRROR_PATIENCE;
    while arrived.len() < wanted {
        match tokio::time::timeout_at(deadline, seen.recv()).await {
            Ok(Some(one)) => arrived.push(one),
            _ => break,
        }
    }
    arrived
}

async fn check_shares(
    address: SocketAddr,
    tls: bool,
    exchange: &Exchange,
    own: Option<&Pair>,
    times: u32,
    seen: &mut UnboundedReceiver<Seen>,
) -> Result<(), String> {
    compare_shares(exchange, times, counted(address, tls, exchange, own, times, seen).await?)
}

/// How often which backend answered, or which status came from nobody.
pub(crate) async fn counted(
    address: SocketAddr,
    tls: bool,
    exchange: &Exchange,
    own: Option<&Pair>,
    times: u32,
    seen: &mut UnboundedReceiver<Seen>,
) -> Result<BTreeMap<String, u32>, String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..times {
        let answer = client::send_as(address, tls, exchange, own).await?;
        let outcome = match (answer.status, answer.grpc_status()) {
            (200, None | Some(0)) => continue,
            (_, Some(status)) => format!("grpc-{status}"),
            (status, None) => status.to_string(),
        };
        *counts.entry(outcome).or_default() += 1;
    }
    if !exchange.expect.mirror_shares.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    while let Ok(one) = seen.try_recv() {
        *counts.entry(name(&one.backend)).or_default() += 1;
    }
    Ok(counts)
}

fn compare_shares(exchange: &Exchange, times: u32, mut counts: BTreeMap<String, u32>) -> Result<(), String> {
    let expected: Vec<_> = exchange.expect.shares.iter().chain(&exchange.expect.mirror_shares).collect();
    for (outcome, share) in &expected {
        let actual = f64::from(counts.remove(*outcome).unwrap_or_default()) / f64::from(times);
        let tolerance = if **share == 0.0 || **share == 1.0 { 0.0 } else { 0.08_f64.max(**share / 4.0) };
        if (actual - **share).abs() > tolerance {
            return Err(format!("{outcome} has a share of {actual}, not {share}"));
        }
    }
    if counts.is_empty() { Ok(()) } else { Err(format!("unexpected outcomes: {counts:?}")) }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: Option<&T>, actual: Option<&T>) -> Result<(), String> {
    if expected == actual { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {actual:?}")) }
}

fn name(key: &BackendKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn header_of(report: &Report, name: &str) -> Option<String> {
    let values = report.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, values)| values)?;
    Some(values.join(","))
}
