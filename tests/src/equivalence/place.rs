//! Where one kind of parent is put to the test: a proxy, with the client and the backends that can reach it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use isthmus_api::NamespacedName;
use isthmus_dataplane::Limits;
use isthmus_routing::{GatewayKey, Snapshot};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Outcome;
use super::net::ADDRESS;
use super::pod::Pod;
use crate::bed::{Bed, options, own_address, unprivileged};
use crate::case::{Case, Exchange};
use crate::input::{Addresses, Input};
use crate::stand_in::Seen;
use crate::{client, decide, serve};

/// What a proxy is there for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The listeners of this Gateway.
    Gateway(GatewayKey),
    /// What clients of this namespace call.
    Clients(String),
}

/// A running proxy.
#[derive(Debug)]
pub(super) enum Place {
    /// As it is shipped.
    Pod(Box<Pod>),
    /// In this process, where nothing is redirected: a Service's port is one of the data plane's own.
    Here(Bed, Runtime),
}

/// What was found for a request.
#[derive(Debug)]
pub(super) enum Found {
    Once(Outcome),
    /// How often which backend answered, or which status came from nobody.
    Often(BTreeMap<String, u32>),
}

/// A case that was played: what was served, and what each request found.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) snapshot: Snapshot,
    pub(super) found: Vec<Result<Found, String>>,
}

impl Place {
    /// A proxy as it is shipped.
    pub(super) fn pod(role: &Role) -> Result<Self, String> {
        Pod::start(role).map(|pod| Self::Pod(Box::new(pod)))
    }

    /// A data plane in this process.
    pub(super) fn here(role: &Role) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| error.to_string())?;
        let bed = runtime.block_on(async {
            match role {
                Role::Gateway(_) => Bed::start(options(Limits::default())).await,
                Role::Clients(namespace) => serve::client_bed(namespace).await,
            }
        });
        Ok(Self::Here(bed, runtime))
    }

    /// Plays a case with backends of its own. `parent`: the Service that is called; none: the Gateway is.
    ///
    /// # Errors
    /// When it cannot be served, or requests were served by somebody else than the proxy.
    pub(super) fn play(&self, case: &Case, input: &Input, parent: Option<&NamespacedName>) -> Result<Played, String> {
        let playing = self.played(case, input, parent);
        match self {
            Self::Pod(pod) => pod.block_on(playing),
            Self::Here(_, runtime) => runtime.block_on(playing),
        }
    }

    async fn played(&self, case: &Case, input: &Input, parent: Option<&NamespacedName>) -> Result<Played, String> {
        let (sender, mut seen) = unbounded_channel();
        let stand_ins = serve::stand_ins(input, case, &sender).await?;
        let mut snapshot = serve::snapshot(input, &stand_ins, self.addresses(input));
        let before = match self {
            Self::Pod(pod) => {
                pod.serve(snapshot.clone()).await?;
                pod.accepted().await?
            }
            Self::Here(bed, _) => {
                unprivileged(&mut snapshot);
                bed.serve(snapshot.clone()).await;
                0
            }
        };
        let mut found = Vec::new();
        for exchange in &case.requests {
            found.push(match self.address(&snapshot, exchange, parent) {
                Ok(address) => ask(address, exchange, &mut seen).await,
                Err(fault) => Err(fault),
            });
        }
        if let Self::Pod(pod) = self {
            let sent: u64 = case.requests.iter().map(|exchange| u64::from(exchange.times.unwrap_or(1))).sum();
            let taken = pod.accepted().await?.saturating_sub(before);
            if taken != sent {
                return Err(format!("of {sent} connections its proxy has taken {taken}; {found:?}"));
            }
        }
        Ok(Played { snapshot, found })
    }

    fn addresses(&self, input: &Input) -> Addresses {
        let mut next = 0;
        let cluster_ip = || {
            next += 1;
            IpAddr::V4(Ipv4Addr::new(10, 96, 0, next))
        };
        match self {
            Self::Pod(_) => input.addresses(|| ADDRESS.into(), cluster_ip),
            Self::Here(..) => input.addresses(own_address, own_address),
        }
    }

    /// Where a request of the case goes.
    fn address(&self, snapshot: &Snapshot, exchange: &Exchange, parent: Option<&NamespacedName>) -> Result<SocketAddr, String> {
        let Some(parent) = parent else {
            let (port, listeners) = decide::listeners(snapshot, exchange)?;
            let listener = listeners.first().ok_or_else(|| format!("the gateway has nothing on port {port}"))?;
            let address = snapshot.gateways.values().find_map(|gateway| gateway.addresses.first());
            return Ok((*address.ok_or("the gateway has no address")?, listener.bind_port.unwrap_or(port)).into());
        };
        let (key, at_service) = decide::service(snapshot, exchange, parent)?;
        let at_service = at_service.ok_or_else(|| format!("the service has nothing on port {}", key.port))?;
        let address = match self {
            Self::Pod(_) => at_service.addresses.first().map(|address| (*address, key.port).into()),
            Self::Here(..) => serve::service_socket(snapshot, &key),
        };
        address.ok_or_else(|| "the service has no address".to_owned())
    }
}

async fn ask(address: SocketAddr, exchange: &Exchange, seen: &mut UnboundedReceiver<Seen>) -> Result<Found, String> {
    if let Some(times) = exchange.times {
        return serve::counted(address, false, exchange, None, times, seen).await.map(Found::Often);
    }
    let answer = client::send(address, false, exchange).await?;
    let expect = &exchange.expect;
    let seen = serve::arrived(expect.mirrors.len(), expect.backend.is_some(), seen).await;
    // How often it is tried within a time is not the same twice.
    Ok(Found::Once(Outcome::of(&answer, &seen, expect.tries.is_some())))
}
