//! Connections of the workload: to a Service by its routes, to another workload under TLS, to anybody else as they are.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_routing::{BackendKey, Spoken};
use pingora_core::apps::HttpServerApp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::detect::{Detected, detect};
use super::passthrough::{self, Away};
use super::told::tell;
use super::wanted::Call;
use super::{Capture, Caught, refuse};
use crate::config::{Bind, Config, Fronted, Owner, Port, Shared};
use crate::connection::transport::Transport;
use crate::drain::{Signals, raised};
use crate::listen::accept::Context;
use crate::stream::{Arrived, Client, reset};
use crate::telemetry::{ConnectionFault, ConnectionGuard, PortMetrics};

/// What a connection goes to.
enum Target {
    /// A port of a Service, which counts as called for as long as the connection lasts.
    Service(Arc<Port>, Option<Call>),
    /// Whoever is at its address.
    Away(Away),
    /// Nobody who may be called.
    Nowhere(ConnectionFault),
    /// A Service whose configuration has not come.
    NotHeld,
}

/// Serves a connection to its end: that of its sides, of its patience, or the signals' cut.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    capture: &Capture,
    mut caught: Caught,
    at: &Arc<PortMetrics>,
    (signals, permit): (Signals, OwnedSemaphorePermit),
    context: &Context<A>,
) {
    let mut cut = signals.cut.clone();
    let known = async {
        let target = capture.target(&context.streams.config, caught.original).await;
        let detected = match &target {
            Target::Service(port, _) => said(port.spoken, &mut caught).await,
            Target::NotHeld => said(Spoken::Unknown, &mut caught).await,
            Target::Away(_) | Target::Nowhere(_) => Some(Detected { http: false, read: Vec::new() }),
        };
        (target, detected)
    };
    let (target, detected) = tokio::select! {
        known = known => known,
        () = raised(&mut cut) => return,
    };
    let (guard, held) = match target {
        Target::Away(away) => return passthrough::serve(capture, caught, away, (signals, permit), &context.streams).await,
        Target::Nowhere(fault) => {
            // Of an unknown destination `absence` tells.
            let why = "the Service at this address has no such port";
            tell(&context.streams.telemetry, (caught.peer, caught.original), fault, why);
            return refuse(&caught.socket, at, fault);
        }
        Target::NotHeld => {
            let why = "the configuration for this address has not come from the controller in time";
            tell(&context.streams.telemetry, (caught.peer, caught.original), ConnectionFault::NotHeld, why);
            at.fault(ConnectionFault::NotHeld);
            (at.accepted(), None)
        }
        Target::Service(port, call) => (port.metrics.accepted(), Some(call)),
    };
    match detected {
        // The client is gone.
        None => {}
        // Its request finds the configuration by itself, or that there is none.
        Some(Detected { http: true, read }) => {
            let addresses = caught.addresses();
            let io = (Transport::Plain(caught.socket), read);
            context.serve_http(io, None, addresses, (guard, permit), signals).await;
        }
        Some(Detected { http: false, .. }) if held.is_none() => reset(&caught.socket),
        Some(Detected { http: false, read }) => {
            stream(caught, read, &guard, signals, context).await;
            drop((guard, permit));
        }
    }
    drop(held);
}

async fn stream<A>(caught: Caught, read: Vec<u8>, guard: &ConnectionGuard, signals: Signals, context: &Context<A>) {
    let arrived = Arrived {
        addresses: caught.addresses(),
        client: Client::Tcp(caught.socket, read),
        started: caught.started,
        start_time: caught.start_time,
        // There is no handshake with it.
        deadline: Instant::now(),
    };
    context.streams.serve(arrived, guard.port(), signals).await;
}

/// Whether it is HTTP; none: the client is gone.
async fn said(spoken: Spoken, caught: &mut Caught) -> Option<Detected> {
    match spoken {
        Spoken::Http => Some(Detected { http: true, read: Vec::new() }),
        Spoken::Stream => Some(Detected { http: false, read: Vec::new() }),
        Spoken::Unknown => detect(&mut caught.socket).await.ok(),
    }
}

impl Capture {
    /// What an address leads to. Waits for the configuration of a Service, unless it did not come a moment ago.
    async fn target(&self, shared: &Shared, original: SocketAddr) -> Target {
        let (mut call, mut awaited) = (None, None);
        let found = self.ask(shared, |config| match Found::at(original, config) {
            Found::Away(Away::Stranger) if self.absence.refuses(original.ip(), config) => {
                Some(Target::Nowhere(ConnectionFault::UnknownDestination))
            }
            Found::Away(away) => Some(Target::Away(away)),
            Found::NoPort => Some(Target::Nowhere(ConnectionFault::NoServicePort)),
            Found::Service(port, service) => {
                call = call.take().or_else(|| self.wanted.call(&service));
                Some(Target::Service(port, call.take()))
            }
            Found::Awaited(service) => {
                call = call.take().or_else(|| self.wanted.call(&service));
                let is_hopeless = call.is_none() || self.wanted.is_missing(&service);
                awaited = Some(service);
                is_hopeless.then_some(Target::NotHeld)
            }
        });
        if let Some(target) = found.await {
            return target;
        }
        if let Some(service) = awaited {
            tracing::debug!(%service, "its configuration has not come in time");
            self.wanted.missed(&service);
        }
        Target::NotHeld
    }
}

/// What one configuration knows of an address.
enum Found {
    Service(Arc<Port>, BackendKey),
    /// A Service that the configuration does not hold.
    Awaited(BackendKey),
    NoPort,
    Away(Away),
}

impl Found {
    fn at(address: SocketAddr, config: &Config) -> Self {
        if let Some(port) = config.ports.get(&Bind::tcp(address))
            && let Owner::Service(service) = &port.owner
        {
            return Self::Service(port.clone(), service.clone());
        }
        match config.frontends.find(address) {
            Some(Fronted::Port(service)) => Self::Awaited(service),
            Some(Fronted::NoPort(_)) => Self::NoPort,
            None => Self::Away(Away::at(address, config)),
        }
    }
}
