//! A data plane with one TCP listener before one backend, to measure bytes per second and the memory of idle connections with.
//!
//! `tcp LISTEN BACKEND`, two addresses.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_dataplane::{Dataplane, Options};
use isthmus_routing::{
    Attachment, Backend, BackendKey, Endpoint, Gateway, GatewayKey, Listener, Matches, Protocol, Route, RouteKey, Rule, Snapshot,
    Target, Timeouts, WeightedBackend,
};

/// The allocator that the command has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn snapshot(listen: SocketAddr, backend: SocketAddr) -> Option<Snapshot> {
    let route: RouteKey = "TCPRoute/bench/route".parse().ok()?;
    let key: BackendKey = "Service/bench/backend:80".parse().ok()?;
    let gateway: GatewayKey = "Gateway/bench/edge".parse().ok()?;
    let rule = Rule {
        name: None,
        matches: Matches::Any,
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key.clone()), filters: Vec::new() }],
        timeouts: Timeouts::default(),
        retry: None,
        invalid: false,
    };
    let attachment = Attachment { route: route.clone(), hostnames: Vec::new() };
    let listener = Listener { routes: vec![attachment], ..Listener::new("tcp", listen.port(), Protocol::Tcp) };
    let edge = Gateway { addresses: vec![listen.ip()], listeners: vec![listener], ..Gateway::default() };
    let endpoints = vec![Endpoint { address: backend }];
    Some(Snapshot {
        gateways: [(gateway, Arc::new(edge))].into(),
        routes: [(route, Arc::new(Route { created: 0, rules: vec![rule] }))].into(),
        backends: [(key, Arc::new(Backend { endpoints, ..Backend::default() }))].into(),
        ..Snapshot::default()
    })
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let mut addresses = env::args().skip(1).map(|text| text.parse::<SocketAddr>());
    let (Some(Ok(listen)), Some(Ok(backend))) = (addresses.next(), addresses.next()) else {
        eprintln!("usage: tcp LISTEN BACKEND");
        return;
    };
    let Some(snapshot) = snapshot(listen, backend) else { return };
    let (_sender, snapshots) = tokio::sync::watch::channel(Arc::new(snapshot));
    let Ok(_running) = Dataplane::start(Options { threads: 1, ..Options::default() }, snapshots).await else { return };
    std::future::pending::<()>().await;
}
