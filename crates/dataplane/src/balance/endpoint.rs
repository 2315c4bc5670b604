//! An endpoint: how it is reached, and how much is under way there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use isthmus_routing::ProxyProtocol;
use pingora_core::protocols::{Digest, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;

use crate::proxy::defaults;
use crate::upstream::{Caller, UpstreamTls, UpstreamTlsError, personalise};

/// What is spoken with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// HTTP/1.1
    H1,
    /// HTTP/2, with prior knowledge; under TLS it has to be what ALPN chooses.
    H2,
}

/// An endpoint of a backend.
#[derive(Debug)]
pub(crate) struct EndpointState {
    address: SocketAddr,
    /// Shared with what this endpoint was before its backend was changed.
    in_flight: Arc<AtomicUsize>,
    tls: Option<Arc<UpstreamTls>>,
    proxy_protocol: Option<ProxyProtocol>,
    /// How often its connections were left behind: what was refused goes back into a pool of Pingora's all the same.
    generation: AtomicU64,
    h1: HttpPeer,
    h2: HttpPeer,
}

/// A request that is under way at an endpoint; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<EndpointState>);

impl EndpointState {
    /// Keeps what it was before, or at least the count of what is in flight.
    pub(super) fn compile(
        address: SocketAddr,
        (tls, proxy_protocol): (Option<&Arc<UpstreamTls>>, Option<ProxyProtocol>),
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(previous) = previous
            && previous.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
            && previous.proxy_protocol == proxy_protocol
        {
            return previous.clone();
        }
        let peer = |wire| peer(address, wire, tls.map(AsRef::as_ref));
        Arc::new(Self {
            address,
            in_flight: previous.map(|previous| previous.in_flight.clone()).unwrap_or_default(),
            tls: tls.cloned(),
            proxy_protocol,
            generation: AtomicU64::new(0),
            h1: peer(Wire::H1),
            h2: peer(Wire::H2),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &SocketAddr {
        &self.address
    }

    /// Requests that are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// How it is reached on behalf of a caller. It is to be changed by timeouts at most, so that its connections can be shared.
    pub(crate) fn peer(&self, wire: Wire, caller: &Caller) -> Box<HttpPeer> {
        let peer = match wire {
            Wire::H1 => &self.h1,
            Wire::H2 => &self.h2,
        };
        let mut peer = Box::new(peer.clone());
        if self.tls.is_some() || self.proxy_protocol.is_some() {
            let kind = (wire, self.generation.load(Relaxed));
            personalise(&mut peer, (self.tls.as_deref(), self.proxy_protocol), caller, kind);
        }
        peer
    }

    /// Has to be asked of every connection, kept ones too, before a request is sent on it: whether it shows a certificate that fulfils the
    /// policy. `digest` is Pingora's of the connection. Takes at most `within`.
    ///
    /// # Errors
    /// When it does not, or that cannot be found out. The connection must not be used; refused, it will not be offered again.
    pub(crate) async fn admit(
        &self,
        digest: Option<&Digest>,
        caller: &Caller,
        within: Duration,
    ) -> Result<(), Arc<UpstreamTlsError>> {
        let Some(tls) = self.tls.as_ref().filter(|tls| tls.needs_proof()) else { return Ok(()) };
        let admitted = tls.admit(digest, self.address, (caller, self.proxy_protocol), within).await;
        if admitted.as_ref().is_err_and(|error| error.is_refusal()) {
            self.generation.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// Its certificate was refused: the log says why, once in a while.
    pub(crate) fn complain(&self, fault: &dyn std::fmt::Display) {
        if let Some(tls) = &self.tls {
            tls.complain(&self.address, fault);
        }
    }

    /// Why HTTP must not be spoken with it, or why it was refused a moment ago.
    pub(crate) fn failure(&self, caller: &Caller) -> Option<Arc<UpstreamTlsError>> {
        self.tls.as_ref()?.failure(self.address, (caller, self.proxy_protocol))
    }

    /// How connections to it are encrypted; none: not at all.
    pub(crate) fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        self.tls.as_ref()
    }

    /// What connections to it begin with.
    pub(crate) fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.proxy_protocol
    }
}

impl InFlight {
    pub(super) fn new(endpoint: &Arc<EndpointState>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }
}

impl std::ops::Deref for InFlight {
    type Target = EndpointState;
    fn deref(&self) -> &EndpointState {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// All that does not depend on the request. A socket address is never resolved, so this cannot fail (a name could, by panic).
fn peer(address: SocketAddr, wire: Wire, tls: Option<&UpstreamTls>) -> HttpPeer {
    let mut peer = match tls {
        Some(tls) => {
            let mut peer = HttpPeer::new(address, true, tls.server_name().to_owned());
            tls.set(&mut peer.options);
            peer
        }
        None => HttpPeer::new(address, false, String::new()),
    };
    // Neither ALPN nor the kind of connection is part of Pingora's pool key.
    peer.group_key = match wire {
        Wire::H1 => 1,
        Wire::H2 => 2,
    };
    let options = &mut peer.options;
    options.connection_timeout = Some(defaults::CONNECT);
    options.total_connection_timeout = Some(defaults::CONNECT);
    options.read_timeout = Some(defaults::IDLE);
    options.write_timeout = Some(defaults::IDLE);
    options.idle_timeout = Some(defaults::POOL_IDLE);
    options.max_h2_streams = defaults::H2_STREAMS;
    options.h2_stream_window_size = Some(defaults::H2_STREAM_WINDOW);
    options.h2_connection_window_size = Some(defaults::H2_CONNECTION_WINDOW);
    let (idle, interval, count) = defaults::TCP_KEEPALIVE;
    options.tcp_keepalive = Some(TcpKeepalive {
        idle,
        interval,
        count,
        #[cfg(target_os = "linux")]
        user_timeout: std::time::Duration::ZERO,
    });
    match wire {
        Wire::H1 => options.set_http_version(1, 1),
        Wire::H2 => options.set_http_version(2, 2),
    }
    peer
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::{ALPN, Peer};

    use super::*;

    #[test]
    fn no_timeout_is_missing_and_the_kinds_of_connection_do_not_mix() {
        let endpoint = EndpointState::compile(([127, 0, 0, 1], 80).into(), (None, None), None);
        let peer = |wire| endpoint.peer(wire, &Caller::of_nobody());
        for (wire, alpn) in [(Wire::H1, ALPN::H1), (Wire::H2, ALPN::H2)] {
            let peer = peer(wire);
            let options = &peer.options;
            for timeout in [
                options.connection_timeout,
                options.total_connection_timeout,
                options.read_timeout,
                options.write_timeout,
                options.idle_timeout,
            ] {
                assert!(timeout.is_some());
            }
            assert_eq!(options.alpn, alpn);
            assert!(options.max_h2_streams >= 100);
        }
        assert_ne!(peer(Wire::H1).reuse_hash(), peer(Wire::H2).reuse_hash());
        assert_eq!(peer(Wire::H1).reuse_hash(), peer(Wire::H1).reuse_hash());
    }
}
